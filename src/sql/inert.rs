//! Statements whose effect is undone with their transaction, or which give up what it held: in a transaction that will
//! be rolled back they have no effect that a client could miss.

use super::{
    Identifier, Lexing,
    lexer::{Lexer, Token},
};

/// Tokens of the longest statement that is read here (`ROLLBACK TRANSACTION TO SAVEPOINT name`).
const MAX_TOKENS: usize = 5;

/// Statements of the longest list that is read.
const MAX_STATEMENTS: usize = 16;

/// One such statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inert {
    /// `SAVEPOINT name`
    Savepoint(Identifier),
    /// `RELEASE SAVEPOINT name`
    Release(Identifier),
    /// `ROLLBACK TO SAVEPOINT name`
    RollbackTo(Identifier),
    /// `DEALLOCATE name`, not `ALL`
    Deallocate(Identifier),
    /// `CLOSE name`, not `ALL`
    CloseCursor(Identifier),
    /// `UNLISTEN channel` or `UNLISTEN *`: taken back by a rollback, whatever it says
    Unlisten,
}

/// The statements of a text that has no others; an empty text, or one of comments alone, has none at all.
///
/// `text` may be in any encoding and need not be valid in it.
pub fn inert(text: &[u8], lexing: Lexing) -> Option<Vec<Inert>> {
    if lexing.client_only_encoding && !text.is_ascii() {
        return None;
    }
    let mut lexer = Lexer::new(text, !lexing.standard_conforming_strings);
    let mut statements = Vec::new();
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        if let Token::Semicolon | Token::End = token {
            if !tokens.is_empty() {
                statements.push(statement(&tokens)?);
                tokens.clear();
            }
            if token == Token::End {
                return Some(statements);
            }
        } else if tokens.len() == MAX_TOKENS || statements.len() == MAX_STATEMENTS {
            return None;
        } else {
            tokens.push(token);
        }
    }
}

fn statement(tokens: &[Token<'_>]) -> Option<Inert> {
    let (&Token::Word(command), rest) = tokens.split_first()? else {
        return None;
    };
    Some(match command.to_ascii_lowercase().as_slice() {
        b"savepoint" => Inert::Savepoint(name(rest)?),
        b"release" => Inert::Release(name(past(rest, &[b"savepoint"]))?),
        b"rollback" => {
            let to = past(rest, &[b"work", b"transaction"]);
            let (&Token::Word(word), rest) = to.split_first()? else {
                return None;
            };
            if !word.eq_ignore_ascii_case(b"to") {
                return None;
            }
            Inert::RollbackTo(name(past(rest, &[b"savepoint"]))?)
        }
        b"deallocate" => Inert::Deallocate(one_name(past(rest, &[b"prepare"]))?),
        b"close" => Inert::CloseCursor(one_name(rest)?),
        b"unlisten" => match rest {
            [Token::Word(_) | Token::Quoted(_) | Token::Other] => Inert::Unlisten,
            _ => return None,
        },
        _ => return None,
    })
}

/// The tokens after one of these words, where something follows it: the word may be a name too.
fn past<'a, 'b>(tokens: &'a [Token<'b>], words: &[&[u8]]) -> &'a [Token<'b>] {
    match tokens {
        [Token::Word(word), rest @ ..]
            if !rest.is_empty() && words.iter().any(|other| word.eq_ignore_ascii_case(other)) =>
        {
            rest
        }
        _ => tokens,
    }
}

fn name(tokens: &[Token<'_>]) -> Option<Identifier> {
    match *tokens {
        [Token::Word(name)] => Identifier::unquoted(name),
        [Token::Quoted(inside)] => Identifier::quoted(inside),
        _ => None,
    }
}

/// A name that is not the keyword ALL.
fn one_name(tokens: &[Token<'_>]) -> Option<Identifier> {
    let all = matches!(tokens, [Token::Word(word)] if word.eq_ignore_ascii_case(b"all"));
    name(tokens).filter(|_| !all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        format!("{:?}", inert(text.as_bytes(), Lexing::default()))
    }

    #[test]
    fn statements_that_a_rollback_undoes_are_known_by_name() {
        for (text, expected) in [
            ("", "Some([])"),
            ("/* ping */ -- and more", "Some([])"),
            (";;", "Some([])"),
            ("savepoint a", r#"Some([Savepoint("a")])"#),
            ("SAVEPOINT \"A \"\" b\";", r#"Some([Savepoint("A \" b")])"#),
            ("Release A", r#"Some([Release("a")])"#),
            ("RELEASE SAVEPOINT a", r#"Some([Release("a")])"#),
            ("RELEASE SAVEPOINT", r#"Some([Release("savepoint")])"#),
            ("ROLLBACK TO a", r#"Some([RollbackTo("a")])"#),
            ("ROLLBACK WORK TO SAVEPOINT a", r#"Some([RollbackTo("a")])"#),
            (
                "DEALLOCATE pdo_stmt_00000001",
                r#"Some([Deallocate("pdo_stmt_00000001")])"#,
            ),
            ("DEALLOCATE PREPARE a", r#"Some([Deallocate("a")])"#),
            ("DEALLOCATE PREPARE", r#"Some([Deallocate("prepare")])"#),
            ("DEALLOCATE \"all\"", r#"Some([Deallocate("all")])"#),
            ("CLOSE c", r#"Some([CloseCursor("c")])"#),
            ("UNLISTEN *", "Some([Unlisten])"),
            (
                "SAVEPOINT s;DEALLOCATE \"_PLAN1\";RELEASE s",
                r#"Some([Savepoint("s"), Deallocate("_PLAN1"), Release("s")])"#,
            ),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "ROLLBACK",
            "ROLLBACK TO",
            "ABORT TO a",
            "SAVEPOINT",
            "SAVEPOINT a b",
            "SAVEPOINT 'a'",
            "SAVEPOINT \u{e9}",
            "DEALLOCATE ALL",
            "DEALLOCATE PREPARE ALL",
            "CLOSE ALL",
            "UNLISTEN",
            "SELECT 1",
            "SAVEPOINT a; SELECT 1",
            "SAVEPOINT a; COMMIT",
            "/* open",
        ] {
            assert_eq!(said(text), "None", "{text}");
        }
        assert_eq!(said(&"SAVEPOINT a;".repeat(17)), "None");
    }
}
