//! What is tried on bytes that anyone may send or write: one function for each target, which panics where a promise is
//! broken. The fuzzer calls them with inputs that it finds, and `tests/fuzz.rs` with those that it has left in `corpus`.

#[cfg(feature = "proxy")]
mod against_grammar;
#[cfg(feature = "proxy")]
mod console;
#[cfg(feature = "proxy")]
mod files;
mod session;
mod wire;

#[cfg(feature = "proxy")]
pub use self::{
    against_grammar::{grammar, statement},
    console::console,
    files::{audit_line, configuration, dsn},
};
pub use self::{
    session::session,
    wire::{frames, messages, proxy_header, startup, tags},
};
