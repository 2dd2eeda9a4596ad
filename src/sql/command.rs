//! What a statement does, in its own first words: `SELECT`, `ALTER TABLE`. Nothing else of it is shown.

use super::lexer::{Lexer, Token};

/// The command of a statement that a server has parsed, so that its first words are keywords; `None` where they are
/// none of these, as in a list that begins with `BEGIN`.
pub fn command(text: &str) -> Option<String> {
    let mut lexer = Lexer::new(text.as_bytes(), false);
    let mut token = lexer.next();
    while token == Token::Open {
        token = lexer.next();
    }
    let first = keyword(token)?;
    if OF_OBJECTS.contains(&first.as_str()) {
        let mut object = keyword(lexer.next())?;
        while MODIFIERS.contains(&object.as_str()) {
            object = keyword(lexer.next())?;
        }
        return Some(format!("{first} {object}"));
    }
    COMMANDS.contains(&first.as_str()).then_some(first)
}

/// A keyword in capitals; they are of letters alone.
fn keyword(token: Token<'_>) -> Option<String> {
    let Token::Word(word) = token else {
        return None;
    };
    let letters = word.iter().all(u8::is_ascii_alphabetic);
    let word = str::from_utf8(word).ok().filter(|_| letters)?;
    Some(word.to_ascii_uppercase())
}

/// Commands that go on with the kind of object.
const OF_OBJECTS: &[&str] = &["ALTER", "COMMENT", "CREATE", "DROP", "REFRESH"];

/// What may stand between CREATE and the kind of object.
const MODIFIERS: &[&str] = &[
    "CONSTRAINT",
    "GLOBAL",
    "LOCAL",
    "ON",
    "OR",
    "RECURSIVE",
    "REPLACE",
    "TEMP",
    "TEMPORARY",
    "UNIQUE",
    "UNLOGGED",
];

/// Commands of one word that can wait for another session, or make one wait.
const COMMANDS: &[&str] = &[
    "ANALYSE", "ANALYZE", "CALL", "CLUSTER", "COMMIT", "COPY", "DELETE", "DO", "END", "EXECUTE",
    "EXPLAIN", "FETCH", "GRANT", "IMPORT", "INSERT", "LOCK", "MERGE", "MOVE", "NOTIFY", "PREPARE",
    "REASSIGN", "REINDEX", "REPACK", "REVOKE", "SECURITY", "SELECT", "TABLE", "TRUNCATE", "UPDATE",
    "VACUUM", "VALUES", "WITH",
];

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn of_a_statement_its_command_is_said_and_nothing_else() {
        for (statement, expected) in [
            ("select 'secret'", Some("SELECT")),
            ("(SELECT 1) UNION (SELECT 2)", Some("SELECT")),
            ("CREATE UNIQUE INDEX i ON t (v)", Some("CREATE INDEX")),
            ("create or replace function f()", Some("CREATE FUNCTION")),
            ("REPACK (CONCURRENTLY) t", Some("REPACK")),
            ("/* route='/pets' /* nested */ */ SELECT 1", Some("SELECT")),
            (
                "-- secret\n  ALTER/* secret */TABLE secret ADD v int",
                Some("ALTER TABLE"),
            ),
            ("REFRESH MATERIALIZED VIEW v", Some("REFRESH MATERIALIZED")),
            ("BEGIN; ALTER TABLE t ADD v int", None),
            ("ALTER \"secret\"", None),
            ("secret", None),
            ("secret_select", None),
            ("/* secret", None),
            ("", None),
        ] {
            assert_eq!(command(statement).as_deref(), expected, "{statement}");
        }
    }
}
