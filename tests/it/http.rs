//! What pgidle says by HTTP: metrics that Prometheus takes, probes, sessions and incidents.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    Endpoint, PATIENCE,
    dba::Dba,
    in_repository, observed,
    proxy::{Proxy, http_address},
    server::newest,
    wait_for,
    wire::Client,
};

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// The whole answer to a request that is sent as it is.
fn raw(proxy: &Proxy, request: &str) -> String {
    let mut stream = TcpStream::connect(http_address(proxy)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Who refuses a request may close before it has it all.
    drop(stream.write_all(request.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and body.
pub(crate) fn get(proxy: &Proxy, path: &str) -> (u16, String) {
    let answer = raw(
        proxy,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (status(head), body.to_owned())
}

fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1);
    code.and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?}"))
}

fn json(proxy: &Proxy, path: &str) -> Value {
    let (status, body) = get(proxy, path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The sum of the samples whose line begins so.
fn sum(proxy: &Proxy, series: &str) -> f64 {
    let (_, text) = get(proxy, "/metrics");
    let samples = text.lines().filter(|line| line.starts_with(series));
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// What Debian's `promtool` says of something, which is nothing when all is well.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; run `make setup`"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let said = child.wait_with_output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(said.status.success(), "{text}");
    text
}

/// A session that is idle in a transaction.
fn stuck(endpoint: &Endpoint, name: &str) -> Client {
    let mut client = Client::connect_with(endpoint, &[("application_name", name)]);
    client.begin("INSERT INTO t VALUES (71, 'a secret')");
    client
}

#[test]
fn prometheus_has_nothing_to_say_of_the_metrics() {
    let database = newest().database();
    let proxy = Proxy::start(
        &database,
        &[&HTTP[..], &["--idle-limit", "10ms", "--action", "rollback"]].concat(),
    );
    let name = "a\"b\\c\n{d}";
    let _stuck = stuck(proxy.endpoint(), name);
    wait_for("an incident", || {
        (sum(&proxy, "pgidle_incidents_total{") > 0.0).then_some(())
    });
    let (_, text) = get(&proxy, "/metrics");
    assert_eq!(promtool(&["check", "metrics"], &text), "", "{text}");
    // PostgreSQL itself replaces what is not printable ASCII.
    assert!(text.contains(r#"application_name="a\"b\\c"#), "{text}");
    assert!(
        text.contains(r#"pgidle_incidents_total{action="rollback",kind="idle",outcome="rolled_back",rule="flags"} 1"#),
        "{text}"
    );
}

#[test]
fn what_happens_is_counted() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &HTTP);
    let mut client = Client::connect(proxy.endpoint());
    client.begin("SELECT 1");
    assert_eq!(sum(&proxy, "pgidle_sessions{"), 1.0);
    assert_eq!(sum(&proxy, "pgidle_sessions_opened_total"), 1.0);
    let moved = sum(&proxy, "pgidle_bytes_total{direction=\"to_server\"}");
    client.run("COMMIT");
    client.run("BEGIN");
    client.run("ROLLBACK");
    let after = sum(&proxy, "pgidle_bytes_total{direction=\"to_server\"}");
    // Each Query is a byte, a length, a text and a 0.
    let queries = ["COMMIT", "BEGIN", "ROLLBACK"].map(|text| text.len() as f64 + 6.0);
    assert_eq!(after - moved, queries.iter().sum::<f64>());
    assert_eq!(
        sum(&proxy, "pgidle_transactions_total{outcome=\"commit\"}"),
        1.0
    );
    assert_eq!(
        sum(&proxy, "pgidle_transactions_total{outcome=\"rollback\"}"),
        1.0
    );
    assert_eq!(sum(&proxy, "pgidle_transaction_seconds_count"), 2.0);
    drop(client);
    wait_for("the session to end", || {
        (sum(
            &proxy,
            "pgidle_sessions_closed_total{reason=\"client_left\"}",
        ) == 1.0)
            .then_some(())
    });
}

#[test]
fn time_that_others_wait_is_counted() {
    let database = newest().database();
    let dsn = observed::dsn(&database, "postgres");
    let settings = observed::observing(&dsn, "blocking = { log = \"10ms\" }");
    let settings = format!("{settings}\n[http]\naddress = \"127.0.0.1:0\"\n");
    let settings = reordered(&settings);
    let proxy = Proxy::with_rules(&database, &settings);
    let mut holder = stuck(proxy.endpoint(), "holder");
    let waits = Dba::new(&database).alters_table();
    wait_for("someone to wait", || {
        (sum(&proxy, "pgidle_blocked_seconds_total") > 0.5).then_some(())
    });
    assert_eq!(sum(&proxy, "pgidle_observer_up"), 1.0);
    assert_eq!(sum(&proxy, "pgidle_blocked_sessions"), 1.0);
    assert!(sum(&proxy, "pgidle_longest_idle_in_transaction_seconds") > 0.5);
    holder.run("COMMIT");
    let waited = waits.join().unwrap();
    assert!(sum(&proxy, "pgidle_blocked_seconds_total") <= waited.as_secs_f64() + 1.0);
}

/// The settings with their rules at the end, where TOML wants them.
fn reordered(settings: &str) -> String {
    let at = settings.find("[[rule]]").unwrap();
    let (before, after) = settings.split_at(at);
    let http = after.find("[http]").unwrap();
    let (rules, http) = after.split_at(http);
    format!("{before}\n{http}\n{rules}")
}

#[test]
fn probes_say_whether_a_session_would_find_a_server() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &HTTP);
    assert_eq!(get(&proxy, "/healthz").0, 200);
    assert_eq!(get(&proxy, "/readyz"), (200, "ready\n".to_owned()));
    let health = |address: &str| {
        let program = env!("CARGO_BIN_EXE_pgidle");
        let asked = Command::new(program)
            .args(["health", "--http", address])
            .output();
        let asked = asked.unwrap();
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        (asked.status.code(), said)
    };
    assert_eq!(health(&http_address(&proxy)).0, Some(0));
    let nowhere = Proxy::start(&database.at("127.0.0.1", 1), &HTTP);
    let (status, why) = get(&nowhere, "/readyz");
    assert_eq!(status, 503);
    assert!(why.contains("127.0.0.1:1"), "{why}");
    assert_eq!(get(&nowhere, "/healthz").0, 200);
    let (status, why) = health(&http_address(&nowhere));
    assert_eq!(status, Some(1));
    assert!(why.contains("not ready: 127.0.0.1:1"), "{why}");
    assert_eq!(health("127.0.0.1:1").0, Some(1));
    // A transaction that is open keeps it alive while it drains.
    let _stuck = stuck(proxy.endpoint(), "x");
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    wait_for("the drain", || {
        (get(&proxy, "/readyz").0 == 503).then_some(())
    });
    assert!(get(&proxy, "/readyz").1.contains("draining"));
    assert!(get(&proxy, "/metrics").1.contains("pgidle_sessions{"));
}

#[test]
fn sessions_and_incidents_have_no_literals() {
    let database = newest().database();
    let proxy = Proxy::start(
        &database,
        &[&HTTP[..], &["--idle-limit", "10ms", "--action", "log"]].concat(),
    );
    let client = stuck(proxy.endpoint(), "app");
    let incidents = wait_for("an incident", || {
        let incidents = json(&proxy, "/incidents");
        incidents.get(0).is_some().then_some(incidents)
    });
    let sessions = json(&proxy, "/sessions");
    for (list, texts) in [
        (&incidents, &incidents[0]["statements"][1]),
        (&sessions, &sessions[0]),
    ] {
        assert_eq!(texts["text"], "INSERT INTO t VALUES ($1, $2)");
        assert_eq!(list[0]["server_pid"], client.server_pid());
        assert_eq!(list[0]["application_name"], "app");
        assert!(!list.to_string().contains("secret"), "{list}");
    }
    assert_eq!(sessions[0]["position"], "idle in transaction");
    assert_eq!(incidents[0]["kind"], "idle");
}

#[test]
fn what_is_no_proper_request_is_refused() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &HTTP);
    let long = "x".repeat(1 << 20);
    for (request, expected) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /sessions HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (
            "GET http://evil.example/sessions HTTP/1.1\r\nHost: localhost\r\n\r\n",
            421,
        ),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("HEAD /metrics HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 400),
        (
            &format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            0,
        ),
    ] {
        let answer = raw(&proxy, request);
        match expected {
            // It may be cut off before it has said all.
            0 => assert!(!answer.contains(" 200 "), "{answer}"),
            _ => assert_eq!(status(&answer), expected, "{request:?}\n{answer}"),
        }
    }
    // Those who say nothing are let wait, and no session waits for them.
    let address = http_address(&proxy);
    let silent: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    Client::connect(proxy.endpoint()).run("SELECT 1");
    assert_eq!(
        get(&proxy, "/healthz").0,
        200,
        "after those who said nothing are cut off"
    );
    drop(silent);
}

#[test]
fn alerts_fire_when_they_should() {
    let rules = in_repository("config/alerts.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let tests = in_repository("tests/alerts.yml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
}
