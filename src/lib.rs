//! pgidle: a sidecar that ends stuck PostgreSQL transactions without killing the session.
//!
//! It stands between clients and PostgreSQL with one server connection for each client connection, passes every byte
//! that it does not have to change, follows each session's transaction on the wire, and acts by rules when one is stuck.
//!
//! # The path of a byte
//! `proxy::listener` accepts, `proxy::handshake` reads the startup packet and connects to the server, and from then on
//! `proxy::relay` moves bytes both ways. On their way they pass [`session`], a state machine without I/O that sees the
//! frame headers, decides what passes, and says what to inject and when to be woken.
//!
//! # The floors (imports go down only)
//! | floor | modules |
//! |---|---|
//! | 6 | `lib`, `main` |
//! | 5 | `app`, `cli`, `log`, `signals` |
//! | 4 | `proxy`, `demo` |
//! | 3 | `events` |
//! | 2 | `registry`, `audit`, `observer` |
//! | 1 | `session`, `config`, `line_writer`, `prover` |
//! | 0 | `wire`, `sql`, `policy` |

pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod demo;
pub mod events;
pub mod line_writer;
pub mod log;
pub mod observer;
pub mod policy;
pub mod prover;
pub mod proxy;
pub mod registry;
pub mod session;
pub mod signals;
pub mod sql;
pub mod wire;
