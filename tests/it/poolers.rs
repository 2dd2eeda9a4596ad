//! A pooler behind pgidle that gives server connections away between transactions.

use std::time::Duration;

use crate::support::{
    dba::Dba, frontend::query, pooler::Pooler, proxy::Proxy, server::newest, wire::Client,
};

/// A rollback frees what the transaction held; to the pooler the client is still in a (failed) transaction block.
#[test]
fn a_rollback_frees_the_locks_and_the_end_of_the_session_the_server_connection() {
    let database = newest().database();
    let pooler = Pooler::with_servers(&database, "transaction", 1);
    let rules = |ladder: &str| {
        format!(
            "[upstream]\npooler = 'transaction'\n[[rule]]\nname = 'all'\nidle = {{ {ladder} }}\nfailed = {{ {ladder} }}"
        )
    };
    let rolling_back = rules("rollback = '200ms'");
    let proxy = Proxy::with_rules(pooler.endpoint(), &rolling_back);
    let mut stuck = Client::connect(proxy.endpoint());
    let mut other = Client::connect(proxy.endpoint());
    stuck.begin("INSERT INTO t VALUES (2, 'two')");
    proxy.rolled_back(stuck.server_pid());
    let mut dba = Dba::new(&database);
    assert_eq!(dba.value("LOCK TABLE t; SELECT count(*) FROM t"), "1");
    other.send(&query("SELECT 1"));
    other.hears_nothing_for(Duration::from_millis(500));
    assert_eq!(stuck.query("ROLLBACK"), "C ROLLBACK / Z I");
    assert_eq!(other.until_ready(), "T / D 1 / C SELECT 1 / Z I");
    drop((stuck, other, proxy));

    let terminating = rules("rollback = '200ms', terminate = '600ms'");
    let proxy = Proxy::with_rules(pooler.endpoint(), &terminating);
    let mut stuck = Client::connect(proxy.endpoint());
    let mut other = Client::connect(proxy.endpoint());
    stuck.begin("INSERT INTO t VALUES (2, 'two')");
    proxy.rolled_back(stuck.server_pid());
    other.send(&query("SELECT 1"));
    assert_eq!(other.until_ready(), "T / D 1 / C SELECT 1 / Z I");
    assert_eq!(stuck.until_closed(), "E FATAL 25P03 / closed");
}
