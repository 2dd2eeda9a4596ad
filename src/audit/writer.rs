//! The audit's thread: takes events from the queue and turns them into lines, in batches.

use std::{
    io,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
    line_writer::{LineWriter, Missing, Target},
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
    run: Arc<Run>,
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
            run: Arc::new(Run::new()),
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
        if !matches!(entry, Entry::Incident(_)) && self.settings.file.is_none() {
            return;
        }
        let sequence = self.run.next();
        let id = self.run.id(sequence);
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
            Entry::Transaction(transaction) => {
                let statements = self.statements(&transaction.statements);
                Record::Transaction(Box::new(TransactionLine::new(id, transaction, statements)))
            }
            Entry::Life(record) => Record::clone(record),
        };
        let line = Arc::new(self.run.line(rfc3339(at), sequence, record));
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
        self.run.skip(count);
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
                let missing = Gap::new(Arc::clone(&self.run));
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

/// This run of the program, as its lines name it, and the number of the line that was made last.
#[derive(Debug)]
pub(super) struct Run {
    name: Arc<str>,
    last: AtomicU64,
}

impl Run {
    /// The name comes from the process and the time: no other process and no other run has it.
    pub(super) fn new() -> Self {
        let since = Timestamp::now().as_microsecond();
        Self {
            name: format!("{since:x}{:x}", process::id()).into(),
            last: AtomicU64::new(0),
        }
    }

    fn next(&self) -> u64 {
        self.skip(1)
    }

    /// Gives numbers to lines that will not be written, so that they are missing; returns the last of them.
    fn skip(&self, count: u64) -> u64 {
        self.last.fetch_add(count, Ordering::Relaxed) + count
    }

    fn id(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.name)
    }

    fn line(&self, time: String, sequence: u64, record: Record) -> Line {
        Line::new(time, Arc::clone(&self.name), sequence, record)
    }
}

/// Makes the lines that stand for missing ones. Each takes a number when it is first made, and keeps it until it is
/// written.
pub(super) struct Gap {
    run: Arc<Run>,
    sequence: Option<u64>,
}

impl Gap {
    pub(super) fn new(run: Arc<Run>) -> Self {
        Self {
            run,
            sequence: None,
        }
    }
}

impl Missing for Gap {
    fn line(&mut self, count: u64) -> Vec<u8> {
        let sequence = *self.sequence.get_or_insert_with(|| self.run.next());
        let time = format!("{:.6}", Timestamp::now());
        let line = self.run.line(time, sequence, Record::Dropped { count });
        let mut line = serde_json::to_vec(&line).expect("names are strings");
        line.push(b'\n');
        line
    }

    fn said(&mut self) {
        self.sequence = None;
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
