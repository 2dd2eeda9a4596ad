//! What helps to find out what pgidle did in a session: the log of its steps, and a recording.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use pgidle::session::transcript::player::replay;

use crate::support::{
    Endpoint, program::psql, proxy::Proxy, server::newest, wait_for, wire::Client,
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
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
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
    assert!(told.contains("idle in transaction for 0.3 s"), "{told}");
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
