//! Which statements open, end or divide a transaction, told by an exact lexer and the few productions of PostgreSQL's
//! grammar that matter. A text that cannot be transaction control costs a search for `;` and no allocation.
//!
//! It does not check what the other statements of a `;`-list are, nor whether a savepoint's name is a reserved word: the
//! server refuses such a text, and a refusal is an error that the client sees.

mod lexing;
mod parser;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use self::lexing::{Lexing, certain_front, is_client_only_encoding};
use self::parser::Parser;

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

impl From<StatementList> for Outline {
    fn from(list: StatementList) -> Self {
        Self::List(Arc::new(list))
    }
}
