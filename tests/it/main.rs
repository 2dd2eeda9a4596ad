//! The promises of pgidle, proven on real PostgreSQL servers 15 to 18 through the built program.

#![allow(
    clippy::disallowed_methods,
    reason = "the tests measure what people would measure: by the clock on the wall"
)]
#![allow(
    clippy::print_stderr,
    reason = "a failing test shows the log of its proxy"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod age;
mod answered_as_natively;
mod audit;
mod bank;
mod cancel;
mod cancel_keys;
mod console;
mod console_login;
mod damage;
mod debugging;
mod deep;
mod drain;
mod drivers;
mod drivers_table;
mod faults;
mod gss;
mod hidden_requests;
mod hostile;
mod http;
mod idle_in_transaction;
mod in_process;
mod leaving;
mod libraries;
mod library_sequences;
mod listening;
mod names;
mod neighbours;
mod poolers;
mod positions;
mod programs;
mod prometheus;
mod release;
mod release_cases;
mod release_question;
mod reload;
mod rollback;
mod secrets;
mod service_manager;
mod sizes;
mod soak;
mod standby;
mod startup;
mod stuck;
mod target_session_attrs;
mod terminate;
mod tls;
mod tour;
mod transparency;
mod unwritable;
mod waits;
