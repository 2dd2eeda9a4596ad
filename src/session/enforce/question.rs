//! What is asked of the server before a release: under which settings, the question, and what its answer means.
//!
//! It is asked inside a savepoint. The locks on catalogues that it takes end with that, and so do its settings and
//! whatever goes wrong with it: `ROLLBACK TO` leaves the transaction as it was. A savepoint gets no transaction id
//! before something is written in it (`AssignTransactionId` in `src/backend/access/transam/xact.c`).

use std::{collections::BTreeSet, time::Duration};

use crate::{session::transaction::Refusal, sql::Names, wire::originate::Parameter};

/// Asks for everything that only the server knows: the number of rows is the answer, see [`Answer`].
const QUESTION: &str = include_str!("release.sql");

/// Settings of the client's under which the question could take long, as PostgreSQL has them; `lock_timeout` is off,
/// since [`time_limit`] bounds the waits for locks too.
const SETTINGS: [(&str, &str); 31] = [
    ("lock_timeout", "0"),
    ("work_mem", "4MB"),
    ("hash_mem_multiplier", "2"),
    ("max_parallel_workers_per_gather", "0"),
    ("plan_cache_mode", "auto"),
    ("constraint_exclusion", "partition"),
    ("from_collapse_limit", "8"),
    ("join_collapse_limit", "8"),
    ("geqo", "on"),
    ("geqo_threshold", "12"),
    ("seq_page_cost", "1"),
    ("random_page_cost", "4"),
    ("cpu_tuple_cost", "0.01"),
    ("cpu_index_tuple_cost", "0.005"),
    ("cpu_operator_cost", "0.0025"),
    ("effective_cache_size", "4GB"),
    ("enable_bitmapscan", "on"),
    ("enable_hashagg", "on"),
    ("enable_hashjoin", "on"),
    ("enable_incremental_sort", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_material", "on"),
    ("enable_memoize", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
    ("enable_tidscan", "on"),
    ("recursive_worktable_factor", "10"),
    ("cursor_tuple_fraction", "0.1"),
];

/// What a question is about.
pub(super) struct About<'a> {
    /// What the statements of the transaction use.
    pub(super) names: &'a Names,
    /// The server process that the session must be with; `None` where any will do.
    pub(super) process: Option<i32>,
    /// The name of our portal.
    pub(super) portal: &'a str,
}

impl About<'_> {
    /// The parameters of the question, in order.
    pub(super) fn parameters(&self) -> [Parameter; 7] {
        let array = |names: &BTreeSet<String>| (NAME_ARRAY, array(names));
        let process = self
            .process
            .map_or_else(|| "any".to_owned(), |pid| pid.to_string());
        [
            array(&self.names.functions),
            array(&self.names.operators),
            array(&self.names.types),
            array(&self.names.fields),
            (TEXT, process),
            (TEXT, self.portal.to_owned()),
            (BOOL, self.names.missing_values.to_string()),
        ]
    }
}

/// The question, without its comments.
pub(super) fn text() -> String {
    let lines = QUESTION
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"));
    lines.fold(String::with_capacity(QUESTION.len()), |text, line| {
        text + line + "\n"
    })
}

/// The longest that any statement after this one may take, waits for locks included. SET LOCAL needs no catalogue, and
/// so waits for nobody.
pub(super) fn time_limit(limit: Duration) -> String {
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
    format!("SET LOCAL statement_timeout = {millis}")
}

/// The rest of the settings, by one statement: each is a line in the log of a server that logs statements.
pub(super) fn settings() -> String {
    let set = |(name, value)| format!("pg_catalog.set_config('{name}', '{value}', true)");
    format!("SELECT\n{}", SETTINGS.map(set).join(", "))
}

/// Why the server did not answer.
pub(super) fn unanswered(sqlstate: [u8; 5]) -> Refusal {
    Refusal::for_now(match &sqlstate {
        b"57014" => {
            "asking the server was cancelled, or took longer than release_timeout".to_owned()
        }
        b"42501" => "the role may not ask the server what has to be asked (42501)".to_owned(),
        other => {
            let code = String::from_utf8_lossy(other);
            format!("asking the server failed with SQLSTATE {code}")
        }
    })
}

/// How the transaction was, and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct Mode {
    pub(super) read_only: bool,
    /// Whether the server would close a session without a transaction (`idle_session_timeout`).
    pub(super) stays_open: bool,
}

/// What the number of rows says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Releasable(Mode),
    Not(Refusal),
    Unexpected,
}

/// An answer that lets the transaction be released: its number and name in `release.sql`, whether the transaction is
/// READ ONLY, and whether it begins again at once.
type Yes = (u32, &'static str, bool, bool);

const RELEASABLE: [Yes; 4] = [
    (1, "read_write", false, false),
    (2, "read_only", true, false),
    (3, "read_write_at_once", false, true),
    (4, "read_only_at_once", true, true),
];

/// An answer that does not: its number and name in `release.sql`, whether it holds until the transaction ends, and what
/// is reported.
type No = (u32, &'static str, bool, &'static str);

// Isolation level and server stay as they are until the transaction ends. Locks are kept as long, and a table that
// is locked keeps its columns. All else others may drop, or the client may close.
const REFUSED: [No; 14] = [
    (
        5,
        "isolation",
        LASTING,
        "the isolation level is not READ COMMITTED, or it is DEFERRABLE",
    ),
    (6, "cursor", FOR_NOW, "a cursor is open"),
    (
        7,
        "lock",
        LASTING,
        "it holds a transaction id, a lock other than AccessShareLock, or one on something else than permanent tables \
         without row-level security",
    ),
    (
        8,
        "user_made_column",
        LASTING,
        "a table has a column of a user-made type",
    ),
    (
        9,
        "user_made_index",
        FOR_NOW,
        "a table has an index, constraint or statistics with a user-made function or operator",
    ),
    (
        10,
        "function",
        FOR_NOW,
        "a user-made function has a name that it uses",
    ),
    (
        11,
        "operator",
        FOR_NOW,
        "a user-made operator has a name that it uses",
    ),
    (
        12,
        "type",
        FOR_NOW,
        "a user-made type has a name that it uses",
    ),
    (13, "cast", FOR_NOW, "there is a user-made cast"),
    (
        14,
        "operator_class",
        FOR_NOW,
        "there is a user-made operator class for a type of PostgreSQL's",
    ),
    (
        15,
        "other_process",
        LASTING,
        "the server's process id is not what the session was told: is there a pooler? See upstream.pooler",
    ),
    (
        16,
        "prepared_by_sql",
        FOR_NOW,
        "a statement was prepared by SQL, and a name may stand for it",
    ),
    (
        17,
        "place",
        LASTING,
        "a table has a column that names places or versions of rows",
    ),
    (
        18,
        "any_type",
        LASTING,
        "it reads values of any type, such as those of pg_stats",
    ),
];

const LASTING: bool = true;
const FOR_NOW: bool = false;

impl Answer {
    pub(super) fn of(rows: u32) -> Self {
        let yes = RELEASABLE.iter().find(|yes| yes.0 == rows);
        let no = REFUSED.iter().find(|no| no.0 == rows);
        match (yes, no) {
            (Some(&(_, _, read_only, stays_open)), _) => Self::Releasable(Mode {
                read_only,
                stays_open,
            }),
            (None, Some(&(_, _, lasting, why))) => Self::Not(Refusal {
                why: why.into(),
                lasting,
            }),
            (None, None) => Self::Unexpected,
        }
    }
}

/// An array of names as PostgreSQL reads it; none of them has a quote or a backslash.
fn array(names: &BTreeSet<String>) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{{{}}}", quoted.join(","))
}

/// `pg_type.oid` of `name[]`.
const NAME_ARRAY: u32 = 1003;

/// `pg_type.oid` of `text`.
const TEXT: u32 = 25;

/// `pg_type.oid` of `bool`.
const BOOL: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that a comment gives names.
    fn named(line: &str) -> Vec<(u32, &str)> {
        let Some(comment) = line.strip_prefix("-- ") else {
            return Vec::new();
        };
        let Some((names, _)) = comment.split_once(": ") else {
            return Vec::new();
        };
        names
            .split(", ")
            .map_while(|part| {
                let (number, name) = part.split_once(' ')?;
                Some((number.parse().ok()?, name))
            })
            .collect()
    }

    #[test]
    fn each_answer_of_the_question_has_a_name_and_a_reader() {
        let yes = RELEASABLE.iter().map(|&(number, name, ..)| (number, name));
        let no = REFUSED.iter().map(|&(number, name, ..)| (number, name));
        let read: BTreeSet<_> = yes.chain(no).collect();
        let (mut given, mut current) = (BTreeSet::new(), Vec::new());
        for line in QUESTION.lines() {
            if !named(line).is_empty() {
                current = named(line);
            } else if !line.trim_start().starts_with("--") {
                let words: Vec<_> = line.split_ascii_whitespace().collect();
                for pair in words.windows(2) {
                    if let ["THEN" | "ELSE", number] = pair
                        && let Ok(number) = number.parse::<u32>()
                    {
                        let name = current.iter().find(|(named, _)| *named == number);
                        given.insert(*name.unwrap());
                    }
                }
            }
        }
        assert_eq!(given, read);
        for rows in 0..100 {
            let means = Answer::of(rows) != Answer::Unexpected;
            let known = read.iter().any(|&(number, _)| number == rows);
            assert_eq!(known, means, "{rows}");
        }
    }

    #[test]
    fn what_is_sent_is_short_and_plain() {
        let sent = [text(), settings(), time_limit(Duration::from_millis(250))];
        for text in &sent {
            assert!(text.is_ascii() && !text.contains("--") && !text.contains('\\'));
        }
        assert_eq!(sent[2], "SET LOCAL statement_timeout = 250");
        assert!(time_limit(Duration::from_nanos(1)).ends_with(" = 1"));
    }
}
