//! The audit writer's thread: takes events from the queue, turns them into lines, writes them in batches.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    thread,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Message, QUEUE_LENGTH, Shared,
    line::{DroppedLine, IncidentLine, Millis, StatementLine, TransactionLine, WaiterLine},
    lock, sentence,
};
use crate::{
    config::AuditSettings,
    session::{
        damage::{Damage, Waiter},
        event::{Event, Statement},
    },
    sql,
};

pub(super) struct Writer {
    settings: AuditSettings,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
    file: Option<File>,
    /// Lines that are not yet written, and how many events they stand for.
    lines: Vec<u8>,
    events: u64,
    /// Whether the last write failed, perhaps in the middle of a line.
    failing: bool,
    /// How many of the dropped events have been said, and how many more the unwritten lines say.
    said: u64,
    saying: u64,
    ids: Ids,
    texts: Texts,
    /// The time of the last event, for lines that belong to none.
    time: SystemTime,
}

impl Writer {
    pub(super) fn open(
        settings: AuditSettings,
        queue: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let file = settings.file.as_deref().map(open).transpose()?;
        Ok(Self {
            settings,
            queue,
            shared,
            file,
            lines: Vec::new(),
            events: 0,
            failing: false,
            said: 0,
            saying: 0,
            ids: Ids::default(),
            texts: Texts::default(),
            time: SystemTime::UNIX_EPOCH,
        })
    }

    /// Writes until the audit is closed or its last handle is gone.
    pub(super) fn run(mut self) {
        while let Ok(message) = self.queue.recv() {
            self.reopen();
            let mut open = self.take(message);
            for _ in 0..QUEUE_LENGTH {
                let Ok(message) = self.queue.try_recv() else {
                    break;
                };
                open &= self.take(message);
            }
            self.say_dropped();
            self.write();
            if !open {
                break;
            }
            // While the writer sleeps here, a session that records an event need not wake it.
            thread::sleep(PAUSE);
        }
    }

    /// Handles one message; `false` when it is the last.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Event(time, event) => self.event(time, &event),
            Message::Wake => {}
            Message::Close => return false,
        }
        true
    }

    fn event(&mut self, at: SystemTime, event: &Event) {
        self.time = at;
        let time = rfc3339(at);
        let id = self.ids.next(at);
        if let Event::Incident(incident) = event {
            sentence::log(&id, incident);
        }
        if self.file.is_none() {
            return;
        }
        match event {
            Event::Incident(incident) => {
                let statements = self.statements(&incident.statements);
                let blocked = incident
                    .damage
                    .as_deref()
                    .map(|damage| self.blocked(damage));
                let line = IncidentLine::new(&time, &id, incident, &statements, blocked.as_deref());
                self.line(&line);
            }
            Event::Transaction(transaction) => {
                let statements = self.statements(&transaction.statements);
                self.line(&TransactionLine::new(&time, &id, transaction, &statements));
            }
        }
        self.events += 1;
    }

    fn statements(&mut self, statements: &[Statement]) -> Vec<StatementLine> {
        let literals = self.settings.literals;
        let line = |statement: &Statement| {
            let known = statement.text.as_ref().map(|text| self.texts.known(text));
            let (normalised, fingerprint) = known.unwrap_or_default();
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

    fn blocked<'a>(&mut self, damage: &'a Damage) -> Vec<WaiterLine<'a>> {
        let literals = self.settings.literals;
        let line = |waiter: &'a Waiter| {
            let text = waiter.statement.as_ref();
            let shown = if literals {
                text.cloned()
            } else {
                text.and_then(|text| self.texts.known(text).0)
            };
            WaiterLine::new(waiter, shown)
        };
        damage.blocked.iter().map(line).collect()
    }

    fn line(&mut self, line: &impl Serialize) {
        serde_json::to_writer(&mut self.lines, line)
            .expect("names are strings, and a Vec takes every byte");
        self.lines.push(b'\n');
        if self.lines.len() >= BATCH_BYTES {
            self.write();
        }
    }

    /// Says how many events were dropped since this was last said.
    fn say_dropped(&mut self) {
        let count = self
            .shared
            .dropped
            .load(Ordering::Relaxed)
            .saturating_sub(self.said);
        if count == 0 {
            return;
        }
        self.saying = count;
        if !self.failing {
            tracing::warn!(count, "audit events were dropped");
        }
        if self.file.is_some() {
            let time = rfc3339(self.time);
            self.line(&DroppedLine {
                time: &time,
                event: "dropped",
                count,
            });
        } else {
            self.said += count;
        }
    }

    fn write(&mut self) {
        let Some(file) = &mut self.file else {
            return;
        };
        if self.lines.is_empty() {
            return;
        }
        if self.failing {
            // Ends the line in which the failed write may have stopped.
            self.lines.insert(0, b'\n');
        }
        match file.write_all(&self.lines) {
            Ok(()) => {
                self.failing = false;
                self.said += self.saying;
            }
            Err(error) => {
                self.shared
                    .dropped
                    .fetch_add(self.events, Ordering::Relaxed);
                if !self.failing {
                    tracing::error!(%error, "cannot write the audit file; what cannot be written is dropped and counted");
                }
                self.failing = true;
            }
        }
        self.lines.clear();
        self.events = 0;
        self.saying = 0;
    }

    /// Changes the file if a reopening was asked for.
    fn reopen(&mut self) {
        let Some(settings) = lock(&self.shared.reopen).take() else {
            return;
        };
        match settings.file.as_deref().map(open).transpose() {
            Ok(file) => {
                self.file = file;
                self.failing = false;
                self.settings = settings;
            }
            Err(error) => {
                tracing::error!(%error, "cannot reopen the audit file; the one that was open stays in use");
            }
        }
    }
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

/// The fingerprints of normalised texts seen before: an application repeats itself, and parsing costs most.
#[derive(Default)]
struct Texts(HashMap<Arc<str>, Option<Arc<str>>>);

impl Texts {
    /// Normalised text and fingerprint, each where it can be given.
    fn known(&mut self, text: &str) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let Some(normalised) = sql::normalise(text) else {
            return (None, None);
        };
        if let Some((normalised, fingerprint)) = self.0.get_key_value(&*normalised) {
            return (Some(Arc::clone(normalised)), fingerprint.clone());
        }
        let normalised: Arc<str> = normalised.into();
        let fingerprint: Option<Arc<str>> = sql::fingerprint(text).map(Arc::from);
        if normalised.len() <= MAX_KNOWN_BYTES {
            if self.0.len() >= MAX_KNOWN {
                self.0.clear();
            }
            self.0.insert(Arc::clone(&normalised), fingerprint.clone());
        }
        (Some(normalised), fingerprint)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o640).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
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

/// How many normalised texts are remembered, and how long each may be.
const MAX_KNOWN: usize = 1024;
const MAX_KNOWN_BYTES: usize = 4096;
