//! Sessions between two Unix sockets, with a clock that stands still until a test moves it.

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::{self, JoinHandle},
    time::{Instant, advance},
};

use super::{
    SCRATCH, Shared, Worker,
    recorded::Recorded,
    refusal_log::RefusalLog,
    relay::{self, Relay},
    server_role::RoleCache,
    stream::Stream,
};
use crate::{
    audit::Audit,
    config::{AuditSettings, Config},
    console::Console,
    events::Events,
    metrics::Metrics,
    observer::Observer,
    policy::{Action, Ladder, Limits, StuckKind},
    prover::Prover,
    registry::{Entrance, Server},
    session::{Session, SessionParams},
};

/// A session, and both its ends.
struct World {
    client: UnixStream,
    server: UnixStream,
    session: JoinHandle<()>,
    worker: Arc<Worker>,
    /// While a thread waits for this, the runtime does not move the clock by itself when it is idle: sockets are not.
    _clock_stands: mpsc::Sender<()>,
}

impl World {
    /// A session whose server has let the client in.
    async fn new(kind: StuckKind, action: Action, limit: Duration) -> Self {
        let (clock_stands, moves) = mpsc::channel::<()>();
        task::spawn_blocking(move || moves.recv());
        let (_, config) = watch::channel(Arc::new(Config::default()));
        let metrics = Metrics::new().unwrap();
        let traffic = metrics.traffic();
        let shared = Shared {
            registry: Arc::default(),
            console: Console::new().0,
            events: Events::new(
                Audit::start(AuditSettings::default()).unwrap(),
                metrics.clone(),
            ),
            metrics,
            observer: Observer::default(),
            prover: Prover::start().unwrap(),
            recorder: None,
            roles: RoleCache::default(),
            refusals: RefusalLog::default(),
            config,
        };
        let worker = Arc::new(Worker {
            traffic,
            by_database: Mutex::default(),
            shared: Arc::new(shared),
            scratch: Mutex::new(vec![0; SCRATCH].into()),
        });
        let mut limits = Limits::default();
        limits.ladders[kind] = Ladder::new([(action, limit)]).unwrap();
        let now = Instant::now().into_std();
        let session = Session::new(SessionParams::default(), Arc::new(limits), now);
        let session = Recorded::new(session, None);
        let server = Server {
            index: 0,
            resolved: None,
            encrypted: false,
        };
        let registry = &worker.shared.registry;
        let permit = registry.permit(None).unwrap();
        let entry = registry.enter(worker.config(), server, permit);
        let (client, client_end) = UnixStream::pair().unwrap();
        let (server, server_end) = UnixStream::pair().unwrap();
        let ends = (Stream::Unix(client_end), Stream::Unix(server_end));
        // What the server said during the handshake comes first.
        let early = (Vec::new(), ready('I'));
        let relay = Relay::new(session, ends.0, ends.1, early, entry);
        let session = tokio::spawn(relay::run(Box::new(relay), Arc::clone(&worker)));
        let mut world = Self {
            client,
            server,
            session,
            worker,
            _clock_stands: clock_stands,
        };
        hears(&mut world.client, &ready('I')).await;
        world
    }

    /// The client sends a query, and the server answers it.
    async fn query(&mut self, sql: &str, answer: &[u8]) {
        let query = query(sql);
        says(&mut self.client, &query).await;
        hears(&mut self.server, &query).await;
        says(&mut self.server, answer).await;
        hears(&mut self.client, answer).await;
    }

    /// Opens a transaction.
    async fn begin(&mut self) {
        self.query("BEGIN", &[complete("BEGIN"), ready('T')].concat())
            .await;
    }

    /// A transaction has been idle for so long that it is rolled back; the server has yet to do it.
    async fn rolled_back(limit: Duration) -> Self {
        let mut world = Self::new(StuckKind::Idle, Action::Rollback, limit).await;
        world.begin().await;
        advance(limit).await;
        let (tag, body) = message(&mut world.server).await;
        assert!(tag == b'Q' && body.starts_with(b"ROLLBACK; BEGIN"));
        world
    }
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', format!("{sql}\0").as_bytes())
}

fn complete(tag: &str) -> Vec<u8> {
    frame(b'C', format!("{tag}\0").as_bytes())
}

fn ready(status: char) -> Vec<u8> {
    frame(b'Z', status.to_string().as_bytes())
}

async fn says(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

async fn hears(stream: &mut UnixStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert!(bytes == expected, "{}", String::from_utf8_lossy(&bytes));
}

/// The next message, with its body.
async fn message(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let tag = stream.read_u8().await.unwrap();
    let len = stream.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(len).unwrap() - 4];
    stream.read_exact(&mut body).await.unwrap();
    (tag, body)
}

async fn hears_the_end(stream: &mut UnixStream) {
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

/// Nothing comes, although everyone who can has gone on.
async fn hears_nothing(stream: &UnixStream) {
    for _ in 0..20 {
        task::yield_now().await;
    }
    let error = stream.try_read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// The session is not over, although everyone who can has gone on.
async fn lives_on(session: &JoinHandle<()>) {
    for _ in 0..20 {
        task::yield_now().await;
    }
    assert!(!session.is_finished());
}

const LIMIT: Duration = Duration::from_secs(30);
const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn an_idle_transaction_is_rolled_back_at_its_limit_and_not_before() {
    let mut world = World::new(StuckKind::Idle, Action::Rollback, LIMIT).await;
    world.begin().await;
    advance(LIMIT - MILLISECOND).await;
    hears_nothing(&world.server).await;
    // The clock of the limit begins anew, and the timer that was armed rings for nothing.
    world
        .query("SELECT 1", &[complete("SELECT 1"), ready('T')].concat())
        .await;
    advance(LIMIT - MILLISECOND).await;
    hears_nothing(&world.server).await;
    advance(MILLISECOND).await;
    let (tag, body) = message(&mut world.server).await;
    assert!(tag == b'Q' && body.starts_with(b"ROLLBACK; BEGIN"));
}

#[tokio::test(start_paused = true)]
async fn what_a_held_client_sends_waits_and_is_dealt_with_afterwards() {
    let mut world = World::rolled_back(LIMIT).await;
    // More than the buffer has room for: the rest stays in the socket.
    let sent = query("SELECT 1").repeat(10_000);
    assert!(sent.len() > SCRATCH);
    says(&mut world.client, &sent).await;
    hears_nothing(&world.server).await;
    hears_nothing(&world.client).await;
    let error = frame(b'E', b"SERROR\0VERROR\0C22P02\0Mtext\0\0");
    let answer = [complete("ROLLBACK"), complete("BEGIN"), error, ready('E')];
    says(&mut world.server, &answer.concat()).await;
    let (tag, body) = message(&mut world.client).await;
    assert!(tag == b'E' && body.windows(6).any(|part| part == b"C25P03"));
    hears(&mut world.client, &ready('E')).await;
    // What comes after the error goes to the server, one request at a time.
    hears(&mut world.server, &query("SELECT 1")).await;
    hears_nothing(&world.server).await;
}

/// The request that was held has only just reached the server, which ignores a CancelRequest until it has begun.
#[tokio::test(start_paused = true)]
async fn a_cancel_is_no_faster_than_the_request_that_was_held() {
    let mut world = World::rolled_back(LIMIT).await;
    says(&mut world.client, &query("SELECT 1").repeat(2)).await;
    hears_nothing(&world.server).await;
    let error = frame(b'E', b"SERROR\0VERROR\0C22P02\0Mtext\0\0");
    let answer = [complete("ROLLBACK"), complete("BEGIN"), error, ready('E')];
    says(&mut world.server, &answer.concat()).await;
    hears(&mut world.server, &query("SELECT 1")).await;
    let entry = world.worker.shared.registry.get(1).unwrap();
    let comes = || match entry.enter_gate() {
        Entrance::Open(_) => None,
        Entrance::Waits(decided) => Some(decided),
    };
    let mut early = comes().unwrap();
    advance(Duration::from_millis(249)).await;
    hears_nothing(&world.server).await;
    assert!(early.try_recv().is_err(), "undecided");
    advance(MILLISECOND).await;
    drop(early.await.unwrap());
    let late = comes().unwrap();
    drop(late.await.unwrap());
    assert!(comes().is_none(), "later ones wait for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_leaves_takes_its_session_with_it_when_the_server_does_not_answer() {
    let mut world = World::rolled_back(LIMIT).await;
    drop(world.client);
    hears_nothing(&world.server).await;
    advance(Duration::from_secs(2)).await;
    hears_the_end(&mut world.server).await;
    world.session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_terminated_client_may_linger_for_two_seconds_and_holds_no_place() {
    let mut world = World::new(StuckKind::Idle, Action::Terminate, LIMIT).await;
    world.begin().await;
    advance(LIMIT).await;
    hears(&mut world.server, &frame(b'X', b"")).await;
    hears_the_end(&mut world.server).await;
    let (tag, body) = message(&mut world.client).await;
    assert!(tag == b'E' && body.starts_with(b"SFATAL"));
    hears_the_end(&mut world.client).await;
    assert_eq!(world.worker.shared.registry.len(), 0);
    advance(Duration::from_secs(2) - MILLISECOND).await;
    lives_on(&world.session).await;
    advance(MILLISECOND * 2).await;
    world.session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_after_its_last_request_gets_the_answer() {
    let mut world = World::new(StuckKind::Idle, Action::Log, LIMIT).await;
    says(&mut world.client, &query("SELECT 1")).await;
    world.client.shutdown().await.unwrap();
    hears(&mut world.server, &query("SELECT 1")).await;
    hears_the_end(&mut world.server).await;
    let answer = [complete("SELECT 1"), ready('I')].concat();
    says(&mut world.server, &answer).await;
    drop(world.server);
    hears(&mut world.client, &answer).await;
    hears_the_end(&mut world.client).await;
    drop(world.client);
    world.session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_keeps_its_server_from_writing_and_loses_nothing() {
    let mut world = World::new(StuckKind::Idle, Action::Log, LIMIT).await;
    says(&mut world.client, &query("SELECT")).await;
    hears(&mut world.server, &query("SELECT")).await;
    let rows: Vec<u8> = (0..200_u8)
        .flat_map(|byte| frame(b'D', &[byte; 50_000]))
        .collect();
    let mut sent = 0;
    for _ in 0..2000 {
        sent += world.server.try_write(&rows[sent..]).unwrap_or(0);
        task::yield_now().await;
    }
    assert!(sent < rows.len() / 2, "{sent} bytes were taken");
    let (mut server, rest) = (world.server, rows[sent..].to_vec());
    let writes = tokio::spawn(async move { says(&mut server, &rest).await });
    hears(&mut world.client, &rows).await;
    writes.await.unwrap();
}
