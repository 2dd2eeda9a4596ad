//! PostgreSQL's eight table-level lock modes: which of them conflict, and what each keeps from running, in words.
//!
//! From the documentation, "Explicit Locking": the list of section 13.3.1 and Table 13.2.
//! <https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES>

use std::{fmt, str::FromStr};

use LockMode::{
    AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive,
    ShareUpdateExclusive,
};

/// A table-level lock mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// SELECT.
    AccessShare,
    /// SELECT FOR UPDATE and its weaker forms.
    RowShare,
    /// INSERT, UPDATE, DELETE, MERGE.
    RowExclusive,
    /// VACUUM, ANALYZE, CREATE INDEX CONCURRENTLY, some forms of ALTER TABLE.
    ShareUpdateExclusive,
    /// CREATE INDEX.
    Share,
    /// CREATE TRIGGER, some forms of ALTER TABLE.
    ShareRowExclusive,
    /// REFRESH MATERIALIZED VIEW CONCURRENTLY.
    Exclusive,
    /// DROP TABLE, TRUNCATE, VACUUM FULL, most forms of ALTER TABLE.
    AccessExclusive,
}

impl LockMode {
    /// Every mode, in the documentation's order.
    pub const ALL: [Self; 8] = [
        AccessShare,
        RowShare,
        RowExclusive,
        ShareUpdateExclusive,
        Share,
        ShareRowExclusive,
        Exclusive,
        AccessExclusive,
    ];

    /// The name in `pg_locks.mode`.
    pub const fn name(self) -> &'static str {
        match self {
            AccessShare => "AccessShareLock",
            RowShare => "RowShareLock",
            RowExclusive => "RowExclusiveLock",
            ShareUpdateExclusive => "ShareUpdateExclusiveLock",
            Share => "ShareLock",
            ShareRowExclusive => "ShareRowExclusiveLock",
            Exclusive => "ExclusiveLock",
            AccessExclusive => "AccessExclusiveLock",
        }
    }

    /// Whether two sessions cannot hold the two modes on one table at a time.
    pub fn conflicts_with(self, other: Self) -> bool {
        self.conflicts().contains(&other)
    }

    /// Table 13.2, a row for each mode.
    const fn conflicts(self) -> &'static [Self] {
        match self {
            AccessShare => &[AccessExclusive],
            RowShare => &[Exclusive, AccessExclusive],
            RowExclusive => &[Share, ShareRowExclusive, Exclusive, AccessExclusive],
            ShareUpdateExclusive => &[
                ShareUpdateExclusive,
                Share,
                ShareRowExclusive,
                Exclusive,
                AccessExclusive,
            ],
            Share => &[
                RowExclusive,
                ShareUpdateExclusive,
                ShareRowExclusive,
                Exclusive,
                AccessExclusive,
            ],
            ShareRowExclusive => &[
                RowExclusive,
                ShareUpdateExclusive,
                Share,
                ShareRowExclusive,
                Exclusive,
                AccessExclusive,
            ],
            Exclusive => &[
                RowShare,
                RowExclusive,
                ShareUpdateExclusive,
                Share,
                ShareRowExclusive,
                Exclusive,
                AccessExclusive,
            ],
            AccessExclusive => &Self::ALL,
        }
    }

    /// The statements that a lock of this mode keeps waiting: `ALTER TABLE, DROP TABLE, TRUNCATE, VACUUM FULL`.
    pub fn blocks(self) -> String {
        let statements: Vec<_> = self
            .conflicts()
            .iter()
            .map(|mode| mode.taken_by())
            .collect();
        statements.join(", ")
    }

    /// The usual statements that take a lock of this mode (section 13.3.1).
    const fn taken_by(self) -> &'static str {
        match self {
            AccessShare => "SELECT",
            RowShare => "SELECT FOR UPDATE",
            RowExclusive => "INSERT, UPDATE, DELETE, MERGE",
            ShareUpdateExclusive => "VACUUM, ANALYZE, CREATE INDEX CONCURRENTLY",
            Share => "CREATE INDEX",
            ShareRowExclusive => "CREATE TRIGGER",
            Exclusive => "REFRESH MATERIALIZED VIEW CONCURRENTLY",
            AccessExclusive => "ALTER TABLE, DROP TABLE, TRUNCATE, VACUUM FULL",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LockMode {
    type Err = LockModeError;

    fn from_str(text: &str) -> Result<Self, LockModeError> {
        let mut modes = Self::ALL.into_iter();
        modes
            .find(|mode| mode.name() == text)
            .ok_or_else(|| LockModeError(text.to_owned()))
    }
}

/// A text is not the name of a lock mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a lock mode: expected a name as in pg_locks, such as AccessExclusiveLock")]
pub struct LockModeError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_mutual_and_names_are_read_back() {
        for one in LockMode::ALL {
            assert_eq!(one.name().parse(), Ok(one));
            for other in LockMode::ALL {
                assert_eq!(
                    one.conflicts_with(other),
                    other.conflicts_with(one),
                    "{one} {other}"
                );
            }
        }
        assert!("AccessExclusive".parse::<LockMode>().is_err());
    }

    #[test]
    fn what_a_mode_blocks_reads_as_a_list() {
        assert_eq!(
            AccessShare.blocks(),
            "ALTER TABLE, DROP TABLE, TRUNCATE, VACUUM FULL"
        );
        assert_eq!(
            RowExclusive.blocks(),
            "CREATE INDEX, CREATE TRIGGER, REFRESH MATERIALIZED VIEW CONCURRENTLY, ALTER TABLE, DROP TABLE, TRUNCATE, \
             VACUUM FULL"
        );
        assert!(
            AccessExclusive
                .blocks()
                .starts_with("SELECT, SELECT FOR UPDATE, INSERT")
        );
    }
}
