//! What one thread has done for the sessions of one database.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Totals;
use crate::session::{Side, Tally};

/// What one thread has done for the sessions of one database. That thread alone adds to it, so it needs no more than plain
/// stores.
#[derive(Debug, Default)]
pub struct Traffic {
    from_clients: AtomicU64,
    from_servers: AtomicU64,
    transactions: AtomicU64,
    queries: AtomicU64,
    in_transaction_ns: AtomicU64,
    busy_ns: AtomicU64,
}

impl Traffic {
    /// Counts what was read from this side. Only ever called by one thread.
    pub fn add(&self, from: Side, bytes: usize) {
        let total = match from {
            Side::Client => &self.from_clients,
            Side::Server => &self.from_servers,
        };
        raise(total, bytes as u64);
    }

    /// Counts what a session has done. Only ever called by one thread.
    pub fn count(&self, tally: &Tally) {
        raise(&self.transactions, tally.transactions.into());
        raise(&self.queries, tally.queries.into());
        raise(&self.in_transaction_ns, tally.in_transaction_ns);
        raise(&self.busy_ns, tally.busy_ns);
    }

    /// Adds what was done so far.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        totals.bytes_from_clients += read(&self.from_clients);
        totals.bytes_from_servers += read(&self.from_servers);
        totals.transactions += read(&self.transactions);
        totals.queries += read(&self.queries);
        totals.in_transaction += Duration::from_nanos(read(&self.in_transaction_ns));
        totals.busy += Duration::from_nanos(read(&self.busy_ns));
    }
}

/// Nobody else writes it: a locked instruction would only cost.
fn raise(total: &AtomicU64, by: u64) {
    let sum = total.load(Ordering::Relaxed).wrapping_add(by);
    total.store(sum, Ordering::Relaxed);
}
