//! Listening sockets, shared by all threads: each thread accepts from all of them.

use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

use super::{Shared, Worker, handshake, stream::Stream, upstream::KEEPALIVE};
use crate::config::Address;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a timer rings in a thread that has nothing else to do.
const TIMER_INTERVAL: Duration = Duration::from_secs(1);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}: {source}")]
pub struct ListenError {
    address: Address,
    source: io::Error,
}

/// A socket that listens. The file of a Unix socket is removed with it.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: Address,
    file: Option<PathBuf>,
}

impl Bound {
    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = fs::remove_file(file)
        {
            tracing::debug!(file = %file.display(), %error, "could not remove the socket");
        }
    }
}

/// Listens on an address; a host name on all addresses that it has.
///
/// # Errors
/// The address is taken, not this machine's, or not permitted.
pub fn bind(address: &Address) -> Result<Vec<Bound>, ListenError> {
    let failed = |source| ListenError {
        address: address.clone(),
        source,
    };
    match address {
        Address::Tcp { host, port } => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
            addresses
                .map(|address| bind_tcp(address).map_err(failed))
                .collect()
        }
        Address::Unix(path) => Ok(vec![bind_unix(path).map_err(failed)?]),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
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
    Ok(Bound {
        socket,
        address: Address::Tcp {
            host: bound.ip().to_string(),
            port: bound.port(),
        },
        file: None,
    })
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        // A file that nobody listens behind is left over from a process that was killed.
        let abandoned = error.kind() == io::ErrorKind::AddrInUse
            && StdUnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !abandoned {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    // As unix_socket_permissions of PostgreSQL: everybody may connect, the server authenticates.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    socket.listen(BACKLOG)?;
    Ok(Bound {
        socket,
        address: Address::Unix(path.to_owned()),
        file: Some(path.to_owned()),
    })
}

/// Accepts on one thread until `stop` says so; each connection becomes a task of that thread.
pub(super) async fn accept(
    bound: &Bound,
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let socket = bound.socket.try_clone()?;
    let listener = match bound.address {
        Address::Tcp { .. } => Listener::Tcp(TcpListener::from_std(socket.into())?),
        Address::Unix(_) => Listener::Unix(UnixListener::from_std(socket.into())?),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|&stop| stop) => return Ok(()),
        };
        match accepted {
            Ok((stream, client)) => {
                tokio::spawn(handshake::serve(stream, client, Arc::clone(&worker)));
            }
            Err(error) => {
                tracing::warn!(address = %bound.address, %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves on the calling thread until `stop` says so and every session of the thread is over.
///
/// # Errors
/// The thread's runtime or its share of a listening socket cannot be made.
pub fn run(
    shared: Arc<Shared>,
    bound: Arc<[Bound]>,
    stop: watch::Receiver<bool>,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let worker = Arc::new(Worker {
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
