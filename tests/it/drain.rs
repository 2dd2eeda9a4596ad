//! SIGTERM: no new sessions, open transactions finish, idle sessions are told, the process ends in order.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::support::{
    dba::Dba,
    frontend::query,
    program::pgbench,
    proxy::{Proxy, address},
    server::newest,
    wait_for,
    wire::Client,
};

/// Waits until nobody can connect any more. Sessions whose transactions are open do not delay that.
fn refuses_connections(proxy: &Proxy) {
    wait_for("a closed door", || {
        Client::is_refused(proxy.endpoint()).then_some(())
    });
}

#[test]
fn a_drain_lets_transactions_finish_and_tells_idle_sessions() {
    let database = newest().database();
    let mut proxy = Proxy::start(&database, &[]);
    let mut idle = Client::connect(proxy.endpoint());
    let mut writer = Client::connect(proxy.endpoint());
    writer.begin("INSERT INTO t VALUES (2, 'two')");

    proxy.signal(Signal::SIGTERM);
    assert_eq!(idle.until_closed(), "E FATAL 57P01 / closed");
    refuses_connections(&proxy);
    writer.hears_nothing_for(Duration::from_millis(200));
    assert_eq!(
        writer.query("INSERT INTO t VALUES (3, 'three')"),
        "C INSERT 0 1 / Z T"
    );
    assert_eq!(writer.query("COMMIT"), "C COMMIT / Z I");
    assert_eq!(writer.until_closed(), "E FATAL 57P01 / closed");
    assert!(proxy.exit_status().success());

    let mut direct = Client::connect(&database);
    assert_eq!(direct.value("SELECT count(*) FROM t"), "3");
}

#[test]
fn a_client_that_says_who_it_is_during_the_drain_is_told_of_it() {
    let database = newest().database();
    let mut proxy = Proxy::start(&database, &[]);
    let mut late = Client::anonymous(proxy.endpoint());
    let mut writer = Client::connect(proxy.endpoint());
    writer.begin("INSERT INTO t VALUES (2, 'two')");

    proxy.signal(Signal::SIGTERM);
    refuses_connections(&proxy);
    late.say_who(proxy.endpoint(), &[]);
    let told = late.until_closed();
    assert!(told.ends_with("E FATAL 57P01 / closed"), "{told}");
    assert_eq!(writer.query("COMMIT"), "C COMMIT / Z I");
    assert!(proxy.exit_status().success());
}

#[test]
fn a_statement_that_runs_is_answered_before_its_session_is_closed() {
    let database = newest().database();
    let mut proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    let mut dba = Dba::new(&database);
    dba.run("SELECT pg_advisory_lock(1)");
    client.send(&query("SELECT pg_advisory_xact_lock(1), 'done'"));
    dba.wait_for_waiters(1);
    proxy.signal(Signal::SIGINT);
    refuses_connections(&proxy);
    dba.run("SELECT pg_advisory_unlock(1)");
    assert_eq!(client.until_ready(), "T / D |done / C SELECT 1 / Z I");
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    assert!(proxy.exit_status().success());
}

/// One way to end a session: what runs is cancelled first, so that it is not kept, and keeps nothing locked.
#[test]
fn what_runs_when_a_drain_is_cut_short_is_cancelled() {
    let database = newest().database();
    for request in [
        "INSERT INTO t SELECT 2, 'two' FROM pg_sleep(60)",
        "BEGIN; INSERT INTO t VALUES (2, 'two'); SELECT pg_sleep(60)",
    ] {
        let mut proxy = Proxy::start(&database, &[]);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(proxy.endpoint());
        let pid = client.server_pid();
        client.send(&query(request));
        wait_for("a running statement", || {
            (dba.state(pid) == "active").then_some(())
        });
        proxy.signal(Signal::SIGINT);
        refuses_connections(&proxy);
        proxy.signal(Signal::SIGINT);
        let told = client.until_closed();
        assert!(told.ends_with("E FATAL 57P01 / closed"), "{told}");
        let detail = client.error.as_ref().unwrap().field('D');
        assert_eq!(detail, "", "what was cancelled is known");
        wait_for("the end of the server's session", || {
            (dba.state(pid) == "gone").then_some(())
        });
        assert!(!dba.sees_row(2));
        proxy.exit_status();
    }
}

#[test]
fn a_second_sigint_ends_at_once() {
    let database = newest().database();
    let mut proxy = Proxy::start(&database, &[]);
    let mut writer = Client::connect(proxy.endpoint());
    writer.run("BEGIN");
    proxy.signal(Signal::SIGINT);
    refuses_connections(&proxy);
    proxy.signal(Signal::SIGINT);
    proxy.exit_status();
    assert!(writer.until_closed().ends_with("closed"));
}

/// As a sidecar is told to end when the application has gone.
#[test]
fn without_a_client_it_ends_at_once() {
    let database = newest().database();
    let mut proxy = Proxy::with_rules(&database, "drain_timeout = '10min'");
    Client::connect(proxy.endpoint()).run("SELECT 1");
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.exit_status().success());
    let lines = proxy.whole_audit();
    assert_eq!(lines.last().unwrap()["event"], "stopped", "{lines:?}");
}

/// New processes take over one after the other, from TCP's accept queue to the last open transaction, and clients that
/// connect for each transaction see nothing of it.
#[test]
fn clients_that_connect_for_each_transaction_see_no_hand_over() {
    const HAND_OVERS: usize = 3;
    let database = newest().database();
    pgbench(&database, &["-i", "-q", "-s", "1"]);
    let mut old = Proxy::start(&database, &["--reuse-port"]);
    let (port, upstream) = (address(old.endpoint()), address(&database));
    let endpoint = old.endpoint().clone();
    let over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                // It fails when a connection does.
                let report = pgbench(&endpoint, &["-n", "-C", "-c", "6", "-j", "2", "-t", "10"]);
                assert!(report.contains("processed: 60/60"), "{report}");
                rounds += 1;
            }
            rounds
        });
        let busy = |proxy: &Proxy| {
            wait_for("transactions", || {
                (proxy.audit().len() > 20 || load.is_finished()).then_some(())
            });
        };
        for _ in 0..HAND_OVERS {
            busy(&old);
            let addresses = ["--listen", &port, "--upstream", &upstream];
            let new = Proxy::start_with(&database, &addresses, &["--reuse-port"]);
            old.signal(Signal::SIGTERM);
            assert!(old.exit_status().success());
            old = new;
        }
        busy(&old);
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    assert!(rounds > 0);
}
