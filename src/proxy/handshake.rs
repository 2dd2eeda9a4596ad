//! From an accepted connection to a session: the untagged first packet, the rule, the server connection.
//!
//! The startup packet goes on verbatim, and authentication is the relay's: bytes like any others.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    Worker, cancel,
    recorded::Recorded,
    refusal::Refusal,
    relay::{self, Relay},
    stream::Stream,
    tls, upstream,
};
use crate::{
    config::{Config, Pooler},
    console::Peer,
    policy::format_duration,
    registry::{Permit, Registry},
    session::{
        ChannelBinding, Session, SessionParams,
        event::{Event, Who},
    },
    wire::{
        self, CancelKey, Startup, StartupPacket,
        originate::{self, Diagnostic},
        parse_startup,
    },
};

/// How long a client may take to log in before it gives way to others, where all places are taken.
const LOGIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long a client waits for the place of one that gives way, and how often it looks.
const SEAT_WAIT: Duration = Duration::from_secs(3);
const SEAT_POLL: Duration = Duration::from_millis(20);

/// Serves one connection from its first byte to its last.
pub(super) fn serve(
    stream: Stream,
    client: Option<SocketAddr>,
    worker: Arc<Worker>,
) -> impl Future<Output = ()> {
    let arrival = worker.shared.registry.arrivals.note();
    // The handshake's state is large and short-lived: it lives in a box of its own.
    let opening = Box::pin(open_in_time(stream, client, Arc::clone(&worker)));
    async move {
        let opened = opening.await;
        if let Some(Opened::Cancel(stream, key)) = opened {
            return Box::pin(cancel::serve(stream, &key, &worker.shared)).await;
        }
        drop(arrival);
        match opened {
            Some(Opened::Session(relay)) => relay::run(relay, worker).await,
            Some(Opened::Console(visit)) => Box::pin(visit.make(worker)).await,
            Some(Opened::Cancel(..)) | None => {}
        }
    }
}

/// What a connection turned out to be.
enum Opened {
    Session(Box<Relay>),
    /// A CancelRequest: nothing of what follows is the client's to hurry.
    Cancel(Stream, CancelKey),
    /// A client for the console.
    Console(Box<Visit>),
}

async fn open_in_time(
    stream: Stream,
    client: Option<SocketAddr>,
    worker: Arc<Worker>,
) -> Option<Opened> {
    let limit = worker.config().startup_timeout;
    let until = limit.map(|limit| Instant::now() + limit);
    let refusals = worker.shared.refusals.clone();
    let opening = open(stream, client, worker, until);
    let Some(limit) = limit else {
        return opening.await;
    };
    tokio::time::timeout(limit, opening)
        .await
        .unwrap_or_else(|_| {
            let reason = format!("no startup packet within {}", format_duration(limit));
            refusals.refused("timeout", client, &reason);
            None
        })
}

async fn open(
    mut stream: Stream,
    client: Option<SocketAddr>,
    worker: Arc<Worker>,
    until: Option<Instant>,
) -> Option<Opened> {
    let config = worker.config();
    let refusals = &worker.shared.refusals;
    let announced = announced(&mut stream, &config).await.map_err(|error| {
        let reason = format!("without a PROXY header: {error}");
        refusals.refused("proxy_header", client, &reason);
    });
    let client = announced.ok()?.or(client);
    let failed =
        |error: io::Error| refusals.refused("tls", client, &format!("TLS failed: {error}"));
    let mut stream = tls::accept_direct(stream, &config.tls)
        .await
        .map_err(failed)
        .ok()?;
    let mut bytes = BytesMut::with_capacity(1024);
    let refusal = loop {
        let (startup, packet) = match read_startup(&mut stream, &mut bytes).await? {
            Ok(read) => read,
            Err(refusal) => break refusal,
        };
        match startup {
            Startup::SslRequest | Startup::GssEncRequest => {
                if let Some(refusal) = tls::refuses_request(&stream, &bytes) {
                    break refusal;
                }
                if startup == Startup::SslRequest {
                    let answered = tls::answer_request(stream, &config.tls).await;
                    stream = answered.map_err(failed).ok()?;
                } else {
                    stream.write_all(b"N").await.ok()?;
                }
            }
            Startup::Cancel(key) => return Some(Opened::Cancel(stream, key)),
            Startup::Session(startup) if is_for_console(&startup, &config) => {
                match visitor(&stream, client, &config, &startup) {
                    Ok(peer) => return Some(Visit::opened(stream, [packet, bytes].concat(), peer)),
                    Err(refusal) => break refusal,
                }
            }
            Startup::Session(startup) => {
                let early = bytes.to_vec();
                match connect(&startup, &packet, &stream, client, &worker, &config, until).await {
                    Ok((session, (server, answer), entry)) => {
                        let early = (early, answer);
                        let relay = Relay::new(session, stream, server, early, entry);
                        return Some(Opened::Session(Box::new(relay)));
                    }
                    Err(refusal) => break refusal,
                }
            }
            Startup::DirectTls => break Refusal::TlsNotOffered,
        }
    };
    refuse(stream, client, refusal, &worker).await;
    None
}

fn is_for_console(startup: &StartupPacket, config: &Config) -> bool {
    let console = config.console.database.as_deref();
    console == Some(&*startup.database) && !startup.replication()
}

/// Who wants to use the console, where TLS is as it has to be.
fn visitor(
    stream: &Stream,
    address: Option<SocketAddr>,
    config: &Config,
    startup: &StartupPacket,
) -> Result<Peer, Refusal> {
    match tls::refuses_session(stream, &config.tls, &startup.user) {
        Some(refusal) => Err(refusal),
        None => Ok(Peer {
            address,
            tls: stream.is_tls(),
        }),
    }
}

/// A client for the console, in a box: sessions are not larger for it.
struct Visit {
    stream: Stream,
    /// The startup packet, and what came after it.
    startup: Vec<u8>,
    peer: Peer,
}

impl Visit {
    fn opened(stream: Stream, startup: Vec<u8>, peer: Peer) -> Opened {
        Opened::Console(Box::new(Self {
            stream,
            startup,
            peer,
        }))
    }

    /// Brings the client to the console.
    async fn make(mut self: Box<Self>, worker: Arc<Worker>) {
        let console = &worker.shared.console;
        let brought = console.bring(&mut self.stream, &self.startup, self.peer);
        if brought.await.is_err() {
            let Self { stream, peer, .. } = *self;
            refuse(stream, peer.address, Refusal::TooManyAtConsole, &worker).await;
        }
    }
}

/// Tells a client why it gets no session, and closes its connection.
async fn refuse(mut stream: Stream, client: Option<SocketAddr>, refusal: Refusal, worker: &Worker) {
    let cause = refusal.cause();
    let diagnostic = Diagnostic::from(refusal);
    let reason = diagnostic.message.trim_start_matches("pgidle: ");
    let refusals = &worker.shared.refusals;
    refusals.refused(cause, client, reason);
    let mut fatal = BytesMut::new();
    originate::fatal_response(&diagnostic, &mut fatal);
    if stream.write_all(&fatal).await.is_ok() {
        stream.linger().await;
    }
}

/// Reads whom a load balancer speaks for, where one is said to; `None` when it speaks for itself.
async fn announced(stream: &mut Stream, config: &Config) -> io::Result<Option<SocketAddr>> {
    let Stream::Tcp(tcp) = stream else {
        return Ok(None);
    };
    if !config.listen.proxy_protocol {
        return Ok(None);
    }
    let (mut header, mut seen) = (Vec::new(), [0; 512]);
    loop {
        // What comes after the header may be TLS, and is not read here.
        let len = tcp.peek(&mut seen).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = header.len();
        header.extend_from_slice(&seen[..len]);
        let found = wire::read_proxy_header(&header).map_err(io::Error::other)?;
        let taken = found.as_ref().map_or(len, |found| found.len - known);
        tcp.read_exact(&mut seen[..taken]).await?;
        if let Some(found) = found {
            return Ok(found.source);
        }
    }
}

/// Reads a first packet; `None` when the client goes away, as a port probe does: PostgreSQL does not speak of it either.
async fn read_startup(
    stream: &mut Stream,
    bytes: &mut BytesMut,
) -> Option<Result<(Startup, BytesMut), Refusal>> {
    loop {
        match parse_startup(bytes) {
            Ok(Some((startup, len))) => return Some(Ok((startup, bytes.split_to(len)))),
            Err(error) => return Some(Err(Refusal::BadStartup(error))),
            Ok(None) if matches!(stream.read_buf(bytes).await, Ok(1..)) => {}
            Ok(None) => return None,
        }
    }
}

/// A session, its server with what that has already said, and its place in the registry.
type Connected = (Recorded, (Stream, Vec<u8>), Arc<crate::registry::Entry>);

async fn connect(
    packet: &StartupPacket,
    startup: &[u8],
    stream: &Stream,
    address: Option<SocketAddr>,
    worker: &Worker,
    config: &Arc<Config>,
    until: Option<Instant>,
) -> Result<Connected, Refusal> {
    if let Some(refusal) = tls::refuses_session(stream, &config.tls, &packet.user) {
        return Err(refusal);
    }
    let registry = &worker.shared.registry;
    let permit = permit(registry, config.upstream.max_sessions)
        .await
        .ok_or(Refusal::TooManySessions)?;
    let opened = upstream::open_session(config, &worker.shared, startup)
        .await
        .map_err(Refusal::Unreachable)?;
    let server = crate::registry::Server {
        index: opened.index,
        resolved: opened.resolved,
        encrypted: opened.stream.is_tls(),
    };
    let entry = registry.enter(Arc::clone(config), server, permit);
    let who = Who {
        session: entry.id(),
        client_addr: address,
        client_pid: stream.peer_pid(),
        user: packet.user.as_str().into(),
        database: packet.database.as_str().into(),
        application_name: packet.get("application_name").unwrap_or_default().into(),
        server_pid: None,
        tls: stream.is_tls(),
    };
    let replication = packet.replication();
    // A reload tells all who are entered by then; who is entered later reads the new rules here.
    let limits = worker
        .config()
        .rules
        .decide(&who.identity(&who.application_name, replication));
    let opening = SessionParams {
        who,
        replication,
        records: worker.shared.events.want_transactions() || worker.shared.recorder.is_some(),
        keeps_server: config.upstream.pooler == Pooler::Session,
        nonce: RandomState::new().hash_one(entry.id()),
        binding: binding(stream, &opened.stream, config),
        target: config.upstream.target,
        authenticate_by: until.map(Instant::into_std),
    };
    let now = Instant::now().into_std();
    let recorder = worker.shared.recorder.as_ref().filter(|_| !replication);
    let tape = recorder.and_then(|recorder| recorder.tape(entry.id(), now));
    let session = Recorded::new(Session::new(opening, limits, now), tape);
    worker.shared.events.emit(session.who(), Event::Opened);
    Ok((session, (opened.stream, opened.answer), entry))
}

/// A place for a session. When all are taken, clients that are slow to log in give way: they may be many, and mean no good.
async fn permit(registry: &Registry, limit: Option<NonZeroUsize>) -> Option<Permit> {
    if let Some(permit) = registry.permit(limit) {
        return Some(permit);
    }
    if !registry.end_slowest_login(LOGIN_PATIENCE) {
        return None;
    }
    let freed = async {
        loop {
            tokio::time::sleep(SEAT_POLL).await;
            if let Some(permit) = registry.permit(limit) {
                return permit;
            }
        }
    };
    tokio::time::timeout(SEAT_WAIT, freed).await.ok()
}

/// Whether what a client proves about its TLS connection holds for the server's: for the binding that PostgreSQL knows,
/// `tls-server-end-point`, when both have the same certificate.
fn binding(client: &Stream, server: &Stream, config: &Config) -> ChannelBinding {
    let shown = config.tls.acceptor.as_ref().filter(|_| client.is_tls());
    match server.peer_certificate() {
        Some(seen) if shown.is_none_or(|shown| shown.certificate != *seen) => {
            ChannelBinding::Hidden
        }
        Some(_) | None => ChannelBinding::Passes,
    }
}
