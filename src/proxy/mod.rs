//! The sockets: a listener accepts, a handshake reads the startup packet and connects to the server, and a relay moves
//! bytes between the two until one side leaves. Cancel requests have a short path of their own.

mod cancel;
mod connect;
mod descriptors;
mod handshake;
mod listener;
mod own_address;
mod recorded;
mod refusal;
mod refusal_log;
mod relay;
mod server_role;
mod sockets;
mod stream;
mod tls;
mod upstream;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::{
    config::Config,
    console::Console,
    events::Events,
    metrics::{Metrics, Traffic},
    observer::Observer,
    prover::Prover,
    recorder::Recorder,
    registry::Registry,
    session,
};

pub use descriptors::capacity;
pub use listener::{ListenError, ListeningSocket, bind, run};
pub use own_address::{OwnAddress, refuse_own_address};
pub use refusal_log::RefusalLog;
pub use server_role::RoleCache;

/// What the sessions of all threads share.
#[derive(Debug)]
pub struct Shared {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// The way to the console.
    pub console: Console,
    /// Where events go.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// Who looks at what stuck sessions hold.
    pub observer: Observer,
    /// Who proves that statements only read.
    pub prover: Prover,
    /// Where sessions are recorded, when they are.
    pub recorder: Option<Recorder>,
    /// What servers have said of themselves.
    pub roles: RoleCache,
    /// Where connections that become no session are logged.
    pub refusals: RefusalLog,
    /// The settings in force.
    pub config: watch::Receiver<Arc<Config>>,
}

/// What the sessions of one thread share.
#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    /// What this thread does for sessions that have no database yet, and by database for the others.
    traffic: Arc<Traffic>,
    by_database: Mutex<HashMap<Arc<str>, Arc<Traffic>>>,
    /// Where every read of the thread lands; only what cannot go on at once is copied out of it.
    scratch: Mutex<Box<[u8]>>,
}

/// Bytes read at once: larger than nearly every message, so that one read tells that the socket is empty.
const SCRATCH: usize = session::BUFFER;

impl Worker {
    /// Where the sessions of a database are counted, if not with those that have none.
    fn traffic_of(&self, database: &Arc<str>) -> Option<Arc<Traffic>> {
        let known = &mut *self
            .by_database
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(traffic) = known.get(database) {
            return Some(Arc::clone(traffic));
        }
        let traffic = self.shared.metrics.traffic_of(database)?;
        known.insert(Arc::clone(database), Arc::clone(&traffic));
        Some(traffic)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shared.config.borrow())
    }
}
