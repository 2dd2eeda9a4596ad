//! A proxy with an observer, and what its incidents tell of locks.

use serde_json::Value;

use super::{Endpoint, proxy::Proxy, wait_for, wire::Client};

/// How an observer with this role reaches the database.
pub(crate) fn dsn(database: &Endpoint, user: &str) -> String {
    let Endpoint {
        host,
        port,
        database,
    } = database;
    format!("host={host} port={port} dbname={database} user={user}")
}

/// Settings with an observer and one rule.
pub(crate) fn observing(dsn: &str, limits: &str) -> String {
    format!(
        "[observer]\ndsn = \"{dsn}\"\ninterval = \"200ms\"\n[[rule]]\nname = \"all\"\n{limits}\n"
    )
}

/// Starts a proxy with an observer, and waits until that is connected.
pub(crate) fn observed_through(dsn: &str, database: &Endpoint, limits: &str) -> Proxy {
    let proxy = Proxy::with_rules(database, &observing(dsn, limits));
    wait_for("the observer", || {
        let log = proxy.log();
        log.contains("the observer is connected").then_some(())
    });
    proxy
}

/// A proxy whose observer has this role, in the database itself.
pub(crate) fn observed_by(user: &str, database: &Endpoint, limits: &str) -> Proxy {
    observed_through(&dsn(database, user), database, limits)
}

/// A proxy whose observer is a superuser, in the database itself.
pub(crate) fn observed(database: &Endpoint, limits: &str) -> Proxy {
    observed_by("postgres", database, limits)
}

/// The first incident of a session.
pub(crate) fn incident_of(proxy: &Proxy, server_pid: i32) -> Value {
    wait_for("an incident", || {
        let mut incidents = proxy.incidents().into_iter();
        incidents.find(|line| line["server_pid"] == server_pid)
    })
}

/// A limit that only looks.
pub(crate) const SEEN_SOON: &str = "idle = { log = \"300ms\" }";

/// The first incident of a client that tells what it holds. An answer that is late for one incident is there for the
/// next, which comes when the client has spoken again.
pub(crate) fn seen(proxy: &Proxy, client: &mut Client) -> Value {
    seen_of(proxy, client.server_pid(), || client.run("SELECT 1"))
}

/// As [`seen`], of any client that can speak.
pub(crate) fn seen_of(proxy: &Proxy, pid: i32, mut speaks: impl FnMut()) -> Value {
    wait_for("an incident with locks", || {
        let incidents = || {
            let mut incidents = proxy.incidents();
            incidents.retain(|line| line["server_pid"] == pid);
            incidents
        };
        let before = incidents().len();
        speaks();
        let incident = wait_for("an incident", || incidents().into_iter().nth(before));
        incident["locks"].is_array().then_some(incident)
    })
}

/// The modes of the locks on a relation, or on all.
pub(crate) fn modes(incident: &Value, relation: Option<&str>) -> Vec<String> {
    let locks = incident["locks"].as_array();
    let locks = locks.unwrap_or_else(|| panic!("no locks in {incident}"));
    let on = |lock: &&Value| {
        lock["locktype"] == "relation" && relation.is_none_or(|name| lock["relation"] == name)
    };
    let mode = |lock: &Value| lock["mode"].as_str().unwrap().to_owned();
    locks.iter().filter(on).map(mode).collect()
}
