//! Many sessions that think for about as long as they may: what was acknowledged is there, what was refused is not.

use std::{
    collections::BTreeSet,
    env,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{bind, execute, parse, query, sync, unnamed},
    in_repository, installed, let_pass,
    observed::dsn,
    proxy::Proxy,
    server::{newest, on_every_server},
    wire::Client,
};

const SESSIONS: u32 = 12;
const TRANSACTIONS: u32 = 15;
/// Each thinks for the limit of 100 ms and up to so much less or more.
const SPREAD: u64 = 40;

/// One session's transactions, each one row; the result is the ids that were acknowledged.
fn keep_committing(mut client: Client, session: u32) -> Vec<u32> {
    client.ask(&[parse("commit", "COMMIT"), sync()]);
    let mut acknowledged = Vec::new();
    let mut random = u64::from(session) + 1;
    for number in 0..TRANSACTIONS {
        let id = 1000 + session * TRANSACTIONS + number;
        client.begin(&format!("INSERT INTO t VALUES ({id}, 'bank')"));
        // A linear congruential generator: the same think times in every run.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let_pass(Duration::from_millis(
            100 - SPREAD + (random >> 33) % (2 * SPREAD),
        ));
        let commit = match number % 3 {
            0 => query("COMMIT"),
            1 => [unnamed("COMMIT"), sync()].concat(),
            _ => [bind("", "commit", &[]), execute("", 0), sync()].concat(),
        };
        let reply = client.ask(&[commit]);
        if reply.contains("C COMMIT") {
            acknowledged.push(id);
        } else {
            assert!(reply.ends_with("E 25P03 / Z I"), "{reply}");
        }
    }
    acknowledged
}

#[test]
fn every_acknowledged_commit_is_there_and_every_refused_one_is_not() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "100ms");
        let mut sessions = Vec::new();
        for session in 0..SESSIONS {
            let client = Client::connect(proxy.endpoint());
            sessions.push(thread::spawn(move || keep_committing(client, session)));
        }
        let acknowledged: BTreeSet<_> = sessions
            .into_iter()
            .flat_map(|session| session.join().unwrap())
            .collect();
        let rows = Dba::new(&database).value(
            "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM t WHERE id >= 1000",
        );
        let rows: BTreeSet<u32> = rows.split(',').filter_map(|id| id.parse().ok()).collect();
        assert_eq!(rows, acknowledged);
        let all = (SESSIONS * TRANSACTIONS) as usize;
        assert!(
            (1..all).contains(&rows.len()),
            "of {all} commits {} were acknowledged: no race was run",
            rows.len()
        );
    });
}

/// The bank at work.
pub(crate) struct Bank {
    mode: &'static str,
    process: Child,
}

impl Bank {
    /// Opens it, for `BANK_SECONDS` if they are set, in a database that it reaches directly and through a proxy.
    pub(crate) fn open(
        mode: &'static str,
        direct: &Endpoint,
        proxy: &Endpoint,
        more: &[&str],
    ) -> Self {
        let address = |endpoint: &Endpoint| format!("{}:{}", endpoint.host, endpoint.port);
        let setting =
            |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        let process = Command::new(installed("python").join("bin/python"))
            .arg(in_repository("tests/python/bank"))
            .args(["--mode", mode, "--database", &direct.database])
            .args(["--direct", &address(direct)])
            .args(["--proxy", &address(proxy)])
            .args(["--seconds", &setting("BANK_SECONDS", "8")])
            .args(["--seed", &setting("BANK_SEED", "1")])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { mode, process }
    }

    /// Whether it is closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// What its customers met, as it reports it; fails where there is an anomaly, or where nothing was done.
    pub(crate) fn report(self) -> Value {
        let output = self.process.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
        eprintln!("bank, {}: {:#}", self.mode, report);
        let anomalies = report["anomalies"].as_object().unwrap();
        assert!(anomalies.values().all(|count| count == 0), "{report:#}");
        assert!(
            report["told"]["acknowledged"].as_u64() > Some(0),
            "{report:#}"
        );
        report
    }
}

/// The rules of a bank. The observer tells what may be cancelled without keeping a commit from its standby.
pub(crate) fn rules(database: &Endpoint, rule: &str) -> String {
    format!(
        "[observer]\ndsn = \"{}\"\ninterval = \"100ms\"\n[[rule]]\nname = \"bank\"\n{rule}\n",
        dsn(database, "postgres")
    )
}

/// Runs the bank in peace.
fn run_bank(mode: &'static str, rule: &str) {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, &rules(&database, rule));
    let report = Bank::open(mode, &database, proxy.endpoint(), &[]).report();
    let outcome = if mode == "terminate" {
        "terminated"
    } else {
        "rolled_back"
    };
    let ended = proxy
        .incidents()
        .iter()
        .filter(|incident| incident["outcome"] == outcome)
        .count();
    let told = report["enforced"].as_object().unwrap();
    assert!(
        ended > 0 && !told.is_empty(),
        "nothing was ended: nothing is proven: {report:#}"
    );
}

#[test]
fn six_dialects_lose_nothing_when_their_transactions_are_rolled_back() {
    run_bank(
        "rollback",
        "idle = { rollback = \"300ms\" }\nstalled = { rollback = \"300ms\" }",
    );
}

#[test]
fn six_dialects_lose_nothing_when_their_transactions_grow_too_old() {
    run_bank("age", "age = { rollback = \"900ms\", implicit = true }");
}

#[test]
fn six_dialects_lose_nothing_when_their_sessions_are_terminated() {
    run_bank(
        "terminate",
        "idle = { terminate = \"300ms\" }\nstalled = { terminate = \"300ms\" }",
    );
}
