//! Requests that libraries send by themselves, and whose answers they throw away, between the end of a transaction and
//! its COMMIT: whatever they drew, the COMMIT is an error, and a ROLLBACK is none.
//!
//! Every hidden request meets every form of COMMIT and ROLLBACK in every position that a transaction can be ended in; how
//! they are sent (simple, extended, prepared, pipelined …) changes from one pair to the next. With
//! `HIDDEN_REQUESTS=all` every pair is sent in every way.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    fs::File,
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    Endpoint, PATIENCE,
    dba::Dba,
    frontend::messages,
    proxy::Proxy,
    request::{
        Packet,
        Request::{self, Sql, Wire},
        SPEECHES, Speech, readies,
    },
    server::{Server, on_every_server, versions},
    wait_for,
    wire::Client,
};

/// The hidden requests. Before them there are the statement `plan`, the savepoint `sp`, the cursor `c` and a large
/// object that is open.
const HIDDEN: &[&[Request]] = &[
    &[],
    // Of destructors: statements, cursors, large objects, nested transactions.
    &[Sql("DEALLOCATE plan")],
    &[Sql("DEALLOCATE ALL")],
    &[Sql("CLOSE c")],
    &[Sql("CLOSE ALL")],
    &[Sql("UNLISTEN news")],
    &[Sql("UNLISTEN *")],
    &[Sql("ROLLBACK TO SAVEPOINT sp")],
    &[Sql("RELEASE SAVEPOINT sp")],
    &[Sql("ROLLBACK TO sp"), Sql("RELEASE sp")],
    &[Wire("F 953 0")],
    &[Wire("C S plan | S")],
    &[Wire("C P c | S")],
    &[Wire("C S plan | C P c | S"), Wire("C S none | S")],
    &[Sql(
        "SAVEPOINT _per_query_svp_;DEALLOCATE \"_PLAN1\";RELEASE _per_query_svp_",
    )],
    // Of a statement-level rollback: a savepoint around each statement.
    &[Sql("SAVEPOINT auto")],
    &[Sql("RELEASE sp;SAVEPOINT auto")],
    &[Sql("SAVEPOINT auto"), Sql("SELECT 1"), Sql("RELEASE auto")],
    &[
        Sql("SAVEPOINT auto"),
        Sql("INSERT INTO t VALUES (1, 'one')"),
        Sql("ROLLBACK TO auto"),
    ],
    // Of pings, caches and checks of the session.
    &[Sql("")],
    &[Sql(";")],
    &[Sql("/* ping */")],
    &[Sql("-- ping")],
    &[Sql("SELECT 1")],
    &[Sql("SELECT 1;")],
    &[Sql("SHOW TRANSACTION ISOLATION LEVEL")],
    &[Sql("SET client_encoding = 'UTF8'")],
    &[Sql("SET CONSTRAINTS ALL IMMEDIATE")],
    &[Sql("LISTEN news")],
    &[Sql("DISCARD ALL")],
    &[Sql("FETCH 1 FROM c")],
    &[Sql("MOVE ABSOLUTE 0 FROM c")],
    &[Sql("BEGIN")],
    &[Sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")],
    &[Wire("F 177 1 2")],
    &[Wire("S")],
    &[Wire("H")],
    &[Wire("P new SELECT 1 | S")],
    &[Wire("P new DEALLOCATE plan | S")],
    &[Wire("P new COMMIT | D S new | S")],
    &[Wire("P new SELECT 1 | D S new | H | S")],
    &[Wire("D S plan | S")],
    &[Wire("D P c | S")],
    &[Wire("B new plan | S")],
    // Of the program itself, which swallows the error.
    &[Sql("INSERT INTO t VALUES (1, 'one')")],
    &[Sql("SELECT 1/0"), Sql("SELECT 1/0")],
    &[Sql("PREPARE new AS SELECT 1"), Sql("EXECUTE new")],
    &[Sql("syntax error")],
    &[Sql("DEALLOCATE plan"), Sql("SELECT 1"), Sql("CLOSE c")],
    &[Sql("ROLLBACK TO none")],
    &[Sql("COMMIT AND CHAIN")],
    &[Sql("COMMIT PREPARED 'none'")],
];

/// What ends a transaction so that it is kept.
const COMMITS: [&str; 12] = [
    "COMMIT",
    "commit;",
    "END",
    "COMMIT WORK",
    "END TRANSACTION ;",
    "COMMIT AND CHAIN",
    "COMMIT AND NO CHAIN",
    "PREPARE TRANSACTION 'late'",
    "/* done */ COMMIT -- now",
    " \n;\tCOMMIT;;",
    "COMMIT; BEGIN",
    "COMMIT AND CHAIN; COMMIT",
];

/// The same, after something else in one Query.
const LISTS: [&str; 4] = [
    "SELECT 1; COMMIT",
    "RELEASE sp; COMMIT",
    "DEALLOCATE plan; END",
    "SELECT 1; PREPARE TRANSACTION 'late'",
];

/// What ends a transaction so that nothing of it is kept.
const ROLLBACKS: [&str; 5] = [
    "ROLLBACK",
    "ABORT",
    "rollback work;",
    "ROLLBACK AND NO CHAIN",
    "-- over\nABORT TRANSACTION /* all of it */",
];

/// How a transaction came to its end; the session's application_name, by which it gets its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Idle in transaction.
    Idle,
    /// Idle in transaction, and the whole transaction is too old.
    Age,
    /// Idle in transaction, and somebody waits for its locks.
    Blocking,
    /// A batch without Sync, which the client goes on with.
    Batch,
    /// A batch without Sync, which the client ends at once.
    Synced,
    /// COPY FROM STDIN without data: the client is told in the answer to it.
    Copy,
    /// A statement runs, and the whole transaction is too old: the client is told in the answer to it.
    Running,
}

const POSITIONS: [Position; 7] = [
    Position::Idle,
    Position::Age,
    Position::Blocking,
    Position::Batch,
    Position::Synced,
    Position::Copy,
    Position::Running,
];

/// Sessions for each position and server: more where there are more cases, or a longer limit.
const SESSIONS: [usize; POSITIONS.len()] = [16, 8, 6, 4, 4, 4, 8];

const RULES: &str = r#"
[audit]
transactions = false
[[rule]]
name = "blocking"
match = { application_name = "Blocking" }
blocking = { rollback = "0s" }
[[rule]]
name = "age"
match = { application_name = "Age" }
age = { rollback = "500ms" }
[[rule]]
name = "running"
match = { application_name = "Running" }
age = { rollback = "500ms" }
[[rule]]
name = "idle"
match = { application_name = "Idle" }
idle = { rollback = "150ms" }
[[rule]]
name = "stalled"
stalled = { rollback = "150ms" }
"#;

/// How the hidden request and the end go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    /// Each when the one before it was answered.
    Apart,
    /// In one packet.
    Packet,
    /// In one packet and, where both are batches, with one Sync.
    Sync,
}

const TOGETHER: [Together; 3] = [Together::Apart, Together::Packet, Together::Sync];

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Case {
    hidden: &'static [Request],
    end: &'static str,
    hidden_speech: Speech,
    end_speech: Speech,
    together: Together,
}

/// How many ways there are to send one pair.
const WAYS: usize = SPEECHES.len() * SPEECHES.len() * TOGETHER.len();

/// The cases of one position on one server, in an order in which the ways to send alternate.
fn cases(position: usize, server: usize) -> Vec<Case> {
    let all = env::var("HIDDEN_REQUESTS").is_ok_and(|which| which == "all");
    let ends = [&COMMITS[..], &LISTS, &ROLLBACKS].concat();
    let mut cases = Vec::new();
    for (row, &hidden) in HIDDEN.iter().enumerate() {
        for (column, &end) in ends.iter().enumerate() {
            // Each server gets its share of the pairs, each position other ways to send them, and only the first position
            // all pairs.
            let first = 29 * row + 11 * column + 7 * position;
            let ways = match (all, position) {
                (true, _) => 0..WAYS,
                (false, 0) => first..first + 1,
                (false, _) => first..first + usize::from(first.is_multiple_of(3)),
            };
            if (row + column) % versions().len() != server {
                continue;
            }
            cases.extend(ways.map(|way| Case {
                hidden,
                end,
                hidden_speech: SPEECHES[way % 4],
                end_speech: SPEECHES[way / 4 % 4],
                together: TOGETHER[way / 16 % 3],
            }));
        }
    }
    cases
}

/// How many transactions of each server process pgidle has ended, as its audit file says.
#[derive(Default)]
struct Endings {
    counts: Mutex<HashMap<i32, usize>>,
    changed: Condvar,
    over: AtomicBool,
}

impl Endings {
    /// Reads what is written to the audit file until told that all is over.
    fn follow(&self, file: PathBuf) {
        let mut lines = BufReader::new(wait_for("the audit file", || File::open(&file).ok()));
        let mut line = String::new();
        while !self.over.load(Ordering::Relaxed) {
            lines.read_line(&mut line).unwrap();
            if !line.ends_with('\n') {
                thread::sleep(Duration::from_millis(3));
                continue;
            }
            let incident: Value = serde_json::from_str(&line).unwrap();
            line.clear();
            if incident["outcome"] == "rolled_back" {
                let pid = incident["server_pid"].as_i64().unwrap();
                let mut counts = self.counts.lock().unwrap();
                *counts.entry(i32::try_from(pid).unwrap()).or_default() += 1;
                self.changed.notify_all();
            }
        }
    }

    fn of(&self, pid: i32) -> usize {
        self.counts.lock().unwrap().get(&pid).copied().unwrap_or(0)
    }

    /// Waits until a session has had more enforcements than these.
    fn wait(&self, pid: i32, before: usize) {
        let counts = self.counts.lock().unwrap();
        let unchanged =
            |counts: &mut HashMap<i32, usize>| counts.get(&pid).copied().unwrap_or(0) <= before;
        let (_counts, waited) = self
            .changed
            .wait_timeout_while(counts, PATIENCE, unchanged)
            .unwrap();
        assert!(!waited.timed_out(), "its transaction was not ended");
    }
}

/// What all sessions on one server share.
struct Stage<'a> {
    proxy: &'a Proxy,
    database: &'a Endpoint,
    enforcements: &'a Endings,
    /// The large object that is opened.
    object: String,
    /// The next row.
    rows: AtomicUsize,
    /// Rows that were acknowledged: those and no others must be there.
    acknowledged: Mutex<BTreeSet<usize>>,
}

impl Stage<'_> {
    /// Notes that a row must be there.
    fn acknowledge(&self, row: usize) {
        self.acknowledged.lock().unwrap().insert(row);
    }
}

/// One session that plays one case after the other.
struct Player<'a> {
    stage: &'a Stage<'a>,
    position: Position,
    client: Client,
    /// Who waits for a row of the session's, where the position asks for it.
    waiter: Option<Client>,
}

impl<'a> Player<'a> {
    fn new(stage: &'a Stage<'a>, position: Position) -> Self {
        let name = format!("{position:?}");
        let mut client =
            Client::connect_with(stage.proxy.endpoint(), &[("application_name", &name)]);
        client.run("LISTEN news");
        let waits = position == Position::Blocking;
        Self {
            stage,
            position,
            client,
            waiter: waits.then(|| Client::connect(stage.database)),
        }
    }

    /// The answers to some packets, each up to its ReadyForQuery.
    fn answers(&mut self, count: usize) -> Result<Vec<String>, String> {
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(self.client.until_ready());
            if answers
                .last()
                .is_some_and(|answer| answer.ends_with("closed"))
            {
                return Err(format!("the session is gone: {answers:?}"));
            }
        }
        Ok(answers)
    }

    fn query(&mut self, sql: &str) -> Result<String, String> {
        self.client.send(&messages(&format!("Q {sql}")).concat());
        Ok(self.answers(1)?.remove(0))
    }

    /// Opens a transaction with a row in it, and waits until pgidle has ended it.
    fn be_ended(&mut self, row: usize) -> Result<(), String> {
        let pid = self.client.server_pid();
        let before = self.stage.enforcements.of(pid);
        let insert = format!("INSERT INTO t VALUES ({row}, 'late')");
        let object = &self.stage.object;
        let opened = self.query(&format!(
            "BEGIN; {insert}; SAVEPOINT sp; DECLARE c CURSOR FOR SELECT 1; SELECT lo_open({object}, 131072)"
        ))?;
        if !opened.ends_with("Z T") {
            return Err(format!("not opened: {opened}"));
        }
        match self.position {
            Position::Idle | Position::Age => {}
            Position::Blocking => {
                let waiter = self.waiter.as_mut().expect("a waiter");
                let wait = format!("Q BEGIN; {insert}; ROLLBACK");
                waiter.send(&messages(&wait).concat());
                waiter.until_ready();
            }
            Position::Batch | Position::Synced => {
                let batch = messages("P - SELECT 1 | B - - | E - | H");
                self.client.send(&batch.concat());
                self.client.until(b'C');
            }
            Position::Copy | Position::Running => {
                let runs = if self.position == Position::Copy {
                    "COPY t FROM STDIN"
                } else {
                    "SELECT pg_sleep(30)"
                };
                let answer = self.query(runs)?;
                if !is_told(&answer) {
                    return Err(format!("not told in the answer to {runs}: {answer}"));
                }
            }
        }
        self.stage.enforcements.wait(pid, before);
        if self.position == Position::Synced {
            self.client.send(&messages("S").concat());
            let answer = self.answers(1)?.remove(0);
            if answer != "E 25P03 / Z E" {
                return Err(format!("not told in the answer to Sync: {answer}"));
            }
        }
        Ok(())
    }

    /// The last answer to the end of the transaction, after everything that comes before it.
    fn send(&mut self, case: &Case) -> Result<(Vec<String>, String), String> {
        let name = |index| format!("hidden_{index}");
        let mut packets = Vec::new();
        for (index, request) in case.hidden.iter().enumerate() {
            packets.extend(request.packets(case.hidden_speech, &name(index)));
        }
        let hidden = packets.len();
        packets.extend(Sql(case.end).packets(case.end_speech, "end"));
        let answers = match case.together {
            Together::Apart => {
                let mut answers = Vec::new();
                for packet in &packets {
                    self.client.send(&packet.concat());
                    answers.extend(self.answers(readies(packet))?);
                }
                answers
            }
            Together::Packet | Together::Sync => {
                if case.together == Together::Sync {
                    join(&mut packets, hidden);
                }
                let count = packets.iter().map(readies).sum();
                self.client.send(&packets.concat().concat());
                self.answers(count)?
            }
        };
        let (end, hidden) = answers.split_last().expect("an answer");
        Ok((hidden.to_vec(), end.clone()))
    }

    /// Whether what comes first belongs to the batch in which the transaction was ended, which has failed.
    fn is_in_batch(&self, case: &Case) -> bool {
        let ends = |request: &Request| !matches!(request, Wire("H"));
        self.position == Position::Batch && !case.hidden.iter().any(ends)
    }

    /// Plays a case; the result is what is wrong about it.
    fn play(&mut self, case: &Case) -> Result<(), String> {
        let row = self.stage.rows.fetch_add(2, Ordering::Relaxed);
        let mut prepare = messages("Q DEALLOCATE ALL | Q PREPARE plan AS SELECT 1");
        for (index, request) in case.hidden.iter().enumerate() {
            if let (Sql(_), false) = (request, request.is_list()) {
                prepare.extend(request.prepared(&format!("hidden_{index}")));
            }
        }
        if !Sql(case.end).is_list() {
            prepare.extend(Sql(case.end).prepared("end"));
        }
        self.client.send(&prepare.concat());
        self.answers(readies(&prepare))?;
        self.be_ended(row)?;
        let (hidden, end) = self.send(case)?;
        let told = |what: &str| Err(format!("{what}: {hidden:?} then {end}"));
        let all = [&hidden[..], std::slice::from_ref(&end)].concat();
        if all
            .iter()
            .any(|answer| has_tag(answer, "COMMIT") || has_tag(answer, "PREPARE TRANSACTION"))
        {
            return told("LIE");
        }
        let failed = !end.ends_with("Z I");
        // With one Sync the error of what came before is the answer to the end too.
        let joined = case.together == Together::Sync || self.is_in_batch(case);
        if !ROLLBACKS.contains(&case.end) {
            // The tag may be that of a ROLLBACK TO before it.
            if has_tag(&end, "ROLLBACK") && !(joined && is_told(&end)) {
                return told("LIE");
            }
            if !(is_told(&end) || joined && has_error(&end)) {
                return told("a COMMIT without our error");
            }
        } else if has_error(&end) && !joined {
            return told("a ROLLBACK with an error");
        } else if !failed && !has_tag(&end, "ROLLBACK") {
            return told("a ROLLBACK without its tag");
        }
        if failed && row.is_multiple_of(4) {
            let again = self.query("COMMIT")?;
            if !is_told(&again) || !again.ends_with("Z I") {
                return told(&format!("LIE by the second COMMIT: {again}"));
            }
        } else if failed {
            let rolled_back = self.query("ROLLBACK")?;
            if rolled_back != "C ROLLBACK / Z I" {
                return told(&format!("a second ROLLBACK drew {rolled_back}"));
            }
        }
        let row = row + 1;
        let after = self.query(&format!(
            "BEGIN; INSERT INTO t VALUES ({row}, 'kept'); COMMIT"
        ))?;
        if after != "C BEGIN / C INSERT 0 1 / C COMMIT / Z I" {
            return told(&format!("the next transaction drew {after}"));
        }
        self.stage.acknowledge(row);
        Ok(())
    }
}

/// Makes one batch of two neighbours at this index, where both are batches.
fn join(packets: &mut [Packet], end: usize) {
    let is_batch = |packet: &Packet| !b"QF".contains(&packet[0][0]);
    if let Some([before, first]) = end
        .checked_sub(1)
        .and_then(|last| packets.get_mut(last..=end))
        && is_batch(before)
        && is_batch(first)
    {
        before.retain(|message| message[0] != b'S');
    }
}

fn lines(answer: &str) -> impl Iterator<Item = &str> {
    answer.split(" / ")
}

fn has_error(answer: &str) -> bool {
    lines(answer).any(|line| line.starts_with("E "))
}

/// Whether the answer is an error of pgidle's.
fn is_told(answer: &str) -> bool {
    lines(answer).any(|line| line == "E 25P03" || line == "E 25P04")
}

fn has_tag(answer: &str, tag: &str) -> bool {
    lines(answer).any(|line| line.strip_prefix("C ") == Some(tag))
}

/// Plays cases in as many sessions as belong to the position.
fn play_all(stage: &Stage<'_>, position: usize, cases: &[Case], wrong: &Mutex<Vec<String>>) {
    let next = AtomicUsize::new(0);
    let play = || {
        let mut player = None;
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let current = player.get_or_insert_with(|| Player::new(stage, POSITIONS[position]));
            let played = catch_unwind(AssertUnwindSafe(|| current.play(case)));
            let why = match played {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(panic) => format!("{:?}", panic.downcast_ref::<String>()),
            };
            let position = POSITIONS[position];
            wrong
                .lock()
                .unwrap()
                .push(format!("{position:?}: {case:?}: {why}"));
            player = None;
        }
    };
    thread::scope(|scope| {
        for _ in 0..SESSIONS[position] {
            scope.spawn(play);
        }
    });
}

fn tries_everything(server: &Server, share: usize, wrong: &Mutex<Vec<String>>) -> usize {
    let database = server.database();
    let Endpoint {
        host,
        port,
        database: name,
    } = &database;
    let observer = format!(
        "[observer]\ndsn = \"host={host} port={port} user=postgres dbname={name}\"\ninterval = \"50ms\"\n"
    );
    let proxy = Proxy::with_rules(&database, &format!("{observer}{RULES}"));
    let mut dba = Dba::new(&database);
    let enforcements = Endings::default();
    let stage = Stage {
        proxy: &proxy,
        database: &database,
        enforcements: &enforcements,
        object: dba.value("SELECT lo_create(0)"),
        rows: AtomicUsize::new(2),
        acknowledged: Mutex::default(),
    };
    let all: Vec<_> = (0..POSITIONS.len())
        .map(|position| cases(position, share))
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| enforcements.follow(proxy.audit_file()));
        thread::scope(|scope| {
            for (position, cases) in all.iter().enumerate() {
                let stage = &stage;
                scope.spawn(move || play_all(stage, position, cases, wrong));
            }
        });
        enforcements.over.store(true, Ordering::Relaxed);
    });
    let rows = dba.value("SELECT coalesce(string_agg(id::text, ' '), '') FROM t WHERE id > 1");
    let rows: BTreeSet<usize> = rows
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    let acknowledged = stage.acknowledged.into_inner().unwrap();
    for row in acknowledged.symmetric_difference(&rows) {
        wrong.lock().unwrap().push(format!("LIE about row {row}"));
    }
    all.iter().map(Vec::len).sum()
}

#[test]
fn no_commit_passes_and_no_rollback_fails_whatever_a_library_sent_before() {
    let wrong = Mutex::new(Vec::new());
    let (shares, played) = (AtomicUsize::new(0), AtomicUsize::new(0));
    on_every_server(|server| {
        let share = shares.fetch_add(1, Ordering::Relaxed);
        played.fetch_add(tries_everything(server, share, &wrong), Ordering::Relaxed);
    });
    let (wrong, played) = (wrong.into_inner().unwrap(), played.into_inner());
    let lies = wrong.iter().filter(|why| why.contains("LIE")).count();
    assert!(
        wrong.is_empty(),
        "{} of {played} cases are wrong, {lies} of them lies:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
