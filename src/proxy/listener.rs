//! Listening sockets, shared by all threads: each thread accepts from all of them.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Shared, Worker, handshake,
    stream::{KEEPALIVE, Stream},
};
use crate::config::Address;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a process that another one takes over from still accepts: as long as the last part of a handshake may be on its
/// way. It is less than the second after which a client sends its first part again, which the other process then answers.
const LAST_ACCEPTS: Duration = Duration::from_millis(500);

/// How long others take what is in their queue.
const QUEUE_ACCEPTS: Duration = Duration::from_millis(20);

/// Drops the first part of a TCP handshake (SYN without ACK, in byte 13 of the header) and lets all else in.
const NO_NEWCOMERS: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),       // A = byte 13
    SockFilter::new(0x54, 0, 0, 0x12),     // A &= SYN | ACK
    SockFilter::new(0x15, 0, 1, 0x02),     // is A == SYN?
    SockFilter::new(0x06, 0, 0, 0),        // yes: drop
    SockFilter::new(0x06, 0, 0, u32::MAX), // no: keep
];

/// How often a timer rings in a thread that has nothing else to do.
const TIMER_INTERVAL: Duration = Duration::from_secs(1);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}: {source}{hint}")]
pub struct ListenError {
    address: Address,
    source: io::Error,
    hint: &'static str,
}

impl ListenError {
    fn new(address: &Address, source: io::Error, reuse_port: bool) -> Self {
        let taken = source.kind() == io::ErrorKind::AddrInUse;
        Self {
            address: address.clone(),
            source,
            hint: match reuse_port {
                true if taken => {
                    "; the process that listens there was not started with --reuse-port"
                }
                false if taken => {
                    "; a process that takes over from another one is started with --reuse-port, as that one was"
                }
                _ => "",
            },
        }
    }
}

/// A socket that listens. The file of a Unix socket is removed with it.
#[derive(Debug)]
pub struct ListeningSocket {
    socket: Socket,
    address: Address,
    file: Option<SocketFile>,
    /// Whether another process may listen at the same address.
    shared: bool,
}

/// The file of a Unix socket, by path and identity: another process may have put its own there since.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        })
    }

    fn remove(&self) -> io::Result<()> {
        let file = fs::symlink_metadata(&self.path)?;
        if (file.dev(), file.ino()) == (self.device, self.inode) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

impl ListeningSocket {
    /// The socket by itself, for one that is no session's; of TCP.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn try_clone(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = file.remove()
        {
            tracing::debug!(file = %file.path.display(), %error, "could not remove the socket");
        }
    }
}

/// Listens on an address; a host name on all addresses that it has. With `reuse_port` also where another process does
/// so that was started in the same way, to take over from it.
///
/// # Errors
/// The address is taken, not this machine's, or not permitted.
pub fn bind(address: &Address, reuse_port: bool) -> Result<Vec<ListeningSocket>, ListenError> {
    let failed = |source| ListenError::new(address, source, reuse_port);
    match address {
        Address::Tcp { host, port } => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
            // A name may stand for the same address twice.
            let addresses: BTreeSet<_> = addresses.collect();
            let bind = |address| bind_tcp(address, reuse_port).map_err(failed);
            addresses.into_iter().map(bind).collect()
        }
        Address::Unix(path) => Ok(vec![bind_unix(path, reuse_port).map_err(failed)?]),
    }
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<ListeningSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // Without asking, the kernel would share connections out among processes, whatever server each leads to.
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Linux hands these on to the sockets that are accepted.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(ListeningSocket {
        socket,
        address: Address::Tcp {
            host: bound.ip().to_string(),
            port: bound.port(),
        },
        file: None,
        shared: reuse_port,
    })
}

fn bind_unix(path: &Path, reuse_port: bool) -> io::Result<ListeningSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match occupant(path)? {
        Occupant::Nothing => listen_unix(&socket, path)?,
        Occupant::Abandoned => {
            fs::remove_file(path)?;
            listen_unix(&socket, path)?;
        }
        Occupant::Listening if reuse_port => {
            // Clients find the one socket or the other, and never none.
            let mut new = path.as_os_str().to_owned();
            new.push(format!(".{}", process::id()));
            listen_unix(&socket, Path::new(&new))?;
            fs::rename(new, path)?;
        }
        Occupant::Listening => return Err(io::ErrorKind::AddrInUse.into()),
        Occupant::NoSocket => return Err(io::Error::other("a file is there that is no socket")),
    }
    Ok(ListeningSocket {
        socket,
        address: Address::Unix(path.to_owned()),
        file: Some(SocketFile::new(path)?),
        shared: reuse_port,
    })
}

fn listen_unix(socket: &Socket, path: &Path) -> io::Result<()> {
    socket.bind(&SockAddr::unix(path)?)?;
    // As unix_socket_permissions of PostgreSQL: everybody may connect, the server authenticates.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    socket.listen(BACKLOG)
}

/// What is at a path where a socket was to be.
enum Occupant {
    Nothing,
    /// A socket of a process that was killed: connections are refused.
    Abandoned,
    Listening,
    NoSocket,
}

fn occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Ok(Occupant::NoSocket),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nothing),
        Err(error) => return Err(error),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where too many wait to be accepted, this one would have to wait too.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Occupant::Abandoned),
        Ok(()) | Err(_) => Ok(Occupant::Listening),
    }
}

/// Accepts on one thread until `stop` says so; each connection becomes a task of that thread.
pub(super) async fn accept(
    bound: &ListeningSocket,
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let socket = bound.socket.try_clone()?;
    let listener = match bound.address {
        Address::Tcp { .. } => Listener::Tcp(TcpListener::from_std(socket.into())?),
        Address::Unix(_) => Listener::Unix(UnixListener::from_std(socket.into())?),
    };
    // Until it is closed, sessions may come of it.
    let _arrival = worker.shared.registry.arrivals.note();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|&stop| stop) => break,
        };
        match accepted {
            Ok((stream, client)) => {
                failing = false;
                tokio::spawn(handshake::serve(stream, client, Arc::clone(&worker)));
            }
            Err(error) => {
                // Once, and not as often as it is tried.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(address = %bound.address, %error, "could not accept a connection");
                }
                worker.shared.metrics.accept_failed();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    accept_last(&listener, bound, &worker).await;
    Ok(())
}

/// Accepts who has connected already. What is in the queue of a socket that is closed would be reset, and so would clients
/// whose handshake is under way, although another process listens at the same address.
async fn accept_last(listener: &Listener, bound: &ListeningSocket, worker: &Arc<Worker>) {
    let mut until = Instant::now() + QUEUE_ACCEPTS;
    if bound.shared && matches!(listener, Listener::Tcp(_)) {
        match bound.socket.attach_filter(&NO_NEWCOMERS) {
            Ok(()) => until = Instant::now() + LAST_ACCEPTS,
            Err(error) => tracing::debug!(%error, "could not keep newcomers off the socket"),
        }
    }
    while let Ok(Ok((stream, client))) = timeout_at(until, listener.accept()).await {
        tokio::spawn(handshake::serve(stream, client, Arc::clone(worker)));
    }
}

/// Serves on the calling thread until `stop` says so and every session of the thread is over.
///
/// # Errors
/// The thread's runtime or its share of a listening socket cannot be made.
pub fn run(
    shared: Arc<Shared>,
    bound: Arc<[ListeningSocket]>,
    stop: watch::Receiver<bool>,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let worker = Arc::new(Worker {
        traffic: shared.metrics.traffic(),
        by_database: std::sync::Mutex::default(),
        shared,
        scratch: std::sync::Mutex::new(vec![0; super::SCRATCH].into()),
    });
    runtime.block_on(async {
        for index in 0..bound.len() {
            let (bound, worker, stop) = (Arc::clone(&bound), Arc::clone(&worker), stop.clone());
            tokio::spawn(async move {
                let Some(bound) = bound.get(index) else {
                    return;
                };
                if let Err(error) = accept(bound, worker, stop).await {
                    tracing::error!(address = %bound.address, %error, "could not accept connections");
                }
            });
        }
        drop(bound);
        tokio::spawn(keep_timers_running());
        // The sender is dropped only when the process ends.
        drop(ended.wait_for(|&ended| ended).await);
    });
    Ok(())
}

/// Lets a timer ring all the time, so that there is nearly always one that rings before a new one: tokio wakes the thread
/// by a system call when a timer is armed that comes before all others.
async fn keep_timers_running() {
    let mut interval = tokio::time::interval(TIMER_INTERVAL);
    loop {
        interval.tick().await;
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(client)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}
