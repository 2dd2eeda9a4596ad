//! Generated transactions with and without release: what clients receive and databases hold is the same.

use std::{env, process::Command, time::Duration};

use serde_json::Value;

use crate::support::{
    Endpoint, in_repository, installed,
    proxy::Proxy,
    server::{Server, newest, oldest},
    slow::slow,
};

/// Every wait in a transaction makes an incident. A question that finds a catalogue locked is to end soon, and no other is
/// to be too late on a busy machine.
const RULES: &str =
    "[[rule]]\nname = \"cases\"\nidle = { release = \"1ms\" }\nrelease_timeout = \"600ms\"";

/// Runs cases with so much delay on each way between pgidle and the server, and returns the report of
/// `tests/python/release_cases`.
fn run(server: &Server, delay: Duration, arguments: &[&str]) -> Value {
    let database = server.database();
    let proxy = if delay.is_zero() {
        Proxy::with_rules(&database, RULES)
    } else {
        Proxy::with_rules(&slow(&database, delay), RULES)
    };
    let address = |endpoint: &Endpoint| format!("{}:{}", endpoint.host, endpoint.port);
    let output = Command::new(installed("python").join("bin/python"))
        .args(["-m", "release_cases", "--database", &database.database])
        .args(["--direct", &address(&database)])
        .args(["--proxy", &address(proxy.endpoint())])
        .arg("--audit")
        .arg(proxy.audit_file())
        .args(arguments)
        .current_dir(in_repository("tests/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report:#}");
    // Nothing but a lock that others hold, or rights that were taken away, keeps the server from answering.
    let text = report["refused because of"].to_string();
    assert!(!text.contains("asking the server failed"), "{report:#}");
    report
}

#[test]
fn release_changes_nothing_that_a_client_receives_or_a_database_holds() {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let delay = set("RELEASE_DELAY").map_or(Duration::ZERO, |ms| {
        Duration::from_millis(ms.parse().unwrap())
    });
    // The same cases in every test run, unless more are asked for.
    let few = set("RELEASE_SECONDS").is_none().then_some("80");
    let mut options = Vec::new();
    for (option, variable, default) in [
        ("--seed", "RELEASE_SEED", Some("1")),
        ("--seconds", "RELEASE_SECONDS", None),
        ("--cases", "RELEASE_CASES", few),
        ("--only", "RELEASE_CASE", None),
        ("--subject", "RELEASE_SUBJECT", None),
    ] {
        let value = set(variable).or_else(|| default.map(str::to_owned));
        options.extend(value.map(|value| [option.to_owned(), value]));
    }
    let options: Vec<_> = options.iter().flatten().map(String::as_str).collect();
    for server in [oldest(), newest()] {
        let report = run(server, delay, &options);
        eprintln!("release cases: {report:#}");
        assert_eq!(report["differences"], 0, "{report:#}");
        if set("RELEASE_CASE").is_none() {
            assert!(report["released"].as_u64() > Some(0), "{report:#}");
            assert!(report["refused"].as_u64() > Some(0), "{report:#}");
        }
    }
}

/// Whoever speaks again, or cancels, does so while pgidle is at work.
#[test]
fn nor_does_it_where_the_network_is_slow() {
    let delay = Duration::from_millis(100);
    let report = run(newest(), delay, &["--seed", "1", "--cases", "15"]);
    assert_eq!(report["differences"], 0, "{report:#}");
}

/// Locks that were held are gone, as documented: who looks for that finds it, and it alone.
#[test]
fn a_difference_is_found_and_made_small() {
    let planted = ["--seed", "1", "--cases", "3", "--planted"];
    let report = run(newest(), Duration::ZERO, &planted);
    let found = &report["smallest"][0];
    let statements = found["statements"].as_array().unwrap();
    let planted = statements.last().unwrap().as_str().unwrap();
    assert!(planted.contains("pg_locks"), "{report:#}");
    assert_eq!(found["difference"]["at"], planted, "{report:#}");
    assert_eq!(
        statements.len(),
        3,
        "BEGIN, what took the lock, and the look at it: {report:#}"
    );
    assert_eq!(found["subjects"], Value::Array(Vec::new()), "{report:#}");
}
