//! The live sessions: who can be told something, and whose turn it is to be cancelled.
//!
//! A session's task owns its state; others leave a [`Command`] in its mailbox and wake it. The [gate](Entry::enter_gate)
//! keeps a client's CancelRequest and an injection of ours from meeting in the server.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use dashmap::DashMap;

use crate::{
    config::{Address, Config, Upstream},
    wire::CancelKey,
};

/// What a session is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End as soon as no transaction is open.
    Drain,
    /// End now.
    Shutdown,
    /// The rules have changed.
    Reload,
    /// The last cancel connection of the client's was closed, and the gate with it.
    GateClosed,
    /// The server has closed the connection of our own CancelRequest.
    CancelClosed,
}

/// All live sessions.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<u64, Arc<Entry>>,
    last: AtomicU64,
    seats: Arc<AtomicUsize>,
}

/// A place for one session, from before its server is connected until the session is over.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    /// Takes a place, if fewer than `limit` are taken.
    pub fn seat(&self, limit: Option<NonZeroUsize>) -> Option<Seat> {
        let free = |taken: usize| limit.is_none_or(|limit| taken < limit.get());
        let (ordering, seats) = (Ordering::Relaxed, &self.seats);
        seats
            .fetch_update(ordering, ordering, |taken| free(taken).then_some(taken + 1))
            .ok()?;
        Some(Seat(Arc::clone(seats)))
    }

    /// Enters a new session, connected to one of the servers that `config` names; numbers count from 1.
    pub fn enter(&self, config: Arc<Config>, server: Server, seat: Seat) -> Arc<Entry> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::new(Entry {
            id,
            config,
            server,
            _seat: seat,
            key: OnceLock::new(),
            rung: AtomicBool::new(false),
            mailbox: Mutex::default(),
        });
        self.sessions.insert(id, Arc::clone(&entry));
        entry
    }

    /// Forgets a session that is over.
    pub fn leave(&self, entry: &Entry) {
        self.sessions.remove(&entry.id);
    }

    /// How many sessions are alive.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is alive.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Tells every session.
    pub fn broadcast(&self, command: Command) {
        for entry in &self.sessions {
            entry.tell(command);
        }
    }

    /// The session that a CancelRequest names.
    pub fn find(&self, key: &CancelKey) -> Option<Arc<Entry>> {
        let mut entries = self.sessions.iter();
        let found = entries.find(|entry| entry.key.get() == Some(key))?;
        Some(Arc::clone(&found))
    }
}

/// The server end of a session.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where it listens: the place among the settings' addresses.
    pub index: usize,
    /// What that address stood for; `None` for a Unix socket.
    pub resolved: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// One live session, as others see it.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    /// The settings that it was connected under.
    config: Arc<Config>,
    server: Server,
    _seat: Seat,
    key: OnceLock<CancelKey>,
    /// Whether something lies in the mailbox; read at each turn of the session, without a lock.
    rung: AtomicBool,
    mailbox: Mutex<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    commands: Vec<Command>,
    waker: Option<Waker>,
    /// Cancel connections of the client's that are open.
    cancels: u32,
    /// Whether the session wants the gate closed.
    closed: bool,
}

impl Entry {
    /// pgidle's number for the session.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its server connection, the address where that leads, and by which settings.
    pub fn server(&self) -> Option<(Server, &Address, &Upstream)> {
        let upstream = &self.config.upstream;
        let address = upstream.addresses.get(self.server.index)?;
        Some((self.server, address, upstream))
    }

    /// Notes what names the session in a CancelRequest. The first call counts.
    pub fn set_key(&self, key: CancelKey) {
        self.key.get_or_init(|| key);
    }

    /// What names the session in a CancelRequest, once the server has said it.
    pub fn key(&self) -> Option<&CancelKey> {
        self.key.get()
    }

    /// Leaves a command and wakes the session.
    pub fn tell(&self, command: Command) {
        let mut mailbox = self.mailbox();
        mailbox.commands.push(command);
        self.rung.store(true, Ordering::Release);
        if let Some(waker) = &mailbox.waker {
            waker.wake_by_ref();
        }
    }

    /// Says who is to be woken. Called once, by the session's task.
    pub fn set_waker(&self, waker: &Waker) {
        self.mailbox().waker = Some(waker.clone());
    }

    /// The commands that were left since the last call.
    pub fn take_commands(&self) -> Vec<Command> {
        if !self.rung.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut mailbox = self.mailbox();
        self.rung.store(false, Ordering::Release);
        std::mem::take(&mut mailbox.commands)
    }

    /// Lets a CancelRequest of the client's through, unless the gate is closed; [`leave_gate`](Self::leave_gate) must
    /// follow when the server has closed its connection.
    pub fn enter_gate(&self) -> bool {
        let mut mailbox = self.mailbox();
        let open = !mailbox.closed;
        mailbox.cancels += u32::from(open);
        open
    }

    /// A cancel connection was closed by the server.
    pub fn leave_gate(&self) {
        let mut mailbox = self.mailbox();
        mailbox.cancels -= 1;
        let last = mailbox.closed && mailbox.cancels == 0;
        drop(mailbox);
        if last {
            self.tell(Command::GateClosed);
        }
    }

    /// Closes the gate; `false` when a cancel connection is open: [`Command::GateClosed`] follows.
    pub fn close_gate(&self) -> bool {
        let mut mailbox = self.mailbox();
        mailbox.closed = true;
        mailbox.cancels == 0
    }

    /// Opens the gate.
    pub fn open_gate(&self) {
        self.mailbox().closed = false;
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
