//! Cancelling a statement through the proxy, as psql and the drivers do it.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    dba::Dba,
    driver::Driver,
    frontend::{cancel_request, query},
    keyless::keyless,
    pooler::Pooler,
    program::start_psql,
    proxy::Proxy,
    server::{newest, on_every_server},
    valve::Valve,
    wait_for,
    wire::Client,
};

/// Waits until the server process runs a statement.
fn wait_until_active(dba: &mut Dba, pid: i32) {
    wait_for("a running statement", || {
        (dba.state(pid) == "active").then_some(())
    });
}

#[test]
fn a_cancel_request_reaches_the_session_it_names() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(proxy.endpoint());
        client.send(&query("SELECT pg_sleep(60)"));
        wait_until_active(&mut dba, client.server_pid());

        let mut wrong = client.backend_key.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&wrong));
        assert_eq!(
            canceller.until_closed(),
            "closed",
            "a cancel request has no answer"
        );
        assert_eq!(
            dba.state(client.server_pid()),
            "active",
            "a wrong key cancels nothing"
        );

        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        assert_eq!(canceller.until_closed(), "closed");
        assert_eq!(client.until_ready(), "T / E 57014 / Z I");
    });
}

#[test]
fn ctrl_c_in_psql_cancels_its_statement() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut dba = Dba::new(&database);
    let psql = start_psql(proxy.endpoint(), &[], "SELECT pg_sleep(60)");
    let running = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event = 'PgSleep'";
    wait_for("psql's statement", || {
        (dba.value(running) == "1").then_some(())
    });
    let pid = i32::try_from(psql.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let output = psql.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("canceling statement due to user request"),
        "{errors}"
    );
}

#[test]
fn drivers_cancel_their_statements() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    for name in ["psycopg2", "psycopg"] {
        let mut driver = Driver::connect(name, proxy.endpoint());
        assert_eq!(
            driver.execute_and_cancel("SELECT pg_sleep(60)"),
            "error 57014",
            "{name}"
        );
        assert_eq!(driver.rollback(), "ok", "{name}");
        assert_eq!(driver.execute("SELECT 1"), "1", "{name}");
    }
}

/// The cancel of a client that thinks its statement still runs must not hit what pgidle does in its session.
#[test]
fn a_cancel_request_for_an_ended_transaction_harms_nothing() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "150ms");
        let mut client = Client::connect(proxy.endpoint());
        for _ in 0..5 {
            let before = proxy.incidents().len();
            client.run("BEGIN");
            wait_for("the rollback", || {
                let mut canceller = Client::silent(proxy.endpoint());
                canceller.send(&cancel_request(&client.backend_key));
                canceller.until_closed();
                (proxy.incidents().len() > before).then_some(())
            });
            assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
            assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
        }
    });
}

/// Behind a pooler that gives no key, what needs a cancel is not possible, and says so; the rest works.
#[test]
fn without_a_key_to_cancel_with_the_next_rung_acts() {
    on_every_server(|server| {
        let rules = "[[rule]]\nname = 'all'\nidle = { release = '100ms', rollback = '150ms' }\n\
                     age = { rollback = '400ms', terminate = '600ms' }";
        let proxy = Proxy::with_rules(&keyless(&server.database()), rules);
        let mut client = Client::connect(proxy.endpoint());
        assert!(client.backend_key.is_empty());
        client.begin("SELECT v FROM t");
        for (action, outcome) in [("release", "not_releasable"), ("rollback", "rolled_back")] {
            let incident = proxy.audit_line(&[("kind", "idle"), ("action", action)]);
            assert_eq!(incident["outcome"], outcome, "{incident}");
        }
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        client.send(&[query("BEGIN"), query("SELECT pg_sleep(60)")].concat());
        assert_eq!(client.until_ready(), "C BEGIN / Z T");
        assert_eq!(client.until_closed(), "E FATAL 25P04 / closed");
        let incident = proxy.audit_line(&[("kind", "age"), ("action", "rollback")]);
        assert_eq!(incident["outcome"], "not_possible", "{incident}");
        assert_eq!(incident["why"], "the server gave no key to cancel with");
        assert!(incident["server_pid"].is_null(), "{incident}");
        let incident = proxy.audit_line(&[("kind", "age"), ("action", "terminate")]);
        assert_eq!(incident["why"], "the outcome of 1 request(s) is unknown");
    });
}

#[test]
fn a_cancel_request_with_a_key_that_pgidle_does_not_know_is_passed_on() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(&database);
        client.send(&query("SELECT pg_sleep(60)"));
        wait_until_active(&mut dba, client.server_pid());
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        assert_eq!(canceller.until_closed(), "closed");
        assert_eq!(client.until_ready(), "T / E 57014 / Z I");
    });
}

/// A pooler's keys are its own: pgidle's cancels and the client's go to the pooler, who knows what they mean.
#[test]
fn cancels_go_through_a_pooler() {
    let database = newest().database();
    let pooler = Pooler::start(&database, "session");
    let rules = "[upstream]\npooler = 'session'\n\
                 [[rule]]\nname = 'all'\nage = { rollback = '400ms' }";
    let proxy = Proxy::with_rules(pooler.endpoint(), rules);
    let mut client = Client::connect(proxy.endpoint());
    let statements = [
        "BEGIN",
        "INSERT INTO t VALUES (2, 'two')",
        "SELECT pg_sleep(60)",
    ];
    assert_eq!(client.at_once(&statements), "T / E 25P04 / Z E");
    assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    assert!(!Dba::new(&database).sees_row(2));

    let mut dba = Dba::new(&database);
    client.send(&query("SELECT pg_sleep(60)"));
    let running = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event = 'PgSleep'";
    wait_for("a running statement", || {
        (dba.value(running) == "1").then_some(())
    });
    let mut canceller = Client::silent(proxy.endpoint());
    canceller.send(&cancel_request(&client.backend_key));
    assert_eq!(canceller.until_closed(), "closed");
    assert_eq!(client.until_ready(), "T / E 57014 / Z I");
}

/// A client's cancel that takes longer than a client may take to start up.
#[test]
fn a_cancel_request_that_takes_long_leaves_the_limits_in_force() {
    on_every_server(|server| {
        let database = server.database();
        let way = Valve::open(&database);
        let rules =
            "startup_timeout = '400ms'\n[[rule]]\nname = 'all'\nidle = { rollback = '200ms' }";
        let proxy = Proxy::with_rules(way.endpoint(), rules);
        let mut client = Client::connect(proxy.endpoint());
        way.block_cancels(true);
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        canceller.hears_nothing_for(Duration::from_millis(800));
        way.block_cancels(false);
        assert_eq!(canceller.until_closed(), "closed");
        for _ in 0..2 {
            let before = proxy.incidents().len();
            client.run("BEGIN");
            wait_for("the rollback", || {
                (proxy.incidents().len() > before).then_some(())
            });
            assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
        }
    });
}

/// Our own cancel is on its way for longer than the statement that it is meant for runs: the client waits for it, and no
/// later statement is hit.
#[test]
fn a_cancel_of_ours_that_is_late_hits_nothing_else() {
    on_every_server(|server| {
        let database = server.database();
        let way = Valve::open(&database);
        let rules = "[[rule]]\nname = 'all'\nage = { rollback = '500ms' }";
        let proxy = Proxy::with_rules(way.endpoint(), rules);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("INSERT INTO t VALUES (2, 'two')");
        way.block_cancels(true);
        assert_eq!(
            client.query("SELECT pg_sleep(1)"),
            "T / D  / C SELECT 1 / Z T"
        );
        client.send(&query("ROLLBACK"));
        client.hears_nothing_for(Duration::from_secs(11));
        way.block_cancels(false);
        assert_eq!(client.until_ready(), "C ROLLBACK / Z I");
        assert_eq!(
            client.query("SELECT pg_sleep(2)"),
            "T / D  / C SELECT 1 / Z I"
        );
    });
}
