//! What is on its way to become a session, so that a drain does not overlook it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many there are.
#[derive(Debug, Default)]
pub struct Arrivals(Arc<AtomicUsize>);

/// A connection that is not yet a session, or a listening socket that may have some.
#[derive(Debug)]
#[must_use]
pub struct Arrival(Arc<AtomicUsize>);

impl Arrivals {
    /// Notes that a session may come of something, until what comes back is dropped.
    pub fn note(&self) -> Arrival {
        self.0.fetch_add(1, Ordering::SeqCst);
        Arrival(Arc::clone(&self.0))
    }

    /// Whether a session may come of something.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
