//! Whether a new session would find a server.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};

use super::Context;
use crate::config::{Address, Upstream};

/// For how long an answer holds: a server is not connected to as often as anyone asks.
const KEPT: Duration = Duration::from_secs(1);

/// How long one server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    last: Option<(Instant, Result<(), Arc<str>>)>,
}

impl Readiness {
    /// Whether a new session would find a server, and why not.
    pub(super) async fn of(&mut self, context: &Context) -> Result<(), Arc<str>> {
        if context.registry.is_draining() {
            return Err("draining".into());
        }
        if let Some((at, answer)) = &self.last
            && at.elapsed() < KEPT
        {
            return answer.clone();
        }
        let upstream = context.config.borrow().upstream.clone();
        let answer = reach(&upstream).await.map_err(Arc::from);
        self.last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Connects to the first server that can be reached, and leaves.
///
/// # Errors
/// Says of each address what is in the way.
pub async fn reach(upstream: &Upstream) -> Result<(), String> {
    let mut failed = Vec::new();
    for address in &upstream.addresses {
        let connected = timeout(CONNECT_TIMEOUT, connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => return Ok(()),
            Err(error) => failed.push(format!("{address}: {error}")),
        }
    }
    Err(failed.join("; "))
}

async fn connect(address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(drop),
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
    }
}
