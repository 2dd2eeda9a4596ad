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
//! | 5 | `app`, `cli`, `log`, `service_manager`, `signals` |
//! | 4 | `proxy`, `demo` |
//! | 3 | `events`, `console`, `http` |
//! | 2 | `registry`, `audit`, `metrics`, `observer`, `recorder` |
//! | 1 | `session`, `config`, `line_writer`, `prover` |
//! | 0 | `wire`, `sql`, `policy` |
//!
//! # The core
//! [`wire`], [`policy`], [`session`], and [`sql`] but for what calls PostgreSQL's own parser compile without the feature
//! `proxy`: no runtime, no I/O, no C. `tests/tidy` holds what they may need.

pub mod policy;
pub mod session;
pub mod sql;
pub mod wire;

#[cfg(feature = "proxy")]
pub mod app;
#[cfg(feature = "proxy")]
pub mod audit;
#[cfg(feature = "proxy")]
pub mod cli;
#[cfg(feature = "proxy")]
pub mod config;
#[cfg(feature = "proxy")]
pub mod console;
#[cfg(feature = "proxy")]
pub mod demo;
#[cfg(feature = "proxy")]
pub mod events;
#[cfg(feature = "proxy")]
pub mod http;
#[cfg(feature = "proxy")]
pub mod line_writer;
#[cfg(feature = "proxy")]
pub mod log;
#[cfg(feature = "proxy")]
pub mod metrics;
#[cfg(feature = "proxy")]
pub mod observer;
#[cfg(feature = "proxy")]
pub mod prover;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod recorder;
#[cfg(feature = "proxy")]
pub mod registry;
#[cfg(feature = "proxy")]
pub mod service_manager;
#[cfg(feature = "proxy")]
pub mod signals;
