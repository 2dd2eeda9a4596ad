//! Who is found idle in transaction, and who is left alone.

use std::{thread, time::Duration};

use crate::support::{
    dba::Dba,
    driver::Driver,
    frontend::{bind, copy_data, copy_done, execute, flush, parse, query, sync, unnamed},
    let_pass,
    proxy::Proxy,
    server::{newest, on_every_server},
    wire::Client,
};

/// The story this project began with: a reader that never commits, an ALTER TABLE behind it, and everyone behind that.
#[test]
fn a_reader_that_never_commits_does_not_stop_an_alter_table() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, "");
        let mut dba = Dba::new(&database);
        let mut reader = Driver::connect("psycopg2", proxy.endpoint());
        let pid = reader.server_pid();
        assert_eq!(reader.execute("SELECT * FROM t"), "1|one");

        let alter = dba.alters_table();
        dba.wait_for_waiters(1);
        let mut behind = Client::connect(proxy.endpoint());
        behind.send(&query("SELECT v FROM t"));
        dba.wait_for_waiters(2);

        // The limit comes when the queue stands, however long that has taken.
        proxy.change_rules("[[rule]]\nname = 'all'\nidle = { rollback = '1s' }");
        alter.join().unwrap();
        proxy.rolled_back(pid);
        assert_eq!(behind.until_ready(), "T / D one / C SELECT 1 / Z I");

        assert_eq!(reader.execute("SELECT * FROM t"), "error 25P03");
        assert_eq!(reader.rollback(), "ok");
        assert_eq!(reader.execute("SELECT * FROM t"), "1|one|None");
        assert_eq!(reader.server_pid(), pid, "the session is the same");
    });
}

#[test]
fn an_idle_writer_frees_its_locks_its_transaction_id_and_its_snapshot() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "200ms");
        let mut dba = Dba::new(&database);
        let mut writer = Client::connect(proxy.endpoint());
        let pid = writer.server_pid();
        let inserted = writer.at_once(&[
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "SAVEPOINT a",
            "INSERT INTO t VALUES (2, 'two')",
        ]);
        assert_eq!(inserted, "C INSERT 0 1 / Z T");

        let incident = proxy.rolled_back(pid);
        assert_eq!(incident["kind"], "idle");
        assert_eq!(dba.state(pid), "idle in transaction (aborted)");
        assert_eq!(dba.locked_relations(pid), "0");
        assert!(!dba.holds_back_vacuum(pid));
    });
}

#[test]
fn a_failed_transaction_with_a_savepoint_still_holds_locks_and_is_ended() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "200ms");
        let dba = Dba::new(&database);
        let mut writer = Client::connect(proxy.endpoint());
        let insert = "INSERT INTO t VALUES (2, 'two')";
        let failed = writer.at_once(&["BEGIN", insert, "SAVEPOINT a", "SELECT 1/0"]);
        assert_eq!(failed, "E 22012 / Z E");

        dba.alters_table().join().unwrap();
        // It recovers as natively, and is told by its COMMIT.
        assert_eq!(writer.query("ROLLBACK TO a"), "C ROLLBACK / Z T");
        assert_eq!(writer.query("COMMIT"), "E 25P03 / Z I");
        assert!(!Dba::new(&database).sees_row(2));
    });
}

#[test]
fn a_statement_that_runs_longer_than_the_limit_is_left_alone() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "2s");
        let mut client = Client::connect(proxy.endpoint());
        client.at_once(&[
            "BEGIN",
            "INSERT INTO t VALUES (2, 'two')",
            "SELECT pg_sleep(2.2)",
        ]);
        // Idle for far less than the limit: were the statement's time counted, it would be over.
        let_pass(Duration::from_millis(100));
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
        assert!(proxy.incidents().is_empty());
    });
}

#[test]
fn a_busy_transaction_is_left_alone_however_old_it_gets() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "2s");
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    for id in 2..12 {
        let_pass(Duration::from_millis(250));
        client.run(&format!("INSERT INTO t VALUES ({id}, 'more')"));
    }
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert!(proxy.incidents().is_empty());
}

#[test]
fn requests_on_their_way_are_not_idle() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "400ms");
    let mut client = Client::connect(proxy.endpoint());
    let nap = query("SELECT pg_sleep(0.3)");
    client.send(
        &[
            query("BEGIN"),
            nap.clone(),
            nap.clone(),
            nap,
            query("COMMIT"),
        ]
        .concat(),
    );
    let mut transcript = String::new();
    for _ in 0..5 {
        transcript = client.until_ready();
    }
    assert_eq!(transcript, "C COMMIT / Z I");
    assert!(proxy.incidents().is_empty());
}

/// Such a session is stalled, not idle, and has a ladder of its own.
#[test]
fn the_middle_of_a_batch_and_of_a_copy_is_not_idle() {
    let database = newest().database();
    let rules = "[[rule]]\nname = \"idle only\"\nidle = { rollback = \"200ms\" }\n";
    let proxy = Proxy::with_rules(&database, rules);
    let mut batch = Client::connect(proxy.endpoint());
    let insert = unnamed("INSERT INTO t VALUES (2, 'two')");
    batch.send(&[query("BEGIN"), insert, flush()].concat());
    assert_eq!(batch.until_ready(), "C BEGIN / Z T");
    assert_eq!(batch.until(b'C'), "1 / 2 / C INSERT 0 1");
    let mut copy = Client::connect(proxy.endpoint());
    copy.send(&["BEGIN", "COPY t FROM STDIN"].map(query).concat());
    assert_eq!(copy.until(b'G'), "C BEGIN / Z T / G");
    // The usual early Sync of a COPY by Execute earns nothing: whoever counts it believes that an answer is owed.
    let mut executed = Client::connect(proxy.endpoint());
    executed.send(&[query("BEGIN"), unnamed("COPY t FROM STDIN"), sync()].concat());
    assert_eq!(executed.until(b'G'), "C BEGIN / Z T / 1 / 2 / G");

    proxy.sees_no_incident_for(Duration::from_millis(500));
    assert_eq!(batch.ask(&[sync(), query("COMMIT")]), "Z T");
    assert_eq!(batch.until_ready(), "C COMMIT / Z I");
    assert_eq!(
        copy.ask(&[copy_data("3\tthree\n"), copy_done(), query("COMMIT")]),
        "C COPY 1 / Z T"
    );
    assert_eq!(copy.until_ready(), "C COMMIT / Z I");
    assert_eq!(executed.ask(&[copy_done(), sync()]), "C COPY 0 / Z T");
    proxy.rolled_back(executed.server_pid());
}

/// Whatever is done about half a request: what the client is told at its end is what the database holds.
#[test]
fn a_half_sent_commit_is_done_or_refused() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "150ms");
        let commit = query("COMMIT");
        for sent in [1, 4, 5, 8] {
            let mut client = Client::connect(proxy.endpoint());
            client.begin(&format!("INSERT INTO t VALUES (1{sent}, 'half')"));
            client.send(&commit[..sent]);
            client.hears_nothing_for(Duration::from_millis(400));
            let reply = client.ask(&[commit[sent..].to_vec()]);
            let kept = Dba::new(&database).sees_row(10 + u32::try_from(sent).unwrap());
            let expected = if kept {
                "C COMMIT / Z I"
            } else {
                "E 25P03 / Z I"
            };
            assert_eq!(reply, expected, "{sent} bytes first");
            assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
        }
    });
}

#[test]
fn a_client_that_never_opens_a_transaction_is_never_touched() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "100ms");
    let mut client = Client::connect(proxy.endpoint());
    client.run("INSERT INTO t VALUES (2, 'two')");
    client.ask(&[parse("s", "SELECT v FROM t WHERE id = $1"), sync()]);
    for _ in 0..4 {
        let_pass(Duration::from_millis(150));
        let reply = client.ask(&[bind("", "s", &["2"]), execute("", 0), sync()]);
        assert_eq!(reply, "2 / D two / C SELECT 1 / Z I");
    }
    proxy.sees_no_incident_for(Duration::from_millis(200));
}

#[test]
fn without_a_rule_nobody_is_touched() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut dba = Dba::new(&database);
    let mut reader = Client::connect(proxy.endpoint());
    reader.begin("SELECT * FROM t");
    let alter = dba.alters_table();
    dba.wait_for_waiters(1);
    reader.hears_nothing_for(Duration::from_millis(700));
    assert!(
        !alter.is_finished(),
        "only the reader may end its transaction"
    );
    assert_eq!(dba.state(reader.server_pid()), "idle in transaction");
    assert_eq!(reader.query("COMMIT"), "C COMMIT / Z I");
    alter.join().unwrap();
}

#[test]
fn the_action_log_writes_an_incident_and_touches_nobody() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &["--idle-limit", "150ms", "--action", "log"]);
    let mut client = Client::connect(proxy.endpoint());
    client.begin("INSERT INTO t VALUES (2, 'two')");
    let incident = proxy.audit_line(&[("event", "incident")]);
    assert_eq!(incident["action"], "log");
    assert_eq!(incident["outcome"], "logged");
    assert_eq!(incident["server_pid"], client.server_pid());
    client.hears_nothing_for(Duration::from_millis(300));
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert_eq!(proxy.incidents().len(), 1, "one wait is one incident");
}

#[test]
fn the_action_notice_warns_the_client_and_touches_nothing() {
    let database = newest().database();
    let rules = "[[rule]]\nname = \"all\"\nidle = { notice = \"150ms\" }\n";
    let proxy = Proxy::with_rules(&database, rules);
    let mut client = Client::connect(proxy.endpoint());
    client.begin("INSERT INTO t VALUES (2, 'two')");
    assert_eq!(client.until(b'N'), "N WARNING 25P03");
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert_eq!(
        proxy.audit_line(&[("action", "notice")])["outcome"],
        "noticed"
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let database = newest().database();
    let rules = concat!(
        "[[rule]]\nname = \"patient\"\nmatch = { application_name = \"report*\" }\nidle = { log = \"1h\" }\n",
        "[[rule]]\nname = \"strict\"\nidle = { rollback = \"150ms\" }\n",
    );
    let proxy = Proxy::with_rules(&database, rules);
    let mut patient = Client::connect_with(proxy.endpoint(), &[("application_name", "report 7")]);
    let mut strict = Client::connect(proxy.endpoint());
    for client in [&mut patient, &mut strict] {
        client.begin("SELECT * FROM t");
    }
    let incident = proxy.rolled_back(strict.server_pid());
    assert_eq!(incident["rule"], "strict");
    assert_eq!(strict.query("COMMIT"), "E 25P03 / Z I");
    assert_eq!(patient.query("COMMIT"), "C COMMIT / Z I");

    // The name that counts is the one the server last reported.
    strict.run("SET application_name = 'report 8'");
    strict.run("BEGIN");
    strict.hears_nothing_for(Duration::from_millis(400));
    assert_eq!(strict.query("COMMIT"), "C COMMIT / Z I");
}

/// A session that speaks a moment before its limit is never ended between its question and its answer.
#[test]
fn limits_are_never_early() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "300ms");
    let stuck: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::connect(proxy.endpoint());
            thread::spawn(move || {
                client.run("BEGIN");
                client
            })
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    for client in &stuck {
        proxy.in_time(&proxy.rolled_back(client.server_pid()));
    }
}
