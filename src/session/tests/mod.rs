//! Transcripts: what each side sends, what reaches the other, and what the session asks for.
//!
//! A script has one step a line: `C: Q BEGIN | S` (the client sends two messages), `S: C BEGIN | Z T` (the server does),
//! `+1s` (time passes, timers ring), `gate`, `cancelled` and so on for the caller's answers. The transcript repeats the
//! steps and shows below each what came of it: `> ` to the server, `< ` to the client, `! ` an action, `* ` an event.

mod abort;
mod blocking;
mod bounds;
mod cancels;
mod errors;
mod ladders;
mod model;
mod names;
mod positions;
mod property;
mod release;
mod savepoints;
mod script;
mod stuck;
mod telling;
mod unseen;
