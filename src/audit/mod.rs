//! Writes down what happened: one JSON line for each incident and each finished transaction, and one log line for each
//! incident.
//!
//! Writing never delays a session: [`Audit::record`] puts the event into a bounded queue and returns. One thread turns
//! events into lines, another one writes them; what finds no room is counted and said.

mod log_message;
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

use schema::Line;
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
mod tests {
    use std::{
        collections::BTreeSet, fs, path::Path, sync::mpsc::RecvTimeoutError, time::Duration,
    };

    use serde_json::{Value, json};

    use super::{
        schema::{Line, Record},
        *,
    };
    use crate::{
        policy::{Action, StuckKind},
        session::{
            damage::{Damage, FreedBy, Lock, Waiter},
            event::{
                Cause, Incident, Outcome, Position, Statement, TransactionOutcome,
                TransactionRecord, Who,
            },
        },
    };

    fn who() -> Who {
        Who {
            session: 7,
            client_addr: Some("10.0.3.7:51234".parse().unwrap()),
            client_pid: None,
            user: "app_rw".into(),
            database: "prod".into(),
            application_name: "celery".into(),
            server_pid: None,
            tls: false,
        }
    }

    fn statements() -> Vec<Statement> {
        vec![Statement {
            at: Duration::from_micros(1500),
            text: Some("SELECT * FROM t WHERE card = 'secret'".into()),
            duration: None,
            refused: false,
        }]
    }

    fn incident() -> Entry {
        Entry::Incident(Box::new(Incident {
            who: who(),
            cause: Cause::Limit {
                rule: "celery".into(),
                kind: StuckKind::Idle,
                limit: Duration::from_secs(60),
            },
            action: Action::Rollback,
            outcome: Outcome::RolledBack,
            why: None,
            idle: Duration::from_micros(60_000_250),
            waited: None,
            age: Some(Duration::from_secs(61)),
            position: Position::IdleInTransaction,
            statements: statements(),
            statement_count: 1,
            damage: None,
        }))
    }

    fn damage() -> Damage {
        Damage {
            #[expect(clippy::disallowed_methods, reason = "any time will do")]
            at: std::time::Instant::now(),
            locks: vec![Lock {
                locktype: "relation".into(),
                relation: None,
                mode: "AccessShareLock".into(),
                granted: true,
                fastpath: true,
            }],
            blocked: Some(vec![Waiter {
                server_pid: 8,
                backend_type: None,
                user: None,
                application_name: None,
                statement: None,
                waits_for: "relation".into(),
                relation: None,
                mode: None,
                waiting: None,
                blocked_by: [7].into(),
                prepared: [].into(),
                depth: 1,
                freed_by: FreedBy::Rollback,
            }]),
            xmin_age: None,
            awaits_standby: None,
        }
    }

    fn transaction() -> Entry {
        Entry::Transaction(Box::new(TransactionRecord {
            who: who(),
            outcome: TransactionOutcome::Commit,
            duration: Duration::from_millis(20),
            busy: Duration::from_millis(5),
            idle: Duration::from_millis(15),
            longest_idle: Duration::from_millis(9),
            statements: statements(),
            statement_count: 1,
        }))
    }

    fn settings(file: &Path) -> AuditSettings {
        AuditSettings {
            file: Some(file.to_owned()),
            ..AuditSettings::default()
        }
    }

    fn lines(file: &Path) -> Vec<Value> {
        let text = fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Takes the fields that differ from run to run out of a line.
    fn stable(mut line: Value) -> Value {
        let fields = line.as_object_mut().unwrap();
        let time = fields.remove("time").unwrap();
        assert_eq!(
            time.as_str().unwrap().len(),
            "2026-01-01T00:00:00.000000Z".len()
        );
        fields.remove("id");
        line
    }

    #[test]
    fn an_incident_has_the_fields_of_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::start(settings(&file)).unwrap();
        audit.record(incident());
        audit.close();
        let [line] = <[Value; 1]>::try_from(lines(&file)).unwrap();
        assert_eq!(
            stable(line),
            json!({
                "schema": 1, "event": "incident", "kind": "idle", "cause": "limit", "by": null, "action": "rollback", "outcome": "rolled_back", "why": null,
                "rule": "celery", "limit_ms": 60_000, "idle_ms": 60_000.25, "age_ms": 61_000, "session": 7,
                "client_addr": "10.0.3.7", "client_port": 51234, "client_pid": null, "user": "app_rw", "database": "prod",
                "application_name": "celery", "server_pid": null, "tls": false, "position": "idle in transaction",
                "statements": [{
                    "at_ms": 1.5, "text": "SELECT * FROM t WHERE card = $1",
                    "fingerprint": sql::fingerprint("SELECT * FROM t WHERE card = ''"), "duration_ms": null,
                    "tags": null,
                }],
                "statement_count": 1, "locks": null, "blocked": null, "xmin_age": null,
            })
        );
    }

    /// What docs/audit.md says that the lines have: the first column of the tables under these headings.
    fn documented(headings: &[&str]) -> BTreeSet<String> {
        let page = include_str!("../../docs/audit.md");
        let sections = page.split("\n## ").filter(|section| {
            let title = section.lines().next().unwrap_or_default();
            headings.contains(&title)
        });
        let rows = sections.flat_map(|section| {
            let tables = section
                .split("\n### ")
                .filter(|part| part.contains("| field |"));
            tables.flat_map(str::lines)
        });
        rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    /// Writes an incident that has everything, and a transaction.
    fn write_all_fields(file: &Path) {
        let audit = Audit::start(settings(file)).unwrap();
        let Entry::Incident(mut incident) = incident() else {
            unreachable!()
        };
        incident.damage = Some(Arc::new(damage()));
        audit.record(Entry::Incident(incident));
        audit.record(transaction());
        audit.close();
    }

    #[test]
    fn the_page_has_every_field_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        write_all_fields(&file);
        let [incident, transaction] = <[Value; 2]>::try_from(lines(&file)).unwrap();
        let dropped = serde_json::from_slice(&writer::missing(1)).unwrap();
        let lines = [
            (&incident, "`incident`: a limit was reached"),
            (&transaction, "`transaction`: a transaction block is over"),
        ];
        for (line, heading) in lines {
            let headings = ["Kinds of lines", heading, "Whose session"];
            assert_eq!(keys(line), documented(&headings));
        }
        let (_, example) = include_str!("../../README.md")
            .split_once("```json\n")
            .unwrap();
        let example = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
        assert_eq!(keys(&example), keys(&incident), "README.md");
        let headings = ["Kinds of lines", "`dropped`: lines are missing"];
        assert_eq!(keys(&dropped), documented(&headings));
        for field in ["statements", "locks", "blocked"] {
            let heading = format!("One of `{field}`");
            assert_eq!(keys(&incident[field][0]), documented(&[&heading]));
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        write_all_fields(&file);
        let mut text = fs::read_to_string(&file).unwrap();
        text += std::str::from_utf8(&writer::missing(3)).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| line.parse().unwrap()).collect();
        for (line, text) in lines.iter().zip(text.lines()) {
            assert_eq!(serde_json::to_string(line).unwrap(), text);
        }
        let [incident, transaction, dropped] = <[Line; 3]>::try_from(lines).unwrap();
        let (Record::Incident(incident), Record::Transaction(transaction)) =
            (incident.record, transaction.record)
        else {
            panic!("an incident and a transaction were recorded");
        };
        assert_eq!(incident.idle_ms.0, Duration::from_micros(60_000_250));
        assert_eq!(incident.who.client_port, Some(51234));
        assert_eq!(transaction.statements, incident.statements);
        assert_eq!(dropped.record, Record::Dropped { count: 3 });
        let later = text.replace("\"schema\":1", "\"schema\":2");
        let error = later.lines().next().unwrap().parse::<Line>().unwrap_err();
        assert!(error.to_string().contains("schema 2"), "{error}");
    }

    #[test]
    fn transactions_and_literals_are_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let mut settings = settings(&file);
        let audit = Audit::start(settings.clone()).unwrap();
        audit.record(transaction());
        audit.close();
        settings.literals = true;
        settings.transactions = false;
        let audit = Audit::start(settings).unwrap();
        audit.record(transaction());
        audit.record(incident());
        audit.close();
        let [first, second] = <[Value; 2]>::try_from(lines(&file)).unwrap();
        assert_ne!(first["id"], second["id"]);
        assert_eq!(second["event"], "incident");
        assert_eq!(
            second["statements"][0]["text"],
            "SELECT * FROM t WHERE card = 'secret'"
        );
        let mut first = stable(first);
        first.as_object_mut().unwrap().remove("statements");
        assert_eq!(
            first,
            json!({
                "schema": 1, "event": "transaction", "outcome": "commit", "duration_ms": 20, "busy_ms": 5, "idle_ms": 15,
                "longest_idle_ms": 9, "session": 7, "client_addr": "10.0.3.7", "client_port": 51234, "client_pid": null,
                "user": "app_rw", "database": "prod", "application_name": "celery", "server_pid": null,
                "tls": false, "statement_count": 1,
            })
        );
    }

    #[test]
    fn reopening_follows_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let rotated = folder.path().join("audit.jsonl.1");
        let audit = Audit::start(settings(&file)).unwrap();
        audit.record(incident());
        while !fs::read_to_string(&file).unwrap().ends_with('\n') {
            thread::yield_now();
        }
        fs::rename(&file, &rotated).unwrap();
        audit.reopen(settings(&file));
        audit.record(incident());
        audit.close();
        assert_eq!((lines(&rotated).len(), lines(&file).len()), (1, 1));
    }

    #[test]
    fn a_reopening_that_fails_keeps_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::start(settings(&file)).unwrap();
        audit.reopen(settings(&folder.path().join("no/such/folder")));
        audit.record(incident());
        audit.close();
        assert_eq!(lines(&file).len(), 1);
        assert!(Audit::start(settings(&folder.path().join("no/such/folder"))).is_err());
    }

    #[test]
    fn what_finds_the_queue_full_is_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let (audit, queue) = Audit::with_queue(&settings(&file));
        for _ in 0..QUEUE_LENGTH + 3 {
            audit.record(incident());
        }
        assert_eq!(audit.dropped(), 3);
        let writer = Writer::open(settings(&file), queue, Arc::clone(&audit.shared)).unwrap();
        // Run here: the end of a thread would be waited for only so long.
        audit.shared.closing.store(true, Ordering::Release);
        writer.run(sync_channel(0).0);
        audit.close();
        let lines = lines(&file);
        assert_eq!(lines.len(), QUEUE_LENGTH + 1);
        let said = lines
            .into_iter()
            .find(|line| line["event"] == "dropped")
            .unwrap();
        assert_eq!(
            stable(said),
            json!({"schema": 1, "event": "dropped", "count": 3})
        );
    }

    #[test]
    fn what_could_not_be_written_goes_to_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::start(settings(Path::new("/dev/full"))).unwrap();
        audit.record(incident());
        audit.reopen(settings(&file));
        audit.record(incident());
        audit.close();
        assert_eq!((lines(&file).len(), audit.dropped()), (2, 0));
    }

    #[test]
    fn a_file_that_cannot_be_written_does_not_keep_the_program_from_ending() {
        let audit = Audit::start(settings(Path::new("/dev/full"))).unwrap();
        audit.record(incident());
        audit.close();
    }

    #[test]
    fn without_a_file_there_are_no_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::start(settings(&file)).unwrap();
        audit.record(incident());
        while !fs::read_to_string(&file).unwrap().ends_with('\n') {
            thread::yield_now();
        }
        audit.reopen(AuditSettings::default());
        audit.record(incident());
        audit.close();
        assert_eq!(lines(&file).len(), 1);
    }

    #[test]
    fn without_a_file_transactions_are_not_even_queued() {
        let (audit, queue) = Audit::with_queue(&AuditSettings::default());
        audit.record(transaction());
        let nothing = queue.recv_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(nothing, RecvTimeoutError::Timeout);
        assert_eq!(audit.dropped(), 0);
    }
}
