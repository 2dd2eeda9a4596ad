//! Since when the client is silent, and what was done about it.

use std::time::Instant;

/// The time since the client last sent anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Instant,
    /// Whether the server was asked for its answers to the batch that is open.
    flushed: bool,
}

impl Silence {
    /// The client has just sent something.
    pub(super) fn begins(now: Instant) -> Self {
        Self {
            since: now,
            flushed: false,
        }
    }

    /// When the client last sent anything.
    pub(super) fn since(self) -> Instant {
        self.since
    }

    /// Whether the server was asked for its answers to the batch that is open.
    pub(super) fn was_flushed(self) -> bool {
        self.flushed
    }

    /// Notes that the server was asked for them.
    pub(super) fn flush(&mut self) {
        self.flushed = true;
    }
}
