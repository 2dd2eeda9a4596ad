//! What helps to find out what pgidle did in a session: the log of its steps.

use crate::support::{proxy::Proxy, server::newest, wait_for, wire::Client};

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
