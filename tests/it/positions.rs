//! Every position in which a transaction gets stuck, on every server: it is ended soon after its limit, the DBA's ALTER
//! TABLE gets through, the client is told by an error, nothing of it was kept, and its session lives on.

use std::time::Duration;

use crate::support::{
    dba::Dba,
    frontend::{
        bind, cancel_request, copy_data, copy_done, execute, message, parse, query, sync, unnamed,
    },
    let_pass,
    observed::observed,
    proxy::Proxy,
    server::{Server, newest, on_every_server},
    wait_for,
    wire::Client,
};

const INSERT: &str = "INSERT INTO t VALUES (2, 'two')";

const RULES: &str = r#"
[[rule]]
name = "test"
idle = { rollback = "1s" }
stalled = { rollback = "1s", terminate = "3s" }
"#;

/// Brings a client into a position, waits until the ALTER TABLE behind it got through, lets the client go on, and looks
/// at what it was told. `go_on` returns the transcript up to the end of its last request.
fn frees_the_table(
    server: &Server,
    rules: &str,
    get_stuck: impl Fn(&mut Client),
    go_on: impl Fn(&mut Client) -> String,
    told: &str,
) {
    let database = server.database();
    let proxy = Proxy::with_rules(&database, rules);
    let mut dba = Dba::new(&database);
    let mut client = Client::connect(proxy.endpoint());
    let pid = client.server_pid();
    get_stuck(&mut client);
    wait_for("a lock on the table, or its end", || {
        (dba.locked_relations(pid) != "0" || !proxy.incidents().is_empty()).then_some(())
    });
    dba.alters_table().join().unwrap();
    assert_eq!(go_on(&mut client), told);
    client.query("ROLLBACK");
    assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid.to_string());
    assert!(!dba.sees_row(2), "a refused row is there");
    proxy.in_time(&proxy.rolled_back(pid));
    assert_eq!(proxy.incidents().len(), 1);
}

#[test]
fn idle_in_transaction() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| client.begin(INSERT),
            |client| client.query("COMMIT"),
            "E 25P03 / Z I",
        );
    });
}

#[test]
fn failed_inside_a_savepoint() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                let failed = client.at_once(&["BEGIN", INSERT, "SAVEPOINT a", "SELECT 1/0"]);
                assert_eq!(failed, "E 22012 / Z E");
            },
            |client| {
                assert_eq!(client.query("ROLLBACK TO a"), "C ROLLBACK / Z T");
                client.query("COMMIT")
            },
            "E 25P03 / Z I",
        );
    });
}

#[test]
fn half_sent_request() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.begin(INSERT);
                client.send(&query("COMMIT")[..7]);
            },
            |client| {
                client.send(&query("COMMIT")[7..]);
                client.until_ready()
            },
            "E 25P03 / Z I",
        );
    });
}

#[test]
fn batch_without_sync_in_a_block() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.run("BEGIN");
                client.send(&unnamed(INSERT));
            },
            |client| client.ask(&[sync()]),
            "1 / 2 / C INSERT 0 1 / E 25P03 / Z E",
        );
    });
}

#[test]
fn batch_without_sync_and_without_a_block() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| client.send(&unnamed(INSERT)),
            |client| client.ask(&[sync()]),
            "1 / 2 / C INSERT 0 1 / E 25P03 / Z I",
        );
    });
}

#[test]
fn batch_that_goes_on_with_commit() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.run("BEGIN");
                client.send(&unnamed(INSERT));
            },
            |client| client.ask(&[unnamed("COMMIT"), sync()]),
            "1 / 2 / C INSERT 0 1 / E 25P03 / Z E",
        );
    });
}

#[test]
fn failed_batch_without_sync_inside_a_savepoint() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.at_once(&["BEGIN", INSERT, "SAVEPOINT a"]);
                client.send(&unnamed("SELECT 1/0"));
            },
            |client| client.ask(&[unnamed(INSERT), sync()]),
            "1 / E 22012 / Z E",
        );
    });
}

/// On PostgreSQL 18 the answer is `Z T` without any BEGIN, and a Sync would lose the client's work.
#[test]
fn simple_query_behind_a_batch_without_sync() {
    let server = newest();
    let get_stuck = |client: &mut Client| {
        client.send(&[unnamed(INSERT), query("SELECT 1")].concat());
        let answer = client.until_ready();
        assert_eq!(answer, "1 / 2 / C INSERT 0 1 / T / D 1 / C SELECT 1 / Z T");
    };
    frees_the_table(
        server,
        RULES,
        get_stuck,
        |client| client.query("COMMIT"),
        "E 25P03 / Z I",
    );
}

#[test]
fn copy_from_stdin_in_a_block() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.run("BEGIN");
                client.send(&query("COPY t FROM STDIN"));
                client.send(&copy_data("2\ttwo\n"));
            },
            |client| {
                let answer = client.until_ready();
                client.send(&[copy_data("3\tthree\n"), copy_done()].concat());
                answer
            },
            "G / E 25P03 / Z E",
        );
    });
}

#[test]
fn copy_from_stdin_without_a_block() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| client.send(&query("COPY t FROM STDIN")),
            |client| {
                let answer = client.until_ready();
                client.send(&[copy_data("2\ttwo\n"), copy_done()].concat());
                answer
            },
            "G / E 25P03 / Z I",
        );
    });
}

#[test]
fn copy_from_stdin_by_execute() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.run("BEGIN");
                client.send(&[unnamed("COPY t FROM STDIN"), sync()].concat());
                client.send(&copy_data("2\ttwo\n"));
            },
            |client| {
                let answer = client.until(b'E');
                client.send(&[copy_data("3\tthree\n"), copy_done(), sync()].concat());
                answer + " / " + &client.until_ready()
            },
            "1 / 2 / G / E 25P03 / Z E",
        );
    });
}

#[test]
fn half_of_a_large_copy_message() {
    on_every_server(|server| {
        let row = message(
            b'd',
            &[b"2\t".as_slice(), &[b'x'; 1_000_000], b"\n"].concat(),
        );
        frees_the_table(
            server,
            RULES,
            |client| {
                client.send(&query("COPY t FROM STDIN"));
                client.send(&row[..500_000]);
            },
            |client| {
                let answer = client.until_ready();
                client.send(&row[500_000..]);
                client.send(&copy_done());
                answer
            },
            "G / E 25P03 / Z I",
        );
    });
}

#[test]
fn result_that_is_not_read() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.begin(INSERT);
                let big = "SELECT repeat('x', 10000) FROM generate_series(1, 30000)";
                client.send(&query(big));
            },
            |client| {
                let answer = client.until_ready();
                let end: Vec<_> = answer.rsplit(" / ").take(2).collect();
                end.join(" / ")
            },
            "Z E / E 25P03",
        );
    });
}

/// The server has said everything; what is not read lies in the buffers of the sockets.
#[test]
fn end_of_a_result_that_is_not_read() {
    let rules = "[[rule]]\nname = \"test\"\nidle = { rollback = \"1s\" }\n";
    on_every_server(|server| {
        frees_the_table(
            server,
            rules,
            |client| {
                client.begin(INSERT);
                let big = "SELECT repeat('x', 10000) FROM generate_series(1, 500)";
                client.send(&query(big));
            },
            |client| {
                let answer = client.until_ready();
                let end: Vec<_> = answer.rsplit(" / ").take(2).collect();
                end.join(" / ") + " / " + &client.query("COMMIT")
            },
            "Z T / C SELECT 500 / E 25P03 / Z I",
        );
    });
}

/// A client in libpq's pipeline mode asks for no answer before it syncs.
#[test]
fn batch_without_sync_that_keeps_others_waiting() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, "blocking = { rollback = '300ms' }");
        let mut client = Client::connect(proxy.endpoint());
        client.run("BEGIN");
        client.send(&unnamed(INSERT));
        let mut dba = Dba::new(&database);
        wait_for("a lock on the table", || {
            (dba.locked_relations(client.server_pid()) != "0").then_some(())
        });
        dba.alters_table().join().unwrap();
        let incident = proxy.rolled_back(client.server_pid());
        assert_eq!(incident["kind"], "blocking", "{incident}");
        let answer = client.ask(&[sync()]);
        assert_eq!(answer, "1 / 2 / C INSERT 0 1 / E 25P03 / Z E");
    });
}

#[test]
fn result_that_is_not_read_without_a_block() {
    on_every_server(|server| {
        frees_the_table(
            server,
            RULES,
            |client| {
                client.send(&query(
                    "SELECT repeat(v, 10000) FROM t, generate_series(1, 30000)",
                ))
            },
            |client| {
                let answer = client.until_ready();
                let end: Vec<_> = answer.rsplit(" / ").take(2).collect();
                end.join(" / ")
            },
            "Z I / E 25P03",
        );
    });
}

#[test]
fn busy_past_its_age() {
    let rules = "[[rule]]\nname = \"test\"\nage = { rollback = \"1s\" }\n";
    on_every_server(|server| {
        frees_the_table(
            server,
            rules,
            |client| {
                let requests = ["BEGIN", INSERT, "SELECT pg_sleep(60)"].map(query);
                client.send(&requests.concat());
                client.until_ready();
                client.until_ready();
            },
            Client::until_ready,
            "T / E 25P04 / Z E",
        );
    });
}

#[test]
fn idle_past_its_age() {
    let rules = "[[rule]]\nname = \"test\"\nage = { rollback = \"1s\" }\n";
    on_every_server(|server| {
        frees_the_table(
            server,
            rules,
            |client| client.begin(INSERT),
            |client| client.query("COMMIT"),
            "E 25P04 / Z I",
        );
    });
}

#[test]
fn half_of_another_large_message_is_ended_by_terminate_alone() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(proxy.endpoint());
        let large = query(&format!("SELECT '{}'", "x".repeat(25_000_000)));
        client.begin(INSERT);
        client.send(&large[..12_000_000]);
        let alter = dba.alters_table();
        assert_eq!(client.until_closed(), "E FATAL 25P03 / closed");
        alter.join().unwrap();
        assert!(!dba.sees_row(2));
        proxy.audit_line(&[("outcome", "terminated")]);
        let outcomes: Vec<_> = proxy
            .incidents()
            .iter()
            .map(|line| line["outcome"].clone())
            .collect();
        assert_eq!(outcomes, ["not_possible", "terminated"]);
    });
}

#[test]
fn a_running_statement_without_flush_is_not_stalled() {
    let server = newest();
    let database = server.database();
    let proxy = Proxy::with_rules(&database, RULES);
    let mut client = Client::connect(proxy.endpoint());
    client.send(&unnamed("SELECT pg_sleep(2)"));
    let_pass(Duration::from_millis(2500));
    assert_eq!(client.ask(&[sync()]), "1 / 2 / D  / C SELECT 1 / Z I");
    assert!(proxy.incidents().is_empty());
}

#[test]
fn a_batch_whose_commit_had_already_run_is_left_alone() {
    let server = newest();
    let database = server.database();
    let proxy = Proxy::with_rules(&database, RULES);
    let mut dba = Dba::new(&database);
    let mut client = Client::connect(proxy.endpoint());
    client.begin(INSERT);
    client.send(&unnamed("COMMIT"));
    // The COMMIT runs when the proxy asks for its answer.
    wait_for("the row", || dba.sees_row(2).then_some(()));
    let_pass(Duration::from_millis(1500));
    assert_eq!(client.ask(&[sync()]), "1 / 2 / C COMMIT / Z I");
    assert!(proxy.incidents().is_empty());
}

/// PostgreSQL answers a pipelined commit in an aborted transaction without an error, and libpq drops an error that
/// nobody waits for.
#[test]
fn a_pipeline_that_goes_on_after_the_end_is_told_in_its_answer() {
    let server = newest();
    let database = server.database();
    let proxy = Proxy::rolling_back(&database, "200ms");
    let mut client = Client::connect(proxy.endpoint());
    let begin = [unnamed("BEGIN"), unnamed(INSERT), sync()].concat();
    assert_eq!(
        client.ask(&[begin]),
        "1 / 2 / C BEGIN / 1 / 2 / C INSERT 0 1 / Z T"
    );
    proxy.rolled_back(client.server_pid());
    client.send(&[unnamed("SELECT 1"), sync(), unnamed("COMMIT"), sync()].concat());
    assert_eq!(client.until_ready(), "E 25P03 / Z E");
    assert_eq!(client.until_ready(), "1 / 2 / E 25P03 / Z I");
}

/// A client's cancel that hits an injection (9 of 300 without care) must neither break the session nor be believed.
#[test]
fn cancels_around_the_limit_break_nothing() {
    let server = newest();
    let database = server.database();
    let proxy = Proxy::rolling_back(&database, "20ms");
    let mut client = Client::connect(proxy.endpoint());
    client.send(&[parse("commit", "COMMIT"), sync()].concat());
    assert_eq!(client.until_ready(), "1 / Z I");
    let mut ended = 0;
    for round in 0..300u64 {
        client.begin(&format!("INSERT INTO t VALUES ({}, 'x')", round + 10));
        let_pass(Duration::from_micros(18_500 + round * 10));
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        canceller.until_closed();
        let answer = client.ask(&[bind("", "commit", &[]), execute("", 0), sync()]);
        let kept = client.value(&format!("SELECT count(*) FROM t WHERE id = {}", round + 10));
        match answer.as_str() {
            "2 / C COMMIT / Z I" => assert_eq!(kept, "1", "an acknowledged row is absent"),
            "2 / E 25P03 / Z I" | "E 25P03 / Z E" | "2 / E 57014 / Z I" | "E 57014 / Z E" => {
                ended += 1;
                assert_eq!(kept, "0", "a refused row is there");
            }
            other => panic!("round {round}: {other}"),
        }
    }
    assert!(ended > 10, "the race was not met: {ended} of 300");
}
