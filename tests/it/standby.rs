//! Commits that wait for a standby which does not answer: no cancel of pgidle's lets one return before the standby has it.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgidle::demo::Cluster;

use crate::support::{
    Endpoint,
    frontend::{query, sync, unnamed},
    let_pass,
    observed::{dsn, observed_through},
    pair::door,
    proxy::Proxy,
    server::{cluster, newest_version},
    wait_for,
    wire::Client,
};

/// A server whose standby is never there, and its DBA, who does not wait for it.
fn waiting() -> (Cluster, Endpoint, Client) {
    let server = cluster(newest_version(), &[], None);
    let database = door(&server);
    let mut dba = Client::connect(&database);
    dba.run("SET synchronous_commit = local");
    dba.run("CREATE TABLE t (id int)");
    dba.run(
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END'",
    );
    dba.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    dba.run("SELECT pg_reload_conf()");
    wait_for("the setting", || {
        (dba.value("SHOW synchronous_standby_names") == "nobody").then_some(())
    });
    // Commits wait once the checkpointer has read it too (SyncRepUpdateSyncStandbysDefined).
    dba.run("CHECKPOINT");
    (server, database, dba)
}

fn wait_event(dba: &mut Client, pid: i32) -> String {
    dba.value(&format!(
        "SELECT coalesce(max(wait_event), 'none') FROM pg_stat_activity WHERE pid = {pid}"
    ))
}

fn waits(dba: &mut Client, client: &Client) {
    wait_for("a commit that waits", || {
        (wait_event(dba, client.server_pid()) == "SyncRep").then_some(())
    });
}

/// What commits, in each way to send it: what is run first, then what is sent.
fn commits() -> [(&'static str, Vec<u8>); 6] {
    let insert = "INSERT INTO t VALUES (1)";
    let list = |list: &[&str]| query(&list.join("; "));
    [
        ("BEGIN", list(&[insert, "COMMIT"])),
        (
            "BEGIN; INSERT INTO t VALUES (1)",
            list(&["COMMIT", "BEGIN"]),
        ),
        (
            "BEGIN",
            [unnamed(insert), unnamed("COMMIT"), sync()].concat(),
        ),
        ("SELECT 1", query(insert)),
        ("SELECT 1", [unnamed(insert), sync()].concat()),
        ("SELECT 1", query("CALL p()")),
    ]
}

fn is_left_alone(rules: impl Fn(&Endpoint) -> Proxy) {
    let (_server, database, mut dba) = waiting();
    let proxy = rules(&database);
    for (first, request) in commits() {
        let mut client = Client::connect(proxy.endpoint());
        let before = proxy.incidents().len();
        client.run(first);
        client.send(&request);
        waits(&mut dba, &client);
        let incident = wait_for("an incident", || proxy.incidents().get(before).cloned());
        assert_eq!(incident["outcome"], "not_possible", "{incident:#}");
        let_pass(Duration::from_millis(300));
        assert_eq!(wait_event(&mut dba, client.server_pid()), "SyncRep");
    }
}

const AGE: &str = "age = { rollback = '300ms', implicit = true }";

#[test]
fn no_commit_that_waits_is_cancelled_without_an_observer() {
    is_left_alone(|database| {
        Proxy::with_rules(database, &format!("[[rule]]\nname = 'age'\n{AGE}\n"))
    });
}

#[test]
fn no_commit_that_waits_is_cancelled_with_an_observer() {
    is_left_alone(|database| observed_through(&dsn(database, "postgres"), database, AGE));
}

#[test]
fn what_does_not_commit_is_cancelled_all_the_same() {
    let (_server, database, _dba) = waiting();
    let rule = format!("[[rule]]\nname = 'age'\n{AGE}\n");
    let proxy = Proxy::with_rules(&database, &rule);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    assert_eq!(client.query("SELECT pg_sleep(60)"), "T / E 25P04 / Z E");
    assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    // A text that only reads has nothing to wait for.
    assert_eq!(client.query("SELECT pg_sleep(60)"), "T / E 25P04 / Z I");

    let proxy = observed_through(&dsn(&database, "postgres"), &database, AGE);
    let mut client = Client::connect(proxy.endpoint());
    assert_eq!(
        client.query("INSERT INTO t SELECT 1 FROM pg_sleep(60)"),
        "E 25P04 / Z I"
    );
}

#[test]
fn a_commit_that_waits_when_pgidle_ends_has_an_unknown_outcome() {
    let (_server, database, mut dba) = waiting();
    let mut proxy = Proxy::start(&database, &[]);
    for (first, request) in commits() {
        let mut client = Client::connect(proxy.endpoint());
        client.run(first);
        client.send(&request);
        waits(&mut dba, &client);
        proxy.signal(Signal::SIGINT);
        wait_for("a closed door", || {
            Client::is_refused(proxy.endpoint()).then_some(())
        });
        proxy.signal(Signal::SIGINT);
        let told = client.until_closed();
        assert!(told.ends_with("E FATAL 57P01 / closed"), "{told}");
        assert!(!told.contains("C COMMIT"), "{told}");
        let detail = client.error.as_ref().unwrap().field('D');
        assert!(detail.contains("unknown"), "{detail}");
        proxy.exit_status();
        proxy = Proxy::start(&database, &[]);
    }
}
