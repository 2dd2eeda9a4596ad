//! Connects to one address of PostgreSQL: resolves it, opens a socket, and encrypts it where the settings want that.

use std::{fmt, future::Future, io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, TlsStream, rustls::pki_types::ServerName};

use super::stream::{KEEPALIVE, Stream};
use crate::{
    config::{ALPN, Address, Encryption, Negotiation, SslMode, Upstream, UpstreamTls},
    metrics::UpstreamError,
    policy::format_duration,
    wire,
};

/// One address of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResolvedAddress<'a> {
    /// Its place among the settings' addresses.
    pub(super) index: usize,
    /// As the settings have it.
    pub(super) address: &'a Address,
    /// What its host stands for; `None` for a Unix socket.
    pub(super) resolved: Option<SocketAddr>,
}

impl fmt::Display for ResolvedAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match (self.address, self.resolved) {
            (Address::Tcp { host, .. }, Some(resolved)) if resolved.ip().to_string() != *host => {
                write!(f, " ({})", resolved.ip())
            }
            _ => Ok(()),
        }
    }
}

/// A server that gives no session.
#[derive(Debug, thiserror::Error)]
#[error("could not connect to the PostgreSQL server at {place}: {source}")]
pub(super) struct ConnectError {
    place: String,
    source: io::Error,
}

impl ConnectError {
    pub(super) fn new(place: &impl ToString, source: io::Error) -> Self {
        Self {
            place: place.to_string(),
            source,
        }
    }

    /// What it counts as. rustls' errors are of the kind `InvalidData` (`Stream::complete_io` in its `stream.rs`).
    pub(super) fn counts_as(&self) -> UpstreamError {
        let kinds = [
            (io::ErrorKind::ConnectionRefused, UpstreamError::Refused),
            (io::ErrorKind::NotFound, UpstreamError::Refused),
            (io::ErrorKind::TimedOut, UpstreamError::Timeout),
            (io::ErrorKind::InvalidData, UpstreamError::Tls),
        ];
        let known = kinds.iter().find(|(kind, _)| *kind == self.source.kind());
        known.map_or(UpstreamError::Other, |&(_, error)| error)
    }
}

/// The ways in which a session is opened, one after the other while the server refuses.
pub(super) fn tls_attempts(address: &Address, upstream: &Upstream) -> &'static [Encryption] {
    match address {
        Address::Unix(_) => SslMode::Disable.tls_attempts(),
        Address::Tcp { .. } => upstream.tls.sslmode.tls_attempts(),
    }
}

/// Every place that an address stands for at this moment, in the order in which they are tried.
pub(super) async fn resolve(
    index: usize,
    address: &Address,
) -> Result<Vec<ResolvedAddress<'_>>, ConnectError> {
    let place = |resolved| ResolvedAddress {
        index,
        address,
        resolved,
    };
    match address {
        Address::Tcp { host, port } => {
            let found = tokio::net::lookup_host((host.as_str(), *port)).await;
            let found = found.map_err(|source| ConnectError::new(address, source))?;
            Ok(found.map(Some).map(place).collect())
        }
        Address::Unix(_) => Ok(vec![place(None)]),
    }
}

/// Opens a connection, within the connect timeout if there is one.
pub(super) async fn connect(
    place: ResolvedAddress<'_>,
    upstream: &Upstream,
    encryption: Encryption,
) -> Result<Stream, ConnectError> {
    let attempt = async {
        let stream = open(place).await?;
        match (stream, place.address) {
            (Stream::Tcp(tcp), Address::Tcp { host, .. }) if encryption != Encryption::No => {
                // The handshake's state is large: it lives in a box of its own.
                Box::pin(encrypt(tcp, host, &upstream.tls, encryption)).await
            }
            (stream, _) => Ok(stream),
        }
    };
    with_timeout(upstream.connect_timeout, attempt)
        .await
        .map_err(|source| ConnectError::new(&place, source))
}

/// Gives an attempt up after the timeout, if there is one.
pub(super) async fn with_timeout<T>(
    limit: Option<Duration>,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let Some(limit) = limit else {
        return attempt.await;
    };
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {}", format_duration(limit)),
            ))
        })
}

async fn open(place: ResolvedAddress<'_>) -> io::Result<Stream> {
    match (place.address, place.resolved) {
        (Address::Unix(path), _) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        (Address::Tcp { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        (Address::Tcp { .. }, Some(resolved)) => {
            let stream = TcpStream::connect(resolved).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(Stream::Tcp(stream))
        }
    }
}

async fn encrypt(
    mut tcp: TcpStream,
    host: &str,
    settings: &UpstreamTls,
    encryption: Encryption,
) -> io::Result<Stream> {
    let connector = settings
        .connector
        .as_ref()
        .ok_or_else(|| io::Error::other("TLS is off"))?;
    let direct = settings.negotiation == Negotiation::Direct;
    if !direct {
        tcp.write_all(&wire::ssl_request()).await?;
        // One byte and no more: what was injected after it goes into the handshake, and fails there.
        match tcp.read_u8().await? {
            b'S' => {}
            b'N' if encryption == Encryption::IfOffered => return Ok(Stream::Tcp(tcp)),
            _ => return Err(io::Error::other("the server does not offer TLS")),
        }
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(connector.config.clone())
        .connect(name, tcp)
        .await?;
    if direct && tls.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::other("the server does not know direct TLS"));
    }
    Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
}
