//! The audit's thread: takes events from the queue and turns them into lines, in batches.

use std::{
    io,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::{
    Entry, Message, QUEUE_LENGTH, RECENT, Shared, Texts, lock, log_message,
    schema::{IncidentLine, Line, Millis, Record, StatementLine, TransactionLine, WaiterLine},
};
use crate::{
    config::AuditSettings,
    line_writer::{LineWriter, Target},
    session::{damage::Waiter, event::Statement},
    sql,
};

pub(super) struct Writer {
    settings: AuditSettings,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
    /// Lines that are not yet on their way to the file.
    lines: Vec<u8>,
    /// How many of the events that found the queue full have been said.
    said: u64,
    ids: Ids,
    texts: Texts,
}

impl Writer {
    pub(super) fn open(
        settings: AuditSettings,
        queue: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let writer = Self {
            settings,
            queue,
            shared,
            lines: Vec::new(),
            said: 0,
            ids: Ids::default(),
            texts: Texts::default(),
        };
        writer.write_to(writer.settings.file.as_deref())?;
        Ok(writer)
    }

    /// Works until the audit is closed or its last handle is gone. `_ended` tells who waits for that.
    pub(super) fn run(mut self, _ended: SyncSender<()>) {
        while let Ok(message) = self.queue.recv() {
            self.take(message);
            loop {
                // What was recorded before the closing is in the queue when the flag is seen.
                let closing = self.shared.closing.load(Ordering::Acquire);
                self.reopen();
                for _ in 0..QUEUE_LENGTH {
                    let Ok(message) = self.queue.try_recv() else {
                        break;
                    };
                    self.take(message);
                }
                self.write();
                self.say_dropped();
                if closing {
                    return;
                }
                if !self.is_wanted() {
                    break;
                }
            }
            // While the writer sleeps here, a session that records an event need not wake it.
            thread::sleep(PAUSE);
        }
    }

    /// Whether there is something to do of which the message that says so may have been taken already.
    fn is_wanted(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire) || lock(&self.shared.reopen).is_some()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Entry(time, entry) => self.entry(time, &entry),
            Message::Wake => {}
        }
    }

    fn entry(&mut self, at: SystemTime, entry: &Entry) {
        let time = rfc3339(at);
        let id = self.ids.next(at);
        if let Entry::Incident(incident) = entry {
            log_message::log(&id, incident);
        }
        let record = match entry {
            Entry::Incident(incident) => {
                let statements = self.statements(&incident.statements);
                let blocked = incident.damage.as_deref();
                let blocked = blocked.and_then(|damage| damage.blocked.as_deref());
                let blocked = blocked.map(|waiters| self.blocked(waiters));
                Record::Incident(Box::new(IncidentLine::new(
                    id, incident, statements, blocked,
                )))
            }
            Entry::Transaction(_) if self.settings.file.is_none() => return,
            Entry::Transaction(transaction) => {
                let statements = self.statements(&transaction.statements);
                Record::Transaction(Box::new(TransactionLine::new(id, transaction, statements)))
            }
        };
        let line = Arc::new(Line::new(time, record));
        if self.settings.file.is_some() {
            self.line(&line);
        }
        if matches!(entry, Entry::Incident(_)) {
            let mut recent = lock(&self.shared.recent);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(line);
        }
    }

    fn statements(&mut self, statements: &[Statement]) -> Vec<StatementLine> {
        let literals = self.settings.literals;
        let line = |statement: &Statement| {
            let (normalised, fingerprint) = self.texts.of(statement);
            StatementLine {
                at_ms: Millis(statement.at),
                text: if literals {
                    statement.text.clone()
                } else {
                    normalised
                },
                fingerprint,
                duration_ms: statement.duration.map(Millis),
                tags: statement.text.as_deref().and_then(sql::tags),
            }
        };
        statements.iter().map(line).collect()
    }

    fn blocked(&mut self, waiters: &[Waiter]) -> Vec<WaiterLine> {
        let literals = self.settings.literals;
        let line = |waiter: &Waiter| {
            let text = waiter.statement.as_ref();
            let shown = if literals {
                text.cloned()
            } else {
                // The server has read it: it is at work on it.
                text.and_then(|text| self.texts.known(text, false).0)
            };
            WaiterLine::new(waiter, shown)
        };
        waiters.iter().map(line).collect()
    }

    fn line(&mut self, line: &Line) {
        serde_json::to_writer(&mut self.lines, line)
            .expect("names are strings, and a Vec takes every byte");
        self.lines.push(b'\n');
        if self.lines.len() >= BATCH_BYTES {
            self.write();
        }
    }

    /// Says how many events found the queue full since this was last said.
    fn say_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let count = dropped.saturating_sub(self.said);
        if count == 0 {
            return;
        }
        self.said = dropped;
        tracing::warn!(count, "audit events were dropped");
        if let Some(lines) = &*lock(&self.shared.lines) {
            lines.lost(count);
        }
    }

    fn write(&mut self) {
        if !self.lines.is_empty()
            && let Some(lines) = &*lock(&self.shared.lines)
        {
            lines.write(&self.lines);
        }
        self.lines.clear();
    }

    /// Changes the file if a reopening was asked for.
    fn reopen(&mut self) {
        let Some(settings) = lock(&self.shared.reopen).take() else {
            return;
        };
        match self.write_to(settings.file.as_deref()) {
            Ok(()) => self.settings = settings,
            Err(error) => {
                tracing::error!(%error, "cannot reopen the audit file; the one that was open stays in use");
            }
        }
    }

    /// Has lines written there from here on, what could not yet be written included.
    fn write_to(&self, path: Option<&Path>) -> io::Result<()> {
        let target = path.map(Target::append).transpose()?;
        let mut lines = lock(&self.shared.lines);
        match (&*lines, target) {
            (Some(lines), Some(target)) => lines.replace(target),
            (None, Some(target)) => {
                *lines = Some(LineWriter::start("audit file", target, BOUND, missing)?);
            }
            (_, None) => {
                if let Some(lines) = lines.take() {
                    // It writes what it has by itself.
                    lines.close(Duration::ZERO);
                }
            }
        }
        Ok(())
    }
}

/// The line that stands for so many missing ones.
pub(super) fn missing(count: u64) -> Vec<u8> {
    let time = format!("{:.6}", Timestamp::now());
    let line = Line::new(time, Record::Dropped { count });
    let mut line = serde_json::to_vec(&line).expect("names are strings");
    line.push(b'\n');
    line
}

/// Numbers for lines that no other process and no other run gives out.
#[derive(Default)]
struct Ids {
    prefix: Option<String>,
    last: u64,
}

impl Ids {
    /// The next one; the prefix comes from the process and the time of its first event.
    fn next(&mut self, now: SystemTime) -> String {
        let prefix = self.prefix.get_or_insert_with(|| {
            let since = now
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            format!("{:x}{:x}", since.as_micros(), process::id())
        });
        self.last += 1;
        format!("{prefix}-{}", self.last)
    }
}

fn rfc3339(time: SystemTime) -> String {
    // A clock outside of the years that RFC 3339 can write is no clock at all.
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.6}")
}

/// How long the writer lets events gather.
const PAUSE: Duration = Duration::from_millis(10);

/// At how many bytes a batch is written before its time.
const BATCH_BYTES: usize = 64 * 1024;

/// How many bytes may wait while the file cannot be written.
const BOUND: usize = 16 << 20;
