//! What the console understands: its own commands, and what clients say by themselves.

use std::iter::Peekable;

use super::show::Topic;
use crate::policy::LockMode;

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `SHOW topic`, with the columns that are wanted, or none for all.
    Show(Topic, Vec<String>),
    /// `SHOW BLOCKERS relation [mode]`
    Blockers(String, LockMode),
    /// `SHOW parameter`: what a server reports of itself.
    Parameter(String),
    /// `ROLLBACK id`
    Rollback(u64),
    /// `TERMINATE id`
    Terminate(u64),
    /// `RELOAD`
    Reload,
    /// `DRAIN`
    Drain,
    /// `SHUTDOWN`
    Shutdown,
    /// `BEGIN` and its like: there is nothing to begin, and a driver insists.
    Begin,
    /// `COMMIT` or `ROLLBACK` without an id.
    End(&'static str),
    /// What sets, resets or forgets something in a session, by its command tag: there is nothing to set.
    Accepted(&'static str),
    /// What may follow `SHOW` and begins so: psql asks `pg_settings` for it when a user types TAB.
    Complete(String),
    /// `SELECT`: one row where all that is asked for is known, else none.
    Select(Vec<Selected>),
}

/// A column of a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selected {
    /// What it is called.
    pub(super) name: String,
    /// What is asked for, where that is known.
    pub(super) value: Option<Known>,
}

/// What the console can say in a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// `version()`
    Version,
    /// `current_user`, `session_user` and the like.
    User,
    /// `current_database()`
    Database,
    /// `current_schema()`
    Schema,
    /// A parameter by `current_setting('name')`.
    Parameter(String),
    /// A whole number.
    Number(i64),
    /// A string.
    Text(String),
    /// A truth value.
    Boolean(bool),
}

/// Why a text is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misunderstood(pub(super) String);

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or name without quotes, in lower case.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    /// A string.
    Text(String),
    Number(String),
    Symbol(char),
}

/// Divides a text into statements and reads each. Nothing comes of an empty one.
pub(super) fn read(text: &str) -> Result<Vec<Statement>, Misunderstood> {
    let tokens = tokens(text)?;
    let statements = tokens.split(|token| *token == Token::Symbol(';'));
    let statements = statements.filter(|tokens| !tokens.is_empty());
    statements.map(statement).collect()
}

fn tokens(text: &str) -> Result<Vec<Token>, Misunderstood> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        match first {
            _ if first.is_whitespace() => {}
            '-' if chars.next_if_eq(&'-').is_some() => {
                while chars.next_if(|&c| c != '\n').is_some() {}
            }
            '/' if chars.next_if_eq(&'*').is_some() => comment(&mut chars)?,
            '"' => tokens.push(Token::Quoted(quoted(&mut chars, '"')?)),
            '\'' => tokens.push(Token::Text(quoted(&mut chars, '\'')?)),
            '0'..='9' => {
                let mut number = String::from(first);
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    number.push(digit);
                }
                tokens.push(Token::Number(number));
            }
            _ if first.is_alphabetic() || first == '_' => {
                let mut word: String = first.to_lowercase().collect();
                while let Some(next) =
                    chars.next_if(|&c| c.is_alphanumeric() || matches!(c, '_' | '$' | '-'))
                {
                    word.extend(next.to_lowercase());
                }
                // A string with escapes or of a national alphabet begins like a word.
                if chars.peek() == Some(&'\'') && matches!(&*word, "e" | "n") {
                    continue;
                }
                tokens.push(Token::Word(word));
            }
            symbol => tokens.push(Token::Symbol(symbol)),
        }
    }
    Ok(tokens)
}

fn comment(chars: &mut Peekable<std::str::Chars<'_>>) -> Result<(), Misunderstood> {
    while let Some(next) = chars.next() {
        if next == '*' && chars.next_if_eq(&'/').is_some() {
            return Ok(());
        }
    }
    Err(Misunderstood("unterminated /* comment".to_owned()))
}

/// What stands between quotes, where a doubled one stands for itself.
fn quoted(chars: &mut Peekable<std::str::Chars<'_>>, quote: char) -> Result<String, Misunderstood> {
    let mut text = String::new();
    while let Some(next) = chars.next() {
        if next == quote && chars.next_if_eq(&quote).is_none() {
            return Ok(text);
        }
        text.push(next);
    }
    Err(Misunderstood(format!("unterminated {quote}")))
}

fn statement(tokens: &[Token]) -> Result<Statement, Misunderstood> {
    let words: Vec<&str> = tokens.iter().map_while(Token::word).take(3).collect();
    let rest = tokens.get(1..).unwrap_or_default();
    let alone = |statement| match rest {
        [] => Ok(statement),
        [next, ..] => Err(unexpected(next)),
    };
    match *words.first().unwrap_or(&"") {
        "show" => show(rest),
        "rollback" if matches!(rest, [Token::Number(_)]) => id(rest).map(Statement::Rollback),
        "terminate" => id(rest).map(Statement::Terminate),
        "reload" => alone(Statement::Reload),
        "drain" => alone(Statement::Drain),
        "shutdown" => alone(Statement::Shutdown),
        "begin" | "start" => Ok(Statement::Begin),
        "commit" | "end" => Ok(Statement::End("COMMIT")),
        "rollback" | "abort" => Ok(Statement::End("ROLLBACK")),
        "savepoint" => Ok(Statement::Accepted("SAVEPOINT")),
        "release" => Ok(Statement::Accepted("RELEASE")),
        "set" => Ok(Statement::Accepted("SET")),
        "reset" => Ok(Statement::Accepted("RESET")),
        "discard" => Ok(Statement::Accepted("DISCARD ALL")),
        "deallocate" => Ok(Statement::Accepted("DEALLOCATE")),
        "close" => Ok(Statement::Accepted("CLOSE CURSOR ALL")),
        "unlisten" => Ok(Statement::Accepted("UNLISTEN")),
        "select" | "with" => {
            Ok(completion(tokens).unwrap_or_else(|| Statement::Select(select(tokens))))
        }
        _ => Err(Misunderstood(format!(
            "{} is no command of the console; SHOW HELP lists them",
            tokens.first().map_or_else(String::new, Token::shown)
        ))),
    }
}

/// The number of a session, which the log, the audit and SHOW SESSIONS give.
fn id(tokens: &[Token]) -> Result<u64, Misunderstood> {
    match tokens {
        [Token::Number(number)] => number
            .parse()
            .map_err(|_| Misunderstood(format!("{number} is no session's id"))),
        [] | [_, ..] => Err(Misunderstood(
            "expected the id of one session, as SHOW SESSIONS gives it".to_owned(),
        )),
    }
}

fn show(tokens: &[Token]) -> Result<Statement, Misunderstood> {
    let Some((Token::Word(word), rest)) = tokens.split_first() else {
        return Err(Misunderstood(
            "expected SHOW HELP, or what to show".to_owned(),
        ));
    };
    if word == "blockers" {
        return blockers(rest);
    }
    let Some(topic) = Topic::named(word) else {
        let words = tokens.iter().map_while(Token::word);
        return Ok(Statement::Parameter(words.collect::<Vec<_>>().join(" ")));
    };
    let mut columns = Vec::new();
    for column in rest.split(|token| *token == Token::Symbol(',')) {
        match column {
            [Token::Word(name) | Token::Quoted(name)] => columns.push(name.clone()),
            [] if rest.is_empty() => {}
            [] => return Err(Misunderstood("a column's name is missing".to_owned())),
            [_, ..] => {
                return Err(Misunderstood(
                    "expected columns as in SHOW SESSIONS id, state".to_owned(),
                ));
            }
        }
    }
    Ok(Statement::Show(topic, columns))
}

/// A relation, with or without its schema, as a string or as names, and the mode of a lock.
fn blockers(tokens: &[Token]) -> Result<Statement, Misunderstood> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut relation = String::new();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        match token {
            Token::Text(text) if relation.is_empty() => relation.push_str(text),
            Token::Word(name) | Token::Quoted(name)
                if relation.is_empty() || relation.ends_with('.') =>
            {
                relation.push_str(&quoted(name));
            }
            Token::Symbol('.') if !relation.is_empty() => relation.push('.'),
            Token::Text(_)
            | Token::Word(_)
            | Token::Quoted(_)
            | Token::Number(_)
            | Token::Symbol(_) => break,
        }
        rest = after;
    }
    if relation.is_empty() || relation.ends_with('.') {
        return Err(Misunderstood(
            "expected a relation, as in SHOW BLOCKERS public.orders".to_owned(),
        ));
    }
    let words: Option<Vec<_>> = rest.iter().map(Token::word).collect();
    let words = words.unwrap_or_default().concat();
    if rest.is_empty() {
        return Ok(Statement::Blockers(relation, LockMode::AccessExclusive));
    }
    let named = |mode: &&LockMode| {
        let name = mode.name().to_lowercase();
        name == words || name.strip_suffix("lock") == Some(&words)
    };
    let mode = LockMode::ALL.iter().find(named).copied();
    let mode = mode.ok_or_else(|| {
        Misunderstood("expected the mode of a lock, such as SHARE UPDATE EXCLUSIVE".to_owned())
    })?;
    Ok(Statement::Blockers(relation, mode))
}

fn completion(tokens: &[Token]) -> Option<Statement> {
    let settings = tokens
        .iter()
        .any(|token| token.word() == Some("pg_settings"));
    let mut likes = tokens
        .iter()
        .skip_while(|token| token.word() != Some("like"));
    let pattern = likes.find_map(|token| match token {
        Token::Text(pattern) => Some(pattern),
        Token::Word(_) | Token::Quoted(_) | Token::Number(_) | Token::Symbol(_) => None,
    });
    let pattern = pattern.filter(|_| settings)?;
    let begin = pattern.strip_suffix('%').unwrap_or(pattern);
    Some(Statement::Complete(begin.replace('\\', "").to_lowercase()))
}

/// The columns of the last select list that is not in parentheses.
fn select(tokens: &[Token]) -> Vec<Selected> {
    let mut depth = 0_usize;
    let mut columns: Vec<Vec<&Token>> = Vec::new();
    let mut listing = false;
    let mut whole = true;
    for token in tokens {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 && word == "select" => {
                columns = vec![Vec::new()];
                listing = true;
                continue;
            }
            Token::Word(word)
                if depth == 0
                    && matches!(&**word, "from" | "where" | "union" | "order" | "limit") =>
            {
                listing = false;
                whole = false;
            }
            Token::Symbol(',') if depth == 0 && listing => {
                columns.push(Vec::new());
                continue;
            }
            Token::Symbol(_)
            | Token::Word(_)
            | Token::Quoted(_)
            | Token::Text(_)
            | Token::Number(_) => {}
        }
        if let Some(column) = columns.last_mut().filter(|_| listing) {
            column.push(token);
        }
    }
    columns
        .iter()
        .map(|column| {
            let mut selected = selected(column);
            selected.value = selected.value.filter(|_| whole);
            selected
        })
        .collect()
}

fn selected(column: &[&Token]) -> Selected {
    let (expression, alias) = match column {
        [
            expression @ ..,
            Token::Word(word),
            Token::Word(name) | Token::Quoted(name),
        ] if word == "as" => (expression, Some(name)),
        [expression @ .., Token::Quoted(name)] if !expression.is_empty() => {
            (expression, Some(name))
        }
        expression => (expression, None),
    };
    let expression = match expression {
        [Token::Word(schema), Token::Symbol('.'), rest @ ..] if schema == "pg_catalog" => rest,
        expression => expression,
    };
    let (name, value) = known(expression);
    Selected {
        name: alias.cloned().unwrap_or(name),
        value,
    }
}

/// What PostgreSQL calls a column of this expression (`FigureColname` in `src/backend/parser/parse_target.c`), and its
/// value where it is known.
fn known(expression: &[&Token]) -> (String, Option<Known>) {
    match expression {
        [Token::Word(word)] => {
            let value = match &**word {
                "current_user" | "session_user" | "user" | "current_role" => Some(Known::User),
                "current_catalog" => Some(Known::Database),
                "current_schema" => Some(Known::Schema),
                "true" => Some(Known::Boolean(true)),
                "false" => Some(Known::Boolean(false)),
                _ => None,
            };
            (word.clone(), value)
        }
        [
            Token::Word(function),
            Token::Symbol('('),
            Token::Symbol(')'),
        ] => {
            let value = match &**function {
                "version" => Some(Known::Version),
                "current_database" => Some(Known::Database),
                "current_schema" => Some(Known::Schema),
                "pg_is_in_recovery" => Some(Known::Boolean(false)),
                _ => None,
            };
            (function.clone(), value)
        }
        [
            Token::Word(function),
            Token::Symbol('('),
            Token::Text(name),
            Token::Symbol(')'),
        ] if function == "current_setting" => {
            (function.clone(), Some(Known::Parameter(name.clone())))
        }
        [Token::Number(number)] => (
            "?column?".to_owned(),
            number.parse().ok().map(Known::Number),
        ),
        [Token::Text(text)] => ("?column?".to_owned(), Some(Known::Text(text.clone()))),
        [
            ..,
            Token::Symbol('.'),
            Token::Word(name) | Token::Quoted(name),
        ] => (name.clone(), None),
        [Token::Quoted(name)] => (name.clone(), None),
        [Token::Word(function), Token::Symbol('('), ..] => (function.clone(), None),
        _ => ("?column?".to_owned(), None),
    }
}

fn unexpected(token: &Token) -> Misunderstood {
    Misunderstood(format!("syntax error at or near {}", token.shown()))
}

impl Token {
    fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Quoted(_) | Self::Text(_) | Self::Number(_) | Self::Symbol(_) => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Word(text) | Self::Number(text) => format!("{text:?}"),
            Self::Quoted(text) => format!("{text:?}"),
            Self::Text(_) => "a string".to_owned(),
            Self::Symbol(symbol) => format!("\"{symbol}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let [statement] = <[Statement; 1]>::try_from(read(text).unwrap()).unwrap();
        statement
    }

    #[test]
    fn its_own_commands() {
        let show = |topic, columns: &[&str]| {
            Statement::Show(topic, columns.iter().map(|&name| name.to_owned()).collect())
        };
        for (text, expected) in [
            ("SHOW SESSIONS", show(Topic::Sessions, &[])),
            (
                "show sessions id, \"state\" ;",
                show(Topic::Sessions, &["id", "state"]),
            ),
            ("-- who\nSHOW /* all */ HELP", show(Topic::Help, &[])),
            (
                "SHOW BLOCKERS orders",
                Statement::Blockers("\"orders\"".to_owned(), LockMode::AccessExclusive),
            ),
            (
                "SHOW BLOCKERS public.\"Or\"\"ders\" SHARE UPDATE EXCLUSIVE",
                Statement::Blockers(
                    "\"public\".\"Or\"\"ders\"".to_owned(),
                    LockMode::ShareUpdateExclusive,
                ),
            ),
            (
                "SHOW BLOCKERS 'public.orders' ShareLock",
                Statement::Blockers("public.orders".to_owned(), LockMode::Share),
            ),
            ("ROLLBACK 17", Statement::Rollback(17)),
            ("rollback", Statement::End("ROLLBACK")),
            (
                "TERMINATE 18446744073709551615",
                Statement::Terminate(u64::MAX),
            ),
            ("RELOAD", Statement::Reload),
            ("DRAIN;", Statement::Drain),
            ("SHUTDOWN", Statement::Shutdown),
            (
                "SHOW TRANSACTION ISOLATION LEVEL",
                Statement::Parameter("transaction isolation level".to_owned()),
            ),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (text, expected) in [
            (
                "FROBNICATE",
                "\"frobnicate\" is no command of the console; SHOW HELP lists them",
            ),
            (
                "ROLLBACK 99999999999999999999",
                "99999999999999999999 is no session's id",
            ),
            (
                "TERMINATE",
                "expected the id of one session, as SHOW SESSIONS gives it",
            ),
            (
                "TERMINATE 1 2",
                "expected the id of one session, as SHOW SESSIONS gives it",
            ),
            ("RELOAD now", "syntax error at or near \"now\""),
            (
                "SHOW SESSIONS a b",
                "expected columns as in SHOW SESSIONS id, state",
            ),
            ("SHOW SESSIONS a,", "a column's name is missing"),
            ("SHOW", "expected SHOW HELP, or what to show"),
            (
                "SHOW BLOCKERS",
                "expected a relation, as in SHOW BLOCKERS public.orders",
            ),
            (
                "SHOW BLOCKERS a hard",
                "expected the mode of a lock, such as SHARE UPDATE EXCLUSIVE",
            ),
            ("SHOW /*", "unterminated /* comment"),
            ("SELECT 'x", "unterminated '"),
        ] {
            assert_eq!(
                read(text),
                Err(Misunderstood(expected.to_owned())),
                "{text}"
            );
        }
        assert_eq!(read(" ; -- nothing\n;"), Ok(Vec::new()));
    }

    #[test]
    fn what_clients_ask_by_themselves() {
        let asked = |text: &str| {
            let Statement::Select(columns) = one(text) else {
                panic!("{text} is no SELECT");
            };
            columns
        };
        let column = |name: &str, value| Selected {
            name: name.to_owned(),
            value,
        };
        assert_eq!(
            asked("select pg_catalog.version()"),
            [column("version", Some(Known::Version))]
        );
        assert_eq!(
            asked("SELECT current_schema(),session_user"),
            [
                column("current_schema", Some(Known::Schema)),
                column("session_user", Some(Known::User))
            ]
        );
        assert_eq!(
            asked("SELECT 1 AS one"),
            [column("one", Some(Known::Number(1)))]
        );
        let listed = asked(
            "SELECT n.nspname as \"Schema\", c.relname as \"Name\", CASE c.relkind WHEN 'r' THEN 'table' END as \"Type\"
             FROM pg_catalog.pg_class c WHERE c.relkind IN ('r') ORDER BY 1,2",
        );
        assert_eq!(
            listed,
            [
                column("Schema", None),
                column("Name", None),
                column("Type", None)
            ]
        );
        let oid = asked("SELECT t.oid, typarray FROM pg_type t JOIN (SELECT 1) x ON true");
        assert_eq!(oid, [column("oid", None), column("typarray", None)]);
        assert_eq!(
            one(
                "SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) LIKE pg_catalog.lower('SES%')"
            ),
            Statement::Complete("ses".to_owned())
        );
        let reset = read("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;");
        assert_eq!(reset.unwrap().len(), 4);
    }
}
