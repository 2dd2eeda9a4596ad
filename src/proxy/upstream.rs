//! Chooses the server of a session among the addresses that the settings name, and sends it the startup packet.

use std::{io, net::SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Shared,
    connect::{ConnectError, ResolvedAddress, connect, resolve, tls_attempts, with_timeout},
    server_role::RoleCache,
    stream::Stream,
};
use crate::{
    config::{Config, Encryption, Upstream},
    metrics::UpstreamError,
    policy::Target,
    wire::{ErrorFields, HEADER_LEN},
};

/// The first byte of an ErrorResponse.
const ERROR_RESPONSE: u8 = b'E';

/// The SQLSTATE of a server that takes no sessions now.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// A server that has been sent a startup packet.
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// What of its answer was read.
    pub(super) answer: Vec<u8>,
    /// Its place among the settings' addresses.
    pub(super) index: usize,
    /// What that address stood for.
    pub(super) resolved: Option<SocketAddr>,
}

impl Opened {
    /// Reads the beginning of an answer, unless there is one already.
    async fn read_answer(&mut self) -> io::Result<()> {
        if self.answer.is_empty() {
            self.stream.read_buf(&mut self.answer).await?;
        }
        Ok(())
    }

    /// The SQLSTATE of an answer that is an error.
    fn refusal(&self) -> Option<&[u8]> {
        let fields = self.answer.get(HEADER_LEN..).map(ErrorFields::read)?;
        (self.answer.first() == Some(&ERROR_RESPONSE)).then_some(fields.sqlstate)
    }
}

/// Connects to the first server that can be reached and is what sessions are meant for, and sends the startup packet.
///
/// As with libpq, one that takes no sessions now is passed over, where there is another.
pub(super) async fn open_session(
    config: &Config,
    shared: &Shared,
    startup: &[u8],
) -> Result<Opened, Vec<ConnectError>> {
    let metrics = &shared.metrics;
    let mut failed = Vec::new();
    let mut busy = None;
    for &target in config.upstream.target.passes() {
        failed.clear();
        for (index, address) in config.upstream.addresses.iter().enumerate() {
            let places = resolve(index, address).await.unwrap_or_else(|error| {
                metrics.upstream_failed(UpstreamError::Resolve);
                failed.push(error);
                Vec::new()
            });
            let alone = config.upstream.addresses.len() == 1 && places.len() == 1;
            for place in places {
                let attempt = async {
                    let mut opened = open_if(target, place, config, &shared.roles, startup).await?;
                    if !alone {
                        let limit = config.upstream.connect_timeout;
                        let answer = with_timeout(limit, opened.read_answer()).await;
                        answer.map_err(|source| ConnectError::new(&place, source))?;
                    }
                    Ok::<_, ConnectError>(opened)
                };
                match attempt.await {
                    Ok(opened) if opened.refusal() == Some(CANNOT_CONNECT_NOW) => {
                        busy = Some(opened);
                    }
                    Ok(opened) => return Ok(opened),
                    Err(error) => {
                        tracing::debug!(%error, "no session at this address");
                        metrics.upstream_failed(error.counts_as());
                        failed.push(error);
                    }
                }
            }
        }
    }
    // A server that answered says best itself why it cannot be used.
    busy.ok_or(failed)
}

/// Opens a session with a server that is what is looked for, as far as pgidle has a role to ask it.
async fn open_if(
    target: Target,
    place: ResolvedAddress<'_>,
    config: &Config,
    roles: &RoleCache,
    startup: &[u8],
) -> Result<Opened, ConnectError> {
    if let Some(dsn) = &config.observer.dsn
        && target != Target::Any
    {
        let kind = roles.ask(place, &config.upstream, dsn).await?;
        if let Some(why) = target.refuses(kind) {
            return Err(ConnectError::new(&place, io::Error::other(why)));
        }
    }
    open_at(place, &config.upstream, startup).await
}

/// Connects to one place.
///
/// As libpq, it tries with TLS what was refused without, or the other way round, where `sslmode` says so
/// (`PQconnectPoll` in `src/interfaces/libpq/fe-connect.c`).
async fn open_at(
    place: ResolvedAddress<'_>,
    upstream: &Upstream,
    startup: &[u8],
) -> Result<Opened, ConnectError> {
    let failed = |source| ConnectError::new(&place, source);
    let mut tls_attempts = tls_attempts(place.address, upstream)
        .iter()
        .copied()
        .peekable();
    let mut refused = None;
    while let Some(way) = tls_attempts.next() {
        let mut stream = match connect(place, upstream, way).await {
            Ok(stream) => stream,
            // The server's own words say more than that it has no TLS either.
            Err(error) => return refused.ok_or(error),
        };
        stream.write_all(startup).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut opened = Opened {
            stream,
            answer: Vec::new(),
            index: place.index,
            resolved: place.resolved,
        };
        if tls_attempts.peek().is_some() && (way == Encryption::No || opened.stream.is_tls()) {
            opened.read_answer().await.map_err(failed)?;
            if opened.refusal().is_some() {
                refused = Some(opened);
                continue;
            }
        }
        return Ok(opened);
    }
    refused.ok_or_else(|| failed(io::ErrorKind::ConnectionRefused.into()))
}
