//! Faults of all that pgidle stands on: what is acknowledged is there, what is refused is not, the log says what happened,
//! and the same pgidle goes on when the fault is over. The table in docs/faults.md has the promise of each.

mod bank;
mod namespace;
mod network;
mod process;
mod server;

use crate::support::{Endpoint, proxy::Proxy, wait_for, wire::Client};

/// A limit that is soon reached.
const SOON: &str =
    "[[rule]]\nname = 'all'\nidle = { rollback = '300ms' }\nstalled = { rollback = '300ms' }\n";

/// The next session that can be opened.
fn next_session(endpoint: &Endpoint) -> Client {
    wait_for("a session", || Client::try_connect(endpoint, &[]).ok())
}

/// Waits until the log has a line with all of these.
fn logged(proxy: &Proxy, parts: &[&str]) -> String {
    wait_for(&format!("a line of the log with {parts:?}"), || {
        let log = proxy.log();
        let mut lines = log.lines();
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
        line.map(str::to_owned)
    })
}

/// Fails unless what pgidle is for works: a transaction that is left open is rolled back, its COMMIT is refused, its
/// session lives on, and a COMMIT in time counts.
fn works(proxy: &Proxy, id: u32) {
    let mut client = next_session(proxy.endpoint());
    client.begin(&format!("INSERT INTO t VALUES ({id}, 'late')"));
    let incident = proxy.rolled_back(client.server_pid());
    proxy.in_time(&incident);
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    let kept = client.at_once(&[
        "BEGIN",
        &format!("INSERT INTO t VALUES ({}, 'kept')", id + 1),
        "COMMIT",
    ]);
    assert_eq!(kept, "C COMMIT / Z I");
    let kept = format!(
        "SELECT string_agg(v, ',') FROM t WHERE id IN ({id}, {})",
        id + 1
    );
    assert_eq!(client.value(&kept), "kept");
}

/// Which rows are there from an id on.
fn ids(client: &mut Client, from: u32) -> String {
    client.value(&format!(
        "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM t WHERE id >= {from}"
    ))
}
