//! Our own CancelRequests, and the client's before the gate: as long as one is on its way, it may hit whatever runs.

use std::time::Instant;

use super::enforce::Cancelled;

/// What is known of the CancelRequests that may still hit something.
#[derive(Clone, Debug, Default)]
pub(super) struct CancelGuard {
    /// How many of ours have a connection that is open.
    open: u32,
    /// What the last of ours was meant for, as long as it may hit what has been forwarded.
    sent: Option<Box<Cancelled>>,
    /// Since when the gate is waited for, over all that the client says meanwhile.
    gate_since: Option<Instant>,
}

impl CancelGuard {
    /// Notes that one of ours is sent.
    pub(super) fn opened(&mut self) {
        self.open += 1;
    }

    /// Notes what those of ours that are sent now are meant for.
    pub(super) fn aim(&mut self, cancelled: Cancelled) {
        let cancelled = match self.sent.take() {
            Some(earlier) => cancelled.after(&earlier),
            None => cancelled,
        };
        self.sent = Some(Box::new(cancelled));
    }

    /// Notes that the server has closed the connection of one of ours, or that it has been waited for long enough.
    pub(super) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Whether the connection of one of ours is open.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// What one of ours was meant for that may hit what has been forwarded.
    pub(super) fn sent(&self) -> Option<&Cancelled> {
        self.sent.as_deref()
    }

    /// The same, to note what has become of it.
    pub(super) fn sent_mut(&mut self) -> Option<&mut Cancelled> {
        self.sent.as_deref_mut()
    }

    /// The server has come to the end of what it was sent: those that it had got by then hit nothing any more.
    pub(super) fn server_is_past(&mut self) {
        if !self.is_open() {
            self.sent = None;
        }
    }

    /// Since when the gate is waited for, for a transaction that began then.
    pub(super) fn await_gate(&mut self, began: Option<Instant>, now: Instant) -> Instant {
        let since = self.gate_since.filter(|&since| Some(since) >= began);
        *self.gate_since.insert(since.unwrap_or(now))
    }

    /// The gate is closed, or is waited for no more.
    pub(super) fn gate_passed(&mut self) {
        self.gate_since = None;
    }
}
