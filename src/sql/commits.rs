//! When a statement outside of a transaction block commits, told by its first words: a cancel must not meet a commit.

use super::lexer::{Lexer, Token};

/// When a statement outside of a transaction block commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// With the transaction: at the end of the Query or at Sync.
    Last,
    /// Perhaps by itself: CALL and DO may, REINDEX does for some things.
    Perhaps,
    /// By itself, before it is answered (`PreventInTransactionBlock` in `src/backend/access/transam/xact.c`).
    Itself,
}

/// When a statement commits of which this is the front.
pub fn commits(statement: &str) -> Commits {
    let words = first_words(statement);
    let [first, second, third, fourth] = words.each_ref().map(String::as_str);
    match (first, second, third, fourth) {
        ("alter", "system", ..)
        | ("commit" | "rollback", "prepared", ..)
        | ("create" | "drop", "database" | "tablespace", ..)
        | ("create" | "drop", "index", "concurrently", _)
        | ("create", "unique", "index", "concurrently")
        | ("reindex", "database" | "schema" | "system", ..)
        | ("vacuum", ..) => Commits::Itself,
        ("alter", "database" | "subscription" | "table", ..)
        | ("create" | "drop", "subscription", ..) => Commits::Perhaps,
        (first, ..) if WITH_TRANSACTION.contains(&first) => Commits::Last,
        (..) => Commits::Perhaps,
    }
}

/// Whether a statement looks for cancels while it sends its rows, as those do that do not gather them first
/// (`ChoosePortalStrategy` in `src/backend/tcop/pquery.c`): no cancel meets its commit while rows are to be sent.
pub fn sends_as_it_runs(statement: &str) -> bool {
    let has = |word: &str| {
        let mut words = statement.split(|c: char| !c.is_alphanumeric());
        words.any(|found| found.eq_ignore_ascii_case(word))
    };
    let [first] = first_words(statement);
    match first.as_str() {
        "select" | "table" | "values" => true,
        "copy" => has("stdout"),
        "with" => !["insert", "update", "delete", "merge"].into_iter().any(has),
        _ => false,
    }
}

/// The first tokens in lower case; empty for what is no word.
fn first_words<const N: usize>(statement: &str) -> [String; N] {
    let mut lexer = Lexer::new(statement.as_bytes(), false);
    std::array::from_fn(|_| {
        if let Token::Word(word) = lexer.next() {
            String::from_utf8_lossy(word).to_ascii_lowercase()
        } else {
            String::new()
        }
    })
}

/// First words of statements that commit with their transaction; none for a parenthesis, which opens a query.
const WITH_TRANSACTION: [&str; 44] = [
    "",
    "abort",
    "alter",
    "begin",
    "close",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "drop",
    "end",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "select",
    "set",
    "show",
    "start",
    "table",
    "truncate",
    "unlisten",
    "update",
    "values",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_statement_commits_is_told_by_its_first_words() {
        for text in [
            "SELECT 1",
            "/* c */ insert INTO t",
            "PREPARE p AS SELECT 1",
            "CREATE INDEX i ON t (a)",
            "CREATE UNIQUE INDEX i ON t (concurrently)",
            "DROP TABLE t",
            "(SELECT 1)",
            "WITH a AS (SELECT 1) TABLE a",
            "ALTER VIEW v RENAME TO w",
        ] {
            assert_eq!(commits(text), Commits::Last, "{text}");
        }
        for text in [
            "CREATE DATABASE d",
            "VACUUM t",
            "COMMIT PREPARED 'x'",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
            "drop index concurrently i",
            "REINDEX SCHEMA s",
            "ALTER SYSTEM RESET ALL",
            "DROP TABLESPACE s",
        ] {
            assert_eq!(commits(text), Commits::Itself, "{text}");
        }
        for text in [
            "CALL p()",
            "DO $$ $$",
            "REINDEX TABLE t",
            "CLUSTER",
            "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
            "nonsense",
        ] {
            assert_eq!(commits(text), Commits::Perhaps, "{text}");
        }
    }

    #[test]
    fn what_gathers_its_rows_first_does_not_send_as_it_runs() {
        for text in [
            "SELECT 1",
            "table t",
            "VALUES (1)",
            "COPY t TO STDOUT",
            "WITH a AS (SELECT 1) TABLE a",
        ] {
            assert!(sends_as_it_runs(text), "{text}");
        }
        for text in [
            "INSERT INTO t VALUES (1) RETURNING a",
            "WITH a AS (DELETE FROM t RETURNING a) TABLE a",
            "CALL p()",
            "COPY t FROM STDIN",
            "FETCH ALL FROM c",
        ] {
            assert!(!sends_as_it_runs(text), "{text}");
        }
    }
}
