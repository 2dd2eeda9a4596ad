//! Which statements open, end or divide a transaction, told by an exact lexer and the few productions of PostgreSQL's
//! grammar that matter. It allocates nothing, and leaves a text that cannot be transaction control after a byte or two.
//!
//! It does not read names and ids in unusual quotes (`E'…'`, `U&'…'`, `$$…$$`, `U&"…"`): such a text is
//! [`Control::Other`]. It does not check what follows the first statement of a `;`-list, nor whether a savepoint's
//! name is a reserved word: the server refuses such a text, and a refusal is an error that the client sees.

/// What a text asks of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// `BEGIN` or `START TRANSACTION` and nothing else, with any modes.
    Begin,
    /// A `;`-list that begins with [`Control::Begin`] and has more statements, none of which ends the transaction.
    BeginThen,
    /// `COMMIT` or `END` and nothing else.
    Commit,
    /// `COMMIT AND CHAIN` and nothing else.
    CommitAndChain,
    /// `PREPARE TRANSACTION 'id'` and nothing else.
    PrepareTransaction,
    /// `ROLLBACK` or `ABORT` and nothing else.
    Rollback,
    /// A `;`-list that begins with [`Control::Rollback`] and has more statements.
    RollbackThen,
    /// `ROLLBACK AND CHAIN` and nothing else.
    RollbackAndChain,
    /// `ROLLBACK TO SAVEPOINT` and nothing else.
    RollbackTo,
    /// `SAVEPOINT` and nothing else.
    Savepoint,
    /// `RELEASE SAVEPOINT` and nothing else.
    Release,
    /// A text whose first statement may be one of those that a failed transaction lets through: it begins with their
    /// first word, and is a list, or not whole, or has more to it than is read here.
    Doubtful,
    /// Anything else, an empty text and every other list included.
    Other,
}

impl Control {
    /// Whether it ends the transaction block that it is run in.
    pub fn ends_block(self) -> bool {
        match self {
            Self::Commit
            | Self::CommitAndChain
            | Self::PrepareTransaction
            | Self::Rollback
            | Self::RollbackThen
            | Self::RollbackAndChain => true,
            Self::Begin
            | Self::BeginThen
            | Self::RollbackTo
            | Self::Savepoint
            | Self::Release
            | Self::Doubtful
            | Self::Other => false,
        }
    }
}

/// The session's settings that change how the server divides a text into tokens.
///
/// A text with neither quotes, backslashes, dollars nor non-ASCII bytes means the same under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexing {
    /// `standard_conforming_strings`: when off, a backslash in a plain literal escapes what follows.
    pub standard_conforming_strings: bool,
    /// Whether `client_encoding` is one that PostgreSQL takes only from clients, see [`is_client_only_encoding`].
    pub client_only_encoding: bool,
}

impl Default for Lexing {
    fn default() -> Self {
        Self {
            standard_conforming_strings: true,
            client_only_encoding: false,
        }
    }
}

/// Tells what a text asks of the transaction. `text` may be in any encoding and need not be valid in it.
pub fn classify(text: &[u8], lexing: Lexing) -> Control {
    // The common SELECT, INSERT, UPDATE and DELETE leave here.
    let may_be_control = match text {
        [b's' | b'S', second, ..] => matches!(second, b't' | b'T' | b'a' | b'A'),
        [first, ..] => matches!(
            first.to_ascii_lowercase(),
            b'a' | b'b' | b'c' | b'e' | b'p' | b'r' | b'/' | b'-' | b';' | b' ' | b'\t'..=b'\r'
        ),
        [] => false,
    };
    if !may_be_control {
        return Control::Other;
    }
    let (control, decisive) = Parser::new(text).list();
    let certain = control != Control::Other && lexing.is_certain_of(decisive);
    if certain {
        control
    } else if Parser::new(text).may_end_block() {
        Control::Doubtful
    } else {
        Control::Other
    }
}

/// Whether this is an encoding in which a byte of a multibyte character can look like ASCII, and which PostgreSQL
/// therefore takes only as `client_encoding`. Compares as PostgreSQL does: case and punctuation do not matter.
pub fn is_client_only_encoding(name: &[u8]) -> bool {
    CLIENT_ONLY_ENCODINGS.iter().any(|encoding| {
        let letters = name.iter().filter(|b| b.is_ascii_alphanumeric());
        letters.map(|b| b.to_ascii_lowercase()).eq(encoding.bytes())
    })
}

impl Lexing {
    /// Whether plain literals have no escapes and every byte of a character has its own meaning.
    pub fn is_server_safe(self) -> bool {
        self.standard_conforming_strings && !self.client_only_encoding
    }

    /// Whether the server divides this text into the tokens that we see.
    fn is_certain_of(self, text: &[u8]) -> bool {
        let has_escapes = || text.iter().any(|b| matches!(b, b'\'' | b'\\' | b'$'));
        (self.standard_conforming_strings || !has_escapes())
            && (!self.client_only_encoding || text.is_ascii())
    }
}

/// One token, as `src/backend/parser/scan.l` divides them; what no production here asks for is [`Token::Junk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a [u8]),
    /// A quoted name.
    Name,
    /// A plain literal.
    Literal,
    Comma,
    Semicolon,
    /// The end of the text.
    End,
    /// Any other token, or a text that breaks off inside one.
    Junk,
}

/// Reads statements with one token of lookahead.
struct Parser<'a> {
    text: &'a [u8],
    rest: &'a [u8],
    next: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut parser = Self {
            text,
            rest: text,
            next: Token::End,
        };
        parser.advance();
        parser
    }

    /// The whole text: statements between semicolons, where empty ones do not count; and the front of the text that
    /// decides it, however the rest is divided into tokens.
    fn list(mut self) -> (Control, &'a [u8]) {
        let text = self.text;
        self.skip_semicolons();
        let first = self.statement();
        let until_semicolon = text.len() - self.rest.len();
        let ended = self.skip_semicolons();
        match (self.next, first) {
            (Token::End, control) => (control, text),
            (_, Control::Rollback) if ended => (
                Control::RollbackThen,
                text.get(..until_semicolon).unwrap_or(text),
            ),
            // In unusual quotes what looks like the end of a statement may be none.
            (_, Control::Begin) if ended && !text.iter().any(|b| matches!(b, b'\\' | b'$')) => {
                (self.rest_of_block(), text)
            }
            (_, _) => (Control::Other, text),
        }
    }

    /// Whether the first statement begins as those do that a failed transaction lets through.
    fn may_end_block(mut self) -> bool {
        self.skip_semicolons();
        ENDS.into_iter().any(|word| self.take(word))
    }

    fn skip_semicolons(&mut self) -> bool {
        let found = self.next == Token::Semicolon;
        while self.next == Token::Semicolon {
            self.advance();
        }
        found
    }

    /// The statements behind BEGIN, told by their first words alone.
    fn rest_of_block(mut self) -> Control {
        let mut starts = true;
        while self.next != Token::End {
            if starts && ENDS.into_iter().any(|word| self.take(word)) {
                return Control::Other;
            }
            starts = self.next == Token::Semicolon;
            self.advance();
        }
        Control::BeginThen
    }

    /// One statement, up to the first token that does not belong to it (`TransactionStmt` in `gram.y`).
    fn statement(&mut self) -> Control {
        if self.take(b"begin") {
            self.work();
            self.modes(Control::Begin)
        } else if self.take(b"start") {
            if self.take(b"transaction") {
                self.modes(Control::Begin)
            } else {
                Control::Other
            }
        } else if self.take(b"commit") || self.take(b"end") {
            self.work();
            self.chain(Control::Commit, Control::CommitAndChain)
        } else if self.take(b"abort") {
            self.work();
            self.chain(Control::Rollback, Control::RollbackAndChain)
        } else if self.take(b"rollback") {
            self.work();
            if self.take(b"to") {
                self.savepoint(Control::RollbackTo)
            } else {
                self.chain(Control::Rollback, Control::RollbackAndChain)
            }
        } else if self.take(b"savepoint") {
            self.name(Control::Savepoint)
        } else if self.take(b"release") {
            self.savepoint(Control::Release)
        } else if self.take(b"prepare") && self.take(b"transaction") && self.next == Token::Literal
        {
            self.advance();
            Control::PrepareTransaction
        } else {
            Control::Other
        }
    }

    /// `[WORK | TRANSACTION]`
    fn work(&mut self) {
        if !self.take(b"work") {
            self.take(b"transaction");
        }
    }

    /// `[AND [NO] CHAIN]`
    fn chain(&mut self, plain: Control, chained: Control) -> Control {
        if !self.take(b"and") {
            return plain;
        }
        let control = if self.take(b"no") { plain } else { chained };
        if self.take(b"chain") {
            control
        } else {
            Control::Other
        }
    }

    /// `[SAVEPOINT] name`, where the name itself may be `savepoint`.
    fn savepoint(&mut self, control: Control) -> Control {
        if self.take(b"savepoint") && !self.at_name() {
            return control;
        }
        self.name(control)
    }

    fn name(&mut self, control: Control) -> Control {
        if self.at_name() {
            self.advance();
            control
        } else {
            Control::Other
        }
    }

    fn at_name(&self) -> bool {
        matches!(self.next, Token::Word(_) | Token::Name)
    }

    /// `[mode [[,] mode …]]`
    fn modes(&mut self, control: Control) -> Control {
        if !matches!(self.next, Token::Word(_)) {
            return control;
        }
        loop {
            if !self.mode() {
                return Control::Other;
            }
            if self.next == Token::Comma {
                self.advance();
            } else if !matches!(self.next, Token::Word(_)) {
                return control;
            }
        }
    }

    /// One of the transaction modes.
    fn mode(&mut self) -> bool {
        if self.take(b"isolation") {
            self.take(b"level")
                && if self.take(b"read") {
                    self.take(b"committed") || self.take(b"uncommitted")
                } else if self.take(b"repeatable") {
                    self.take(b"read")
                } else {
                    self.take(b"serializable")
                }
        } else if self.take(b"read") {
            self.take(b"only") || self.take(b"write")
        } else {
            self.take(b"not");
            self.take(b"deferrable")
        }
    }

    /// Goes past a keyword (in lower case), if it is the next token.
    fn take(&mut self, keyword: &[u8]) -> bool {
        let found = matches!(self.next, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.advance();
        }
        found
    }

    fn advance(&mut self) {
        let (token, rest) = match skip_blank(self.rest) {
            Some(text) => scan(text),
            None => (Token::Junk, &[][..]),
        };
        self.next = token;
        self.rest = rest;
    }
}

/// The first token of a text that begins with neither whitespace nor a comment, and what follows it.
fn scan(text: &[u8]) -> (Token<'_>, &[u8]) {
    let Some((&first, rest)) = text.split_first() else {
        return (Token::End, text);
    };
    match first {
        b';' => (Token::Semicolon, rest),
        b',' => (Token::Comma, rest),
        b'\'' => literal(rest).map_or((Token::Junk, &[]), |after| (Token::Literal, after)),
        b'"' => match quoted(rest, b'"') {
            Some((inside, after)) if !inside.is_empty() => (Token::Name, after),
            Some((_, after)) => (Token::Junk, after),
            None => (Token::Junk, &[]),
        },
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
            let is_inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 0x80..);
            let (word, after) = text.split_at(text.iter().take_while(|b| is_inside(b)).count());
            match (word, after) {
                // The prefix of a literal or name of another kind, such as `e'…'` and `U&"…"`.
                ([b'b' | b'B' | b'e' | b'E' | b'n' | b'N' | b'x' | b'X'], [b'\'', ..])
                | ([b'u' | b'U'], [b'&', ..]) => (Token::Junk, after),
                (_, _) => (Token::Word(word), after),
            }
        }
        _ => (Token::Junk, rest),
    }
}

/// What follows a literal whose opening quote was read. It goes on in the next quotes when only whitespace with a line
/// break, or comments to the end of the line, stand between (`quotecontinue` in `scan.l`).
fn literal(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let (_, after) = quoted(text, b'\'')?;
        let mut rest = after;
        let mut broken = false;
        while let [b' ' | b'\t'..=b'\r', ..] | [b'-', b'-', ..] = rest {
            broken |= matches!(rest, [b'\n' | b'\r', ..]);
            rest = match rest {
                [b'-', b'-', comment @ ..] => skip_line(comment),
                _ => rest.get(1..)?,
            };
        }
        match rest {
            [b'\'', next @ ..] if broken => text = next,
            _ => return Some(after),
        }
    }
}

/// What stands between quotes (a doubled one does not end it) and what follows.
fn quoted(text: &[u8], quote: u8) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        at += text.get(at..)?.iter().position(|&b| b == quote)?;
        if text.get(at + 1) != Some(&quote) {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        at += 2;
    }
}

/// The text behind whitespace and comments; `None` when a comment does not end.
fn skip_blank(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, rest @ ..] => rest,
            [b'-', b'-', rest @ ..] => skip_line(rest),
            [b'/', b'*', rest @ ..] => skip_block_comment(rest)?,
            _ => return Some(text),
        }
    }
}

/// The text from the end of the line on.
fn skip_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| matches!(b, b'\n' | b'\r'));
    end.map_or(&[][..], |end| text.split_at(end).1)
}

/// The text behind a block comment whose opening was read; they nest.
fn skip_block_comment(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 1_usize;
    while depth > 0 {
        text = match text {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            [_, rest @ ..] => rest,
            [] => return None,
        };
    }
    Some(text)
}

/// The first words of the statements that end a transaction block or go back in it (`IsTransactionExitStmt` in
/// `src/backend/tcop/postgres.c`).
const ENDS: [&[u8]; 5] = [b"commit", b"end", b"rollback", b"abort", b"prepare"];

/// `src/common/encnames.c`: names and aliases of the encodings from `PG_SJIS` on, as PostgreSQL compares them.
const CLIENT_ONLY_ENCODINGS: [&str; 17] = [
    "sjis",
    "mskanji",
    "shiftjis",
    "win932",
    "windows932",
    "shiftjis2004",
    "big5",
    "win950",
    "windows950",
    "gbk",
    "win936",
    "windows936",
    "uhc",
    "win949",
    "windows949",
    "gb18030",
    "johab",
];

#[cfg(test)]
mod tests {
    use pg_query::{
        NodeEnum,
        protobuf::{Node, TransactionStmtKind},
    };
    use proptest::prelude::*;

    use super::*;

    const CASES: &[(&str, Control)] = &[
        ("BEGIN", Control::Begin),
        ("begin transaction read only", Control::Begin),
        (
            "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE NOT DEFERRABLE",
            Control::Begin,
        ),
        ("BEGIN READ ONLY,", Control::Other),
        ("BEGIN, READ ONLY", Control::Other),
        ("BEGIN ISOLATION LEVEL SNAPSHOT", Control::Other),
        ("START", Control::Other),
        ("BEGIN; SELECT 1", Control::BeginThen),
        (
            "begin;; insert into t values ('; commit'); /* ; */ select 1;",
            Control::BeginThen,
        ),
        ("BEGIN; SELECT 1; COMMIT; SELECT 2", Control::Other),
        ("BEGIN; ROLLBACK TO a", Control::Other),
        ("BEGIN; SELECT E'\\''; COMMIT; --'", Control::Other),
        ("BEGIN; DO $$ ; $$", Control::Other),
        ("BEGIN SELECT 1", Control::Other),
        ("COMMIT", Control::Commit),
        ("cOmMiT;;", Control::Commit),
        ("/* a /* b */ */ commit", Control::Commit),
        ("/* a /* b */ commit", Control::Other),
        ("/***/commit/**/", Control::Commit),
        ("/*/ commit", Control::Other),
        ("commit--x", Control::Commit),
        ("commit -- x\n;", Control::Commit),
        ("commit -- x\r;", Control::Commit),
        ("-- x\n\t\x0b\x0c COMMIT", Control::Commit),
        ("END WORK", Control::Commit),
        ("END TRANSACTION AND NO CHAIN", Control::Commit),
        ("COMMIT AND CHAIN", Control::CommitAndChain),
        ("COMMIT AND", Control::Doubtful),
        ("COMMIT AND NO", Control::Doubtful),
        ("COMMIT WORK TRANSACTION", Control::Doubtful),
        ("COMMITX", Control::Other),
        ("COMMIT1", Control::Other),
        ("COMMIT$", Control::Other),
        ("COMMIT\u{e9}", Control::Other),
        ("\u{a0}COMMIT", Control::Other),
        ("COMMIT /* \u{e9} */", Control::Commit),
        ("\"COMMIT\"", Control::Other),
        ("'COMMIT'", Control::Other),
        ("COMMIT +", Control::Doubtful),
        ("COMMIT /* open", Control::Doubtful),
        ("COMMIT; SELECT 1", Control::Doubtful),
        ("COMMIT PREPARED 'x'", Control::Doubtful),
        ("PREPARE TRANSACTION 'x'", Control::PrepareTransaction),
        ("prepare transaction'it''s';", Control::PrepareTransaction),
        ("PREPARE TRANSACTION 'a\\'", Control::PrepareTransaction),
        (
            "PREPARE TRANSACTION 'a' -- b\n 'c'\r'd'",
            Control::PrepareTransaction,
        ),
        ("PREPARE TRANSACTION 'a' 'b'", Control::Doubtful),
        ("PREPARE TRANSACTION 'a' /*\n*/ 'b'", Control::Doubtful),
        ("PREPARE TRANSACTION 'x", Control::Doubtful),
        ("PREPARE TRANSACTION x", Control::Doubtful),
        ("PREPARE x AS SELECT 1", Control::Doubtful),
        ("ROLLBACK", Control::Rollback),
        (" ;; Rollback ; ", Control::Rollback),
        ("; ROLLBACK", Control::Rollback),
        ("ABORT AND NO CHAIN", Control::Rollback),
        ("ROLLBACK WORK AND CHAIN", Control::RollbackAndChain),
        ("ROLLBACK; SELECT 1", Control::RollbackThen),
        ("ROLLBACK;;/* */;COMMIT;", Control::RollbackThen),
        ("ROLLBACK SELECT 1", Control::Doubtful),
        ("ROLLBACK AND CHAIN; SELECT 1", Control::Doubtful),
        ("ROLLBACK PREPARED 'x'", Control::Doubtful),
        ("ROLLBACK TO a", Control::RollbackTo),
        ("ROLLBACK TO\"a\"\"b\"", Control::RollbackTo),
        ("ROLLBACK WORK TO SAVEPOINT a", Control::RollbackTo),
        ("ROLLBACK TO SAVEPOINT", Control::RollbackTo),
        ("ROLLBACK TO", Control::Doubtful),
        ("ROLLBACK TO \"\"", Control::Doubtful),
        ("ROLLBACK TO a; SELECT 1", Control::Doubtful),
        ("ABORT TO a", Control::Doubtful),
        ("SAVEPOINT a", Control::Savepoint),
        ("SAVEPOINT \u{e9}", Control::Savepoint),
        ("SAVEPOINT savepoint", Control::Savepoint),
        ("SAVEPOINT", Control::Other),
        ("SAVEPOINT a b", Control::Other),
        ("RELEASE a", Control::Release),
        ("RELEASE SAVEPOINT a", Control::Release),
        ("RELEASE SAVEPOINT", Control::Release),
        ("RELEASE", Control::Other),
        ("", Control::Other),
        (" ; ", Control::Other),
        ("-- COMMIT", Control::Other),
        ("SELECT 1", Control::Other),
        ("SET x = 1", Control::Other),
        ("/* x */ select 1", Control::Other),
    ];

    /// What PostgreSQL's own grammar says; `None` when it refuses the text.
    fn by_grammar(text: &str) -> Option<Control> {
        let tree = pg_query::parse(text, 0).ok()?.protobuf;
        let nodes = tree.stmts.iter().map(|raw| raw.stmt.as_ref());
        let controls: Vec<_> = nodes
            .map(|n| n.map_or(Control::Other, |n| by_node(n)))
            .collect();
        Some(match controls[..] {
            [only] => only,
            [Control::Rollback, ..] => Control::RollbackThen,
            [Control::Begin, ref rest @ ..] if !rest.iter().any(ends_something) => {
                Control::BeginThen
            }
            _ => Control::Other,
        })
    }

    fn ends_something(control: &Control) -> bool {
        control.ends_block() || *control == Control::RollbackTo
    }

    fn by_node(node: &Node) -> Control {
        use TransactionStmtKind as Kind;
        let Some(NodeEnum::TransactionStmt(statement)) = &node.node else {
            return Control::Other;
        };
        match (statement.kind(), statement.chain) {
            (Kind::TransStmtBegin | Kind::TransStmtStart, _) => Control::Begin,
            (Kind::TransStmtCommit, false) => Control::Commit,
            (Kind::TransStmtCommit, true) => Control::CommitAndChain,
            (Kind::TransStmtRollback, false) => Control::Rollback,
            (Kind::TransStmtRollback, true) => Control::RollbackAndChain,
            (Kind::TransStmtSavepoint, _) => Control::Savepoint,
            (Kind::TransStmtRelease, _) => Control::Release,
            (Kind::TransStmtRollbackTo, _) => Control::RollbackTo,
            (Kind::TransStmtPrepare, _) => Control::PrepareTransaction,
            (
                Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared | Kind::Undefined,
                _,
            ) => Control::Other,
        }
    }

    /// Whether a failed transaction lets the first statement through.
    fn ends_first(text: &str) -> bool {
        let tree = pg_query::parse(text, 0).ok();
        tree.and_then(|tree| tree.protobuf.stmts.first()?.stmt.clone())
            .is_some_and(|node| {
                let Some(NodeEnum::TransactionStmt(statement)) = &node.node else {
                    return false;
                };
                use TransactionStmtKind as Kind;
                matches!(
                    statement.kind(),
                    Kind::TransStmtCommit
                        | Kind::TransStmtPrepare
                        | Kind::TransStmtRollback
                        | Kind::TransStmtRollbackTo
                )
            })
    }

    /// Agrees with the grammar, up to what the file's documentation leaves open.
    fn agrees(text: &str) -> Result<(), String> {
        let ours = classify(text.as_bytes(), Lexing::default());
        if ours == Control::Other && ends_first(text) {
            return Err(format!("{text:?} may end a transaction, and is {ours:?}"));
        }
        let ours = if ours == Control::Doubtful {
            Control::Other
        } else {
            ours
        };
        let theirs = by_grammar(text);
        let fine = match theirs {
            Some(Control::PrepareTransaction) if text.contains("e'x'") || text.contains("$$") => {
                matches!(ours, Control::PrepareTransaction | Control::Other)
            }
            Some(Control::BeginThen) if text.contains(['\\', '$']) || text.contains("PREPARE") => {
                matches!(ours, Control::BeginThen | Control::Other)
            }
            Some(theirs) => ours == theirs,
            None => matches!(
                ours,
                Control::Other
                    | Control::RollbackThen
                    | Control::BeginThen
                    | Control::Savepoint
                    | Control::Release
                    | Control::RollbackTo
            ),
        };
        if fine {
            Ok(())
        } else {
            Err(format!("{text:?}: {ours:?}, by the grammar {theirs:?}"))
        }
    }

    #[test]
    fn cases_and_the_grammar_agree() {
        for &(text, expected) in CASES {
            assert_eq!(
                classify(text.as_bytes(), Lexing::default()),
                expected,
                "{text:?}"
            );
            agrees(text).unwrap();
        }
    }

    #[test]
    fn what_the_settings_make_uncertain_is_other() {
        let off = Lexing {
            standard_conforming_strings: false,
            ..Lexing::default()
        };
        let sjis = Lexing {
            client_only_encoding: true,
            ..Lexing::default()
        };
        for (text, lexing, expected) in [
            (&b"COMMIT /* x */;"[..], off, Control::Commit),
            (b"COMMIT -- it's", off, Control::Doubtful),
            (b"PREPARE TRANSACTION 'x'", off, Control::Doubtful),
            (b"ROLLBACK; SELECT $1", off, Control::RollbackThen),
            (b"ROLLBACK; SELECT E'\\n'", off, Control::RollbackThen),
            (b"ROLLBACK /* it's */; SELECT 1", off, Control::Doubtful),
            (b"SELECT 'it''s'; COMMIT", off, Control::Other),
            (b"ROLLBACK TO \"a\"", off, Control::RollbackTo),
            (b"COMMIT -- it's", sjis, Control::Commit),
            (b"COMMIT -- \x83\x5c", sjis, Control::Doubtful),
            (b"COMMIT -- \xff\xfe", Lexing::default(), Control::Commit),
        ] {
            assert_eq!(classify(text, lexing), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn encodings_by_postgresqls_names() {
        for name in [
            "SJIS",
            "Shift_JIS",
            "SHIFT_JIS_2004",
            "Windows-932",
            "big5",
            "GBK",
            "UHC",
            "GB18030",
            "JOHAB",
        ] {
            assert!(is_client_only_encoding(name.as_bytes()), "{name}");
        }
        for name in [
            "UTF8",
            "EUC_JP",
            "EUC_JIS_2004",
            "LATIN1",
            "SQL_ASCII",
            "WIN1252",
            "",
        ] {
            assert!(!is_client_only_encoding(name.as_bytes()), "{name}");
        }
    }

    const SOUP: &[&str] = &[
        "BEGIN",
        "start",
        "Transaction",
        "WORK",
        "COMMIT",
        "end",
        "ROLLBACK",
        "Abort",
        "TO",
        "SAVEPOINT",
        "release",
        "PREPARE",
        "PREPARED",
        "AND",
        "no",
        "CHAIN",
        "ISOLATION",
        "LEVEL",
        "READ",
        "ONLY",
        "write",
        "COMMITTED",
        "repeatable",
        "SERIALIZABLE",
        "NOT",
        "DEFERRABLE",
        "a",
        "\"b\"",
        "\"",
        "'x'",
        "'",
        "''",
        "/*",
        "*/",
        "/* c */",
        "--",
        "-- d\n",
        "\n",
        "\r",
        "\t",
        "\x0b",
        "\x0c",
        ";",
        ";",
        ",",
        "$$",
        "$1",
        "1",
        "e'x'",
        "\\",
        "\u{e9}",
        "SELECT 1",
        "*",
        "/",
        "-",
    ];

    fn soup() -> impl Strategy<Value = String> {
        let token = prop::sample::select(SOUP);
        let glue = prop::sample::select(vec!["", " ", " ", " ", ";", "/**/"]);
        prop::collection::vec((token, glue), 0..9).prop_map(|parts| {
            parts
                .into_iter()
                .flat_map(|(token, glue)| [token, glue])
                .collect()
        })
    }

    /// One of the cases with some soup put in somewhere.
    fn nearly() -> impl Strategy<Value = String> {
        (
            prop::sample::select(CASES),
            any::<prop::sample::Index>(),
            soup(),
        )
            .prop_map(|((base, _), place, insert)| {
                let places: Vec<_> = base
                    .char_indices()
                    .map(|(at, _)| at)
                    .chain([base.len()])
                    .collect();
                let (before, after) = base.split_at(*place.get(&places));
                format!("{before}{insert}{after}")
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn token_soup_agrees_with_the_grammar(text in soup()) {
            agrees(&text).map_err(TestCaseError::fail)?;
        }

        #[test]
        fn what_is_nearly_control_agrees_with_the_grammar(text in nearly()) {
            agrees(&text).map_err(TestCaseError::fail)?;
        }

        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            classify(&text, Lexing::default());
        }
    }
}
