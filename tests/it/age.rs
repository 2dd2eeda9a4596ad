//! The limit of a transaction's age, in the places where the bank of many drivers found it wanting.

use std::time::{Duration, Instant};

use crate::support::{
    Endpoint, PATIENCE,
    dba::Dba,
    frontend::{bind, describe_statement, execute, message, parse, query, sync, unnamed},
    let_pass,
    observed::{dsn, observed_through},
    pair::door,
    proxy::Proxy,
    server::{cluster, newest, newest_version, on_every_server},
    wait_for,
    wire::Client,
};

fn aging(database: &Endpoint, limit: &str) -> Proxy {
    Proxy::with_rules(
        database,
        &format!(
            "[listen]\nworkers = 1\n\n[[rule]]\nname = \"age\"\nage = {{ rollback = \"{limit}\" }}\n"
        ),
    )
}

/// The server keeps its answer until it is asked for: it waits for the client, and no cancel reaches it.
#[test]
fn a_batch_that_grows_too_old_before_its_answers_were_asked_for_is_ended() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = aging(&database, "400ms");
        let mut client = Client::connect(proxy.endpoint());
        client.run("BEGIN");
        let_pass(Duration::from_millis(360));
        client.send(&unnamed("INSERT INTO t VALUES (2, 'two')"));
        let incident = proxy.audit_line(&[("event", "incident")]);
        assert_eq!(incident["outcome"], "rolled_back", "{incident:#}");
    });
}

/// What is read ahead of a client that does not read costs time in proportion to its size, and others their turn only
/// for as long.
#[test]
fn others_are_served_while_an_unread_result_is_drained() {
    let database = newest().database();
    let proxy = aging(&database, "300ms");
    let mut silent = Client::connect(proxy.endpoint());
    let mut other = Client::connect(proxy.endpoint());
    silent.run("BEGIN");
    silent.send(&query(
        "SELECT repeat('x', 10000) FROM generate_series(1, 2000)",
    ));
    let end = Instant::now() + Duration::from_secs(2);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let start = Instant::now();
        other.run("SELECT 1");
        slowest = slowest.max(start.elapsed());
        let_pass(Duration::from_millis(10));
    }
    // Reading it in quadratic time would take tens of seconds.
    assert!(
        slowest < Duration::from_secs(5),
        "another session waited {slowest:?}"
    );
    proxy.audit_line(&[("event", "incident")]);
}

/// pg8000's statements are three batches; an end between the first two takes the unnamed statement away.
#[test]
fn a_statement_that_was_parsed_before_the_end_draws_our_error_and_not_one_of_its_own() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = aging(&database, "300ms");
        let mut client = Client::connect(proxy.endpoint());
        client.send(&[query("BEGIN"), parse("", "SELECT v FROM t"), sync()].concat());
        assert_eq!(client.until_ready(), "C BEGIN / Z T");
        assert_eq!(client.until_ready(), "1 / Z T");
        proxy.rolled_back(client.server_pid());

        client.send(&[describe_statement(""), sync(), bind("", "", &[])].concat());
        assert_eq!(client.until_ready(), "E 25P04 / Z E");
        client.send(&[execute("", 0), sync()].concat());
        assert!(client.until_ready().ends_with("/ Z E"));
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
        assert_eq!(
            client.query("SELECT v FROM t"),
            "T / D one / C SELECT 1 / Z I"
        );
    });
}

/// The server keeps the answer to BEGIN in its buffer while it works: only the text tells that a block is open.
#[test]
fn a_block_whose_begin_is_not_answered_yet_is_ended() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = aging(&database, "300ms");
        let statements = ["BEGIN", "DELETE FROM t", "SELECT pg_sleep(60)"];
        let list = query(&statements.join("; "));
        let pipeline = [statements.map(unnamed).concat(), sync()].concat();
        let later_in_list = query("SET a.b = 1; BEGIN; DELETE FROM t; SELECT pg_sleep(60)");
        let later = [unnamed("SELECT 1"), pipeline.clone()].concat();
        let quoted = query("BEGIN; DELETE FROM t; DO $$ BEGIN PERFORM pg_sleep(60); END $$");
        for request in [list, pipeline, later_in_list, later, quoted] {
            let mut client = Client::connect(proxy.endpoint());
            client.send(&request);
            let answers = client.until_ready();
            assert!(answers.ends_with("E 25P04 / Z E"), "{answers}");
            assert_eq!(client.query("COMMIT"), "E 25P04 / Z I");
        }
        for incident in proxy.incidents() {
            assert_eq!(incident["outcome"], "rolled_back", "{incident:#}");
        }
        assert!(Dba::new(&database).sees_row(1));
    });
}

#[test]
fn a_statement_behind_the_end_of_its_block_is_left_alone() {
    let database = newest().database();
    let proxy = aging(&database, "100ms");
    let mut client = Client::connect(proxy.endpoint());
    let answers = client.query("BEGIN; TABLE t; COMMIT; SELECT pg_sleep(0.5)");
    assert!(answers.ends_with("C SELECT 1 / Z I"), "{answers}");
    assert!(proxy.incidents().is_empty());
}

/// A cancel would let it return before it is replicated.
#[test]
fn a_commit_that_waits_for_a_standby_is_left_alone() {
    let server = cluster(newest_version(), &[], None);
    let database = door(&server);
    let mut dba = Client::connect(&database);
    dba.run("SET synchronous_commit = local");
    dba.run("CREATE TABLE t (id int)");
    dba.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    dba.run("SELECT pg_reload_conf()");
    let proxy = aging(&database, "300ms");
    let mut client = Client::connect(proxy.endpoint());
    wait_for("the setting", || {
        (client.value("SHOW synchronous_standby_names") == "nobody").then_some(())
    });
    // Commits wait once the checkpointer has read it too (SyncRepUpdateSyncStandbysDefined).
    dba.run("CHECKPOINT");
    let requests = ["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"].map(query);
    client.send(&requests.concat());
    client.until_ready();
    client.until_ready();
    let incident = proxy.audit_line(&[("event", "incident")]);
    assert_eq!(incident["outcome"], "not_possible", "{incident:#}");
    assert_eq!(
        dba.value("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"),
        "SyncRep"
    );
    dba.run("ALTER SYSTEM RESET synchronous_standby_names");
    dba.run("SELECT pg_reload_conf()");
    assert_eq!(client.until_ready(), "C COMMIT / Z I");
    assert_eq!(dba.value("SELECT count(*) FROM t"), "1");
}

/// An INSERT that sleeps first, in each form whose statements are hard to count: long, not UTF-8, escaped, too large to
/// be held, and in a list.
fn inserts(id: u32) -> [Vec<u8>; 5] {
    let insert =
        |text: &str| format!("INSERT INTO t SELECT {id} FROM pg_sleep(0.2), (SELECT {text}) AS s");
    let latin = insert("'caf?;'").into_bytes();
    let latin: Vec<u8> = latin
        .into_iter()
        .map(|byte| if byte == b'?' { 0xe9 } else { byte })
        .chain([0])
        .collect();
    [
        query(&insert(&format!("'{};'", "x".repeat(5000)))),
        message(b'Q', &latin),
        query(&format!("SELECT 'a;'; {}", insert("E'\\';'"))),
        query(&insert(&format!("'{}'", "x".repeat(100_000)))),
        [unnamed(&insert("1")), sync()].concat(),
    ]
}

/// As below, of transactions without BEGIN: an observer sees that they do not wait for a standby.
#[test]
fn what_is_told_of_statements_that_commit_by_themselves_is_what_became_of_them() {
    let server = cluster(newest_version(), &[("fsync", "on")], None);
    let database = door(&server);
    let mut dba = Client::connect(&database);
    dba.run("CREATE TABLE t (id int)");
    let age = "age = { rollback = '300ms', implicit = true }";
    let proxy = observed_through(&dsn(&database, "postgres"), &database, age);
    let mut client = Client::connect_with(proxy.endpoint(), &[("client_encoding", "LATIN1")]);
    for setting in [
        "log_min_duration_statement = 0",
        "commit_siblings = 0",
        "commit_delay = 100000",
    ] {
        client.run(&format!("SET {setting}"));
    }
    for id in 0..8 {
        for request in inserts(id) {
            dba.run("TRUNCATE t");
            let before = proxy.incidents().len();
            client.send(&request);
            let answers = client.until_ready();
            let kept = dba.value("SELECT count(*) FROM t") == "1";
            assert_eq!(kept, answers.contains("C INSERT 0 1"), "{answers}");
            assert_eq!(kept, !answers.contains("E "), "{answers}");
            // One that was fast has none.
            for incident in proxy.incidents().into_iter().skip(before) {
                let outcome = if kept { "moot" } else { "rolled_back" };
                assert_eq!(incident["outcome"], outcome, "{incident:#}");
            }
        }
    }
}

/// The server looks for cancels again where it logs the statement that it has carried out, a COMMIT too.
#[test]
fn a_cancel_that_comes_behind_the_commit_does_not_make_it_look_refused() {
    let server = cluster(newest_version(), &[("fsync", "on")], None);
    let database = door(&server);
    let mut dba = Client::connect(&database);
    dba.run("CREATE TABLE t (id int)");
    let proxy = aging(&database, "300ms");
    let mut client = Client::connect(proxy.endpoint());
    for setting in [
        "log_min_duration_statement = 0",
        "commit_siblings = 0",
        // Microseconds.
        "commit_delay = 100000",
    ] {
        client.run(&format!("SET {setting}"));
    }
    // Until the race was met: a busy machine may need many attempts.
    let (mut outrun, mut id, start) = (0, 0, Instant::now());
    while outrun == 0 || id < 10 {
        assert!(start.elapsed() < PATIENCE, "every cancel came in time");
        id += 1;
        let insert = format!("INSERT INTO t VALUES ({id})");
        let statements = [&insert, "SELECT pg_sleep(0.24)", "COMMIT"].map(unnamed);
        client.send(&[query("BEGIN"), statements.concat(), sync()].concat());
        assert_eq!(client.until_ready(), "C BEGIN / Z T");
        let answers = client.until_ready();
        let kept = dba.value(&format!("SELECT count(*) FROM t WHERE id = {id}")) == "1";
        assert_eq!(kept, answers.ends_with("C COMMIT / Z I"), "{answers}");
        if kept {
            outrun += 1;
        } else {
            assert!(answers.ends_with("E 25P04 / Z E"), "{answers}");
            client.run("ROLLBACK");
        }
    }
}
