//! A log or an audit file that cannot be written: no session waits for it, nothing panics, and it comes alive again.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    proxy::{Proxy, Reading},
    server::newest,
    wait_for,
    wire::Client,
};

/// Makes the proxy write more log lines than a pipe holds.
fn flood_the_log(proxy: &Proxy) {
    for _ in 0..600 {
        let opened = Client::try_connect(proxy.endpoint(), &[("database", "no such database")]);
        assert!(opened.is_err());
    }
}

/// Ends the proxy, which may wait for what cannot be written only for a moment.
fn ends_soon(mut proxy: Proxy) {
    let start = Instant::now();
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.exit_status().success());
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(10), "ended after {waited:?}");
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Leaves a transaction open until the log says that it was rolled back: the audit may be silent.
fn is_rolled_back(proxy: &Proxy, client: &mut Client) {
    let said = || proxy.log().matches("was rolled back").count();
    let before = said();
    client.run("BEGIN");
    wait_for("the rollback", || (said() > before).then_some(()));
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
}

#[test]
fn a_reader_of_the_log_that_stands_still_stops_no_session() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "200ms");
    let mut client = Client::connect(proxy.endpoint());
    proxy.set_reading(Reading::StandsStill);
    flood_the_log(&proxy);
    for _ in 0..10 {
        client.run("SELECT 1");
    }
    client.run("BEGIN");
    proxy.rolled_back(client.server_pid());
    proxy.signal(Signal::SIGHUP);
    client.query("ROLLBACK");
    proxy.set_reading(Reading::Goes);
    wait_for("all lines", || {
        let log = proxy.log();
        let closed = log.matches("session closed").count();
        (closed == 600 && log.contains("reloaded")).then_some(())
    });
    proxy.set_reading(Reading::StandsStill);
    flood_the_log(&proxy);
    client.run("SELECT 1");
    ends_soon(proxy);
}

#[test]
fn a_log_that_nobody_reads_any_more_harms_neither_audit_nor_process() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "200ms");
    let mut client = Client::connect(proxy.endpoint());
    proxy.set_reading(Reading::IsOver);
    flood_the_log(&proxy);
    for count in 1..4 {
        client.run("BEGIN");
        wait_for("an incident", || {
            (proxy.incidents().len() == count).then_some(())
        });
        client.query("ROLLBACK");
        proxy.signal(Signal::SIGHUP);
    }
    client.run("SELECT 1");
    ends_soon(proxy);
}

/// A limit on the size of files stops a write as a full disk does: in the middle of a line.
#[test]
fn an_audit_file_without_room_keeps_whole_lines_and_goes_on_when_there_is_room() {
    let database = newest().database();
    let full_at_4_kib = [
        "/bin/sh",
        "-c",
        "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"",
    ];
    let limit = ["--idle-limit", "100ms", "--action", "rollback"];
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::in_folder(&database, folder, &full_at_4_kib, &limit);
    let mut client = Client::connect(proxy.endpoint());
    wait_for("a full file", || {
        client.run("BEGIN");
        client.run("COMMIT");
        proxy
            .log()
            .contains("audit file cannot be written")
            .then_some(())
    });
    let text = fs::read_to_string(proxy.audit_file()).unwrap();
    assert!(text.ends_with('\n') && text.len() > 3000, "{text}");
    let whole = proxy.audit().len();

    is_rolled_back(&proxy, &mut client);
    proxy.signal(Signal::SIGHUP);
    fs::File::create(proxy.audit_file()).unwrap();
    wait_for("what could not be written", || {
        (!proxy.incidents().is_empty()).then_some(())
    });
    wait_for("the word that it goes on", || {
        let said = proxy.log().contains("audit file can be written again");
        said.then_some(())
    });
    assert!(whole > 0);
    ends_soon(proxy);
}

#[test]
fn an_audit_pipe_that_nobody_reads_holds_nobody_up() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    make_pipe(&folder.path().join("audit.jsonl"));
    let limit = ["--idle-limit", "200ms", "--action", "rollback"];
    let proxy = Proxy::in_folder(&database, folder, &[], &limit);
    let mut client = Client::connect(proxy.endpoint());
    is_rolled_back(&proxy, &mut client);
    for _ in 0..1000 {
        client.run("BEGIN");
        client.run("COMMIT");
    }
    is_rolled_back(&proxy, &mut client);
    proxy.signal(Signal::SIGHUP);
    client.run("SELECT 1");

    let reader = BufReader::new(fs::File::open(proxy.audit_file()).unwrap());
    let mut lines = reader.lines().map(|line| {
        let line = line.unwrap();
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    });
    let incidents = lines.by_ref().filter(|line| line["event"] == "incident");
    assert_eq!(incidents.take(2).count(), 2);
    for _ in 0..1000 {
        client.run("BEGIN");
        client.run("COMMIT");
    }
    ends_soon(proxy);
}

/// As when a new process takes over from an old one.
#[test]
fn two_processes_write_whole_lines_to_one_audit_file() {
    const TRANSACTIONS: usize = 200;
    let database = newest().database();
    let first = Proxy::start(&database, &[]);
    let folder = tempfile::tempdir().unwrap();
    symlink(first.audit_file(), folder.path().join("audit.jsonl")).unwrap();
    let second = Proxy::in_folder(&database, folder, &[], &[]);
    std::thread::scope(|scope| {
        for proxy in [&first, &second] {
            scope.spawn(|| {
                let mut client = Client::connect(proxy.endpoint());
                for _ in 0..TRANSACTIONS {
                    client.run("BEGIN");
                    client.run("COMMIT");
                }
            });
        }
    });
    wait_for("all lines", || {
        (first.audit().len() == 2 * TRANSACTIONS).then_some(())
    });
}
