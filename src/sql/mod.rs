//! What a statement is, from its text alone: transaction control, normalised text, fingerprint, tags. Pure.
//!
//! [`classify`] runs for every Query and Parse and is a hand-written lexer; [`normalise`] and [`fingerprint()`] call
//! PostgreSQL's own scanner and grammar, allocate, and belong on the audit writer's thread.

mod control;
mod fingerprint;
mod tags;

pub use control::{Control, Lexing, classify, is_client_only_encoding};
pub use fingerprint::{fingerprint, normalise};
pub use tags::tags;
