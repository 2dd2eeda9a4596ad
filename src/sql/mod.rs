//! What a statement is, from its text alone: transaction control, whether it only reads, normalised
//! text, fingerprint, tags, its command. Pure.
//!
//! [`outline`] runs for every Query and Parse and is a hand-written lexer; [`normalise`] and [`fingerprint()`] call
//! PostgreSQL's own scanner and grammar, allocate, and belong on the audit writer's thread. [`prove`] calls the
//! grammar too, and belongs on the prover's. Every such thread has a stack of [`PARSER_STACK`].

mod claim;
mod command;
mod commits;
mod control;
#[cfg(feature = "proxy")]
mod fingerprint;
#[cfg(feature = "proxy")]
mod grammar;
#[cfg(feature = "proxy")]
mod harmless;
mod inert;
mod lexer;
#[cfg(feature = "proxy")]
mod read_only;
mod sqlstate;
mod tags;
#[cfg(feature = "proxy")]
mod words;

pub use claim::{Claim, Names, Proof, Unproven};
pub use command::command;
pub use commits::{Commits, commits, sends_as_it_runs};
pub use control::{
    Control, Identifier, Lexing, Outline, Semicolons, StatementList, certain_front,
    is_client_only_encoding, may_have_several, outline,
};
#[cfg(feature = "proxy")]
pub use fingerprint::{Identifiers, fingerprint, normalise};
#[cfg(feature = "proxy")]
pub use grammar::{MAX_PARSED, PARSER_STACK};
pub use inert::{Inert, inert};
#[cfg(feature = "proxy")]
pub use read_only::prove;
pub use sqlstate::found_names;
pub use tags::tags;
