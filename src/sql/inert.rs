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

/// The statements of this kind at the front of a text, up to the first of another kind, and whether they are all of it. An
/// empty text, or one of comments alone, has none at all.
///
/// `text` may be in any encoding and need not be valid in it.
pub fn inert(text: &[u8], lexing: Lexing) -> (Vec<Inert>, bool) {
    let mut statements = Vec::new();
    if lexing.client_only_encoding && !text.is_ascii() {
        return (statements, false);
    }
    let mut lexer = Lexer::new(text, !lexing.standard_conforming_strings);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        if let Token::Semicolon | Token::End = token {
            if !tokens.is_empty() {
                let Some(statement) = statement(&tokens) else {
                    return (statements, false);
                };
                statements.push(statement);
                tokens.clear();
            }
            if token == Token::End {
                return (statements, true);
            }
        } else if tokens.len() == MAX_TOKENS || statements.len() == MAX_STATEMENTS {
            return (statements, false);
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
        let (statements, all) = inert(text.as_bytes(), Lexing::default());
        format!("{statements:?}{}", if all { "" } else { " …" })
    }

    #[test]
    fn statements_that_a_rollback_undoes_are_known_by_name() {
        for (text, expected) in [
            ("", "[]"),
            ("/* ping */ -- and more", "[]"),
            (";;", "[]"),
            ("savepoint a", r#"[Savepoint("a")]"#),
            ("SAVEPOINT \"A \"\" b\";", r#"[Savepoint("A \" b")]"#),
            ("Release A", r#"[Release("a")]"#),
            ("RELEASE SAVEPOINT a", r#"[Release("a")]"#),
            ("RELEASE SAVEPOINT", r#"[Release("savepoint")]"#),
            ("ROLLBACK TO a", r#"[RollbackTo("a")]"#),
            ("ROLLBACK WORK TO SAVEPOINT a", r#"[RollbackTo("a")]"#),
            (
                "DEALLOCATE pdo_stmt_00000001",
                r#"[Deallocate("pdo_stmt_00000001")]"#,
            ),
            ("DEALLOCATE PREPARE a", r#"[Deallocate("a")]"#),
            ("DEALLOCATE PREPARE", r#"[Deallocate("prepare")]"#),
            ("DEALLOCATE \"all\"", r#"[Deallocate("all")]"#),
            ("CLOSE c", r#"[CloseCursor("c")]"#),
            ("UNLISTEN *", "[Unlisten]"),
            (
                "SAVEPOINT s;DEALLOCATE \"_PLAN1\";RELEASE s",
                r#"[Savepoint("s"), Deallocate("_PLAN1"), Release("s")]"#,
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
            "/* open",
        ] {
            assert_eq!(said(text), "[] …", "{text}");
        }
    }

    #[test]
    fn what_comes_before_another_statement_is_known() {
        for text in [
            "SAVEPOINT a; SELECT 1",
            ";SAVEPOINT a;; COMMIT; SAVEPOINT b",
        ] {
            assert_eq!(said(text), r#"[Savepoint("a")] …"#, "{text}");
        }
        let many = "SAVEPOINT a;".repeat(MAX_STATEMENTS + 1);
        assert!(said(&many).ends_with('…'));
    }
}
