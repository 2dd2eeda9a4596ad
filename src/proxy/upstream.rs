//! Connects to PostgreSQL, by TLS where the settings want it.

use std::{fmt, future::Future, io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, TlsStream, rustls::pki_types::ServerName};

use super::{kinds::Kinds, stream::Stream};
use crate::{
    config::{ALPN, Address, Config, Encryption, Negotiation, SslMode, Upstream, UpstreamTls},
    policy::Target,
    wire::{self, ErrorFields, HEADER_LEN},
};

/// When a silent connection is first probed.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// The first byte of an ErrorResponse.
const ERROR_RESPONSE: u8 = b'E';

/// The SQLSTATE of a server that takes no sessions now.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// One address of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its place among the settings' addresses.
    pub(super) index: usize,
    /// As the settings have it.
    pub(super) address: &'a Address,
    /// What its host stands for; `None` for a Unix socket.
    pub(super) resolved: Option<SocketAddr>,
}

impl fmt::Display for Place<'_> {
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
}

/// The ways in which a session is opened, one after the other while the server refuses.
pub(super) fn ways(address: &Address, upstream: &Upstream) -> &'static [Encryption] {
    match address {
        Address::Unix(_) => SslMode::Disable.ways(),
        Address::Tcp { .. } => upstream.tls.sslmode.ways(),
    }
}

/// Every place that an address stands for at this moment, in the order in which they are tried.
pub(super) async fn places(
    index: usize,
    address: &Address,
) -> Result<Vec<Place<'_>>, ConnectError> {
    let place = |resolved| Place {
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
    kinds: &Kinds,
    startup: &[u8],
) -> Result<Opened, Vec<ConnectError>> {
    let mut failed = Vec::new();
    let mut busy = None;
    for &target in config.upstream.target.passes() {
        failed.clear();
        for (index, address) in config.upstream.addresses.iter().enumerate() {
            let places = places(index, address).await.unwrap_or_else(|error| {
                failed.push(error);
                Vec::new()
            });
            let alone = config.upstream.addresses.len() == 1 && places.len() == 1;
            for place in places {
                let attempt = async {
                    let mut opened = open_if(target, place, config, kinds, startup).await?;
                    if !alone {
                        let limit = config.upstream.connect_timeout;
                        let answer = within(limit, opened.read_answer()).await;
                        answer.map_err(|source| ConnectError::new(&place, source))?;
                    }
                    Ok(opened)
                };
                match attempt.await {
                    Ok(opened) if opened.refusal() == Some(CANNOT_CONNECT_NOW) => {
                        busy = Some(opened);
                    }
                    Ok(opened) => return Ok(opened),
                    Err(error) => {
                        tracing::debug!(%error, "no session at this address");
                        failed.push(error);
                    }
                }
            }
        }
    }
    // Its own words say most.
    busy.ok_or(failed)
}

/// Opens a session with a server that is what is looked for, as far as pgidle has a role to ask it.
async fn open_if(
    target: Target,
    place: Place<'_>,
    config: &Config,
    kinds: &Kinds,
    startup: &[u8],
) -> Result<Opened, ConnectError> {
    if let Some(dsn) = &config.observer.dsn
        && target != Target::Any
    {
        let kind = kinds.ask(place, &config.upstream, dsn).await?;
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
    place: Place<'_>,
    upstream: &Upstream,
    startup: &[u8],
) -> Result<Opened, ConnectError> {
    let failed = |source| ConnectError::new(&place, source);
    let mut ways = ways(place.address, upstream).iter().copied().peekable();
    let mut refused = None;
    while let Some(way) = ways.next() {
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
        if ways.peek().is_some() && (way == Encryption::No || opened.stream.is_tls()) {
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

/// Opens a connection, within the connect timeout if there is one.
pub(super) async fn connect(
    place: Place<'_>,
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
    within(upstream.connect_timeout, attempt)
        .await
        .map_err(|source| ConnectError::new(&place, source))
}

/// Gives an attempt up after the timeout, if there is one.
pub(super) async fn within<T>(
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
                format!("no answer within {limit:?}"),
            ))
        })
}

async fn open(place: Place<'_>) -> io::Result<Stream> {
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
