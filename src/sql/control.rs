//! Which statements open, end or divide a transaction, told by an exact lexer and the few productions of PostgreSQL's
//! grammar that matter. A text that cannot be transaction control costs a search for `;` and no allocation.
//!
//! It does not check what the other statements of a `;`-list are, nor whether a savepoint's name is a reserved word: the
//! server refuses such a text, and a refusal is an error that the client sees.

use std::{fmt, sync::Arc};

use super::lexer::{Lexer, Token};

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
    /// first word, and is a list, or not wholly known, or has more to it than is read here.
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

    /// Whether a transaction block is open after it that was not before.
    pub fn begins_block(self) -> bool {
        matches!(
            self,
            Self::Begin | Self::CommitAndChain | Self::RollbackAndChain
        )
    }

    /// Whether it ends the transaction block that it is run in, or a part of it.
    fn ends_something(self) -> bool {
        self.ends_block() || self == Self::RollbackTo
    }
}

/// The session's settings that change how the server divides a text into tokens.
///
/// A text with neither quotes, backslashes nor non-ASCII bytes means the same under all of them.
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

/// The statements of a text, as far as they concern the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outline {
    /// Nothing is known of the text.
    Unknown,
    /// One statement, which names no savepoint.
    One(Control),
    /// Several statements, one that names a savepoint, or none; or a text that is not wholly known.
    List(Arc<StatementList>),
}

/// The statements of a text that is not one plain statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementList {
    /// How many statements are known; empty ones do not count.
    count: usize,
    /// Whether those are all.
    whole: bool,
    /// Whether the first one begins like those that a failed transaction lets through.
    may_end: bool,
    /// Those that are not [`Control::Other`], in order.
    controls: Vec<Controlling>,
    /// What the text as a whole is taken for, where a backslash or quote may have been read in another way: nothing is
    /// forwarded for the sake of what follows one.
    in_doubt: Option<Control>,
}

/// A statement that controls the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Controlling {
    /// How many statements stand before it.
    index: usize,
    control: Control,
    savepoint: Option<Identifier>,
}

/// A name of a savepoint, a prepared statement or a cursor, as the server has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identifier(Box<[u8]>);

/// Names are cut here (`NAMEDATALEN` in `src/include/pg_config_manual.h`, less the NUL).
const MAX_NAME: usize = 63;

/// Statements of one text that are followed.
const MAX_CONTROLS: usize = 256;

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Identifier {
    /// The name's bytes: ASCII, without quotes, not longer than the server keeps.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A name without quotes (`downcase_truncate_identifier` in `src/backend/parser/scansup.c`).
    pub(super) fn unquoted(name: &[u8]) -> Option<Self> {
        Self::cut(name.to_ascii_lowercase())
    }

    /// What stands between the quotes of a name.
    pub(super) fn quoted(inside: &[u8]) -> Option<Self> {
        let mut name = Vec::with_capacity(inside.len());
        let mut rest = inside;
        while let Some((&byte, after)) = rest.split_first() {
            name.push(byte);
            rest = match after {
                [b'"', after @ ..] if byte == b'"' => after,
                _ => after,
            };
        }
        Self::cut(name)
    }

    /// `None` for a name beyond ASCII: how it is folded and where it is cut depends on the database's encoding.
    fn cut(mut name: Vec<u8>) -> Option<Self> {
        name.truncate(MAX_NAME);
        name.is_ascii().then(|| Self(name.into()))
    }
}

impl Outline {
    /// What the text as a whole asks of the transaction.
    pub fn control(&self) -> Control {
        let list = match self {
            Self::Unknown => return Control::Doubtful,
            Self::One(control) => return *control,
            Self::List(list) => list,
        };
        if let Some(control) = list.in_doubt {
            return control;
        }
        let mut controls = list.controls.iter();
        let first = list.controls.first().filter(|found| found.index == 0);
        match first.map(|first| first.control) {
            Some(only) if list.whole && list.count == 1 => only,
            // Whatever follows it is outside of the block.
            Some(Control::Rollback) => Control::RollbackThen,
            Some(Control::Begin) if !controls.any(|found| found.control.ends_something()) => {
                Control::BeginThen
            }
            _ if list.may_end => Control::Doubtful,
            _ => Control::Other,
        }
    }

    /// The same statements, where the text as a whole is taken for this.
    fn in_doubt(self, control: Control) -> Self {
        let list = match self {
            Self::Unknown => return self,
            Self::One(only) => StatementList {
                count: 1,
                whole: true,
                may_end: false,
                controls: vec![Controlling {
                    index: 0,
                    control: only,
                    savepoint: None,
                }],
                in_doubt: None,
            },
            Self::List(list) => Arc::unwrap_or_clone(list),
        };
        Self::List(Arc::new(StatementList {
            in_doubt: Some(control),
            ..list
        }))
    }

    /// What the statement does that has so many before it, and the savepoint that it names.
    pub fn statement(&self, index: usize) -> (Control, Option<&Identifier>) {
        match self {
            Self::One(control) if index == 0 => (*control, None),
            Self::List(list) => {
                let found = list.controls.iter().find(|found| found.index == index);
                found.map_or((Control::Other, None), |found| {
                    (found.control, found.savepoint.as_ref())
                })
            }
            Self::Unknown | Self::One(_) => (Control::Other, None),
        }
    }

    /// How many statements the text has; `None` when that is not known.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Unknown => None,
            Self::One(_) => Some(1),
            Self::List(list) => list.whole.then_some(list.count),
        }
    }

    /// What each of the statements does that controls the transaction, in order, and whether it is the last of the text;
    /// from the one on that has so many before it.
    pub fn controls(&self, index: usize) -> impl Iterator<Item = (Control, bool)> {
        let (one, list) = match self {
            Self::Unknown => (None, None),
            Self::One(control) => (Some((*control, true)), None),
            Self::List(list) => (None, Some(list)),
        };
        let listed = list.into_iter().flat_map(move |list| {
            let from = list
                .controls
                .iter()
                .filter(move |found| found.index >= index);
            from.map(|found| (found.control, list.whole && found.index + 1 == list.count))
        });
        one.into_iter().filter(move |_| index == 0).chain(listed)
    }
}

/// Divides a text into its statements. `text` may be in any encoding and need not be valid in it; when it is not `whole`
/// there is more that is not known.
pub fn outline(text: &[u8], whole: bool, lexing: Lexing) -> Outline {
    let may_be_control = match text {
        [b's' | b'S', second, ..] => matches!(second, b't' | b'T' | b'a' | b'A'),
        [first, ..] => matches!(
            first.to_ascii_lowercase(),
            b'a' | b'b' | b'c' | b'e' | b'p' | b'r' | b'/' | b'-' | b';' | b' ' | b'\t'..=b'\r'
        ),
        [] => true,
    };
    let several = may_have_several(text);
    // The common SELECT, INSERT, UPDATE and DELETE leave here.
    if whole && !may_be_control && !several {
        return Outline::One(Control::Other);
    }
    let known = if lexing.client_only_encoding && !text.is_ascii() {
        certain_front(text)
    } else {
        text
    };
    let whole = whole && known.len() == text.len();
    let outline = if whole && !several {
        Parser::new(known, lexing).only()
    } else {
        Parser::new(known, lexing).list(whole)
    };
    let front = certain_front(text);
    if lexing.standard_conforming_strings || front.len() == text.len() {
        outline
    } else {
        let certain = Parser::new(front, lexing).list(false);
        outline.in_doubt(certain.control())
    }
}

/// Whether anything but blanks and semicolons follows a `;`, be it inside of a string or not.
pub fn may_have_several(text: &[u8]) -> bool {
    let mut semicolons = Semicolons::default();
    semicolons.read(text);
    semicolons.several
}

/// Whether a text may have several statements, told by its semicolons alone: of one that passes in pieces nothing else
/// can be told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Semicolons {
    any: bool,
    several: bool,
}

impl Semicolons {
    /// Reads the next piece; a NUL is nothing.
    pub fn read(&mut self, piece: &[u8]) {
        let rest = if self.any {
            Some(piece)
        } else {
            memchr::memchr(b';', piece).and_then(|at| piece.get(at..))
        };
        let is_nothing = |b: &u8| matches!(b, b';' | b' ' | b'\t'..=b'\r' | 0);
        self.any |= rest.is_some();
        self.several |= rest.is_some_and(|rest| !rest.iter().all(is_nothing));
    }

    /// Whether anything but blanks follows a `;`.
    pub fn several(self) -> bool {
        self.several
    }
}

/// The front of a text that means the same under all settings (see [`Lexing`]).
pub fn certain_front(text: &[u8]) -> &[u8] {
    let in_doubt = text
        .iter()
        .position(|b| matches!(b, b'\'' | b'\\' | 0x80..));
    in_doubt.and_then(|end| text.get(..end)).unwrap_or(text)
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
}

/// The first words of the statements that a failed transaction lets through (`IsTransactionExitStmt` in
/// `src/backend/tcop/postgres.c`).
const ENDS: [&[u8]; 5] = [b"commit", b"end", b"rollback", b"abort", b"prepare"];

impl From<StatementList> for Outline {
    fn from(list: StatementList) -> Self {
        Self::List(Arc::new(list))
    }
}

/// Reads statements with one token of lookahead.
struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    /// The savepoint that the statement names.
    savepoint: Option<Identifier>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8], lexing: Lexing) -> Self {
        let mut lexer = Lexer::new(text, !lexing.standard_conforming_strings);
        Self {
            next: lexer.next(),
            lexer,
            savepoint: None,
        }
    }

    /// A text that is one statement or none.
    fn only(&mut self) -> Outline {
        self.skip_empty();
        if self.next == Token::End {
            return StatementList {
                count: 0,
                whole: true,
                may_end: false,
                controls: Vec::new(),
                in_doubt: None,
            }
            .into();
        }
        let may_end = self.may_end(true);
        let control = self.statement();
        match (self.at_end(), self.savepoint.take()) {
            (true, None) if control != Control::Other => Outline::One(control),
            (true, savepoint @ Some(_)) => StatementList {
                count: 1,
                whole: true,
                may_end,
                controls: vec![Controlling {
                    index: 0,
                    control,
                    savepoint,
                }],
                in_doubt: None,
            }
            .into(),
            _ if may_end => Outline::One(Control::Doubtful),
            _ => Outline::One(Control::Other),
        }
    }

    /// Statements between semicolons. The last one of a text that is not `whole` is not known.
    fn list(&mut self, whole: bool) -> Outline {
        self.skip_empty();
        let mut list = StatementList {
            count: 0,
            whole,
            may_end: self.may_end(whole),
            controls: Vec::new(),
            in_doubt: None,
        };
        loop {
            self.skip_empty();
            if self.next == Token::End {
                return list.into();
            }
            self.savepoint = None;
            let control = self.statement();
            let alone = self.at_end();
            self.skip_statement();
            if self.next == Token::End && !whole {
                return list.into();
            }
            if alone && control != Control::Other {
                if list.controls.len() == MAX_CONTROLS {
                    list.whole = false;
                    return list.into();
                }
                list.controls.push(Controlling {
                    index: list.count,
                    control,
                    savepoint: self.savepoint.take(),
                });
            }
            list.count += 1;
        }
    }

    /// Whether the statement begins like those that a failed transaction lets through, as far as it is known.
    fn may_end(&self, whole: bool) -> bool {
        let cut = !whole && self.lexer.is_at_end();
        match self.next {
            Token::Word(word) => cut || ENDS.iter().any(|end| word.eq_ignore_ascii_case(end)),
            Token::End => cut,
            Token::Quoted(_)
            | Token::Escaped
            | Token::String
            | Token::Comma
            | Token::Dot
            | Token::Semicolon
            | Token::Open
            | Token::Close
            | Token::Other => false,
        }
    }

    /// Goes past semicolons.
    fn skip_empty(&mut self) {
        while self.next == Token::Semicolon {
            self.advance();
        }
    }

    /// Goes to the end of a statement. A semicolon ends it unless it stands in the parentheses of CREATE RULE or in the
    /// body of a routine (`BEGIN ATOMIC … END`), where CASE has an END of its own.
    fn skip_statement(&mut self) {
        let created = self.take(b"create");
        if created && self.take(b"or") {
            self.take(b"replace");
        }
        let routine = created && (self.take(b"function") || self.take(b"procedure"));
        let (mut parentheses, mut blocks) = (0_usize, 0_usize);
        let mut before = Token::Other;
        while self.next != Token::End
            && (self.next != Token::Semicolon || parentheses > 0 || blocks > 0)
        {
            let is = |token, word: &[u8]| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
            // What follows AS or a dot is a name.
            let keyword = routine && parentheses == 0 && before != Token::Dot && !is(before, b"as");
            if self.next == Token::Open {
                parentheses += 1;
            } else if self.next == Token::Close {
                parentheses = parentheses.saturating_sub(1);
            } else if keyword
                && (blocks > 0 && is(self.next, b"case")
                    || is(before, b"begin") && is(self.next, b"atomic"))
            {
                blocks += 1;
            } else if keyword && is(self.next, b"end") {
                blocks = blocks.saturating_sub(1);
            }
            before = self.next;
            self.advance();
        }
    }

    /// Whether the statement is over.
    fn at_end(&self) -> bool {
        matches!(self.next, Token::Semicolon | Token::End)
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
        } else if self.take(b"prepare") && self.take(b"transaction") && self.next == Token::String {
            self.advance();
            self.escape();
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
        let word = self.next;
        if self.take(b"savepoint") && !self.at_name() {
            self.savepoint = named(word);
            return control;
        }
        self.name(control)
    }

    fn name(&mut self, control: Control) -> Control {
        if !self.at_name() {
            return Control::Other;
        }
        self.savepoint = named(self.next);
        self.advance();
        self.escape();
        control
    }

    fn at_name(&self) -> bool {
        matches!(
            self.next,
            Token::Word(_) | Token::Quoted(_) | Token::Escaped
        )
    }

    /// `[UESCAPE 'character']`
    fn escape(&mut self) {
        if self.take(b"uescape") && self.next == Token::String {
            self.advance();
        }
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
        self.next = self.lexer.next();
    }
}

/// The savepoint that a token names.
fn named(token: Token<'_>) -> Option<Identifier> {
    match token {
        Token::Word(name) => Identifier::unquoted(name),
        Token::Quoted(inside) => Identifier::quoted(inside),
        Token::Escaped
        | Token::String
        | Token::Comma
        | Token::Dot
        | Token::Semicolon
        | Token::Open
        | Token::Close
        | Token::End
        | Token::Other => None,
    }
}

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
        ("BEGIN; DO $$ ; $$", Control::BeginThen),
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

    fn classify(text: &[u8], lexing: Lexing) -> Control {
        outline(text, true, lexing).control()
    }

    /// What PostgreSQL's own grammar says; `None` when it refuses the text.
    fn by_grammar(text: &str) -> Option<(usize, Vec<Controlling>)> {
        let tree = pg_query::parse(text, 0).ok()?.protobuf;
        let statements = tree.stmts.iter().map(|raw| raw.stmt.as_ref());
        let controls = statements.enumerate().filter_map(|(index, statement)| {
            let (control, savepoint) = by_node(statement?);
            (control != Control::Other).then_some(Controlling {
                index,
                control,
                savepoint,
            })
        });
        Some((tree.stmts.len(), controls.collect()))
    }

    fn by_node(node: &Node) -> (Control, Option<Identifier>) {
        use TransactionStmtKind as Kind;
        let Some(NodeEnum::TransactionStmt(statement)) = &node.node else {
            return (Control::Other, None);
        };
        let control = match (statement.kind(), statement.chain) {
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
        };
        let name = statement.savepoint_name.as_bytes();
        // `U&"…"` in the soup.
        let known = !name.is_empty() && name.is_ascii() && name != b"escaped";
        (control, known.then(|| Identifier(name.into())))
    }

    /// What we say, in the grammar's terms.
    fn by_us(text: &str) -> (usize, Vec<Controlling>) {
        match outline(text.as_bytes(), true, Lexing::default()) {
            Outline::List(list) => (list.count, list.controls.clone()),
            Outline::One(Control::Other | Control::Doubtful) => (1, Vec::new()),
            Outline::One(control) => {
                let only = Controlling {
                    index: 0,
                    control,
                    savepoint: None,
                };
                (1, vec![only])
            }
            Outline::Unknown => panic!("{text:?} is unknown"),
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

    /// Agrees with the grammar wherever that accepts the text.
    fn agrees(text: &str) -> Result<(), String> {
        let ours = by_us(text);
        let control = classify(text.as_bytes(), Lexing::default());
        if control == Control::Other && ends_first(text) {
            return Err(format!(
                "{text:?} may end a transaction, and is {control:?}"
            ));
        }
        let fine = match by_grammar(text) {
            Some(theirs) => ours == theirs,
            None => matches!(
                control,
                Control::Other
                    | Control::Doubtful
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
            Err(format!(
                "{text:?}: {ours:?}, by the grammar {:?}",
                by_grammar(text)
            ))
        }
    }

    #[test]
    fn savepoints_have_the_names_that_the_server_gives_them() {
        let long = "x".repeat(70);
        for (text, expected) in [
            ("SAVEPOINT Abc", Some("abc")),
            ("SAVEPOINT \"Abc\"", Some("Abc")),
            ("RELEASE \"a\"\"b\"", Some("a\"b")),
            ("RELEASE SAVEPOINT", Some("savepoint")),
            ("rollback to savepoint Savepoint;", Some("savepoint")),
            (&format!("SAVEPOINT {long}"), Some(&long[..63])),
            (&format!("SAVEPOINT \"{long}\""), Some(&long[..63])),
            ("SAVEPOINT \u{e9}", None),
            ("SAVEPOINT U&\"\\0061\"", None),
            ("SAVEPOINT U&\"!0061\" UESCAPE '!'", None),
        ] {
            let outline = outline(text.as_bytes(), true, Lexing::default());
            let (control, name) = outline.statement(0);
            assert_ne!(control, Control::Other, "{text}");
            let name = name.map(|name| str::from_utf8(&name.0).unwrap());
            assert_eq!(name, expected, "{text}");
        }
    }

    #[test]
    fn lists_are_divided_as_the_server_divides_them() {
        for text in [
            "SELECT 1; ROLLBACK; BEGIN",
            "SELECT ';'; SAVEPOINT a; SELECT $$;$$; SELECT $a$; $b$ $$; $a$; RELEASE a",
            "SELECT E'\\';'; COMMIT; SELECT '\\'; COMMIT",
            "SELECT U&'\\0061;'; SELECT b'1' /* ; /* ; */ */; COMMIT -- ;",
            "SELECT 'a' -- ;\n ';b'; END",
            "SELECT a$b$ FROM t; SELECT -$a$;$a$; ABORT",
            "SELECT 1 +-- ;\n 2; SELECT 1 */**/ 2; ROLLBACK TO a; ;; SAVEPOINT \"x;\"",
            "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); COMMIT",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE 1 WHEN 1 THEN 2 END; END; COMMIT",
            "create or replace procedure begin() begin atomic select 1 as end; select x.case from x; end; COMMIT AND CHAIN",
            "CREATE FUNCTION f(atomic int) RETURNS int LANGUAGE sql AS 'select 1'; COMMIT",
            "DO $$ begin; commit; end $$; PREPARE TRANSACTION $$x$$; PREPARE TRANSACTION E'x'",
            "PREPARE TRANSACTION U&'x' UESCAPE '!'; PREPARE x AS SELECT 1; COMMIT PREPARED 'x'",
            ";;",
            "-- nothing",
        ] {
            assert!(by_grammar(text).is_some(), "{text}");
            agrees(text).unwrap();
        }
        let many = "SAVEPOINT a;".repeat(MAX_CONTROLS + 1);
        let many = outline(many.as_bytes(), true, Lexing::default());
        assert_eq!(many.count(), None);
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
    fn the_end_of_a_text_that_is_cut_is_not_known() {
        let long = "BEGIN; SAVEPOINT a; SELECT 1; COMMIT";
        for (cut, statements, control) in [
            (0, 0, Control::Doubtful),
            (2, 0, Control::Doubtful),
            (5, 0, Control::Doubtful),
            (7, 1, Control::BeginThen),
            (18, 1, Control::BeginThen),
            (20, 2, Control::BeginThen),
            (36, 3, Control::BeginThen),
        ] {
            let outline = outline(&long.as_bytes()[..cut], false, Lexing::default());
            let Outline::List(list) = &outline else {
                panic!("{outline:?}");
            };
            assert_eq!(
                (list.count, outline.count(), outline.control()),
                (statements, None, control),
                "{cut}"
            );
        }
        let front = outline(b"SELECT 1; COMM", false, Lexing::default());
        assert_eq!(front.control(), Control::Other);
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
            (
                b"ROLLBACK; SELECT '\\'; COMMIT; '",
                off,
                Control::RollbackThen,
            ),
            (b"BEGIN; SELECT '\\'; COMMIT; '", off, Control::BeginThen),
            (b"ROLLBACK TO \"a\"", off, Control::RollbackTo),
            (b"COMMIT -- it's", sjis, Control::Commit),
            (b"COMMIT -- \x83\x5c", sjis, Control::Doubtful),
            (b"ROLLBACK; SELECT '\x83\x5c'", sjis, Control::RollbackThen),
            (b"SELECT '\x83\x5c'; COMMIT", sjis, Control::Other),
            (b"COMMIT -- \xff\xfe", Lexing::default(), Control::Commit),
        ] {
            assert_eq!(classify(text, lexing), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn statements_are_told_apart_by_the_settings() {
        let off = Lexing {
            standard_conforming_strings: false,
            ..Lexing::default()
        };
        for (text, on_count, off_count) in [
            (&br"SELECT '\'; COMMIT; SELECT '"[..], 3, 1),
            (br"SELECT '\\'; COMMIT", 2, 2),
            (br"SELECT E'\''; COMMIT", 2, 2),
            (br"SELECT $$\'$$; COMMIT", 2, 2),
            (b"COMMIT -- it's", 1, 1),
        ] {
            let count = |lexing| outline(text, true, lexing).count();
            assert_eq!(
                (count(Lexing::default()), count(off)),
                (Some(on_count), Some(off_count)),
                "{}",
                text.escape_ascii()
            );
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
        "U&\"escaped\"",
        "(",
        ")",
        ".",
        "AS",
        "CREATE",
        "FUNCTION f()",
        "ATOMIC",
        "CASE",
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
