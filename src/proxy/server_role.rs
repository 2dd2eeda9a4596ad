//! What the servers are, asked by a connection of pgidle's own and remembered for a moment.
//!
//! A server reveals its role only after authentication, and a client can authenticate to one server, once. So pgidle
//! asks before it takes the client there. What the client's own session is told then decides (`Session`): a role
//! of its own settings may only read, and a server may have changed meanwhile.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};
use tokio_postgres::NoTls;

use super::connect::{self, ConnectError, ResolvedAddress};
use crate::{
    config::{Address, Dsn, Upstream},
    observer::{ServerError, attend},
    policy::ServerRole,
};

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);

/// What each place has last said, and when.
#[derive(Debug, Default)]
pub struct RoleCache(StdMutex<HashMap<Key, Known>>);

/// A place.
type Key = (Address, Option<SocketAddr>);

/// Its last answer; locked while it is asked.
type Known = Arc<Mutex<Option<Answer>>>;

#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Instant,
    kind: ServerRole,
}

impl RoleCache {
    /// Asks a server what it is; who asks at the same time shares the answer.
    pub(super) async fn ask(
        &self,
        place: ResolvedAddress<'_>,
        upstream: &Upstream,
        dsn: &Dsn,
    ) -> Result<ServerRole, ConnectError> {
        let key = (place.address.clone(), place.resolved);
        let known = Arc::clone(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key)
                .or_default(),
        );
        let mut known = known.lock().await;
        match *known {
            Some(answer) if answer.at.elapsed() < FRESH => Ok(answer.kind),
            _ => {
                let kind = probe(place, upstream, dsn).await?;
                *known = Some(Answer {
                    at: Instant::now(),
                    kind,
                });
                Ok(kind)
            }
        }
    }
}

/// Connects as sessions do, but with the observer's role, password and database.
async fn probe(
    place: ResolvedAddress<'_>,
    upstream: &Upstream,
    dsn: &Dsn,
) -> Result<ServerRole, ConnectError> {
    let mut config = dsn.postgres.clone();
    config
        .ssl_mode(tokio_postgres::config::SslMode::Disable)
        .application_name("pgidle probe");
    let mut refused = None;
    for &way in connect::tls_attempts(place.address, upstream) {
        let stream = match connect::connect(place, upstream, way).await {
            Ok(stream) => stream,
            Err(error) => return Err(refused.unwrap_or(error)),
        };
        // It is encrypted already, where it is to be.
        let greeting = async {
            let greeted = config.connect_raw(stream, NoTls).await;
            greeted.map_err(|error| io::Error::other(ServerError::from(error)))
        };
        match connect::with_timeout(upstream.connect_timeout, greeting).await {
            Ok((client, connection)) => {
                let mut kind = ServerRole::default();
                for name in ServerRole::PARAMETERS {
                    if let Some(value) = connection.parameter(name) {
                        kind.set_parameter(name.as_bytes(), value.as_bytes());
                    }
                }
                // A connection without its client takes leave of the server.
                drop(client);
                let name = format!("the connection that asks what {place} is");
                drop(attend(connection, &name).await);
                return Ok(kind);
            }
            Err(error) => refused = Some(ConnectError::new(&place, error)),
        }
    }
    Err(refused
        .unwrap_or_else(|| ConnectError::new(&place, io::ErrorKind::ConnectionRefused.into())))
}
