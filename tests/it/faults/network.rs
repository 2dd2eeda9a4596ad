//! Networks that are slow, that break, and that fall silent.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use crate::support::{
    breakable::Breakable,
    dba::Dba,
    frontend::{bind, copy_data, execute, flush, messages, parse, query, sync},
    let_pass,
    proxy::Proxy,
    server::newest,
    slow::slow,
    wait_for,
    wire::Client,
};

use super::{SOON, ids, logged, works};

/// Each position that another way leads out of, 100 ms away from the server and 100 ms from the client.
#[test]
fn a_network_with_100_ms_each_way_makes_no_difference_to_what_is_promised() {
    let database = newest().database();
    let way = slow(&database, Duration::from_millis(100));
    let proxy = Proxy::with_rules(&way, SOON);
    let door = slow(proxy.endpoint(), Duration::from_millis(100));
    let begin = query("BEGIN; INSERT INTO t VALUES (2, 'late')");
    let batch = messages("P - INSERT INTO t VALUES (3, 'late') | B - - | E - | H").concat();
    let mut idle = Client::connect(&door);
    let mut batching = Client::connect(&door);
    let mut copying = Client::connect(&door);
    assert!(idle.ask(&[begin]).ends_with("Z T"));
    batching.send(&batch);
    assert!(batching.until(b'C').ends_with("C INSERT 0 1"));
    copying.send(&query("COPY t FROM STDIN"));
    assert_eq!(copying.until(b'G'), "G");
    copying.send(&copy_data("4\tlate\n"));
    for client in [&idle, &batching, &copying] {
        proxy.in_time(&proxy.rolled_back(client.server_pid()));
    }
    assert_eq!(idle.query("COMMIT"), "E 25P03 / Z I");
    assert_eq!(batching.ask(&[sync()]), "E 25P03 / Z I");
    assert_eq!(copying.until_ready(), "E 25P03 / Z I");
    for client in [&mut idle, &mut batching, &mut copying] {
        assert_eq!(client.value("SELECT count(*) FROM t"), "1");
    }
    idle.run("BEGIN; INSERT INTO t VALUES (2, 'in time'); COMMIT");
    assert_eq!(ids(&mut idle, 2), "2");
}

/// The network between pgidle and its client, or between pgidle and the server.
#[test]
fn a_connection_that_is_reset_ends_its_session_on_both_sides_and_no_other() {
    let database = newest().database();
    let way = Breakable::open(&database);
    let proxy = Proxy::patient(way.endpoint());
    let door = Breakable::open(proxy.endpoint());
    let mut dba = Dba::new(&database);
    let beside = Proxy::patient(&database);
    let mut other = Client::connect(beside.endpoint());
    other.begin("INSERT INTO t VALUES (9, 'other')");
    for (broken, id, reason) in [(&door, 2, "client_io"), (&way, 3, "server_io")] {
        let mut client = Client::connect(door.endpoint());
        client.begin(&format!("INSERT INTO t VALUES ({id}, 'lost')"));
        let pid = client.server_pid();
        broken.reset();
        assert_eq!(client.until_closed(), "closed");
        wait_for("the end of the server's process", || {
            (dba.state(pid) == "gone").then_some(())
        });
        logged(&proxy, &["session closed", reason]);
        assert!(!dba.sees_row(id));
    }
    assert_eq!(other.query("COMMIT"), "C COMMIT / Z I");
    proxy.change_rules(SOON);
    works(&proxy, 10);
}

/// The connection to the server breaks while a rollback is on its way: the client hears no success.
#[test]
fn a_reset_in_the_middle_of_a_rollback_tells_nobody_of_a_success() {
    let database = newest().database();
    let way = Breakable::open(&database);
    let proxy = Proxy::patient(way.endpoint());
    let mut client = Client::connect(proxy.endpoint());
    client.begin("INSERT INTO t VALUES (2, 'lost')");
    way.be_silent(true);
    proxy.change_rules(SOON);
    let_pass(Duration::from_millis(700));
    client.send(&query("COMMIT"));
    client.hears_nothing_for(Duration::from_millis(100));
    way.reset();
    way.be_silent(false);
    let heard = client.until_closed();
    assert!(!heard.contains("COMMIT"), "{heard}");
    logged(&proxy, &["session closed", "server_io"]);
    let mut dba = Dba::new(&database);
    wait_for("the end of the lock", || {
        let open = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted";
        (dba.value(open) == "0").then_some(())
    });
    assert!(!dba.sees_row(2));
    works(&proxy, 10);
}

/// A client that has gone without a word, as far as the network tells.
#[test]
fn a_client_that_has_fallen_silent_holds_its_locks_no_longer_than_the_limit() {
    let database = newest().database();
    let proxy = Proxy::patient(&database);
    let door = Breakable::open(proxy.endpoint());
    let mut idle = Client::connect(door.endpoint());
    idle.begin("INSERT INTO t VALUES (2, 'late')");
    let mut batching = Client::connect(door.endpoint());
    batching.send(
        &[
            parse("", "INSERT INTO t VALUES (3, 'late')"),
            bind("", "", &[]),
            execute("", 0),
            flush(),
        ]
        .concat(),
    );
    assert!(batching.until(b'C').ends_with("C INSERT 0 1"));
    door.be_silent(true);
    let mut dba = Dba::new(&database);
    let altering = dba.alters_table();
    dba.wait_for_waiters(1);
    proxy.change_rules(SOON);
    altering.join().unwrap();
    idle.send(&query("COMMIT"));
    batching.send(&sync());
    door.be_silent(false);
    assert_eq!(idle.until_ready(), "E 25P03 / Z I");
    assert_eq!(batching.until_ready(), "E 25P03 / Z I");
    assert_eq!(dba.value("SELECT count(*) FROM t"), "1");
}

/// Sessions come, work and go while connections are reset all the time, on either side of pgidle.
#[test]
fn under_a_rain_of_resets_every_acknowledged_row_is_there() {
    const ROUNDS: u32 = 40;
    let database = newest().database();
    let way = Breakable::open(&database);
    let proxy = Proxy::with_rules(way.endpoint(), SOON);
    let door = Breakable::open(proxy.endpoint());
    let next = AtomicU32::new(100);
    let acknowledged: Vec<u32> = thread::scope(|scope| {
        let works = || {
            let mut kept = Vec::new();
            for _ in 0..ROUNDS {
                kept.extend(commits(&door, next.fetch_add(1, Ordering::Relaxed)));
            }
            kept
        };
        let sessions: Vec<_> = (0..6).map(|_| scope.spawn(works)).collect();
        while sessions.iter().any(|session| !session.is_finished()) {
            let_pass(Duration::from_millis(7));
            door.reset_one_in(5);
            let_pass(Duration::from_millis(7));
            way.reset_one_in(5);
        }
        sessions
            .into_iter()
            .flat_map(|session| session.join().unwrap())
            .collect()
    });
    let mut dba = Dba::new(&database);
    for id in &acknowledged {
        assert!(dba.sees_row(*id), "{id} was acknowledged");
    }
    assert!(!acknowledged.is_empty(), "no session has come through");
    assert!(
        acknowledged.len() < 6 * ROUNDS as usize,
        "no connection was reset"
    );
    wait_for("the end of all that is open", || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        (dba.value(open) == "0").then_some(())
    });
    works(&proxy, 10);
}

/// One row in a session that may be reset at any time; its id where the commit was acknowledged.
fn commits(door: &Breakable, id: u32) -> Option<u32> {
    let mut client = Client::silent(door.endpoint());
    let statements = [
        crate::support::frontend::startup(&[
            ("user", "postgres"),
            ("database", &door.endpoint().database),
        ]),
        query("BEGIN"),
        query(&format!("INSERT INTO t VALUES ({id}, 'rain')")),
        query("COMMIT"),
    ];
    for statement in statements {
        client.try_send(&statement).ok()?;
        let heard = client.until_ready();
        if heard == "C COMMIT / Z I" {
            return Some(id);
        }
        if heard.ends_with("closed") {
            return None;
        }
    }
    None
}
