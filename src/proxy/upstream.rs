//! Connects to PostgreSQL, by TLS where the settings want it.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, TlsStream, rustls::pki_types::ServerName};

use super::stream::Stream;
use crate::{
    config::{ALPN, Address, Negotiation, SslMode, Upstream, UpstreamTls},
    wire,
};

/// When a silent connection is first probed.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// The first byte of an ErrorResponse.
const ERROR_RESPONSE: u8 = b'E';

/// A server that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("could not connect to the PostgreSQL server at {address}: {source}")]
pub(super) struct ConnectError {
    address: Address,
    source: io::Error,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    No,
    IfOffered,
    Yes,
}

/// The ways in which a session is opened, one after the other while the server refuses.
pub(super) fn ways(address: &Address, upstream: &Upstream) -> &'static [Encryption] {
    match (address, upstream.tls.sslmode) {
        (Address::Unix(_), _) | (_, SslMode::Disable) => &[Encryption::No],
        (_, SslMode::Allow) => &[Encryption::No, Encryption::Yes],
        (_, SslMode::Prefer) => &[Encryption::IfOffered, Encryption::No],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Yes],
    }
}

/// A server that has been sent a startup packet.
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// What of its answer was read.
    pub(super) answer: Vec<u8>,
    /// Its place among the addresses.
    pub(super) index: usize,
}

/// Connects to the first address that can be reached, and sends the startup packet.
pub(super) async fn open_session(
    upstream: &Upstream,
    startup: &[u8],
) -> Result<Opened, ConnectError> {
    let mut failed = None;
    for (index, address) in upstream.addresses.iter().enumerate() {
        match open_at(address, upstream, startup).await {
            Ok((stream, answer)) => {
                return Ok(Opened {
                    stream,
                    answer,
                    index,
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no session at this address");
                failed = Some(error);
            }
        }
    }
    Err(failed.expect("settings have at least one address"))
}

/// Connects to one address.
///
/// As libpq, it tries with TLS what was refused without, or the other way round, where `sslmode` says so
/// (`PQconnectPoll` in `src/interfaces/libpq/fe-connect.c`).
async fn open_at(
    address: &Address,
    upstream: &Upstream,
    startup: &[u8],
) -> Result<(Stream, Vec<u8>), ConnectError> {
    let failed = |source| ConnectError {
        address: address.clone(),
        source,
    };
    let mut ways = ways(address, upstream).iter().copied().peekable();
    let mut refused = None;
    while let Some(way) = ways.next() {
        let mut stream = match connect(address, upstream, way).await {
            Ok(stream) => stream,
            // The server's own words say more than that it has no TLS either.
            Err(error) => return refused.ok_or(error),
        };
        stream.write_all(startup).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut answer = Vec::new();
        if ways.peek().is_some() && (way == Encryption::No || stream.is_tls()) {
            stream.read_buf(&mut answer).await.map_err(failed)?;
            if answer.first() == Some(&ERROR_RESPONSE) {
                refused = Some((stream, answer));
                continue;
            }
        }
        return Ok((stream, answer));
    }
    refused.ok_or_else(|| failed(io::ErrorKind::ConnectionRefused.into()))
}

/// Opens a connection, within the connect timeout if there is one.
pub(super) async fn connect(
    address: &Address,
    upstream: &Upstream,
    encryption: Encryption,
) -> Result<Stream, ConnectError> {
    let attempt = async {
        let stream = open(address).await?;
        match (stream, address) {
            (Stream::Tcp(tcp), Address::Tcp { host, .. }) if encryption != Encryption::No => {
                // The handshake's state is large: it lives in a box of its own.
                Box::pin(encrypt(tcp, host, &upstream.tls, encryption)).await
            }
            (stream, _) => Ok(stream),
        }
    };
    let result = match upstream.connect_timeout {
        Some(limit) => tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {limit:?}"),
                ))
            }),
        None => attempt.await,
    };
    result.map_err(|source| ConnectError {
        address: address.clone(),
        source,
    })
}

async fn open(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
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
        // One byte and no more: what was injected behind it goes into the handshake, and fails there.
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
