//! Nothing hangs: whatever the server does with what pgidle says to it, a session that is stuck is ended.

use std::time::Duration;

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{bind, cancel_request, execute, flush, parse, query, sync, terminate, unnamed},
    let_pass,
    proxy::Proxy,
    server::{newest, on_every_server},
    valve::Valve,
    wait_for,
    wire::Client,
};

/// The statement timeout of a portal that is not finished is noticed when the next message comes, be it a Flush.
#[test]
fn an_error_that_answers_nothing_leaves_the_limits_in_force() {
    on_every_server(|server| {
        let database = server.database();
        let rules = "[[rule]]\nname = 'all'\nstalled = { rollback = '3s' }";
        let proxy = Proxy::with_rules(&database, rules);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("LOCK TABLE t");
        client.run("SET LOCAL statement_timeout = '1s'; SAVEPOINT a");
        client.send(
            &[
                parse("", "SELECT generate_series(1, 9)"),
                bind("", "", &[]),
                execute("", 2),
                flush(),
            ]
            .concat(),
        );
        assert_eq!(client.until(b's'), "1 / 2 / D 1 / D 2 / s");
        let_pass(Duration::from_millis(1200));
        client.send(&flush());
        assert_eq!(client.until(b'E'), "E 57014");
        client.send(&[execute("", 0), flush()].concat());
        assert_eq!(proxy.rolled_back(client.server_pid())["kind"], "stalled");
        dba.value("SELECT count(*) FROM t");
        assert_eq!(client.ask(&[sync()]), "Z E");
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    });
}

/// A client whose rollback is on its way to the server and does not arrive.
fn stuck(database: &Endpoint, rules: &str) -> (Valve, Proxy, Client) {
    let way = Valve::open(database);
    let rules = format!("[[rule]]\nname = 'all'\n{rules}");
    let proxy = Proxy::patient(way.endpoint());
    let mut client = Client::connect(proxy.endpoint());
    client.begin("LOCK TABLE t");
    way.block_requests(true);
    proxy.change_rules(&rules);
    let_pass(Duration::from_millis(600));
    (way, proxy, client)
}

/// What pgidle says never arrives: `terminate` ends what `rollback` could not.
#[test]
fn a_session_whose_rollback_is_not_answered_is_terminated() {
    on_every_server(|server| {
        let rules = "idle = { rollback = '300ms', terminate = '600ms' }";
        let (way, proxy, mut client) = stuck(&server.database(), rules);
        client.send(&query("COMMIT"));
        assert_eq!(client.until_closed(), "E FATAL 25P03 / closed");
        let [rollback, terminate] = ["rollback", "terminate"]
            .map(|action| proxy.audit_line(&[("kind", "idle"), ("action", action)]));
        assert_eq!(rollback["outcome"], "not_possible", "{rollback}");
        let why = rollback["why"].as_str().unwrap();
        assert!(
            why.starts_with("the server has not answered for 2."),
            "{why}"
        );
        assert_eq!(terminate["outcome"], "terminated", "{terminate}");
        assert!(
            terminate["idle_ms"].as_f64().unwrap() > 2300.0,
            "{terminate}"
        );
        way.block_requests(false);
    });
}

/// A client that gives up while it is held, in each way in which clients do so: the server's process goes too.
#[test]
fn a_client_that_leaves_while_it_is_held_takes_its_server_process_with_it() {
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        let asked = [query("COMMIT"), vec![b'Q'; 100_000]];
        for (unread, says_so) in [(0, true), (1, false), (2, false), (1, true)] {
            let (way, proxy, mut client) = stuck(&database, "idle = { rollback = '300ms' }");
            let pid = client.server_pid();
            client.send(&asked[..unread].concat());
            if says_so {
                client.send(&terminate());
                assert_eq!(client.until_closed(), "closed");
            }
            drop(client);
            let incident = proxy.audit_line(&[("kind", "idle"), ("action", "rollback")]);
            assert_eq!(incident["outcome"], "not_possible", "{incident}");
            assert_eq!(
                incident["why"],
                "the client left while the server did not answer"
            );
            way.block_requests(false);
            wait_for("the end of the server process", || {
                (dba.state(pid) == "gone").then_some(())
            });
        }
    });
}

/// What a held client sends is kept for later, and no more of it than memory is given for.
#[test]
fn a_client_that_is_held_costs_little_memory_and_loses_nothing() {
    let database = newest().database();
    let (way, proxy, mut client) = stuck(&database, "idle = { rollback = '300ms' }");
    let before = proxy.memory_kib();
    let many = 20_000;
    let sender = std::thread::spawn(move || {
        client.send(&query("ROLLBACK"));
        for _ in 0..many {
            client.send(
                &[
                    unnamed("SELECT 'a line that takes some room in memory'"),
                    sync(),
                ]
                .concat(),
            );
        }
        client
    });
    let_pass(Duration::from_secs(3));
    assert!(
        proxy.memory_kib() - before < 1024,
        "more was read than is kept"
    );
    way.block_requests(false);
    let mut client = sender.join().unwrap();
    assert_eq!(client.until_ready(), "C ROLLBACK / Z I");
    for _ in 0..many {
        assert_eq!(
            client.until(b'C'),
            "1 / 2 / D a line that takes some room in memory / C SELECT 1"
        );
        assert_eq!(client.until_ready(), "Z I");
    }
}

/// A server, or what stands in front of it, that never closes the connection of a cancel request.
#[test]
fn a_cancel_connection_that_is_never_closed_delays_a_limit_within_a_bound() {
    on_every_server(|server| {
        let database = server.database();
        let way = Valve::open(&database);
        let rules =
            "[[rule]]\nname = 'all'\nidle = { rollback = '300ms' }\nage = { rollback = '20s' }";
        let proxy = Proxy::with_rules(way.endpoint(), rules);
        let mut client = Client::connect(proxy.endpoint());
        way.block_cancels(true);
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        client.begin("LOCK TABLE t");
        let incident = proxy.rolled_back(client.server_pid());
        let idle = incident["idle_ms"].as_f64().unwrap();
        assert!((2300.0..10_000.0).contains(&idle), "{incident}");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        let said = client.error_text();
        assert!(!said.contains("for 0.3 s"), "the time is measured: {said}");
        way.block_cancels(false);
        assert_eq!(canceller.until_closed(), "closed");
    });
}

/// A server that takes nothing any more keeps no client from hearing why its session was ended.
#[test]
fn a_server_that_takes_nothing_keeps_no_client_from_its_last_message() {
    on_every_server(|server| {
        let database = server.database();
        let way = Valve::open(&database);
        let rules = "[[rule]]\nname = 'all'\nage = { terminate = '1s' }";
        let proxy = Proxy::with_rules(way.endpoint(), rules);
        let mut client = Client::connect(proxy.endpoint());
        client.run("BEGIN");
        client.send(&query("COPY t FROM STDIN"));
        assert_eq!(client.until(b'G'), "G");
        way.block_requests(true);
        let mut sender = client.another();
        let sender = std::thread::spawn(move || {
            while sender
                .try_send(&[b'd', 0, 0, 0, 6, b'x', b'\n'].repeat(9000))
                .is_ok()
            {}
        });
        assert_eq!(client.until_closed(), "E FATAL 25P04 / closed");
        drop(client);
        sender.join().unwrap();
        way.block_requests(false);
    });
}
