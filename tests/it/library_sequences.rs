//! What libraries send between the end of a transaction and the answer that the program believes, message by message as
//! `make drivers-all` shows them, and what they are answered.

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::messages,
    proxy::Proxy,
    request::readies,
    server::{Server, newest, on_every_server},
    wire::Client,
};

/// What one library does, in the notation of [`messages`].
struct Sequence {
    name: &'static str,
    /// Packets that are sent in the transaction before it is ended.
    before: &'static [&'static str],
    /// Packets that are sent afterwards, each with the answers to it.
    after: &'static [(&'static str, &'static str)],
}

const fn sequence(
    name: &'static str,
    before: &'static [&'static str],
    after: &'static [(&'static str, &'static str)],
) -> Sequence {
    Sequence {
        name,
        before,
        after,
    }
}

const LATE: &str = "E 25P03 / Z I";

/// Statements, by destructors and caches.
const STATEMENTS: &[Sequence] = &[
    sequence(
        "pdo",
        &["P pdo_stmt_00000001 SELECT v FROM t | S"],
        &[
            ("Q DEALLOCATE pdo_stmt_00000001", "C DEALLOCATE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "dbd_pg",
        &["P dbdpg_p1_1 SELECT v FROM t | S"],
        &[
            ("Q DEALLOCATE dbdpg_p1_1", "C DEALLOCATE / Z T"),
            ("Q commit", LATE),
        ],
    ),
    sequence(
        "tdbc",
        &["P statement2 SELECT v FROM t | S"],
        &[
            ("Q DEALLOCATE statement2", "C DEALLOCATE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "soci",
        &["P st_1 SELECT v FROM t | S"],
        &[
            ("Q DEALLOCATE st_1", "C DEALLOCATE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "psqlodbc",
        &["P _PLAN0x1 SELECT v FROM t | S"],
        &[
            (
                "Q SAVEPOINT _per_query_svp_;DEALLOCATE \"_PLAN0x1\";RELEASE _per_query_svp_",
                "C SAVEPOINT / C DEALLOCATE / C RELEASE / Z T",
            ),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "activerecord",
        &["P a1 SELECT v FROM t | S"],
        &[
            ("Q DEALLOCATE a1", "C DEALLOCATE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "pgx",
        &["P s SELECT v FROM t | S"],
        &[
            ("Q deallocate \"s\"", "C DEALLOCATE / Z T"),
            ("Q commit", LATE),
        ],
    ),
    sequence(
        "lib_pq",
        &["P 1 SELECT v FROM t | S"],
        &[("C S 1 | S", "3 / Z T"), ("Q COMMIT", LATE)],
    ),
    sequence(
        "tokio_postgres_dropped_statement",
        &["P s1 SELECT v FROM t | S"],
        &[("C S s1 | S | Q COMMIT", "3 / Z T / E 25P03 / Z I")],
    ),
    sequence(
        "pg8000",
        &["P pg8000_statement_0 SELECT v FROM t | S"],
        &[
            ("C S pg8000_statement_0 | H | S", "3 / Z T"),
            ("P - commit | H | S", "1 / Z T"),
            ("D S - | H | S", "t / n / Z T"),
            ("B - - | H | E - | H | S", "2 / E 25P03 / Z I"),
        ],
    ),
    sequence(
        "pgjdbc_closed_statement",
        &["P S_3 SELECT v FROM t | S"],
        &[(
            "C S S_3 | P S_4 COMMIT | B - S_4 | E - | S",
            "3 / 1 / 2 / E 25P03 / Z I",
        )],
    ),
];

/// Cursors, large objects and receivers, by destructors.
const CURSORS: &[Sequence] = &[
    sequence(
        "django_iterator",
        &["Q DECLARE \"_django_curs_1\" NO SCROLL CURSOR WITHOUT HOLD FOR SELECT v FROM t"],
        &[
            ("Q CLOSE \"_django_curs_1\"", "C CLOSE CURSOR / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "sqlalchemy_server_side",
        &["Q DECLARE \"c_1\" CURSOR WITHOUT HOLD FOR SELECT v FROM t"],
        &[
            ("Q CLOSE \"c_1\"", "C CLOSE CURSOR / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "libpqxx_cursor",
        &["Q DECLARE \"c_1\" SCROLL CURSOR FOR SELECT v FROM t FOR READ ONLY"],
        &[
            ("Q CLOSE \"c_1\"", "C CLOSE CURSOR / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "libpqxx_receiver",
        &["Q LISTEN \"news\""],
        &[
            ("Q UNLISTEN \"news\"", "C UNLISTEN / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "psycopg2_lobject",
        &["Q SELECT lo_open(lo_create(0), 131072)"],
        &[("F 953 0", "V \\0\\0\\0\\u{1}0 / Z T"), ("Q COMMIT", LATE)],
    ),
    sequence(
        "pgjdbc_closed_cursor",
        &["P - SELECT generate_series(1, 9) | B C_1 - | E C_1 | S"],
        &[(
            "C P C_1 | P S_2 COMMIT | B - S_2 | E - | S",
            "3 / 1 / 2 / E 25P03 / Z I",
        )],
    ),
    sequence(
        "pg_cursor",
        &["P - SELECT generate_series(1, 9) | B C_1 - | S"],
        &[("C P C_1 | S", "3 / Z T"), ("Q COMMIT", LATE)],
    ),
];

/// Nested transactions that were left by something of the program's own, and savepoints around statements.
const SAVEPOINTS: &[Sequence] = &[
    sequence(
        "django_nested_atomic",
        &["Q SAVEPOINT \"s1_x1\""],
        &[
            ("Q ROLLBACK TO SAVEPOINT \"s1_x1\"", "C ROLLBACK / Z T"),
            ("Q RELEASE SAVEPOINT \"s1_x1\"", "C RELEASE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "django_nested_atomic_released",
        &["Q SAVEPOINT \"s1_x1\""],
        &[
            ("Q RELEASE SAVEPOINT \"s1_x1\"", "C RELEASE / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "tokio_postgres_dropped_savepoint",
        &["Q SAVEPOINT sp_1"],
        &[(
            "Q ROLLBACK TO sp_1 | Q COMMIT",
            "C ROLLBACK / Z T / E 25P03 / Z I",
        )],
    ),
    sequence(
        "libpqxx_subtransaction",
        &["Q SAVEPOINT \"a_1\""],
        &[
            ("Q ROLLBACK TO SAVEPOINT \"a_1\"", "C ROLLBACK / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "postgres_js_savepoint",
        &["P b1 savepoint s0 | B - b1 | E - | S"],
        &[
            (
                "P b2 rollback to \"s0\" | D S b2 | B - b2 | E - | S",
                "1 / t / n / 2 / C ROLLBACK / Z T",
            ),
            (
                "P b3 commit | D S b3 | B - b3 | E - | S",
                "1 / t / n / 2 / E 25P03 / Z I",
            ),
        ],
    ),
    sequence(
        "pgjdbc_savepoint",
        &["P - SAVEPOINT \"a\" | B - - | E - | S"],
        &[
            (
                "P - RELEASE SAVEPOINT \"a\" | B - - | E - | S",
                "1 / 2 / C RELEASE / Z T",
            ),
            ("P S_1 COMMIT | B - S_1 | E - | S", "1 / 2 / E 25P03 / Z I"),
        ],
    ),
    sequence(
        "pgjdbc_autosave",
        &[],
        &[
            (
                "Q SAVEPOINT PGJDBC_AUTOSAVE | P - UPDATE t SET v = v | B - - | D P - | E - | S",
                "C SAVEPOINT / Z T / E 25P03 / Z E",
            ),
            (
                "Q ROLLBACK TO SAVEPOINT PGJDBC_AUTOSAVE",
                "C ROLLBACK / Z T",
            ),
            ("P S_1 COMMIT | B - S_1 | E - | S", "1 / 2 / E 25P03 / Z I"),
        ],
    ),
    sequence(
        "psqlodbc_autosave",
        &[],
        &[
            (
                "Q SAVEPOINT _EXEC_SVP_0x1;UPDATE t SET v = v",
                "C SAVEPOINT / E 25P03 / Z E",
            ),
            (
                "Q ROLLBACK TO _EXEC_SVP_0x1;RELEASE _EXEC_SVP_0x1",
                "C ROLLBACK / C RELEASE / Z T",
            ),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "peewee_error_in_a_savepoint",
        &["Q SAVEPOINT \"s1\";"],
        &[
            ("Q UPDATE t SET v = v", "E 25P03 / Z E"),
            ("Q ROLLBACK TO SAVEPOINT \"s1\";", "C ROLLBACK / Z T"),
            ("Q COMMIT", LATE),
        ],
    ),
];

/// Pings.
const PINGS: &[Sequence] = &[
    sequence(
        "pg_ping",
        &[],
        &[("Q SELECT 1;", "E 25P03 / Z E"), ("Q COMMIT", LATE)],
    ),
    sequence(
        "dbd_pg_ping",
        &[],
        &[
            ("Q /* DBD::Pg ping test v3.16.0 */", "I / Z T"),
            ("Q commit", LATE),
        ],
    ),
    sequence(
        "soci_ping",
        &[],
        &[("Q /* ping */", "I / Z T"), ("Q COMMIT", LATE)],
    ),
    sequence("pgx_ping", &[], &[("Q ;", "I / Z T"), ("Q commit", LATE)]),
    sequence(
        "deadpool_ping",
        &[],
        &[("Q ", "I / Z T"), ("Q COMMIT", LATE)],
    ),
    sequence("sqlx_ping", &[], &[("S", "Z T"), ("Q COMMIT", LATE)]),
    sequence(
        "pgjdbc_isvalid",
        &[],
        &[
            ("P -  | B - - | D P - | E - | S", "1 / 2 / n / I / Z T"),
            ("P S_1 COMMIT | B - S_1 | E - | S", "1 / 2 / E 25P03 / Z I"),
        ],
    ),
    sequence(
        "libpqxx_robusttransaction",
        &[],
        &[
            ("Q SET CONSTRAINTS ALL IMMEDIATE", "E 25P03 / Z E"),
            ("Q COMMIT", LATE),
        ],
    ),
    sequence(
        "pony_release",
        &[],
        &[
            ("Q UPDATE t SET v = v", "E 25P03 / Z E"),
            ("Q COMMIT", LATE),
            ("Q DISCARD ALL", "C DISCARD ALL / Z I"),
        ],
    ),
];

/// The answers to a packet.
fn answers(client: &mut Client, packet: &str) -> String {
    let packet = messages(packet);
    client.send(&packet.concat());
    let answers: Vec<_> = (0..readies(&packet))
        .map(|_| client.until_ready())
        .collect();
    answers.join(" / ")
}

/// Opens a transaction with a row of its own, and does what comes before its end.
fn opened(endpoint: &Endpoint, sequence: &Sequence, row: u32) -> Client {
    let mut client = Client::connect(endpoint);
    client.begin(&format!("INSERT INTO t VALUES ({row}, 'late')"));
    for packet in sequence.before {
        let answers = answers(&mut client, packet);
        assert!(answers.ends_with("Z T"), "{}: {answers}", sequence.name);
    }
    client
}

fn play(server: &Server, sequences: &'static [Sequence]) {
    let database = server.database();
    let proxy = Proxy::patient(&database);
    let mut wrong = Vec::new();
    let clients: Vec<_> = (100..)
        .zip(sequences)
        .map(|(row, sequence)| (opened(proxy.endpoint(), sequence, row), sequence))
        .collect();
    proxy.change_rules("[[rule]]\nname = 'all'\nidle = { rollback = '200ms' }");
    for (client, _) in &clients {
        proxy.rolled_back(client.server_pid());
    }
    proxy.change_rules("");
    for (mut client, sequence) in clients {
        for &(packet, expected) in sequence.after {
            let answered = answers(&mut client, packet);
            if answered != expected {
                wrong.push(format!("{}: {packet}: {answered}", sequence.name));
            }
        }
        client.run("BEGIN; UPDATE t SET v = v || '+'; COMMIT");
    }
    assert_eq!(wrong, Vec::<String>::new());
    let rows = Dba::new(&database).value("SELECT string_agg(id || v, ' ') FROM t");
    assert_eq!(rows, format!("1one{}", "+".repeat(sequences.len())));
}

/// Without an enforcement each sequence commits, so that it is what it says.
fn plays_natively(server: &Server, sequences: &'static [Sequence]) {
    let database = server.database();
    for (row, sequence) in (100..).zip(sequences) {
        let mut client = opened(&database, sequence, row);
        for (packet, _) in sequence.after {
            answers(&mut client, packet);
        }
        let committed = Dba::new(&database).sees_row(row);
        assert!(committed, "{}: {}", sequence.name, client.error_text());
    }
}

#[test]
fn statements_that_libraries_close_before_they_commit() {
    on_every_server(|server| play(server, STATEMENTS));
}

#[test]
fn cursors_and_large_objects_that_libraries_close_before_they_commit() {
    on_every_server(|server| play(server, CURSORS));
}

#[test]
fn savepoints_that_libraries_leave_before_they_commit() {
    on_every_server(|server| play(server, SAVEPOINTS));
}

#[test]
fn pings_that_libraries_send_before_they_commit() {
    on_every_server(|server| play(server, PINGS));
}

#[test]
fn what_libraries_send_commits_where_nothing_was_ended() {
    for sequences in [STATEMENTS, CURSORS, SAVEPOINTS, PINGS] {
        plays_natively(newest(), sequences);
    }
}
