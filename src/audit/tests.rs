//! What the file says, and that docs/audit.md says the same.

use std::{collections::BTreeSet, fs, path::Path, sync::mpsc::RecvTimeoutError, time::Duration};

use serde_json::{Value, json};
use sha2::Digest as _;

use super::{
    schema::{Line, Policy, ReloadedLine, StartedLine, StoppedLine},
    writer::{Gap, Run},
    *,
};
use crate::{
    config::{Change, Reloaded},
    line_writer::Missing as _,
    policy::{Action, Rules, StuckKind, builtin_rules},
    session::{
        damage::{Damage, Lock, Waiter},
        event::{
            Cause, Incident, Outcome, Position, Statement, TransactionOutcome, TransactionRecord,
            Who,
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
        blocked: Some(vec![Waiter::new(8, &[7])]),
        xmin_age: None,
        awaits_standby: None,
    }
}

fn transaction() -> Entry {
    Entry::Transaction(Box::new(TransactionRecord {
        who: who(),
        rule: "celery".into(),
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
    for field in ["id", "run", "sequence"] {
        fields.remove(field);
    }
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

/// What pgidle writes of itself.
fn life() -> [Record; 3] {
    let policy = Policy::new(&Rules::new(builtin_rules()));
    let change = Change {
        key: "drain_timeout".to_owned(),
        was: "30s".to_owned(),
        is: "1min".to_owned(),
    };
    let reloaded = Reloaded {
        changed: vec![change.clone()],
        needs_restart: vec![change],
    };
    [
        Record::Started(Box::new(StartedLine {
            version: "1.2.3".to_owned(),
            pid: 1,
            listen: vec!["127.0.0.1:6432".to_owned()],
            upstream: vec!["127.0.0.1:5432".to_owned()],
            policy_hash: policy.hash(),
            policy,
        })),
        Record::Reloaded(Box::new(ReloadedLine::new(
            Some("ops".into()),
            &reloaded,
            &Rules::default(),
        ))),
        Record::Stopped(Box::new(StoppedLine {
            by: None,
            cut_off: 0,
        })),
    ]
}

/// The line that stands for missing ones.
fn dropped(count: u64) -> Vec<u8> {
    Gap::new(Arc::new(Run::new())).line(count)
}

/// Writes what pgidle writes of itself, an incident that has everything, and a transaction.
fn write_all_fields(file: &Path) {
    let audit = Audit::start(settings(file)).unwrap();
    for record in life() {
        audit.record(record.into());
    }
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
    let [started, reloaded, stopped, incident, transaction] =
        <[Value; 5]>::try_from(lines(&file)).unwrap();
    let dropped = serde_json::from_slice(&dropped(1)).unwrap();
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
    for (line, heading) in [
        (&started, "`started`: pgidle listens"),
        (&reloaded, "`reloaded`: the settings were read again"),
        (&stopped, "`stopped`: pgidle ends"),
    ] {
        assert_eq!(keys(line), documented(&["Kinds of lines", heading]));
    }
    for (line, field) in [
        (&incident, "statements"),
        (&incident, "locks"),
        (&incident, "blocked"),
        (&started, "policy"),
        (&reloaded, "changed"),
    ] {
        let heading = format!("One of `{field}`");
        assert_eq!(keys(&line[field][0]), documented(&[&heading]));
    }
    let matching = documented(&["`match` of a rule"]);
    assert_eq!(keys(&started["policy"][0]["match"]), matching);
}

#[test]
fn a_line_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    write_all_fields(&file);
    let mut text = fs::read_to_string(&file).unwrap();
    text += std::str::from_utf8(&dropped(3)).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| line.parse().unwrap()).collect();
    for (line, text) in lines.iter().zip(text.lines()) {
        assert_eq!(serde_json::to_string(line).unwrap(), text);
    }
    let [.., incident, transaction, dropped] = <[Line; 6]>::try_from(lines).unwrap();
    let (Record::Incident(incident), Record::Transaction(transaction)) =
        (incident.record, transaction.record)
    else {
        panic!("an incident and a transaction were recorded");
    };
    assert_eq!(incident.idle_ms.0, Duration::from_micros(60_000_250));
    assert_eq!(incident.who.client_port, Some(51234));
    assert_eq!(transaction.statements, incident.statements);
    assert_eq!(dropped.record, Record::Dropped { count: 3 });
    let earlier = text
        .lines()
        .find(|line| line.contains("\"transaction\""))
        .unwrap();
    let mut earlier: Value = serde_json::from_str(earlier).unwrap();
    for field in ["run", "sequence", "rule"] {
        earlier.as_object_mut().unwrap().remove(field).unwrap();
    }
    let earlier: Line = earlier.to_string().parse().unwrap();
    assert_eq!(earlier.sequence, 0, "of before there were these fields");
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
            "schema": 1, "event": "transaction", "rule": "celery", "outcome": "commit", "duration_ms": 20, "busy_ms": 5, "idle_ms": 15,
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

/// The hash is that of the text in the file, so that `jq -cj .policy | sha256sum` tells it.
#[test]
fn the_hash_is_that_of_the_text_and_changes_with_the_rules() {
    let [Record::Started(started), Record::Reloaded(reloaded), _] = life() else {
        unreachable!()
    };
    let text = serde_json::to_string(&*started).unwrap();
    let (_, policy) = text.split_once("\"policy\":").unwrap();
    let policy = policy.strip_suffix('}').unwrap();
    let hash = sha2::Sha256::digest(policy);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(started.policy_hash, hash);
    assert_ne!(started.policy_hash, reloaded.policy_hash);
    let again: StartedLine = serde_json::from_str(&text).unwrap();
    assert_eq!(again.policy.hash(), hash, "a reader can compare it");
}

/// What a run has written is numbered from 1; what is missing leaves its numbers out, and nothing else does.
#[test]
fn a_number_that_is_not_there_is_a_line_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let (audit, queue) = Audit::with_queue(&settings(&file));
    for _ in 0..QUEUE_LENGTH + 3 {
        audit.record(transaction());
    }
    let writer = Writer::open(settings(&file), queue, Arc::clone(&audit.shared)).unwrap();
    audit.shared.closing.store(true, Ordering::Release);
    writer.run(sync_channel(0).0);
    audit.close();
    let lines = lines(&file);
    let dropped = |line: &&Value| line["event"] == "dropped";
    let missing: u64 = lines
        .iter()
        .filter(dropped)
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    let numbers: BTreeSet<_> = lines
        .iter()
        .map(|line| line["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.len(), lines.len(), "each is given once");
    let last = *numbers.last().unwrap();
    assert_eq!(last - numbers.len() as u64, missing);
    assert_eq!(lines[0]["sequence"], 1);
    assert!(lines.iter().all(|line| line["run"] == lines[0]["run"]));
}
