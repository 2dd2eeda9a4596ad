//! Release: a reader that never commits blocks nobody and sees no error, and what may do more than read is left alone.

use std::{fs, process::Command, time::Duration};

use crate::support::{
    Endpoint,
    dba::Dba,
    driver::Driver,
    frontend::{bind, execute, parse, sync},
    in_repository,
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

const RULES: &str =
    "[[rule]]\nname = \"readers\"\nidle = { release = \"300ms\", rollback = \"300ms\" }";

/// The `why` of the incident with this outcome, once it is there.
fn incident(proxy: &Proxy, outcome: &str) -> String {
    let line = proxy.audit_line(&[("event", "incident"), ("outcome", outcome)]);
    line["why"].as_str().unwrap_or_default().to_owned()
}

/// Runs statements in a transaction that then falls idle; returns why it was not released, having seen the rollback.
fn refused(database: &Endpoint, statements: &[&str]) -> String {
    let proxy = Proxy::with_rules(database, RULES);
    let mut client = Client::connect(proxy.endpoint());
    let replies = statements.iter().map(|statement| client.query(statement));
    let last = replies.last().unwrap_or_default();
    assert!(last.ends_with("Z T"), "{statements:?}: {last}");
    proxy.rolled_back(client.server_pid());
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I", "{statements:?}");
    incident(&proxy, "not_releasable")
}

#[test]
fn a_reader_that_never_commits_lets_an_alter_table_through_in_every_driver() {
    on_every_server(|server| {
        for name in ["psycopg2", "psycopg", "asyncpg", "pg8000", "sqlalchemy"] {
            let database = server.database();
            let proxy = Proxy::with_rules(&database, RULES);
            let dba = Dba::new(&database);
            let mut driver = Driver::connect(name, proxy.endpoint());
            let pid = driver.server_pid();
            assert_eq!(driver.execute("SELECT id, v FROM t"), "1|one", "{name}");
            let waited = dba.alters_table().join().unwrap();
            assert!(waited < Duration::from_millis(1500), "{name}: {waited:?}");
            assert_eq!(driver.execute("SELECT id, v FROM t"), "1|one", "{name}");
            assert_eq!(driver.server_pid(), pid, "{name}");
            wait_for("a second release", || {
                (proxy.incidents().len() == 2).then_some(())
            });
            let insert = "INSERT INTO t (id, v) VALUES (2, 'two')";
            assert_eq!(driver.execute(insert), "ok", "{name}");
            assert_eq!(driver.commit(), "ok", "{name}");
            assert!(Dba::new(&database).sees_row(2), "{name}");
            for line in proxy.incidents() {
                assert_eq!(line["outcome"], "released", "{name}: {line}");
            }
        }
    });
}

#[test]
fn a_prepared_statement_survives_and_a_prepared_star_meets_0a000() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let prepared = [
            parse("s", "SELECT v FROM t"),
            parse("star", "SELECT * FROM t"),
            sync(),
        ];
        assert_eq!(client.ask(&prepared), "1 / 1 / Z I");
        client.query("BEGIN");
        let run = |name| [bind("", name, &[]), execute("", 0), sync()];
        assert_eq!(client.ask(&run("s")), "2 / D one / C SELECT 1 / Z T");
        Dba::new(&database).alters_table().join().unwrap();
        assert_eq!(client.ask(&run("s")), "2 / D one / C SELECT 1 / Z T");
        assert_eq!(client.ask(&run("star")), "E 0A000 / Z E");
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    });
}

#[test]
fn what_may_do_more_than_read_is_not_released_and_the_rollback_acts() {
    let database = newest().database();
    Dba::new(&database).run("CREATE VIEW volatile_view AS SELECT id, random() FROM t");
    let begin = "BEGIN";
    for (statements, why) in [
        (
            &[begin, "SELECT set_config('a.b', 'c', true)"][..],
            "set_config",
        ),
        (
            &[
                begin,
                "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery')",
            ],
            "ts_rewrite",
        ),
        (
            &[begin, "SELECT pg_advisory_xact_lock(1)"],
            "pg_advisory_xact_lock",
        ),
        (
            &["BEGIN ISOLATION LEVEL REPEATABLE READ", "TABLE t"],
            "isolation level",
        ),
        (
            &[
                "SET default_transaction_isolation = 'repeatable read'",
                begin,
                "TABLE t",
            ],
            "isolation level",
        ),
        (
            &[begin, "DECLARE c CURSOR FOR TABLE t"],
            "a statement other than",
        ),
        (&[begin, "SELECT * FROM t FOR UPDATE"], "a locking clause"),
        (&[begin, "CREATE TEMP TABLE u ()"], "a statement other than"),
        (
            &["CREATE TEMP TABLE u ()", begin, "TABLE u"],
            "permanent tables",
        ),
        (
            &["SELECT pg_advisory_lock(1)", begin, "TABLE t"],
            "a lock other than",
        ),
        (
            &[begin, "SELECT id FROM volatile_view"],
            "a lock other than",
        ),
        (
            &["SET standard_conforming_strings = off", begin, "TABLE t"],
            "standard_conforming_strings",
        ),
    ] {
        let found = refused(&database, statements);
        assert!(found.contains(why), "{statements:?}: {found}");
    }
}

#[test]
fn what_others_have_made_under_the_names_that_it_uses_is_in_its_way() {
    on_every_server(|server| {
        for (made, statement, why) in [
            (
                "CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS $$SELECT set_config('a.b', $1, true)$$",
                "SELECT lower(v::varchar) FROM t",
                "a user-made function",
            ),
            (
                "CREATE FUNCTION eq(varchar, varchar) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
                 CREATE OPERATOR public.= (leftarg = varchar, rightarg = varchar, function = eq)",
                "SELECT id FROM t WHERE v = 'one'",
                "a user-made operator",
            ),
            (
                "CREATE DOMAIN date AS text",
                "SELECT '2000-01-01'::date",
                "a user-made type",
            ),
            (
                "CREATE FUNCTION f(t) RETURNS text LANGUAGE sql AS $$SELECT set_config('a.b', 'c', true)$$",
                "SELECT x.f FROM t x",
                "a user-made function",
            ),
            (
                "CREATE CAST (text AS point) WITH INOUT AS IMPLICIT",
                "TABLE t",
                "a user-made cast",
            ),
            (
                "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
                "TABLE t",
                "row-level security",
            ),
            (
                "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE INDEX ON t (g(id))",
                "TABLE t",
                "an index or constraint",
            ),
            (
                "CREATE DOMAIN d AS text; ALTER TABLE t ADD COLUMN d d",
                "TABLE t",
                "a column of a user-made type",
            ),
        ] {
            let database = server.database();
            Dba::new(&database).run(made);
            let found = refused(&database, &["BEGIN", statement]);
            assert!(found.contains(why), "{statement}: {found}");
        }
    });
}

/// A simple Query would have dropped it.
#[test]
fn the_unnamed_statement_survives() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.query("BEGIN");
        let run = [bind("", "", &[]), execute("", 0), sync()];
        let first = [vec![parse("", "SELECT v FROM t")], run.to_vec()].concat();
        assert_eq!(client.ask(&first), "1 / 2 / D one / C SELECT 1 / Z T");
        incident(&proxy, "released");
        assert_eq!(client.ask(&run), "2 / D one / C SELECT 1 / Z T");
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    });
}

#[test]
fn a_question_that_the_clients_timeout_hits_is_a_rollback_that_the_client_is_told_of() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.query("SET statement_timeout = '1ms'");
        client.begin("SELECT 1");
        let why = proxy.rolled_back(client.server_pid())["why"].to_string();
        assert!(
            why.contains("asking whether it could be released failed"),
            "{why}"
        );
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    });
}

#[test]
fn a_server_that_closes_idle_sessions_does_not_close_a_released_one() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.query("SET idle_session_timeout = '600ms'");
        client.begin("SELECT v FROM t");
        incident(&proxy, "released");
        assert_eq!(
            Dba::new(&database).locked_relations(client.server_pid()),
            "0"
        );
        client.hears_nothing_for(Duration::from_millis(900));
        assert_eq!(
            client.query("SELECT v FROM t"),
            "T / D one / C SELECT 1 / Z T"
        );
    });
}

#[test]
fn the_transaction_begins_again_as_it_was() {
    on_every_server(|server| {
        let proxy = Proxy::with_rules(&server.database(), RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.query("BEGIN READ ONLY");
        client.query("SELECT v FROM t");
        incident(&proxy, "released");
        assert_eq!(client.query("INSERT INTO t VALUES (2)"), "E 25006 / Z E");
        client.query("ROLLBACK");
        client.begin("SELECT v FROM t");
        wait_for("a second release", || {
            (proxy.incidents().len() == 2).then_some(())
        });
        let late = client.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(late, "E 25001 / Z E");
    });
}

#[test]
fn the_table_of_harmless_names_is_what_its_script_makes() {
    let made = Command::new(in_repository("scripts/harmless-names.sh"))
        .output()
        .unwrap();
    let kept = fs::read_to_string(in_repository("src/sql/harmless.txt")).unwrap();
    assert!(made.status.success());
    assert_eq!(
        String::from_utf8_lossy(&made.stdout),
        kept,
        "run scripts/harmless-names.sh"
    );
}
