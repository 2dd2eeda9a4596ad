//! Servers that are killed, started again, paused, promoted, or out of something.

use crate::support::{
    Endpoint,
    dba::Dba,
    fragile::{Fragile, kill_process},
    let_pass,
    observed::{dsn, observing, seen_of},
    pair::Pair,
    proxy::Proxy,
    server::{newest, newest_version, versions},
    wait_for,
    wire::Client,
};

use super::{SOON, ids, logged, next_session, works};
use std::time::Duration;

/// A proxy without a limit that is soon reached, and with an observer.
fn patient(server: &Fragile) -> Proxy {
    let dsn = dsn(&server.endpoint(), "postgres");
    let rules = observing(&dsn, "idle = { rollback = '10min' }");
    let proxy = Proxy::with_rules(&server.endpoint(), &rules);
    logged(&proxy, &["the observer is connected"]);
    proxy
}

/// Has transactions that are left open rolled back soon; the observer goes on.
fn be_strict(proxy: &Proxy, endpoint: &Endpoint) {
    let limits = "idle = { rollback = '300ms' }";
    proxy.change_rules(&observing(&dsn(endpoint, "postgres"), limits));
}

/// A commit that was acknowledged, and a transaction that is open.
fn one_commits_and_one_does_not(proxy: &Proxy) -> (Client, Client) {
    let mut open = Client::connect(proxy.endpoint());
    open.begin("INSERT INTO t VALUES (2, 'open')");
    let mut committed = Client::connect(proxy.endpoint());
    let answer = committed.at_once(&["BEGIN", "INSERT INTO t VALUES (3, 'kept')", "COMMIT"]);
    assert_eq!(answer, "C COMMIT / Z I");
    (open, committed)
}

/// Waits until the observer tells what is locked.
fn sees_locks(proxy: &Proxy) {
    let mut client = next_session(proxy.endpoint());
    seen_of(proxy, client.server_pid(), || {
        client.query("ROLLBACK");
        client.begin("SELECT v FROM t");
    });
}

/// PostgreSQL ends every session when one of its processes was killed, and recovers.
#[test]
fn when_a_server_process_is_killed_its_sessions_end_as_directly_and_new_ones_find_what_was_acknowledged()
 {
    let server = Fragile::start(newest_version(), &[]);
    let proxy = patient(&server);
    let (mut open, committed) = one_commits_and_one_does_not(&proxy);
    let mut direct = Client::connect(&server.endpoint());
    kill_process(committed.server_pid());
    let heard = direct.until_closed();
    assert_eq!(open.until_closed(), heard);
    assert!(heard.contains("57P02"), "{heard}");
    logged(&proxy, &["session closed", "server_left"]);

    be_strict(&proxy, &server.endpoint());
    works(&proxy, 10);
    assert_eq!(ids(&mut next_session(proxy.endpoint()), 2), "3,11");
    sees_locks(&proxy);
}

#[test]
fn while_a_killed_server_is_down_clients_are_told_why_and_when_it_is_back_they_are_served() {
    let mut server = Fragile::start(newest_version(), &[]);
    let proxy = patient(&server);
    let (mut open, mut committed) = one_commits_and_one_does_not(&proxy);
    server.kill();
    for client in [&mut open, &mut committed] {
        let heard = client.until_closed();
        assert!(
            heard.ends_with("closed") && !heard.contains("COMMIT"),
            "{heard}"
        );
    }
    let refused = Client::try_connect(proxy.endpoint(), &[]).err();
    let refused = refused.expect("no session without a server");
    assert!(refused.starts_with("E FATAL 08006 / closed"), "{refused}");
    logged(&proxy, &["refused a connection", "Connection refused"]);

    server.start_again();
    be_strict(&proxy, &server.endpoint());
    works(&proxy, 10);
    assert_eq!(ids(&mut next_session(proxy.endpoint()), 2), "3,11");
    sees_locks(&proxy);
}

/// The limit is reached while the server stands still: nothing is told before the server has said that it is so.
#[test]
fn a_paused_server_loses_nothing_and_keeps_nothing_that_is_refused() {
    let server = Fragile::start(newest_version(), &[]);
    let proxy = Proxy::patient(&server.endpoint());
    let mut client = Client::connect(proxy.endpoint());
    let mut busy = Client::connect(proxy.endpoint());
    client.begin("INSERT INTO t VALUES (2, 'late')");
    busy.begin("INSERT INTO t VALUES (3, 'in time')");
    server.pause();
    busy.send(&crate::support::frontend::query("COMMIT"));
    proxy.change_rules(SOON);
    let_pass(Duration::from_millis(700));
    client.send(&crate::support::frontend::query("COMMIT"));
    client.hears_nothing_for(Duration::from_millis(300));
    let mut newcomer = Client::silent(proxy.endpoint());
    newcomer.say_who(proxy.endpoint(), &[]);
    newcomer.hears_nothing_for(Duration::from_millis(300));
    server.go_on();
    assert_eq!(client.until_ready(), "E 25P03 / Z I");
    assert_eq!(busy.until_ready(), "C COMMIT / Z I");
    assert!(newcomer.until_ready().ends_with("Z I"));
    assert_eq!(ids(&mut newcomer, 2), "3");
    let incident = proxy.rolled_back(client.server_pid());
    logged(
        &proxy,
        &["was rolled back", incident["id"].as_str().unwrap()],
    );
    works(&proxy, 10);
}

/// What the server says passes; who is inside is served, and so is the observer when there is room again.
#[test]
fn a_server_without_a_free_connection_refuses_by_itself_and_those_inside_keep_their_limits() {
    let settings = [
        ("max_connections", "5"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "0"),
    ];
    let server = Fragile::start(newest_version(), &settings);
    let rules = |more: &str| {
        let dsn = dsn(&server.endpoint(), "postgres");
        format!(
            "{more}{}",
            observing(
                &dsn,
                "idle = { rollback = '300ms' }\nage = { rollback = '1s' }"
            )
        )
    };
    let proxy = Proxy::with_rules(&server.endpoint(), "");
    let mut inside: Vec<_> = (0..5).map(|_| Client::connect(proxy.endpoint())).collect();
    let natively = Client::try_connect(&server.endpoint(), &[]).err();
    assert_eq!(Client::try_connect(proxy.endpoint(), &[]).err(), natively);
    assert!(natively.expect("no place").contains("53300"));
    proxy.change_rules(&rules(""));
    logged(
        &proxy,
        &[
            "the observer sees no locks until this is mended",
            "too many clients",
        ],
    );

    let mut idle = inside.pop().unwrap();
    idle.begin("INSERT INTO t VALUES (2, 'late')");
    assert!(proxy.rolled_back(idle.server_pid())["locks"].is_null());
    assert_eq!(idle.query("COMMIT"), "E 25P03 / Z I");
    // A cancel needs no connection of those that are counted.
    let mut old = inside.pop().unwrap();
    old.run("BEGIN");
    assert_eq!(old.query("SELECT pg_sleep(300)"), "T / E 25P04 / Z E");
    assert_eq!(old.query("ROLLBACK"), "C ROLLBACK / Z I");

    drop((inside, idle, old));
    works(&proxy, 10);
    sees_locks(&proxy);
    logged(&proxy, &["the observer sees locks again"]);
    let said = proxy.log().matches("the observer sees no locks").count();
    assert_eq!(said, 1);
}

/// The error passes, also one that comes while the transaction inside a savepoint holds locks.
#[test]
fn a_statement_without_room_for_its_temporary_file_fails_as_directly_and_its_session_lives_on() {
    const SORT: &str = "SELECT count(*) FROM (SELECT i FROM generate_series(1, 300000) i ORDER BY md5(i::text) OFFSET 1) s";
    let database = newest().database();
    let limits = "SET temp_file_limit = '100kB'; SET work_mem = '64kB'";
    let proxy = Proxy::with_rules(&database, SOON);
    let fails = |client: &mut Client| {
        client.run(limits);
        client.at_once(&[
            "BEGIN",
            "INSERT INTO t VALUES (2, 'late')",
            "SAVEPOINT a",
            SORT,
        ])
    };
    let mut direct = Client::connect(&database);
    let natively = fails(&mut direct);
    assert_eq!(natively, "T / E 53400 / Z E");
    drop(direct);
    let mut client = Client::connect(proxy.endpoint());
    assert_eq!(fails(&mut client), natively);
    proxy.in_time(&proxy.rolled_back(client.server_pid()));
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    assert_eq!(client.query(SORT), "T / E 53400 / Z I");
    client.run("SET work_mem = '1GB'");
    assert_eq!(client.value(SORT), "299999");
    assert_eq!(ids(&mut client, 2), "");
    works(&proxy, 10);
}

/// Sessions that are open stay where they are, and from one moment to the next may write.
#[test]
fn a_session_outlives_the_promotion_of_its_standby_and_so_do_its_limits() {
    let mut pair = Pair::start(versions()[0]);
    Client::connect(&pair.primary()).run("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let standby = pair.standby();
    wait_for("the table", || {
        let mut client = Client::connect(&standby);
        client
            .query("SELECT FROM t")
            .contains("SELECT 0")
            .then_some(())
    });
    let proxy = Proxy::patient(&standby);
    let mut reader = Client::connect(proxy.endpoint());
    reader.begin("SELECT v FROM t");
    let mut writer = Client::connect(proxy.endpoint());
    assert_eq!(
        writer.query("INSERT INTO t VALUES (2, 'no')"),
        "E 25006 / Z I"
    );
    pair.primary = None;
    Dba::new(&standby).value("SELECT pg_promote()");
    proxy.change_rules(SOON);
    proxy.rolled_back(reader.server_pid());
    let told = reader.query("COMMIT");
    assert!(told.ends_with("E 25P03 / Z I"), "{told}");
    wait_for("a session that may write", || {
        let told = writer.query("INSERT INTO t VALUES (2, 'yes')");
        told.contains("C INSERT 0 1").then_some(())
    });
    works(&proxy, 10);
}
