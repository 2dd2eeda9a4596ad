//! HTTP for scrapes, probes and scripts, on a thread of its own, so that a question costs sessions next to nothing.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | every series, in Prometheus' text format |
//! | `/healthz` | 200 while the process answers |
//! | `/readyz` | 200 when a new session would find a server, 503 with the reason when not |
//! | `/sessions` | the live sessions, as JSON |
//! | `/incidents` | the last incidents, the oldest first, as JSON |
//!
//! Requests, their time and their number are bounded, and each connection serves one.

mod answer;
mod health;
mod host;
mod readiness;
mod sessions;

use std::{convert::Infallible, io, net::TcpListener as StdListener, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    time::timeout,
};

use self::readiness::Readiness;
use crate::{
    audit::{Audit, Texts},
    config::Config,
    metrics::{Metrics, Readings},
    observer::Observer,
    registry::Registry,
};

pub use health::{HealthError, check};
pub use readiness::reach;

/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// How large the head of a request may be.
const MOST_BYTES: usize = 16 << 10;

/// How many connections there may be at a time; the next one waits.
const MOST_CONNECTIONS: usize = 32;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers are made of.
#[derive(Debug)]
pub struct Context {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Metrics,
    /// The last incidents, and what was lost.
    pub audit: Audit,
    /// Whether it sees, and how long others have waited.
    pub observer: Observer,
    /// The settings in force.
    pub config: watch::Receiver<Arc<Config>>,
    readiness: Mutex<Readiness>,
    texts: std::sync::Mutex<Texts>,
}

impl Context {
    /// Answers from these.
    pub fn new(
        registry: Arc<Registry>,
        metrics: Metrics,
        audit: Audit,
        observer: Observer,
        config: watch::Receiver<Arc<Config>>,
    ) -> Self {
        Self {
            registry,
            metrics,
            audit,
            observer,
            config,
            readiness: Mutex::default(),
            texts: std::sync::Mutex::default(),
        }
    }

    fn readings(&self) -> Readings {
        Readings {
            audit_dropped: self.audit.dropped(),
            observer_up: self.observer.is_up(),
            blocked_seconds: self.observer.blocked().as_secs_f64(),
        }
    }
}

/// Answers at these sockets until it is dropped.
pub async fn run(listeners: Vec<StdListener>, context: Arc<Context>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    for listener in listeners {
        let (context, places) = (Arc::clone(&context), Arc::clone(&places));
        match TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(accept(listener, context, places))),
            Err(error) => tracing::error!(%error, "could not listen for HTTP"),
        }
    }
    std::future::pending().await
}

async fn accept(listener: TcpListener, context: Arc<Context>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = Arc::clone(&context);
                tokio::spawn(async move {
                    // Who takes too long is cut off, and who leaves has left.
                    drop(timeout(CONNECTION_TIMEOUT, serve(stream, context)).await);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for HTTP");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, context: Arc<Context>) -> io::Result<()> {
    let local = stream.local_addr()?;
    let service = service_fn(move |request: Request<Incoming>| {
        // What is asked stands in the head.
        let (request, context) = (request.map(drop), Arc::clone(&context));
        async move { Ok::<_, Infallible>(answer::to(&request, local, &context).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MOST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}
