//! What sessions do, for totals that are always kept: a few numbers that cost nothing to count.

use std::time::Duration;

/// What a session has done since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions that ended in any way, those of single statements included.
    pub transactions: u32,
    /// Statements, or lists of them, that were answered to the end: one for each Query or Execute.
    pub queries: u32,
    /// For how many nanoseconds those transactions were open.
    pub in_transaction_ns: u64,
    /// The part of it in which the server worked.
    pub busy_ns: u64,
}

impl Tally {
    /// Counts a transaction: the time in which the server worked, and that in which it waited for the client.
    pub(super) fn count(&mut self, busy: Duration, idle: Duration) {
        self.transactions += 1;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.in_transaction_ns += nanos(busy + idle);
        self.busy_ns += nanos(busy);
    }

    /// What it shows, which begins anew.
    pub(super) fn take(&mut self) -> Option<Self> {
        (*self != Self::default()).then(|| std::mem::take(self))
    }
}
