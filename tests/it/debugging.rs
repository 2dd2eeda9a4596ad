//! What helps to find out what pgidle did in a session: the log of its steps, and a recording.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use pgidle::session::transcript::player::replay;
use serde_json::Value;

use crate::support::{
    Endpoint,
    frontend::{bind, copy_data, copy_done, execute, flush, parse, query, sync},
    program::psql,
    proxy::Proxy,
    server::newest,
    wait_for,
    wire::Client,
};

#[test]
fn the_log_shows_each_position_and_each_step_of_an_ending() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let by = ["env", "PGIDLE_LOG=info,pgidle::session=debug"];
    let limit = ["--idle-limit", "200ms", "--action", "rollback"];
    let proxy = Proxy::in_folder(&database, folder, &by, &limit);
    let mut client = Client::connect(proxy.endpoint());
    client.query("BEGIN");
    proxy.rolled_back(client.server_pid());
    assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    let steps = || {
        let log = proxy.log();
        let lines = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let what = line.get("to").or_else(|| line.get("step"))?.as_str()?;
            Some(what.to_owned())
        });
        lines.collect::<Vec<_>>()
    };
    let expected = [
        "idle",
        "active",
        "idle in transaction",
        "gate",
        "abort",
        "idle in transaction (aborted)",
        "active",
        "idle",
    ];
    wait_for("the last step", || {
        (steps().len() >= expected.len()).then_some(())
    });
    assert_eq!(steps(), expected);
}

/// The recordings in a folder, once the sessions have ended.
fn recordings(folder: &Path, expected: usize) -> Vec<PathBuf> {
    wait_for("the recordings", || {
        let files = fs::read_dir(folder).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        let is_whole = |file: &PathBuf| fs::read_to_string(file).unwrap().ends_with("the end\n");
        (files.len() == expected && files.iter().all(is_whole)).then_some(files)
    })
}

/// Plays a recording, and fails where anything else comes out than in the session that was recorded.
fn plays_as_recorded(file: &Path) -> String {
    let recorded = fs::read_to_string(file).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a recording begins at any time")]
    let replayed = replay(&recorded, Instant::now());
    assert_eq!(replayed, recorded);
    recorded
}

fn recording(database: &Endpoint, folder: &Path, arguments: &[&str]) -> Proxy {
    let record = ["--record", folder.to_str().unwrap()];
    Proxy::start(database, &[&record, arguments].concat())
}

#[test]
fn a_recording_of_a_rolled_back_psql_session_plays_as_a_test() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records");
    let limit = ["--idle-limit", "300ms", "--action", "rollback"];
    let proxy = recording(&database, &records, &limit);
    let told = psql(
        proxy.endpoint(),
        &[
            "BEGIN",
            "INSERT INTO t VALUES (2, 'a secret')",
            "\\! sleep 1",
            "COMMIT",
            "SELECT count(*) FROM t WHERE v = 'a secret'",
        ],
    );
    assert!(told.contains("(limit 300ms)"), "{told}");
    let [file] = recordings(&records, 1).try_into().unwrap();
    let recorded = plays_as_recorded(&file);
    assert!(
        recorded.contains("* idle rollback rolled_back at 300ms"),
        "{recorded}"
    );
    assert!(recorded.contains("C: Q COMMIT"), "{recorded}");
    assert!(recorded.contains("< E 25P03 (ours) | Z I"), "{recorded}");
    assert!(!recorded.contains("secret"), "{recorded}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&records)), (0o600, 0o700));
}

/// Waits until pgidle has done this about the session.
fn came_to(proxy: &Proxy, client: &Client, outcome: &str) {
    let pid = client.server_pid();
    wait_for(outcome, || {
        let done = |line: &Value| line["outcome"] == outcome && line["server_pid"] == pid;
        proxy.incidents().iter().any(done).then_some(())
    });
}

fn batch_without_sync(client: &mut Client, proxy: &Proxy) {
    client.send(&[parse("s", "INSERT INTO t VALUES ($1, 'x')"), flush()].concat());
    client.send(&[bind("", "s", &["2"]), execute("", 0)].concat());
    came_to(proxy, client, "rolled_back");
    client.ask(&[sync()]);
}

fn copy_without_data(client: &mut Client, proxy: &Proxy) {
    client.begin("INSERT INTO t VALUES (2, 'two')");
    client.send(&query("COPY t FROM STDIN"));
    client.until(b'G');
    came_to(proxy, client, "rolled_back");
    client.send(&[copy_data("3\tthree\n"), copy_done()].concat());
    client.query("ROLLBACK");
}

fn reader(client: &mut Client, proxy: &Proxy) {
    client.at_once(&["BEGIN", "SELECT v FROM t"]);
    came_to(proxy, client, "released");
    client.at_once(&["SELECT v FROM t", "COMMIT"]);
}

fn half_a_request(client: &mut Client, proxy: &Proxy) {
    client.begin("INSERT INTO t VALUES (2, 'two')");
    let (front, rest) = (query("COMMIT"), query("COMMIT").split_off(4));
    client.send(&front[..4]);
    came_to(proxy, client, "rolled_back");
    client.send(&rest);
    client.until_ready();
}

fn failed_in_a_savepoint(client: &mut Client, proxy: &Proxy) {
    client.begin("INSERT INTO t VALUES (2, 'two')");
    client.at_once(&["SAVEPOINT a", "SELECT 1/0"]);
    came_to(proxy, client, "rolled_back");
    client.query("ROLLBACK TO a");
    client.query("COMMIT");
}

fn statement_that_runs(client: &mut Client, proxy: &Proxy) {
    client.at_once(&["BEGIN", "SAVEPOINT a"]);
    client.send(&query("SELECT pg_sleep(60)"));
    came_to(proxy, client, "rolled_back");
    client.until_ready();
    client.query("ROLLBACK");
}

fn does_not_read(client: &mut Client, proxy: &Proxy) {
    client.begin("INSERT INTO t VALUES (2, 'two')");
    client.send(&query(
        "SELECT repeat('x', 1000) FROM generate_series(1, 30000)",
    ));
    came_to(proxy, client, "rolled_back");
    client.until_ready();
    client.query("ROLLBACK");
}

fn never_comes_back(client: &mut Client, proxy: &Proxy) {
    client.begin("INSERT INTO t VALUES (2, 'two')");
    came_to(proxy, client, "terminated");
    client.until_closed();
}

#[test]
fn a_recording_plays_whatever_has_happened_in_the_session() {
    let limits = r#"
        [[rule]]
        name = "all"
        idle = { log = "100ms", release = "200ms", rollback = "300ms", terminate = "2s" }
        stalled = { log = "100ms", rollback = "300ms" }
        age = { rollback = "1s" }
    "#;
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let (rules, records) = (
        folder.path().join("rules.toml"),
        folder.path().join("records"),
    );
    fs::write(&rules, limits).unwrap();
    let proxy = recording(&database, &records, &["--config", rules.to_str().unwrap()]);
    let ways: [fn(&mut Client, &Proxy); 8] = [
        batch_without_sync,
        copy_without_data,
        reader,
        half_a_request,
        failed_in_a_savepoint,
        statement_that_runs,
        does_not_read,
        never_comes_back,
    ];
    for (number, way) in ways.iter().enumerate() {
        let mut client = Client::connect(proxy.endpoint());
        way(&mut client, &proxy);
        drop(client);
        recordings(&records, number + 1);
    }
    let files = recordings(&records, ways.len());
    let played: String = files.iter().map(|file| plays_as_recorded(file)).collect();
    // Each way has brought its session to where it was to be.
    for step in [
        "C half",
        "client blocks",
        "client reads",
        "proven 1",
        "cancelled",
        "! Cancel",
        "! close: policy",
        "in \"copy in\"",
        "in \"batch without sync\"",
        "* idle release released",
    ] {
        assert!(played.contains(step), "{step} is missing in {played}");
    }
}
