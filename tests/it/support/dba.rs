//! The judge: a DBA with a connection of their own, not through the proxy, who looks and who alters tables.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Endpoint, wait_for, wire::Client};

/// A DBA's session.
pub(crate) struct Dba {
    client: Client,
    database: Endpoint,
}

impl Dba {
    pub(crate) fn new(database: &Endpoint) -> Self {
        Self {
            client: Client::connect(database),
            database: database.clone(),
        }
    }

    /// The only value of a query's only row.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        self.client.value(sql)
    }

    /// Runs statements that must succeed.
    pub(crate) fn run(&mut self, sql: &str) {
        self.client.run(sql);
    }

    /// Whether the row with this id is there.
    pub(crate) fn sees_row(&mut self, id: u32) -> bool {
        self.value(&format!("SELECT count(*) FROM t WHERE id = {id}")) == "1"
    }

    /// How many relations a server process holds locked in this database.
    pub(crate) fn locked_relations(&mut self, pid: i32) -> String {
        self.value(&format!(
            "SELECT count(*) FROM pg_locks WHERE pid = {pid} AND granted AND locktype = 'relation'"
        ))
    }

    /// State of a server process as pg_stat_activity names it.
    pub(crate) fn state(&mut self, pid: i32) -> String {
        self.value(&format!(
            "SELECT coalesce(max(state), 'gone') FROM pg_stat_activity WHERE pid = {pid}"
        ))
    }

    /// Whether a server process holds a transaction id or a snapshot.
    pub(crate) fn holds_back_vacuum(&mut self, pid: i32) -> bool {
        self.value(&format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE pid = {pid} AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"
        )) != "0"
    }

    /// Waits until so many sessions of the database wait for a lock.
    pub(crate) fn wait_for_waiters(&mut self, count: u32) {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_for(&format!("{count} sessions that wait for a lock"), || {
            (self.value(sql) == count.to_string()).then_some(())
        });
    }

    /// Alters the table in a session of its own; the result is how long that took.
    pub(crate) fn alters_table(&self) -> JoinHandle<Duration> {
        let mut client = Client::connect(&self.database);
        thread::spawn(move || {
            let start = Instant::now();
            client.run("ALTER TABLE t ADD COLUMN added int");
            start.elapsed()
        })
    }
}
