//! Writes down what happened: one JSON line for each incident and each finished transaction, and one log line for each
//! incident.
//!
//! Writing never delays a session: [`Audit::record`] puts the event into a bounded queue and returns. One thread turns
//! events into lines, another one writes them; what finds no room is counted and said.

mod log_message;
mod policy;
pub mod schema;
mod texts;
mod writer;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    config::AuditSettings,
    line_writer::LineWriter,
    session::event::{Incident, TransactionRecord},
    sql,
};

pub use texts::Texts;

use schema::{Line, Record};
use writer::Writer;

/// A handle to the audit writer. Clones are cheap and feed the same writer.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Audit {
    /// Opens the file, when there is one, and starts the writer's thread.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn start(settings: AuditSettings) -> io::Result<Self> {
        let (audit, queue) = Self::with_queue(&settings);
        let writer = Writer::open(settings, queue, Arc::clone(&audit.shared))?;
        let (ended, is_ended) = sync_channel(0);
        thread::Builder::new()
            .name("audit".to_owned())
            .stack_size(sql::PARSER_STACK)
            .spawn(move || writer.run(ended))?;
        *lock(&audit.shared.ended) = Some(is_ended);
        Ok(audit)
    }

    fn with_queue(settings: &AuditSettings) -> (Self, Receiver<Message>) {
        let (queue, receiver) = sync_channel(QUEUE_LENGTH);
        let shared = Shared {
            wants_transactions: AtomicBool::new(settings.wants_transactions()),
            ..Shared::default()
        };
        let shared = Arc::new(shared);
        (Self { queue, shared }, receiver)
    }

    /// Takes what is to be written, stamped with the time of this call. Never blocks: what finds the queue full is dropped
    /// and counted.
    pub fn record(&self, entry: Entry) {
        if matches!(entry, Entry::Transaction(_)) && !self.wants_transactions() {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the audit stamps wall-clock time, and nothing else does"
        )]
        let time = SystemTime::now();
        if self.queue.try_send(Message::Entry(time, entry)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a finished transaction would be written; when not, there is no need to put one together.
    pub fn wants_transactions(&self) -> bool {
        self.shared.wants_transactions.load(Ordering::Relaxed)
    }

    /// How many events and lines were dropped since the start, because they found no room.
    pub fn dropped(&self) -> u64 {
        let lines = lock(&self.shared.lines);
        let lines = lines.as_ref().map_or(0, LineWriter::dropped);
        lines + self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The last incidents, the oldest first.
    pub fn recent(&self) -> Vec<Arc<Line>> {
        lock(&self.shared.recent).iter().cloned().collect()
    }

    /// Closes the file and opens it anew under these settings: after a reload, and after a rotation of the file.
    /// Does not block; when the file cannot be opened, the writer says so and goes on with the one that it has.
    pub fn reopen(&self, settings: AuditSettings) {
        let wants_transactions = settings.wants_transactions();
        self.shared
            .wants_transactions
            .store(wants_transactions, Ordering::Relaxed);
        *lock(&self.shared.reopen) = Some(settings);
        // A full queue keeps the writer awake anyway.
        drop(self.queue.try_send(Message::Wake));
    }

    /// Writes what was recorded before this call, as far as that is possible within a while; later events are dropped.
    /// It blocks for that while, so it is no call for an async task.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        // A full queue keeps the writer awake anyway, and it sees the flag.
        drop(self.queue.try_send(Message::Wake));
        if let Some(ended) = lock(&self.shared.ended).take()
            && ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("events are not yet in the audit file; the program ends without them");
        }
        let lines = lock(&self.shared.lines).clone();
        let unwritten = lines.map_or(0, |lines| lines.close(PATIENCE));
        if unwritten > 0 {
            tracing::error!(
                count = unwritten,
                "lines could not be written to the audit file"
            );
        }
    }
}

/// Something that has a line in the audit.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A limit was reached.
    Incident(Box<Incident>),
    /// A transaction block ended.
    Transaction(Box<TransactionRecord>),
    /// pgidle itself started, read its settings again, or stops.
    Life(Box<Record>),
}

impl From<Box<Incident>> for Entry {
    fn from(incident: Box<Incident>) -> Self {
        Self::Incident(incident)
    }
}

impl From<Box<TransactionRecord>> for Entry {
    fn from(transaction: Box<TransactionRecord>) -> Self {
        Self::Transaction(transaction)
    }
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        Self::Life(Box::new(record))
    }
}

/// What the handles and the writer both see.
#[derive(Debug, Default)]
struct Shared {
    /// How many events found the queue full.
    dropped: AtomicU64,
    wants_transactions: AtomicBool,
    closing: AtomicBool,
    /// The settings of a reopening that the writer has not yet seen.
    reopen: Mutex<Option<AuditSettings>>,
    /// What writes the file, while there is one.
    lines: Mutex<Option<LineWriter>>,
    /// The last incidents.
    recent: Mutex<VecDeque<Arc<Line>>>,
    /// Is cut off when the writer has ended.
    ended: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug)]
enum Message {
    Entry(SystemTime, Entry),
    /// Look at [`Shared`].
    Wake,
}

/// What is behind these locks is whole at every moment, so that a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events that may wait: some seconds of a busy server's transactions.
const QUEUE_LENGTH: usize = 8192;

/// Incidents that are remembered.
const RECENT: usize = 256;

/// How long the end of the program waits for the last events, and for the last lines.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
