//! The audit file: one JSON line for each incident and each finished transaction.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    let_pass,
    proxy::{Proxy, address},
    server::newest,
    wait_for,
    wire::Client,
};

fn stuck_session(proxy: &Proxy) -> Client {
    let mut client = Client::connect_with(proxy.endpoint(), &[("application_name", "nightly job")]);
    let insert = "INSERT INTO t VALUES (2, 'a secret')";
    let selected = client.at_once(&["BEGIN", insert, "SELECT v FROM t WHERE id = 1"]);
    assert_eq!(selected, "T / D one / C SELECT 1 / Z T");
    client
}

fn number(line: &Value, field: &str) -> f64 {
    line[field]
        .as_f64()
        .unwrap_or_else(|| panic!("no number `{field}` in {line}"))
}

#[test]
fn an_incident_answers_everything_the_wire_can_tell() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "150ms");
    let client = stuck_session(&proxy);
    let incident = proxy.rolled_back(client.server_pid());

    let expected = [
        ("event", "incident"),
        ("kind", "idle"),
        ("action", "rollback"),
        ("outcome", "rolled_back"),
        ("client_addr", "127.0.0.1"),
        ("user", "postgres"),
        ("database", &database.database),
        ("application_name", "nightly job"),
        ("position", "idle in transaction"),
    ];
    for (field, value) in expected {
        assert_eq!(incident[field], value, "{field} in {incident}");
    }
    assert!(incident["rule"].is_string(), "{incident}");
    assert!(incident["id"].is_string(), "{incident}");
    assert!(incident["session"].is_u64(), "{incident}");
    let time = incident["time"].as_str().unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(incident["tls"], false);
    assert_eq!(number(&incident, "limit_ms"), 150.0);
    assert!(number(&incident, "idle_ms") >= 150.0, "{incident}");
    assert!(
        number(&incident, "age_ms") >= number(&incident, "idle_ms"),
        "{incident}"
    );
    for unknown in ["locks", "blocked", "xmin_age"] {
        assert_eq!(
            incident.get(unknown),
            Some(&Value::Null),
            "{unknown} is null without an observer"
        );
    }
}

#[test]
fn statements_come_in_order_and_without_their_literals() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "150ms");
    let client = stuck_session(&proxy);
    let incident = proxy.rolled_back(client.server_pid());

    assert_eq!(incident["statement_count"], 3);
    let statements = incident["statements"].as_array().unwrap();
    let texts: Vec<_> = statements
        .iter()
        .map(|statement| statement["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "BEGIN",
            "INSERT INTO t VALUES ($1, $2)",
            "SELECT v FROM t WHERE id = $1"
        ]
    );
    assert!(!incident.to_string().contains("a secret"));
    let times: Vec<_> = statements
        .iter()
        .map(|statement| number(statement, "at_ms"))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    for statement in statements {
        assert!(statement["fingerprint"].is_string(), "{statement}");
        assert!(number(statement, "duration_ms") >= 0.0, "{statement}");
    }
}

#[test]
fn a_finished_transaction_is_a_line_with_its_totals() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN; INSERT INTO t VALUES (2, 'two')");
    client.run("SELECT pg_sleep(0.1)");
    let_pass(Duration::from_millis(100));
    client.run("COMMIT");

    let line = proxy.audit_line(&[("event", "transaction")]);
    assert_eq!(line["outcome"], "commit");
    assert_eq!(line["server_pid"], client.server_pid());
    assert!(number(&line, "duration_ms") >= 200.0, "{line}");
    assert!(number(&line, "busy_ms") >= 100.0, "{line}");
    assert!(number(&line, "idle_ms") >= 100.0, "{line}");
    assert!(number(&line, "longest_idle_ms") >= 100.0, "{line}");
    assert!(
        number(&line, "longest_idle_ms") <= number(&line, "idle_ms"),
        "{line}"
    );
}

#[test]
fn every_end_of_a_transaction_has_its_name() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "");
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    client.run("COMMIT");
    client.run("BEGIN");
    client.run("ROLLBACK");
    client.run("BEGIN");
    client.run("PREPARE TRANSACTION 'kept'");
    client.run("ROLLBACK PREPARED 'kept'");
    client.run("BEGIN");
    assert_eq!(client.query("SELECT 1/0"), "E 22012 / Z E");
    assert_eq!(client.query("COMMIT"), "C ROLLBACK / Z I");
    proxy.change_rules("[[rule]]\nname = 'all'\nidle = { rollback = '300ms' }");
    client.run("BEGIN");
    proxy.rolled_back(client.server_pid());
    client.query("ROLLBACK");
    proxy.change_rules("");
    client.run("BEGIN");
    drop(client);

    let outcomes = wait_for("six transactions", || {
        let mut lines = proxy.audit();
        lines.retain(|line| line["event"] == "transaction");
        (lines.len() == 6).then(|| {
            lines
                .iter()
                .map(|line| line["outcome"].as_str().unwrap().to_owned())
                .collect()
        })
    });
    let expected = [
        "commit",
        "rollback",
        "prepared",
        "rollback",
        "enforced",
        "disconnect",
    ];
    let outcomes: Vec<String> = outcomes;
    assert_eq!(outcomes, expected);
}

/// What PostgreSQL's grammar reads as a name may be a value, or a value that was not quoted as one.
#[test]
fn words_that_may_be_secrets_are_not_written() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    let statements = [
        ("SET app.key = s3cret", "SET app.key = $1"),
        ("SET LOCAL app.key TO s3cret", "SET LOCAL app.key TO $1"),
        (
            "ALTER ROLE postgres IN DATABASE template1 SET app.key = s3cret",
            "ALTER ROLE postgres IN DATABASE template1 SET app.key = $1",
        ),
        (
            "ALTER ROLE postgres IN DATABASE template1 RESET app.key",
            "ALTER ROLE postgres IN DATABASE template1 RESET app.key",
        ),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.key = s3cret AS 'SELECT 1'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.key = $1 AS $2",
        ),
        (
            "ALTER ROLE postgres PASSWORD s3cret",
            "ALTER ROLE $1 PASSWORD $2",
        ),
        (
            "SELECT v FROM t WHERE v = \"s3cret\"",
            "SELECT $1 FROM $2 WHERE $3 = $4",
        ),
        (
            "SELECT v FROM t WHERE v = s3cret",
            "SELECT $1 FROM $2 WHERE $3 = $4",
        ),
        (
            "SELECT v FROM t WHERE id = 1/0",
            "SELECT v FROM t WHERE id = $1/$2",
        ),
        (
            "INSERT INTO t VALUES (1, 's3cret')",
            "INSERT INTO t VALUES ($1, $2)",
        ),
    ];
    for (text, expected) in statements {
        client.run("BEGIN");
        client.query(text);
        client.query("ROLLBACK");
        let line = wait_for("the transaction", || proxy.audit().pop());
        let shown = &line["statements"][1]["text"];
        assert_eq!(shown, expected, "{text}: {line}");
        std::fs::File::create(proxy.audit_file()).unwrap();
    }
}

/// A stopped proxy has written all it knows.
#[test]
fn lines_survive_the_end_of_the_process() {
    let database = newest().database();
    let mut proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    for _ in 0..50 {
        client.run("BEGIN");
        client.run("COMMIT");
    }
    proxy.signal(Signal::SIGTERM);
    proxy.exit_status();
    assert_eq!(proxy.audit().len(), 50);
}

/// What an auditor needs to know of the program itself: from when to when it ran, under which policy.
#[test]
fn pgidle_writes_down_its_own_life() {
    let database = newest().database();
    let exempt = "[[rule]]\nname = 'batch'\nmatch = { user = 'postgres' }\nexempt = true\n";
    let mut proxy = Proxy::with_rules(&database, exempt);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    client.run("COMMIT");
    let line = proxy.audit_line(&[("event", "transaction")]);
    assert_eq!(line["rule"], "batch", "an exempt one too");
    proxy.change_rules("drain_timeout = '5s'\n[listen]\nworkers = 7\n");
    client.run("BEGIN");
    client.run("COMMIT");
    proxy.audit_line(&[("event", "transaction"), ("rule", "default")]);
    assert!(!proxy.try_rules("nonsense = 1"));
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.exit_status().success());

    let lines = proxy.whole_audit();
    let events: Vec<_> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        [
            "started",
            "transaction",
            "reloaded",
            "transaction",
            "stopped"
        ]
    );
    for (line, number) in lines.iter().zip(1..) {
        assert_eq!(line["sequence"], number);
        assert_eq!(line["run"], lines[0]["run"]);
    }
    let [started, _, reloaded, _, stopped] = &lines[..] else {
        unreachable!()
    };
    let listen = address(proxy.endpoint());
    assert_eq!(started["listen"], serde_json::json!([listen]));
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    let names = |line: &Value| -> Vec<String> {
        let rules = line["policy"].as_array().unwrap().iter();
        rules
            .map(|rule| rule["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(started), ["builtin: replication", "batch", "default"]);
    assert_eq!(names(reloaded), ["builtin: replication", "default"]);
    assert_ne!(started["policy_hash"], reloaded["policy_hash"]);
    let keys = |field: &str| -> Vec<&str> {
        let changes = reloaded[field].as_array().unwrap().iter();
        changes
            .map(|change| change["key"].as_str().unwrap())
            .collect()
    };
    assert_eq!(keys("changed"), ["drain_timeout", "rule \"batch\""]);
    assert_eq!(keys("needs_restart"), ["listen.workers"]);
    assert_eq!(stopped["cut_off"], 0);
    assert_eq!(stopped["by"], Value::Null);
}
