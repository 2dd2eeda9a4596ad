//! The state machine of one session. No I/O, no clock: bytes and `now` in, bytes and actions out.

pub mod event;
