//! Rules and ladders: what is too long, and what is done about it. Pure data and pure decisions: no clock, no I/O.
//!
//! A [`Rule`] says for which sessions it holds and gives their [`Limits`]; the first rule that matches decides, as in
//! `pg_hba.conf`. Limits hold one [`Ladder`] for each [`StuckKind`], and a ladder's rungs are actions
//! with the time at which each is taken. A [`Target`] says which of several servers a session is meant for.

mod described;
mod duration;
mod ladder;
mod lock;
mod rule;
mod target;

pub use described::Described;
pub use duration::{DurationError, format_duration, parse_duration};
pub use ladder::{Action, Ladder, LadderError, Limits, PerKind, RELEASE_TIMEOUT, StuckKind};
pub use lock::{LockMode, LockModeError};
pub use rule::{
    ClientNet, DEFAULT_RULE, Identity, Match, Pattern, Rule, Rules, builtin_rules, observing_limits,
};
pub use target::{ServerRole, Target};
