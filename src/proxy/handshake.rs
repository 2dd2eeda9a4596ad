//! From an accepted connection to a session: the untagged first packet, the rule, the server connection.
//!
//! The startup packet goes on verbatim, and authentication is the relay's: bytes like any others.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    Worker, cancel,
    relay::{self, Relay},
    stream::Stream,
    upstream,
};
use crate::{
    policy::Identity,
    session::{Opening, Session, event::Who},
    wire::{
        Startup, StartupPacket,
        originate::{self, Report},
        parse_startup,
    },
};

/// The client's end of a connection: an address or, by a Unix socket, a process.
#[derive(Clone, Copy)]
struct Peer {
    address: Option<SocketAddr>,
    pid: Option<i32>,
}

/// Serves one connection from its first byte to its last.
pub(super) async fn serve(stream: Stream, client: Option<SocketAddr>, worker: Arc<Worker>) {
    // The handshake's state is large and short-lived: it lives in a box of its own.
    let config = worker.config();
    let opening = Box::pin(open(stream, client, Arc::clone(&worker)));
    let opened = match config.startup_timeout {
        Some(limit) => tokio::time::timeout(limit, opening)
            .await
            .unwrap_or_else(|_| {
                tracing::info!(?client, "no startup packet within {limit:?}");
                None
            }),
        None => opening.await,
    };
    drop(config);
    let Some(relay) = opened else {
        return;
    };
    relay::run(relay, worker).await;
}

async fn open(
    mut stream: Stream,
    client: Option<SocketAddr>,
    worker: Arc<Worker>,
) -> Option<Box<Relay>> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        let report = match parse_startup(&bytes) {
            Ok(None) => match stream.read_buf(&mut bytes).await {
                Ok(1..) => continue,
                // A port probe, or a client that changed its mind: PostgreSQL does not speak of it either.
                Ok(0) | Err(_) => return None,
            },
            Ok(Some((Startup::SslRequest | Startup::GssEncRequest, len))) => {
                drop(bytes.split_to(len));
                match stream.write_all(b"N").await {
                    Ok(()) => continue,
                    Err(_) => return None,
                }
            }
            Ok(Some((Startup::Cancel(key), _))) => {
                cancel::forward(&worker.shared, &key).await;
                return None;
            }
            Ok(Some((Startup::Session(packet), len))) => {
                let startup = bytes.split_to(len);
                match connect(
                    &packet,
                    &startup,
                    Peer {
                        address: client,
                        pid: stream.peer_pid(),
                    },
                    &worker,
                )
                .await
                {
                    Ok((session, server, entry)) => {
                        return Some(Box::new(Relay::new(
                            session,
                            stream,
                            server,
                            bytes.to_vec(),
                            entry,
                        )));
                    }
                    Err(report) => report,
                }
            }
            Ok(Some((Startup::DirectTls, _))) => {
                startup_failure("TLS is not offered here".to_owned(), "08P01")
            }
            Err(error) => startup_failure(error.to_string(), "08P01"),
        };
        tracing::info!(?client, reason = report.message, "refused a connection");
        let mut fatal = BytesMut::new();
        originate::fatal_response(&report, &mut fatal);
        if stream.write_all(&fatal).await.is_ok() {
            relay::linger(stream).await;
        }
        return None;
    }
}

type Connected = (Session, Stream, Arc<crate::registry::Entry>);

async fn connect(
    packet: &StartupPacket,
    startup: &[u8],
    client: Peer,
    worker: &Worker,
) -> Result<Connected, Report> {
    let config = worker.config();
    let unreachable = |error: &dyn std::fmt::Display| startup_failure(error.to_string(), "08006");
    let mut server = upstream::connect(&config.upstream.address, config.upstream.connect_timeout)
        .await
        .map_err(|error| unreachable(&error))?;
    server
        .write_all(startup)
        .await
        .map_err(|error| unreachable(&error))?;
    let entry = worker.shared.registry.enter(Arc::clone(&config));
    let who = who(packet, client, entry.id());
    let replication = packet.replication();
    let limits = config.rules.decide(&identity(&who, replication));
    let opening = Opening {
        who,
        replication,
        records: worker.shared.audit.wants_transactions(),
    };
    Ok((
        Session::new(opening, limits, Instant::now().into_std()),
        server,
        entry,
    ))
}

/// What the rules match on.
pub(super) fn identity(who: &Who, replication: bool) -> Identity<'_> {
    Identity {
        user: &who.user,
        database: &who.database,
        application_name: &who.application_name,
        client: who.client_addr.map(|address| address.ip()),
        replication,
    }
}

fn who(packet: &StartupPacket, client: Peer, session: u64) -> Who {
    let user = packet.get("user").unwrap_or_default();
    Who {
        session,
        client_addr: client.address,
        client_pid: client.pid,
        user: user.into(),
        database: packet.get("database").unwrap_or(user).into(),
        application_name: packet.get("application_name").unwrap_or_default().into(),
        server_pid: None,
        tls: false,
    }
}

fn startup_failure(message: String, sqlstate: &'static str) -> Report {
    Report {
        sqlstate,
        message: format!("pgidle: {message}"),
        detail: String::new(),
        hint: String::new(),
    }
}
