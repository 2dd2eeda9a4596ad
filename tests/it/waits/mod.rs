//! Every way in which one session makes another wait, on a primary and on a standby: whether the observer sees it, and
//! whether `blocking` acts. The table in docs/waits.md, which this test writes and holds to what really happens.

mod cases;

use std::{
    collections::BTreeSet,
    env, fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use self::cases::{
    CASES, Case, IN_OTHER, ON_STANDBY,
    Place::{self, Primary, Standby},
    UNREAD,
    Verdict::{Ends, Leaves},
};
use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{copy_done, query},
    in_repository,
    observed::{dsn, observing},
    pair::Pair,
    proxy::Proxy,
    server::{on_every_server, versions},
    wait_for,
    wire::Client,
};

/// A pair of servers with a proxy in front of each.
struct Stage {
    pair: Pair,
    proxies: [Proxy; 2],
    dba: Client,
}

impl Stage {
    fn start(version: u32) -> Self {
        let settings = [
            ("wal_level", "logical"),
            ("max_prepared_transactions", "5"),
            ("autovacuum", "off"),
            ("max_standby_streaming_delay", "-1"),
        ];
        let pair = Pair::with_settings(version, &settings);
        let mut dba = Client::connect(&pair.primary());
        dba.run("CREATE DATABASE other");
        let proxies = [pair.primary(), pair.standby()]
            .map(|server| Proxy::with_rules(&server, &observing(&dsn(&server, "postgres"), QUIET)));
        Self { pair, proxies, dba }
    }

    fn server(&self, place: Place) -> Endpoint {
        match place {
            Primary => self.pair.primary(),
            Standby => self.pair.standby(),
        }
    }

    /// The other database on the primary.
    fn other(&self) -> Endpoint {
        Endpoint {
            database: "other".to_owned(),
            ..self.pair.primary()
        }
    }

    /// Runs a statement of the DBA's.
    fn prepare(&mut self, sql: &str) {
        let Endpoint { port, .. } = self.pair.primary();
        let connection = format!("host=127.0.0.1 port={port} dbname=other user=postgres");
        let sql = sql.replace("{other}", &connection);
        match sql.strip_prefix(IN_OTHER) {
            Some(sql) => Client::connect(&self.other()).run(sql),
            None => self.dba.run(&sql),
        }
    }

    /// Waits until the standby has replayed everything.
    fn catch_up(&mut self) {
        let written = self.dba.value("SELECT pg_current_wal_insert_lsn()");
        let mut standby = Client::connect(&self.pair.standby());
        wait_for("the standby", || {
            let replayed =
                standby.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"));
            (replayed == "t").then_some(())
        });
    }

    /// Makes the tables of a case.
    fn set_up(&mut self, case: &Case) {
        for sql in [
            "DROP SCHEMA public CASCADE",
            "CREATE SCHEMA public",
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t VALUES (1, 'one')",
        ]
        .iter()
        .chain(case.setup)
        {
            self.prepare(sql);
        }
        self.catch_up();
    }

    /// Plays a case, and says what came of it.
    fn play(&mut self, case: &Case) -> String {
        self.set_up(case);
        let server = self.server(case.place);
        let proxy = &self.proxies[usize::from(case.place == Standby)];
        let mut holder = Client::connect(proxy.endpoint());
        for sql in case.holder {
            hold(&mut holder, sql);
        }
        let stuck = Instant::now();
        let others = case.others.iter().map(|(database, sql)| {
            let mut other = Client::connect(&Endpoint {
                database: (*database).to_owned(),
                ..server.clone()
            });
            other.run(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {sql}"));
            other
        });
        let others: Vec<_> = others.collect();
        let mut waiters = self.wait(case);
        // Only now: however long it took until all of them waited, nobody has been freed.
        let settings = |limits: &str| observing(&dsn(&server, "postgres"), limits);
        proxy.change_rules(&settings(&acting(stuck.elapsed())));
        let result = match case.verdict {
            Ends => {
                let incident = proxy.rolled_back(holder.server_pid());
                proxy.change_rules(&settings(QUIET));
                assert_eq!(incident["kind"], "blocking", "{incident}");
                drop(others);
                let last = waiters.last().map(Client::server_pid);
                for waiter in &mut waiters {
                    let answer = waiter.until_ready();
                    assert!(answer.ends_with("Z I"), "{answer}");
                    assert!(waiter.error.is_none(), "{answer}");
                }
                self.catch_up();
                format!("{} | ends it", seen(&incident, last))
            }
            Leaves(why) => {
                let incident = left(proxy, holder.server_pid());
                proxy.change_rules(&settings(QUIET));
                let last = waiters.last().map(Client::server_pid);
                go_on(&mut holder, case);
                format!("{} | leaves it: {why}", seen(&incident, last))
            }
        };
        drop(holder);
        for sql in case.cleanup {
            self.prepare(sql);
        }
        drop(waiters);
        self.catch_up();
        let place = match case.place {
            Primary => "primary",
            Standby => "standby",
        };
        format!("| {} | {} | {place} | {result} |\n", case.who, case.holds)
    }

    /// Has those who wait begin to, one after the other.
    fn wait(&self, case: &Case) -> Vec<Client> {
        let door = |sql: &&'static str| {
            if let Some(sql) = sql.strip_prefix(ON_STANDBY) {
                (self.pair.standby(), sql)
            } else if let Some(sql) = sql.strip_prefix(IN_OTHER) {
                (self.other(), sql)
            } else {
                (self.pair.primary(), *sql)
            }
        };
        let connected = case.waiters.iter().map(|sql| {
            let (door, sql) = door(sql);
            (Client::connect(&door), door, sql)
        });
        let mut connected: Vec<_> = connected.collect();
        let last = connected.pop();
        let mut waiters = Vec::new();
        for (mut waiter, door, sql) in connected {
            if case.place == Standby {
                waiter.run(sql);
            } else {
                waiter.send(&query(sql));
                wait_until_stuck(&door, &format!("pid = {}", waiter.server_pid()));
                waiters.push(waiter);
            }
        }
        if let Some((mut waiter, door, sql)) = last {
            let is_here = door.port == self.server(case.place).port;
            if case.place == Standby && is_here {
                wait_until_stuck(&door, "backend_type = 'startup'");
            }
            waiter.send(&query(sql));
            if is_here && door.database == "postgres" {
                wait_until_stuck(&door, &format!("pid = {}", waiter.server_pid()));
            }
            waiters.push(waiter);
        }
        waiters
    }
}

/// Limits that touch nobody.
const QUIET: &str = "idle = { log = '1h' }";

/// Limits that end who keeps others waiting, and otherwise say what is seen a little later; a second time where an answer
/// missed the first.
fn acting(stuck: Duration) -> String {
    let [soon, later] = [2000, 10_000].map(|after| stuck.as_millis() + after);
    let told = format!("{{ log = '{soon}ms', notice = '{later}ms' }}");
    format!("blocking = {{ rollback = '500ms' }}\nidle = {told}\nstalled = {told}")
}

fn hold(holder: &mut Client, sql: &str) {
    if let Some(sql) = sql.strip_prefix(UNREAD) {
        holder.send(&query(sql));
        // By then it has its locks.
        holder.until(b'T');
    } else if sql.starts_with("COPY") {
        holder.send(&query(sql));
        assert_eq!(holder.until(b'G'), "G");
    } else {
        holder.run(sql);
    }
}

/// Shows that a session which was left alone has its transaction.
fn go_on(holder: &mut Client, case: &Case) {
    if case.holder.iter().any(|sql| sql.starts_with("COPY")) {
        holder.send(&copy_done());
        assert_eq!(holder.until_ready(), "C COPY 0 / Z T");
    }
    assert_eq!(holder.query("COMMIT"), "C COMMIT / Z I", "{}", case.who);
}

/// Waits until a process waits for another.
fn wait_until_stuck(server: &Endpoint, process: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {process} AND wait_event_type IN ('Lock', 'IPC', 'BufferPin', 'Buffer')"
    );
    let mut dba = Dba::new(server);
    wait_for("a waiter", || (dba.value(&sql) == "1").then_some(()));
}

/// The incident that says why a session was not ended.
fn left(proxy: &Proxy, server_pid: i32) -> Value {
    wait_for("an incident that says why not", || {
        let incidents = proxy.incidents().into_iter();
        let mut of_session = incidents.filter(|line| line["server_pid"] == server_pid);
        of_session.find(|line| {
            assert_ne!(line["outcome"], "rolled_back", "{line}");
            let unknown = line["locks"].is_array() && line["blocked"].is_null();
            line["outcome"] == "not_possible" || line["kind"] != "blocking" && unknown
        })
    })
}

/// What an incident shows of the last one in the queue, who is this client where it is a client.
fn seen(incident: &Value, client: Option<i32>) -> String {
    let Some(waiter) = incident["blocked"]
        .as_array()
        .and_then(|queue| queue.last())
    else {
        return "`blocked` is null | ".to_owned();
    };
    if waiter["backend_type"] == "client backend" {
        assert_eq!(
            waiter["server_pid"].as_i64(),
            client.map(i64::from),
            "{incident}"
        );
    }
    let blocked_by = waiter["blocked_by"].as_array().unwrap();
    let once: BTreeSet<_> = blocked_by.iter().map(Value::as_i64).collect();
    assert!(
        once.len() == blocked_by.len() && !once.contains(&Some(0)),
        "{waiter}"
    );
    let freed_by = waiter["freed_by"].as_str().unwrap_or("null");
    // The same under another name from 19 on.
    let waits_for = waiter["waits_for"]
        .as_str()
        .unwrap()
        .replace("BufferCleanup", "BufferPin");
    format!("`{waits_for}`, depth {} | {freed_by}", waiter["depth"])
}

const MARKERS: [&str; 2] = [
    "<!-- The table, written by `make waits`. -->\n",
    "<!-- The end of the table. -->\n",
];

/// The rows of a version; `None` for what it does not have.
fn rows(version: u32) -> Vec<Option<String>> {
    let mut stage = Stage::start(version);
    let row = |case: &Case| (case.since <= version).then(|| stage.play(case));
    CASES.iter().map(row).collect()
}

/// The table, with the rows of the document where none of the versions has them.
fn table(played: &[Vec<Option<String>>], written: &str) -> String {
    let header = "| who waits | what the session has, that is idle or stalled | server | `waits_for` | `freed_by` | `blocking` |\n\
                  |---|---|---|---|---|---|\n";
    let row = |(number, case): (usize, &Case)| {
        let rows: BTreeSet<_> = played
            .iter()
            .filter_map(|rows| rows[number].clone())
            .collect();
        assert!(rows.len() <= 1, "versions differ: {rows:?}");
        rows.into_iter().next().unwrap_or_else(|| {
            let start = format!("| {} | {} |", case.who, case.holds);
            let found = written.lines().find(|line| line.starts_with(&start));
            let row =
                found.unwrap_or_else(|| panic!("no row {start}; version {} writes it", case.since));
            format!("{row}\n")
        })
    };
    header.to_owned() + &CASES.iter().enumerate().map(row).collect::<String>()
}

#[test]
fn the_table_of_waits_says_who_is_seen_and_what_is_done() {
    let played = thread::scope(|scope| {
        let play = |version: u32| {
            let name = format!("PostgreSQL {version}");
            let thread = thread::Builder::new().name(name);
            thread.spawn_scoped(scope, move || rows(version)).unwrap()
        };
        #[allow(
            clippy::needless_collect,
            reason = "all of them have to run before the first is waited for"
        )]
        let threads: Vec<_> = versions().iter().map(|&version| play(version)).collect();
        let rows = threads.into_iter().map(|thread| thread.join().unwrap());
        rows.collect::<Vec<_>>()
    });
    let path = in_repository("docs/waits.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(MARKERS[0]).unwrap();
    let (written, after) = rest.split_once(MARKERS[1]).unwrap();
    let table = table(&played, written);
    if env::var_os("WRITE_WAITS").is_some() {
        fs::write(
            &path,
            [before, MARKERS[0], &table, MARKERS[1], after].concat(),
        )
        .unwrap();
    } else {
        assert_eq!(
            written, table,
            "docs/waits.md is out of date; run `make waits`"
        );
    }
}

/// From 17 on the server lists them all.
#[test]
fn every_wait_event_is_spoken_of() {
    let document = fs::read_to_string(in_repository("docs/waits.md")).unwrap();
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        if dba.value("SELECT to_regclass('pg_wait_events') IS NULL") == "t" {
            return;
        }
        let whole = "('Activity', 'Client', 'Extension', 'InjectionPoint', 'IO', 'LWLock')";
        let names = dba.value(&format!(
            "SELECT string_agg(name, ' ') FROM pg_wait_events WHERE type NOT IN {whole}"
        ));
        for name in names.split(' ') {
            assert!(document.contains(&format!("`{name}`")), "{name}");
        }
    });
}
