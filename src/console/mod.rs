//! The console: a database name at which pgidle itself answers, on every listener.
//!
//! A worker hands the connection over to a thread of the console's own and from then on only moves its bytes, so that
//! nothing that is asked here costs a session anything: neither a long table nor garbage. pgwire speaks the protocol,
//! with messages that `messages.rs` has found whole and in form; what is asked is read in `statement.rs`, what is shown
//! is put together in `show.rs`, and who may ask is decided in `access.rs`.

mod access;
mod handler;
mod messages;
mod show;
mod statement;
mod table;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use futures_util::StreamExt as _;
use pgwire::{
    api::{ClientInfo as _, DefaultClient, NoopHandler, PgWireConnectionState},
    error::{ErrorInfo, PgWireError},
    messages::PgWireFrontendMessage,
    tokio::server::{PgWireMessageServerCodec, process_error, process_message},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, copy_bidirectional, duplex},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::codec::Framed;

use self::{
    access::{Login, User},
    messages::Messages,
    statement::Statement,
    table::Value,
};
use crate::{
    audit::{Audit, Texts},
    config::{Config, Reloaded},
    metrics::Metrics,
    registry::Registry,
    session::event,
};

/// What `SHOW VERSION` says.
const VERSION: &str = concat!("pgidle ", env!("CARGO_PKG_VERSION"));

/// What is said to be a server's version: drivers read the number in front.
const SERVER_VERSION: &str = concat!("18.0 (pgidle ", env!("CARGO_PKG_VERSION"), ")");

/// How many connections there may be at once: each is a person or a monitor.
const MAX_CONNECTIONS: usize = 100;

/// Bytes that are on their way between a worker and the console.
const ON_THE_WAY: usize = 64 << 10;

/// What the console asks of the program.
#[derive(Debug)]
pub enum Request {
    /// Read the settings again, for this user; what comes back is what has changed, or what is wrong.
    Reload(Arc<str>, oneshot::Sender<Result<Reloaded, String>>),
    /// Accept no more, let transactions finish, and end; this user wants it.
    Drain(Arc<str>),
    /// End at once; this user wants it.
    Shutdown(Arc<str>),
}

impl Request {
    /// The command.
    const fn name(&self) -> &'static str {
        match self {
            Self::Reload(..) => "RELOAD",
            Self::Drain(_) => "DRAIN",
            Self::Shutdown(_) => "SHUTDOWN",
        }
    }
}

/// The way to the console, for those who accept connections. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Console {
    connections: mpsc::UnboundedSender<Connection>,
    places: Arc<Semaphore>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many connections to the console")]
pub struct Full;

/// Who connects, and how.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        event::ClientAddress(self.address).fmt(f)
    }
}

/// A connection on its way to the console.
#[derive(Debug)]
struct Connection {
    stream: DuplexStream,
    peer: Peer,
}

/// What the console looks at.
#[derive(Debug)]
pub struct Context {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// The last incidents.
    pub audit: Audit,
    /// What was counted.
    pub metrics: Metrics,
    /// The settings in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// Where commands for the program go.
    pub requests: mpsc::UnboundedSender<Request>,
    /// Texts without their literals.
    texts: Mutex<Texts>,
}

impl Context {
    /// A console over these.
    pub fn new(
        registry: Arc<Registry>,
        audit: Audit,
        metrics: Metrics,
        config: watch::Receiver<Arc<Config>>,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Self {
        Self {
            registry,
            audit,
            metrics,
            config,
            requests,
            texts: Mutex::default(),
        }
    }

    /// The text of a statement as the audit would show it.
    fn shown(&self, statement: Option<&event::Statement>) -> Value {
        let literals = self.config.borrow().audit.literals;
        let text = match statement {
            Some(statement) if literals => statement.text.clone(),
            Some(statement) => {
                let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
                texts.of(statement).0
            }
            None => None,
        };
        text.into()
    }
}

impl Console {
    /// A way to the console, and its other end, which [`run`] takes.
    pub fn new() -> (Self, Doorway) {
        let (connections, doorway) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        (
            Self {
                connections,
                places,
            },
            Doorway(doorway),
        )
    }

    /// Brings a connection to the console, and moves its bytes until one side leaves. `startup` is the startup packet, and
    /// what came after it.
    ///
    /// # Errors
    /// There are too many connections already.
    pub async fn bring(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        startup: &[u8],
        peer: Peer,
    ) -> Result<(), Full> {
        let _place = self.places.try_acquire().map_err(|_| Full)?;
        let (mut near, far) = duplex(ON_THE_WAY);
        let connection = Connection { stream: far, peer };
        // Where nobody takes it, the program is ending, and so does the connection.
        if self.connections.send(connection).is_ok() && near.write_all(startup).await.is_ok() {
            drop(copy_bidirectional(stream, &mut near).await);
        }
        Ok(())
    }
}

/// The other end of the way to the console.
#[derive(Debug)]
pub struct Doorway(mpsc::UnboundedReceiver<Connection>);

/// Serves connections, for as long as some may come.
pub async fn run(mut doorway: Doorway, context: Arc<Context>) {
    while let Some(connection) = doorway.0.recv().await {
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let peer = connection.peer;
            if let Err(error) = serve(connection, context).await {
                tracing::info!(client = %peer, %error, "a connection to the console was lost");
            }
        });
    }
}

/// One connection, as pgwire's handlers see it.
#[derive(Debug)]
struct Desk {
    context: Arc<Context>,
    peer: Peer,
    /// Whether it comes from this host.
    is_local: bool,
    login: Login,
    user: OnceLock<User>,
}

async fn serve(connection: Connection, context: Arc<Context>) -> io::Result<()> {
    let peer = connection.peer;
    let login_time = context.config.borrow().startup_timeout;
    let desk = Arc::new(Desk {
        context,
        peer,
        is_local: peer
            .address
            .is_none_or(|address| address.ip().to_canonical().is_loopback()),
        login: Login::default(),
        user: OnceLock::new(),
    });
    let address = peer
        .address
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let client = DefaultClient::<Statement>::new(address, peer.tls);
    let stream = Messages::new(connection.stream);
    let mut socket = Framed::new(stream, PgWireMessageServerCodec::new(client));
    socket.set_state(PgWireConnectionState::AwaitingStartup);
    let authenticated = async {
        while desk.user.get().is_none() {
            if !step(&mut socket, &desk).await? {
                return Ok(false);
            }
        }
        Ok::<_, io::Error>(true)
    };
    let authenticated = match login_time {
        Some(limit) => match timeout(limit, authenticated).await {
            Ok(authenticated) => authenticated,
            Err(_) => {
                let why = "canceling authentication due to timeout";
                let late = fatal("57014", why.to_owned());
                process_error(&mut socket, late, true).await.map(|()| false)
            }
        },
        None => authenticated.await,
    };
    if authenticated? {
        while step(&mut socket, &desk).await? {}
    }
    Ok(())
}

type Socket = Framed<Messages, PgWireMessageServerCodec<Statement>>;

/// Deals with one message; `false` when it was the last.
async fn step(socket: &mut Socket, desk: &Arc<Desk>) -> io::Result<bool> {
    let message = match socket.next().await {
        None => return Ok(false),
        Some(Err(PgWireError::IoError(error))) if error.kind() != io::ErrorKind::InvalidData => {
            return Err(error);
        }
        Some(Err(why)) => {
            process_error(socket, fatal("08P01", why.to_string()), true).await?;
            return Ok(false);
        }
        Some(Ok(PgWireFrontendMessage::Terminate(_))) => return Ok(false),
        Some(Ok(message)) => message,
    };
    let (extended, noop) = (message.is_extended_query(), Arc::new(NoopHandler));
    let processed = process_message(
        message,
        socket,
        Arc::clone(desk),
        Arc::clone(desk),
        Arc::clone(desk),
        Arc::clone(&noop),
        noop,
    );
    if let Err(error) = processed.await {
        let ends = error.is_fatal() || desk.user.get().is_none();
        // After the last word there is no ReadyForQuery.
        process_error(socket, error, extended || ends).await?;
        return Ok(!ends);
    }
    Ok(true)
}

/// An error after which the connection goes on.
fn error(sqlstate: &str, message: String) -> PgWireError {
    said("ERROR", sqlstate, message)
}

/// An error that ends the connection.
fn fatal(sqlstate: &str, message: String) -> PgWireError {
    said("FATAL", sqlstate, message)
}

fn said(severity: &str, sqlstate: &str, message: String) -> PgWireError {
    let mut info = ErrorInfo::new(severity.to_owned(), sqlstate.to_owned(), message);
    info.severity_nonlocalized = Some(severity.to_owned());
    PgWireError::UserError(Box::new(info))
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is shown to people, who read clocks on the wall"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
