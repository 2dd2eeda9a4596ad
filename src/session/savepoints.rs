//! The savepoints that are open in a transaction, followed by name as the server does (`DefineSavepoint`,
//! `ReleaseSavepoint` and `RollbackToSavepoint` in `src/backend/access/transam/xact.c`): a name may be used again, and
//! then means the newest savepoint of that name.

use crate::sql::Identifier;

/// Savepoints whose names are kept.
const MAX_NAMES: usize = 256;

/// The savepoints that are open, or may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Savepoints {
    /// Those that are known to be open, oldest first.
    names: Vec<Identifier>,
    /// Whether there may be others.
    others: bool,
}

impl Savepoints {
    /// Whether one may be open: `false` is certain.
    pub(super) fn may_be_open(&self) -> bool {
        self.others || !self.names.is_empty()
    }

    /// Whether one of this name is open: `true` is certain.
    pub(super) fn is_open(&self, name: &Identifier) -> bool {
        self.names.contains(name)
    }

    /// Notes a SAVEPOINT; `None` when its name is not known.
    pub(super) fn opened(&mut self, name: Option<&Identifier>) {
        match name {
            Some(name) if self.names.len() < MAX_NAMES => self.names.push(name.clone()),
            _ => self.others = true,
        }
    }

    /// Notes a RELEASE: the savepoint and those opened after it are gone.
    pub(super) fn released(&mut self, name: Option<&Identifier>) {
        match self.newest(name) {
            Some(index) => self.names.truncate(index),
            None => self.lose_track(),
        }
    }

    /// Notes a ROLLBACK TO: those opened after the savepoint are gone.
    pub(super) fn rolled_back_to(&mut self, name: Option<&Identifier>) {
        match self.newest(name) {
            Some(index) => self.names.truncate(index + 1),
            None => self.lose_track(),
        }
    }

    fn newest(&self, name: Option<&Identifier>) -> Option<usize> {
        let name = name?;
        self.names.iter().rposition(|open| open == name)
    }

    /// It is not known which savepoints are gone.
    fn lose_track(&mut self) {
        self.others = true;
        self.names.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::{Control, Lexing, outline};

    use super::*;

    /// Carries out statements, and says which of the names in `a` to `c` are open, with `?` when others may be.
    fn open_after(statements: &str) -> String {
        let outline = outline(statements.as_bytes(), true, Lexing::default());
        let mut savepoints = Savepoints::default();
        for index in 0..outline.count().unwrap() {
            match outline.statement(index) {
                (Control::Savepoint, name) => savepoints.opened(name),
                (Control::Release, name) => savepoints.released(name),
                (Control::RollbackTo, name) => savepoints.rolled_back_to(name),
                (control, _) => panic!("{control:?}"),
            }
        }
        let is_open = |name: &&str| {
            let text = format!("SAVEPOINT {name}");
            let named = crate::sql::outline(text.as_bytes(), true, Lexing::default());
            savepoints.is_open(named.statement(0).1.unwrap())
        };
        let mut open: Vec<_> = ["a", "b", "c"].into_iter().filter(is_open).collect();
        assert!(savepoints.may_be_open() || open.is_empty());
        open.extend(savepoints.others.then_some("?"));
        open.join(" ")
    }

    #[test]
    fn savepoints_nest_by_name() {
        for (statements, open) in [
            ("SAVEPOINT a; RELEASE a", ""),
            ("SAVEPOINT a; SAVEPOINT b; RELEASE a", ""),
            ("SAVEPOINT a; SAVEPOINT b; RELEASE b", "a"),
            ("SAVEPOINT a; SAVEPOINT b; ROLLBACK TO a", "a"),
            ("SAVEPOINT a; SAVEPOINT b; ROLLBACK TO a; RELEASE A", ""),
            ("SAVEPOINT a; SAVEPOINT a; RELEASE a", "a"),
            (
                "SAVEPOINT a; SAVEPOINT b; SAVEPOINT a; RELEASE \"a\"",
                "a b",
            ),
            ("SAVEPOINT \"A\"; SAVEPOINT b", "b"),
        ] {
            assert_eq!(open_after(statements), open, "{statements}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_leaves_the_others_in_doubt() {
        for (statements, open) in [
            ("SAVEPOINT \u{e9}", "?"),
            ("SAVEPOINT a; SAVEPOINT \u{e9}", "a ?"),
            (
                "SAVEPOINT a; SAVEPOINT b; SAVEPOINT \u{e9}; RELEASE b",
                "a ?",
            ),
            ("SAVEPOINT a; SAVEPOINT b; RELEASE \u{e9}", "?"),
            ("SAVEPOINT a; SAVEPOINT b; ROLLBACK TO \u{e9}", "?"),
            ("RELEASE a", "?"),
        ] {
            assert_eq!(open_after(statements), open, "{statements}");
        }
    }

    #[test]
    fn not_more_names_are_kept_than_memory_is_given_for() {
        let mut savepoints = Savepoints::default();
        let outline = outline(b"SAVEPOINT a", true, Lexing::default());
        let (_, name) = outline.statement(0);
        for _ in 0..2 * MAX_NAMES {
            savepoints.opened(name);
        }
        for _ in 0..2 * MAX_NAMES {
            savepoints.released(name);
        }
        assert!(savepoints.names.is_empty() && savepoints.may_be_open());
    }
}
