//! Transcripts: what each side sends, what reaches the other, and what the session asks for.
//!
//! A transcript is written once: its steps stand at the margin, one a line, and what came of each is indented below it.
//! `C: Q BEGIN | S` (the client sends two messages), `S: C BEGIN | Z T` (the server does), `+1s` (time passes, timers
//! ring), `cancelled` and so on (see `Player::step`) are steps; `> ` is what goes to the server, `< ` to the client,
//! `! ` an action, `* ` an event. A new test needs the steps alone: `UPDATE_EXPECT=1 cargo test --lib NAME` fills in
//! the rest, which is then read with care.

mod abort;
mod blocking;
mod bounds;
mod cancels;
mod console;
mod deferred_error;
mod draining;
mod errors;
mod explore;
mod ladders;
mod model;
mod names;
mod positions;
mod proof;
mod property;
mod recordings;
mod release;
mod savepoints;
mod script;
mod snapshot;
mod stuck;
mod terminate;
mod unseen;
mod world;
