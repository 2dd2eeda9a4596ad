//! What the operator wants of a session: that it ends, sooner or later.

use std::time::{Duration, Instant};

/// How long a client that has just logged in has for its first request, where the session drains: it may have connected
/// before it could know, and what it connected for is not refused.
const NEWCOMER: Duration = Duration::from_secs(2);

/// The end that is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operator {
    /// Whether the session ends as soon as no transaction is open.
    drains: bool,
    /// Whether it ends as soon as that can be done with care, whatever is open in it.
    insists: bool,
    /// Until when the client is expected to send its first request; `None` when it has, or has not in time.
    newcomer_until: Option<Instant>,
}

impl Operator {
    pub(super) fn drain(&mut self, now: Instant) {
        self.drains = true;
        self.time_passes(now);
    }

    /// Notes that the client has logged in.
    pub(super) fn logged_in(&mut self, now: Instant) {
        self.newcomer_until = Some(now + NEWCOMER);
    }

    /// Notes that the client has sent a request.
    pub(super) fn spoke(&mut self) {
        self.newcomer_until = None;
    }

    pub(super) fn time_passes(&mut self, now: Instant) {
        self.newcomer_until = self.newcomer_until.filter(|&until| now < until);
    }

    /// When a session that drains is no longer kept for its client's first request.
    pub(super) fn due(self) -> Option<Instant> {
        self.newcomer_until.filter(|_| self.drains)
    }

    pub(super) fn insist(&mut self) {
        self.insists = true;
    }

    /// Whether the session ends as soon as no transaction is open.
    pub(super) fn drains(self) -> bool {
        self.drains && self.newcomer_until.is_none()
    }

    /// Whether the session ends as soon as that can be done with care, whatever is open in it.
    pub(super) fn insists(self) -> bool {
        self.insists
    }
}
