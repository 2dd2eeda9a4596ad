//! The live sessions: who can be told something, and whose turn it is to be cancelled.
//!
//! A session's task owns its state; others leave a [`Command`] in its mailbox and wake it. The [gate](Entry::enter_gate)
//! keeps a client's CancelRequest and an injection of ours from meeting in the server.

mod arrivals;
mod command;
mod server;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use dashmap::DashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{
    config::{Address, Config, Upstream},
    session::Snapshot,
    wire::CancelKey,
};

pub use arrivals::{Arrival, Arrivals};
pub use command::{Asked, Command, Order, Reply};
pub use server::Server;

/// All live sessions.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<u64, Arc<Entry>>,
    last: AtomicU64,
    permits: Arc<AtomicUsize>,
    /// How many sessions there can be; `None` where nothing bounds them.
    capacity: OnceLock<NonZeroUsize>,
    /// Whether the log has been told that all places are taken.
    full: AtomicBool,
    /// Whether sessions end as soon as no transaction is open, also those that are entered yet.
    drains: AtomicBool,
    /// What sessions may come of.
    pub arrivals: Arrivals,
}

/// A place for one session, from before its server is connected until the session is over.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    /// Notes how many sessions there can be at all. The first call counts.
    pub fn set_capacity(&self, capacity: NonZeroUsize) {
        self.capacity.get_or_init(|| capacity);
    }

    /// Takes a place, if fewer than `limit` are taken, and fewer than there can be.
    pub fn permit(&self, limit: Option<NonZeroUsize>) -> Option<Permit> {
        let limit = limit.into_iter().chain(self.capacity.get().copied()).min();
        let free = |taken: usize| limit.is_none_or(|limit| taken < limit.get());
        let (ordering, permits) = (Ordering::Relaxed, &self.permits);
        let taken =
            permits.fetch_update(ordering, ordering, |taken| free(taken).then_some(taken + 1));
        match taken {
            Ok(_) => {
                self.full.store(false, ordering);
                Some(Permit(Arc::clone(permits)))
            }
            Err(sessions) => {
                if !self.full.swap(true, ordering) {
                    tracing::warn!(
                        sessions,
                        "all places are taken (upstream.max_sessions, or the limit of open files): who comes now is \
                         refused"
                    );
                }
                None
            }
        }
    }

    /// Enters a new session, connected to one of the servers that `config` names; numbers count from 1.
    pub fn enter(&self, config: Arc<Config>, server: Server, permit: Permit) -> Arc<Entry> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::new(Entry {
            id,
            config,
            server,
            _permit: permit,
            since: Instant::now(),
            authenticated: AtomicBool::new(false),
            key: OnceLock::new(),
            has_commands: AtomicBool::new(false),
            snapshot_holds: AtomicBool::new(false),
            mailbox: Mutex::default(),
        });
        self.sessions.insert(id, Arc::clone(&entry));
        if self.drains.load(Ordering::SeqCst) {
            entry.tell(Command::Drain);
        }
        entry
    }

    /// Ends every session as soon as no transaction is open in it, also those whose clients have yet to say who they are.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::SeqCst);
        self.broadcast(|| Command::Drain);
    }

    /// Whether sessions end as soon as no transaction is open.
    pub fn is_draining(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    /// Ends the oldest session whose client has tried to log in for longer than `patience`; `false` when there is none.
    pub fn end_slowest_login(&self, patience: Duration) -> bool {
        let slow = |entry: &Entry| {
            !entry.authenticated.load(Ordering::Relaxed) && entry.since.elapsed() > patience
        };
        let oldest = self.sessions.iter().filter(|entry| slow(entry));
        let Some(oldest) = oldest.min_by_key(|entry| entry.since) else {
            return false;
        };
        oldest.tell(Command::GiveWay);
        true
    }

    /// Forgets a session that is over.
    pub fn leave(&self, entry: &Entry) {
        self.sessions.remove(&entry.id);
        entry.shut_mailbox();
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
    pub fn broadcast(&self, command: fn() -> Command) {
        for entry in &self.sessions {
            entry.tell(command());
        }
    }

    /// The session of this number.
    pub fn get(&self, id: u64) -> Option<Arc<Entry>> {
        Some(Arc::clone(&*self.sessions.get(&id)?))
    }

    /// How things stand with every session; those that end meanwhile are left out. Only sessions in which something has
    /// happened since they were last asked are asked again: most are idle, and waking them would cost the others.
    pub async fn snapshots(&self) -> Vec<Snapshot> {
        let now = Instant::now();
        let mut snapshots = Vec::with_capacity(self.sessions.len());
        let mut answers = Vec::new();
        // No lock of the map is held while sessions answer.
        for entry in &self.sessions {
            if let Some(kept) = entry.kept(now) {
                snapshots.push(kept);
                continue;
            }
            let (reply, answer) = oneshot::channel();
            entry.tell(Command::Snapshot(reply));
            answers.push(answer);
        }
        for answer in answers {
            snapshots.extend(answer.await);
        }
        snapshots
    }

    /// The session that a CancelRequest names.
    pub fn find(&self, key: &CancelKey) -> Option<Arc<Entry>> {
        let mut entries = self.sessions.iter();
        let found = entries.find(|entry| entry.key.get() == Some(key))?;
        Some(Arc::clone(&found))
    }
}

/// One live session, as others see it.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    /// The settings that it was connected under.
    config: Arc<Config>,
    server: Server,
    _permit: Permit,
    /// When it was entered.
    since: Instant,
    authenticated: AtomicBool,
    key: OnceLock<CancelKey>,
    /// Whether something lies in the mailbox; read at each turn of the session, without a lock.
    has_commands: AtomicBool,
    /// Whether nothing has happened in the session since it was last asked how things stand. Written by its task alone.
    snapshot_holds: AtomicBool,
    mailbox: Mutex<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    commands: Vec<Command>,
    waker: Option<Waker>,
    /// CancelRequests of the client's that are on their way.
    cancels: u32,
    /// Whether the session wants the gate closed.
    closed: bool,
    /// Whether it decides about those too that come while the gate is open.
    asked: bool,
    /// CancelRequests of the client's that stand before the closed gate.
    waiting: Vec<oneshot::Sender<Passage>>,
    /// How things stood when someone last asked, and when that was.
    snapshot: Option<Box<(Instant, Snapshot)>>,
    /// Whether the session is over.
    over: bool,
}

/// What becomes of a CancelRequest of the client's at the gate.
#[derive(Debug)]
pub enum Entrance {
    /// The gate is open.
    Open(Passage),
    /// The gate is closed, and the session decides: what comes is a passage, or nothing where it turns the request away.
    Waits(oneshot::Receiver<Passage>),
}

/// A CancelRequest of the client's on its way through the gate: it has passed when this is dropped, whatever becomes of
/// whoever carries it.
#[derive(Debug)]
#[must_use]
pub struct Passage(Arc<Entry>);

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.leave_gate();
    }
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

    /// Notes that the server has let the client in.
    pub fn authenticated(&self) {
        self.authenticated.store(true, Ordering::Relaxed);
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
        if mailbox.over {
            return;
        }
        mailbox.commands.push(command);
        self.has_commands.store(true, Ordering::Release);
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
        if !self.has_commands.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut mailbox = self.mailbox();
        self.has_commands.store(false, Ordering::Release);
        std::mem::take(&mut mailbox.commands)
    }

    /// Notes that something happens in the session: what it said of itself does not hold any more.
    pub fn goes_on(&self) {
        if self.snapshot_holds.load(Ordering::Relaxed) {
            self.snapshot_holds.store(false, Ordering::Release);
        }
    }

    /// Keeps how things stand for those who ask next, until the session [goes on](Self::goes_on).
    pub fn keep(&self, snapshot: Snapshot, at: Instant) {
        self.mailbox().snapshot = Some(Box::new((at, snapshot)));
        self.snapshot_holds.store(true, Ordering::Release);
    }

    /// How things stand, where that is known without asking.
    fn kept(&self, now: Instant) -> Option<Snapshot> {
        if !self.snapshot_holds.load(Ordering::Acquire) {
            return None;
        }
        let mailbox = self.mailbox();
        let (at, snapshot) = mailbox.snapshot.as_deref()?;
        Some(snapshot.later(now.saturating_duration_since(*at)))
    }

    /// Lets a CancelRequest of the client's through, unless the gate is closed or the session wants to be asked.
    pub fn enter_gate(self: &Arc<Self>) -> Entrance {
        let mut mailbox = self.mailbox();
        if !mailbox.closed && !mailbox.asked {
            mailbox.cancels += 1;
            return Entrance::Open(Passage(Arc::clone(self)));
        }
        let (decision, decided) = oneshot::channel();
        if !mailbox.over {
            mailbox.waiting.push(decision);
            drop(mailbox);
            self.tell(Command::CancelWaits);
        }
        Entrance::Waits(decided)
    }

    /// Lets the CancelRequests through that stand before the gate, which is open.
    pub fn let_pass(self: &Arc<Self>) {
        let mut mailbox = self.mailbox();
        let waiting = std::mem::take(&mut mailbox.waiting);
        mailbox.cancels += u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        drop(mailbox);
        for decision in waiting {
            // A request that does not wait any more leaves the gate at once.
            drop(decision.send(Passage(Arc::clone(self))));
        }
    }

    /// Takes no more commands: the session is over but for its connections. Those who wait for a reply, or at the gate,
    /// learn that there is nothing to wait for.
    pub fn shut_mailbox(&self) {
        let mut mailbox = self.mailbox();
        mailbox.over = true;
        mailbox.commands.clear();
        mailbox.waiting.clear();
    }

    /// Lets none of them through: there is nothing that they could be about.
    pub fn turn_away(&self) {
        self.mailbox().waiting.clear();
    }

    fn leave_gate(&self) {
        let mut mailbox = self.mailbox();
        mailbox.cancels -= 1;
        let last = mailbox.closed && mailbox.cancels == 0;
        drop(mailbox);
        if last {
            self.tell(Command::GateClosed);
        }
    }

    /// Closes the gate; `false` while a CancelRequest is on its way: [`Command::GateClosed`] follows the last one.
    pub fn close_gate(&self) -> bool {
        let mut mailbox = self.mailbox();
        mailbox.closed = true;
        mailbox.cancels == 0
    }

    /// Whether the gate is closed, and no CancelRequest on its way.
    pub fn gate_is_closed(&self) -> bool {
        let mailbox = self.mailbox();
        mailbox.closed && mailbox.cancels == 0
    }

    /// Whether the gate is open.
    pub fn gate_is_open(&self) -> bool {
        !self.mailbox().closed
    }

    /// Opens the gate; `asked` tells whether the session still decides about each CancelRequest that comes.
    pub fn open_gate(&self, asked: bool) {
        let mut mailbox = self.mailbox();
        mailbox.closed = false;
        mailbox.asked = asked;
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
