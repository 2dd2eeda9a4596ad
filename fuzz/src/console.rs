//! The console as a stranger meets it: messages of any kind, in any pieces.
//!
//! The first byte says whether there are users, who have to log in, and in what pieces the bytes come. Every other one
//! says what comes next, with the bytes after it as arguments.

use std::{
    cell::Cell,
    net::SocketAddr,
    panic,
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use pgidle::{
    audit::Audit,
    config::{Config, ConsoleUser, Role, Secret},
    console::{self, Console, Context, Peer, Request},
    metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::yield_now,
    time::timeout,
};

/// What a client says; a `#` is the nonce that the server has said last.
const MENU: &[(u8, &[u8])] = &[
    (b'Q', b"SHOW HELP\0"),
    (b'Q', b"SHOW SESSIONS id, \"state\", query\0"),
    (
        b'Q',
        b"SHOW TRANSACTIONS; SHOW INCIDENTS time; SHOW LOCKS\0",
    ),
    (b'Q', b"SHOW BLOCKERS public.t SHARE UPDATE EXCLUSIVE\0"),
    (b'Q', b"SHOW CONFIG; SHOW RULES; SHOW VERSION\0"),
    (b'Q', b"SHOW server_version\0"),
    (b'Q', b"ROLLBACK 1\0"),
    (b'Q', b"TERMINATE 18446744073709551616\0"),
    (b'Q', b"RELOAD; DRAIN; SHUTDOWN\0"),
    (b'Q', b"DRAIN\0"),
    (b'Q', b"BEGIN; SET x = 1; COMMIT\0"),
    (
        b'Q',
        b"SELECT version(), current_schema() AS s, -1, 'a', true, current_setting('timezone')\0",
    ),
    (
        b'Q',
        b"SELECT name FROM pg_settings WHERE name LIKE 'se%' -- /* \0",
    ),
    (b'Q', b"\0"),
    (b'P', b"\0SHOW LISTS\0\0\0"),
    (b'P', b"s\0SELECT 1, version()\0\0\x01\0\0\0\x17"),
    (b'B', b"\0\0\0\0\0\0\0\0"),
    (b'B', b"p\0s\0\0\x01\0\x01\0\x01\0\0\0\x01x\0\x01\0\x01"),
    (b'D', b"S\0"),
    (b'D', b"Pp\0"),
    (b'E', b"\0\0\0\0\0"),
    (b'E', b"p\0\0\0\0\x01"),
    (b'C', b"Ss\0"),
    (b'C', b"P\0"),
    (b'S', b""),
    (b'H', b""),
    (b'F', b"\0\0\0\x01\0\0\0\0\0\0"),
    (b'd', b"x"),
    (b'c', b""),
    (b'f', b"no\0"),
    (b'X', b""),
    (b'p', b"secret\0"),
    (b'p', b"SCRAM-SHA-256\0\0\0\0\x0an,,n=,r=xy"),
    (
        b'p',
        b"SCRAM-SHA-256-PLUS\0\0\0\0\x23p=tls-server-end-point,,n=,r=xyzxyzx",
    ),
    (b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
    (
        b'p',
        b"c=biws,r=#,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ),
    (b'p', b"c=biws,r=#,p="),
];

/// What a server says: the types of its messages.
const ANSWERS: &[u8] = b"RSKvZTDCEN123Inst";

/// No more happens in one input.
const MAX_STEPS: usize = 200;

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
    static WORLDS: [World; 2] = [World::new(false), World::new(true)];
}

/// A console, and who waits at the other end of what it asks of the program.
struct World {
    runtime: Runtime,
    console: Console,
    requests: Mutex<mpsc::UnboundedReceiver<Request>>,
}

impl World {
    fn new(users: bool) -> Self {
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let mut config = Config::default();
        if users {
            config.console.users.push(ConsoleUser {
                name: "ops".to_owned(),
                role: Role::Admin,
                secret: Secret::Verifier {
                    iterations: 4096,
                    salt: vec![1; 16],
                    stored_key: vec![2; 32],
                    server_key: vec![3; 32],
                },
            });
        }
        let (console, doorway) = Console::new();
        let (asked, requests) = mpsc::unbounded_channel();
        let audit = Audit::start(config.audit.clone()).expect("an audit without a file");
        let (_, config) = watch::channel(Arc::new(config));
        let metrics = Metrics::new().expect("metrics");
        let context = Context::new(Arc::default(), audit, metrics, config, asked);
        runtime.spawn(console::run(doorway, Arc::new(context)));
        Self {
            runtime,
            console,
            requests: Mutex::new(requests),
        }
    }

    /// A connection from this host.
    fn connect(&self) -> Client {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let console = self.console.clone();
        let peer = Peer {
            address: Some(SocketAddr::from(([127, 0, 0, 1], 7))),
            tls: false,
        };
        let startup = b"\0\0\0\x22\0\x03\0\0user\0ops\0database\0pgidle\0\0";
        tokio::spawn(async move { console.bring(&mut far, startup, peer).await });
        let (mut reader, stream) = tokio::io::split(near);
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let hears = Arc::clone(&heard);
        let reading = tokio::spawn(async move {
            let mut piece = [0; 4096];
            while let Ok(1..) = reader.read(&mut piece).await.inspect(|&len| {
                hears
                    .lock()
                    .expect("no panic")
                    .extend_from_slice(&piece[..len]);
            }) {}
        });
        Client {
            stream,
            heard,
            reading,
        }
    }
}

/// One connection, as its client has it.
struct Client {
    stream: tokio::io::WriteHalf<DuplexStream>,
    heard: Arc<Mutex<Vec<u8>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Client {
    /// The nonce that the server has said last.
    fn nonce(&self) -> Vec<u8> {
        let heard = self.heard.lock().expect("no panic");
        let begin = heard.windows(2).rposition(|pair| pair == b"r=");
        let nonce = begin.map(|begin| &heard[begin + 2..]).unwrap_or_default();
        let end = nonce.iter().position(|&byte| byte == b',');
        nonce[..end.unwrap_or_default()].to_vec()
    }

    /// Sends bytes in pieces of this size; where nobody reads them any more, they are lost.
    async fn send(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            drop(self.stream.write_all(piece).await);
            yield_now().await;
        }
    }

    /// Lets the other side do what it can.
    async fn settle(&self) {
        for _ in 0..30 {
            yield_now().await;
        }
    }
}

/// Nothing panics, who has not logged in is told nothing, nobody steers the program, and each connection ends.
pub fn console(data: &[u8]) {
    note_panics();
    let Some((&flags, mut program)) = data.split_first() else {
        return;
    };
    let users = flags & 1 == 1;
    let piece = if flags & 2 == 2 {
        usize::from(flags >> 2) + 1
    } else {
        usize::MAX
    };
    WORLDS.with(|worlds| {
        let world = &worlds[usize::from(users)];
        let heard = world.runtime.block_on(async {
            let mut client = world.connect();
            client.settle().await;
            for _ in 0..MAX_STEPS {
                if program.is_empty() {
                    break;
                }
                let (said, waits) = step(&mut program, &client);
                client.send(&said, piece).await;
                if waits {
                    client.settle().await;
                }
            }
            drop(client.stream.shutdown().await);
            let ended = timeout(Duration::from_secs(20), client.reading).await;
            ended
                .expect("a connection whose client has gone ends")
                .expect("a reader");
            std::mem::take(&mut *client.heard.lock().expect("no panic"))
        });
        assert!(!PANICKED.take(), "the console has panicked");
        let asked = world.requests.lock().expect("no panic").try_recv();
        assert!(asked.is_err(), "{asked:?} by a stranger");
        check(&heard, users);
    });
}

/// What comes next, and whether its answer is waited for.
fn step(program: &mut &[u8], client: &Client) -> (Vec<u8>, bool) {
    let op = usize::from(take(program, 1).first().copied().unwrap_or_default());
    let byte =
        |program: &mut &[u8]| usize::from(take(program, 1).first().copied().unwrap_or_default());
    let said = match op & 7 {
        0..5 => {
            let (tag, body) = MENU[byte(program) % MENU.len()];
            let mut said = Vec::new();
            for &byte in body {
                match byte {
                    b'#' => said.extend(client.nonce()),
                    _ => said.push(byte),
                }
            }
            message(tag, &said)
        }
        5 => {
            let len = byte(program);
            let text = [take(program, len), b"\0"].concat();
            match op & 16 {
                0 => message(b'Q', &text),
                _ => message(b'P', &[b"\0", &*text, b"\0\0"].concat()),
            }
        }
        6 => {
            let (tag, len) = (
                take(program, 1).first().copied().unwrap_or_default(),
                byte(program),
            );
            message(tag, take(program, len))
        }
        _ => {
            let len = byte(program);
            take(program, len).to_vec()
        }
    };
    (said, op & 8 == 0)
}

fn take<'a>(program: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = program.split_at(len.min(program.len()));
    *program = rest;
    taken
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag][..], &len.to_be_bytes(), body].concat()
}

/// What was heard are whole messages of a server; without a login they let nobody in.
fn check(heard: &[u8], users: bool) {
    let mut rest = heard;
    while let Some((&tag, after)) = rest.split_first() {
        assert!(ANSWERS.contains(&tag), "a message of type {tag}");
        let (len, after) = after.split_first_chunk().expect("a length");
        let len = u32::from_be_bytes(*len) as usize;
        let (body, after) = after.split_at_checked(len - 4).expect("a whole message");
        let lets_in = match tag {
            b'R' => body == [0; 4],
            b'E' | b'v' => false,
            _ => true,
        };
        assert!(!users || !lets_in, "{} without a login", tag as char);
        rest = after;
    }
    assert!(!heard.is_empty(), "a connection that ends without a word");
}

/// A task's panic ends its connection alone, and is a fault all the same.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            before(info);
        }));
    });
}
