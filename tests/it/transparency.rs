//! What passes directly passes through pgidle: every conversation is held with the server and through the proxy, and the
//! two transcripts must be the same.

use crate::support::{
    dba::Dba,
    frontend::{
        bind, close_statement, copy_data, copy_done, copy_fail, describe_portal,
        describe_statement, execute, flush, function_call, message, parse, query, startup, sync,
        terminate, unnamed,
    },
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

/// Holds a conversation on a fresh database directly and on another through a proxy with limits that are not reached.
fn passes(conversation: impl Fn(&mut Client) -> Vec<String> + Sync) {
    on_every_server(|server| {
        let direct = conversation(&mut Client::connect(&server.database()));
        let proxy = Proxy::rolling_back(&server.database(), "1min");
        let through = conversation(&mut Client::connect(proxy.endpoint()));
        for (direct, through) in direct.iter().zip(&through) {
            let shown = |text: &str| text.chars().take(300).collect::<String>();
            assert!(
                direct == through,
                "directly: {}\nthrough pgidle: {}",
                shown(direct),
                shown(through)
            );
        }
        assert_eq!(direct.len(), through.len());
    });
}

#[test]
fn the_greeting() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let greeting = |mut client: Client, parameters: &[(&str, &str)]| {
            let always = [
                ("user", "postgres"),
                ("database", database.database.as_str()),
            ];
            client.send(&startup(&[&always, parameters].concat()));
            client.until_ready()
        };
        // The second asks for a protocol extension that no server knows, which earns NegotiateProtocolVersion.
        for parameters in [
            &[][..],
            &[("_pq_.unheard_of", "1")],
            &[("replication", "database")],
        ] {
            let direct = greeting(Client::silent(&database), parameters);
            let through = greeting(Client::silent(proxy.endpoint()), parameters);
            assert_eq!(direct, through);
        }
    });
}

#[test]
fn simple_queries() {
    passes(|client| {
        [
            "SELECT 1, NULL, 'text'",
            "",
            "SELECT 1; SELECT 2; SELECT 1/0; SELECT 3",
            "BEGIN; SELECT 1/0",
            "ROLLBACK",
            "SET application_name = 'changed'",
            "DO $$BEGIN RAISE NOTICE 'heard'; RAISE WARNING 'too'; END$$",
            "SELECT repeat('wide', 500000)",
            "SELECT n, repeat('x', 100) FROM generate_series(1, 30000) n",
            "VACUUM t",
            "COMMIT",
            "no such statement",
        ]
        .map(|sql| client.query(sql))
        .to_vec()
    });
}

#[test]
fn a_large_request() {
    passes(|client| {
        let insert = format!("INSERT INTO t VALUES (2, '{}')", "x".repeat(5_000_000));
        let long = client.query(&insert);
        vec![long, client.query("SELECT md5(v) FROM t WHERE id = 2")]
    });
}

#[test]
fn extended_queries() {
    passes(|client| {
        let prepared = client.ask(&[
            parse("s", "SELECT $1::int + 1"),
            describe_statement("s"),
            sync(),
        ]);
        let bound = [
            bind("p", "s", &["41"]),
            describe_portal("p"),
            execute("p", 0),
            sync(),
        ];
        let batch = client.ask(&bound);
        let closed = client.ask(&[close_statement("s"), bind("", "s", &["1"]), sync()]);
        client.run("BEGIN");
        let rows = "SELECT generate_series(1, 5)";
        let mut suspended = vec![parse("", rows), bind("p", "", &[])];
        suspended.extend((0..3).map(|_| execute("p", 2)));
        suspended.push(sync());
        let suspended = client.ask(&suspended);
        let failed = client.ask(&[unnamed("SELECT 1/0"), unnamed("SELECT 1"), sync()]);
        let skipped = client.ask(&[unnamed("SELECT 1"), sync()]);
        vec![
            prepared,
            batch,
            closed,
            suspended,
            failed,
            skipped,
            client.query("COMMIT"),
        ]
    });
}

#[test]
fn flush_without_sync() {
    passes(|client| {
        client.send(&[parse("", "SELECT 1"), flush()].concat());
        let parsed = client.until(b'1');
        client.send(&[bind("", "", &[]), execute("", 0), flush()].concat());
        vec![parsed, client.until(b'C'), client.ask(&[sync()])]
    });
}

#[test]
fn pipelines() {
    passes(|client| {
        let many: Vec<_> = (0..5000)
            .map(|n| match n % 2 {
                0 => query(&format!("SELECT {n}")),
                _ => [unnamed(&format!("SELECT {n}")), sync()].concat(),
            })
            .collect();
        client.send(&many.concat());
        let mut transcript: Vec<_> = many.iter().map(|_| client.until_ready()).collect();
        let mixed = [
            query("BEGIN"),
            unnamed("INSERT INTO t VALUES (2, 'two')"),
            sync(),
            query("COMMIT"),
        ];
        client.send(&mixed.concat());
        transcript.extend((0..3).map(|_| client.until_ready()));
        transcript
    });
}

#[test]
fn copy_in_every_way() {
    passes(|client| {
        let mut transcript = vec![client.query("COPY t TO STDOUT")];
        client.send(&query("COPY t FROM STDIN"));
        transcript.push(client.until(b'G'));
        transcript.push(client.ask(&[copy_data("2\ttwo\n"), copy_data("3\tthree\n"), copy_done()]));
        client.send(&query("COPY t FROM STDIN"));
        transcript.push(client.until(b'G'));
        transcript.push(client.ask(&[copy_data("4\tfour\n"), copy_fail("changed my mind")]));
        // A Sync inside earns nothing.
        client.send(&query("COPY t FROM STDIN"));
        transcript.push(client.until(b'G'));
        transcript.push(client.ask(&[sync(), copy_data("5\tfive\n"), copy_done()]));
        // By Execute: the usual early Sync is eaten, the second one is answered.
        client.send(&[unnamed("COPY t FROM STDIN"), sync()].concat());
        transcript.push(client.until(b'G'));
        transcript.push(client.ask(&[copy_data("6\tsix\n"), copy_done(), sync()]));
        transcript.push(client.query("BEGIN; COPY t TO STDOUT; COPY t TO STDOUT"));
        transcript.push(client.query("COMMIT"));
        transcript
    });
}

#[test]
fn a_large_copy() {
    passes(|client| {
        client.send(&query("COPY t FROM STDIN"));
        let mut transcript = vec![client.until(b'G')];
        let rows: Vec<_> = (2..20_000)
            .map(|n| copy_data(&format!("{n}\t{}\n", "x".repeat(100))))
            .collect();
        transcript.push(client.ask(&[rows.concat(), copy_done()]));
        transcript.push(client.query("COPY t TO STDOUT"));
        transcript
    });
}

/// What a client does not read stays with the server: the proxy's memory is for sessions, not for results.
#[test]
fn a_client_that_does_not_read_holds_the_server_back() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut dba = Dba::new(&database);
    let mut client = Client::connect(proxy.endpoint());
    client.run("SELECT 1");
    let before = proxy.memory_kib();
    client.send(&query(
        "SELECT repeat('x', 10000) FROM generate_series(1, 10000)",
    ));
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event = 'ClientWrite'";
    wait_for("a server that waits", || {
        (dba.value(waits) == "1").then_some(())
    });
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 10_000, "{grown} KiB of a result of 100 MB are kept");
    assert!(client.until_ready().ends_with("C SELECT 10000 / Z I"));
}

#[test]
fn function_calls() {
    passes(|client| {
        client.run("BEGIN");
        // int4pl, and an oid that is no function.
        let sum = client.ask(&[function_call(177, &["1", "2"])]);
        let unknown = client.ask(&[function_call(1, &[])]);
        vec![sum, unknown, client.query("ROLLBACK")]
    });
}

#[test]
fn notifications() {
    passes(|client| {
        client.run("LISTEN news");
        vec![
            client.query("NOTIFY news, 'one'"),
            client.query("BEGIN; NOTIFY news, 'two'; COMMIT"),
        ]
    });
}

#[test]
fn two_phase_commit() {
    passes(|client| {
        let name = client.value("SELECT current_database()");
        client.run("BEGIN");
        let prepared = client.query(&format!("PREPARE TRANSACTION '{name}'"));
        vec![prepared, client.query(&format!("COMMIT PREPARED '{name}'"))]
    });
}

#[test]
fn the_end_of_a_session() {
    passes(|client| {
        client.send(&terminate());
        vec![client.until_closed()]
    });
}

#[test]
fn what_the_server_does_not_understand() {
    passes(|client| {
        client.send(&message(b'?', b"unheard of"));
        vec![client.until_closed()]
    });
}

#[test]
fn the_death_of_the_server_process() {
    passes(|client| {
        client.send(&query("SELECT pg_terminate_backend(pg_backend_pid())"));
        vec![client.until_closed()]
    });
}
