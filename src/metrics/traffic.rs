//! The bytes that one thread has moved.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::Side;

/// How many bytes one thread has read. That thread alone adds to it, so it needs no more than a plain store.
#[derive(Debug, Default)]
pub struct Traffic {
    from_clients: AtomicU64,
    from_servers: AtomicU64,
}

impl Traffic {
    /// Counts what was read from this side. Only ever called by one thread.
    pub fn add(&self, from: Side, bytes: usize) {
        let total = match from {
            Side::Client => &self.from_clients,
            Side::Server => &self.from_servers,
        };
        // Nobody else writes it: a locked instruction would only cost.
        let sum = total.load(Ordering::Relaxed).wrapping_add(bytes as u64);
        total.store(sum, Ordering::Relaxed);
    }

    /// What was read from clients, and from servers.
    pub(super) fn read(&self) -> (u64, u64) {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        (read(&self.from_clients), read(&self.from_servers))
    }
}
