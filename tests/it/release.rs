//! Release: a reader that never commits blocks nobody and sees no error, and what may do more than read is left alone.

use std::{fs, process::Command, time::Duration};

use crate::support::{
    Endpoint,
    dba::Dba,
    driver::{DRIVERS, Driver},
    frontend::{bind, cancel_request, copy_data, copy_done, execute, parse, query, sync},
    in_repository,
    pooler::Pooler,
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

/// A busy machine may take long to answer.
const RULES: &str = "[[rule]]\nname = \"readers\"\nrelease_timeout = \"20s\"\n\
    idle = { release = \"300ms\", rollback = \"300ms\" }";

/// What a test goes on with when its release was seen, so that no limit hurries it.
const NO_RULES: &str = "";

/// The `why` of the incident with this outcome, once it is there.
fn incident(proxy: &Proxy, outcome: &str) -> String {
    let line = proxy.audit_line(&[("event", "incident"), ("outcome", outcome)]);
    line["why"].as_str().unwrap_or_default().to_owned()
}

/// Waits until there were so many releases, and nothing else.
fn releases(proxy: &Proxy, count: usize) {
    wait_for(&format!("{count} releases"), || {
        (proxy.incidents().len() >= count).then_some(())
    });
    for line in proxy.incidents() {
        assert_eq!(line["outcome"], "released", "{line}");
    }
}

/// Runs statements in a transaction that then falls idle; returns why it was not released, having seen the rollback.
fn refused(database: &Endpoint, statements: &[&str]) -> String {
    let proxy = Proxy::with_rules(database, RULES);
    let mut client = Client::connect(proxy.endpoint());
    let last = client.at_once(statements);
    assert!(last.ends_with("Z T"), "{statements:?}: {last}");
    proxy.rolled_back(client.server_pid());
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I", "{statements:?}");
    incident(&proxy, "not_releasable")
}

#[test]
fn a_reader_that_never_commits_lets_an_alter_table_through_in_every_driver() {
    on_every_server(|server| {
        for name in DRIVERS {
            let database = server.database();
            let proxy = Proxy::with_rules(&database, RULES);
            let dba = Dba::new(&database);
            let mut driver = Driver::connect(name, proxy.endpoint());
            let pid = driver.server_pid();
            assert_eq!(driver.execute("SELECT id, v FROM t"), "1|one", "{name}");
            dba.alters_table().join().unwrap();
            assert_eq!(driver.execute("SELECT id, v FROM t"), "1|one", "{name}");
            assert_eq!(driver.server_pid(), pid, "{name}");
            releases(&proxy, 2);
            proxy
                .incidents()
                .iter()
                .for_each(|line| proxy.in_time(line));
            proxy.change_rules(NO_RULES);
            let insert = "INSERT INTO t (id, v) VALUES (2, 'two')";
            assert_eq!(driver.execute(insert), "ok", "{name}");
            assert_eq!(driver.commit(), "ok", "{name}");
            assert!(Dba::new(&database).sees_row(2), "{name}");
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

/// What may do more than read, and why it is not released.
const MAY_DO_MORE: &[(&[&str], &str)] = &[
    (
        &["BEGIN", "SELECT set_config('a.b', 'c', true)"],
        "set_config",
    ),
    (
        &[
            "BEGIN",
            "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery')",
        ],
        "ts_rewrite",
    ),
    (
        &["BEGIN", "SELECT pg_advisory_xact_lock(1)"],
        "pg_advisory_xact_lock",
    ),
    (
        &["BEGIN ISOLATION LEVEL REPEATABLE READ", "TABLE t"],
        "isolation level",
    ),
    (
        &[
            "SET default_transaction_isolation = 'repeatable read'",
            "BEGIN",
            "TABLE t",
        ],
        "isolation level",
    ),
    (&["BEGIN DEFERRABLE", "TABLE t"], "DEFERRABLE"),
    (
        &["BEGIN", "DECLARE c CURSOR FOR TABLE t"],
        "a statement other than",
    ),
    (&["BEGIN", "SELECT * FROM t FOR UPDATE"], "a locking clause"),
    (
        &["BEGIN", "CREATE TEMP TABLE u ()"],
        "a statement other than",
    ),
    (
        &["CREATE TEMP TABLE u ()", "BEGIN", "TABLE u"],
        "permanent tables",
    ),
    (
        &["SELECT pg_advisory_lock(1)", "BEGIN", "TABLE t"],
        "a lock other than",
    ),
    (
        &["BEGIN", "SELECT id FROM volatile_view"],
        "a lock other than",
    ),
    (
        &["SET standard_conforming_strings = off", "BEGIN", "TABLE t"],
        "standard_conforming_strings",
    ),
    (&["BEGIN", "SELECT id, ctid FROM t"], "ctid"),
    (&["BEGIN", "SELECT x.xmin FROM public.t x"], "xmin"),
];

#[test]
fn what_may_do_more_than_read_is_not_released_and_the_rollback_acts() {
    let database = newest().database();
    Dba::new(&database).run("CREATE VIEW volatile_view AS SELECT id, random() FROM t");
    for &(statements, why) in MAY_DO_MORE {
        let setting = statements[0];
        if setting.starts_with("SET ") && !Client::connect(&database).takes(setting) {
            continue;
        }
        let found = refused(&database, statements);
        assert!(found.contains(why), "{statements:?}: {found}");
    }
}

/// What a user has made, a statement of a reader, and why the reader is not released.
const IN_THE_WAY: &[(&str, &str, &str)] = &[
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
        "an index, constraint or statistics",
    ),
    (
        "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE STATISTICS s ON (g(1) + id), v FROM t",
        "TABLE t",
        "an index, constraint or statistics",
    ),
    (
        "CREATE DOMAIN d AS text; ALTER TABLE t ADD COLUMN d d",
        "TABLE t",
        "a column of a user-made type",
    ),
    (
        "CREATE FUNCTION pg_catalog.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT $1'",
        "SELECT pg_catalog.lower(v::varchar) FROM t",
        "a user-made function",
    ),
    // PostgreSQL's own |/ has one side only, and is no choice here.
    (
        "CREATE EXTENSION ltree; CREATE FUNCTION root(ltree, ltree) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
         CREATE OPERATOR |/ (leftarg = ltree, rightarg = ltree, function = root)",
        "SELECT 'a' |/ 'b'",
        "a user-made operator",
    ),
    (
        "CREATE FUNCTION outside(box, box) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
         CREATE OPERATOR !@> (leftarg = box, rightarg = box, function = outside, negator = OPERATOR(pg_catalog.@>))",
        "SELECT NOT ('1,1,0,0'::box @> '1,1,0,0'::box)",
        "a user-made operator",
    ),
    (
        "CREATE FUNCTION within(text, text, text, bool, bool) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
         ALTER OPERATOR FAMILY text_ops USING btree ADD FUNCTION 3 (text, text) within(text, text, text, bool, bool)",
        "SELECT count(*) OVER (ORDER BY v RANGE 'a' PRECEDING) FROM t",
        "a user-made operator class",
    ),
    (
        "CREATE TYPE mood AS ENUM ('sad'); CREATE FUNCTION cmp(mood, mood) RETURNS int LANGUAGE sql AS 'SELECT 0'; \
         CREATE FUNCTION eq(mood, mood) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
         CREATE OPERATOR =% (leftarg = mood, rightarg = mood, function = eq); \
         CREATE OPERATOR CLASS c DEFAULT FOR TYPE mood USING btree AS OPERATOR 3 =%, FUNCTION 1 cmp(mood, mood); \
         ALTER TABLE t ADD COLUMN m mood",
        "SELECT m FROM t",
        "a user-made operator class",
    ),
    (
        "CREATE TYPE mood AS ENUM ('sad'); ALTER TABLE t ADD COLUMN m mood; \
         CREATE FUNCTION j(mood) RETURNS json LANGUAGE sql AS $$SELECT '1'::json$$; \
         CREATE CAST (mood AS json) WITH FUNCTION j(mood)",
        "SELECT to_json(m) FROM t",
        "a user-made cast",
    ),
    (
        "CREATE TABLE places AS SELECT ctid AS place FROM t",
        "TABLE places",
        "places or versions",
    ),
    (
        "CREATE TABLE versions AS SELECT xmin AS version FROM t",
        "TABLE versions",
        "places or versions",
    ),
    (
        ANY_TYPE,
        "SELECT to_json(most_common_vals) FROM pg_stats WHERE tablename = 'words'",
        "values of any type",
    ),
    (
        ANY_TYPE,
        "SELECT row_to_json(s) FROM (TABLE pg_catalog.pg_statistic) s",
        "values of any type",
    ),
    (
        ANY_TYPE,
        "SELECT to_json(attmissingval) FROM pg_attribute WHERE atthasmissing",
        "values of any type",
    ),
];

/// Values of an extension's type where any may be, and a cast of a user's from it.
const ANY_TYPE: &str = "CREATE EXTENSION citext; CREATE TABLE words (id int); INSERT INTO words VALUES (1), (2); \
     ALTER TABLE words ADD COLUMN w citext DEFAULT 'word'; ANALYZE words; \
     CREATE FUNCTION j(citext) RETURNS json LANGUAGE sql AS $$SELECT '1'::json$$; \
     CREATE CAST (citext AS json) WITH FUNCTION j(citext)";

#[test]
fn what_others_have_made_under_the_names_that_it_uses_is_in_its_way() {
    on_every_server(|server| {
        for &(made, statement, why) in IN_THE_WAY {
            let database = server.database();
            Dba::new(&database).run(made);
            let found = refused(&database, &["BEGIN", statement]);
            assert!(found.contains(why), "{statement}: {found}");
        }
    });
}

/// Everything that the question uses, made again in a schema that comes before PostgreSQL's own, and made to fail.
const EVIL: &str = r#"
CREATE SCHEMA evil;
DO $$DECLARE made text; sign text; BEGIN
    FOREACH made IN ARRAY '{oid,text,name,"\"char\"",int2,int4,oid[]}'::text[] LOOP
        EXECUTE format('CREATE FUNCTION evil.fail(%1$s, %1$s) RETURNS bool LANGUAGE plpgsql AS %2$L',
            made, 'BEGIN RAISE ''evil''; END');
        FOREACH sign IN ARRAY '{=,<>,<,>,>=}'::text[] LOOP
            EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %2$s, rightarg = %2$s, function = evil.fail)', sign, made);
        END LOOP;
    END LOOP;
    FOREACH made IN ARRAY '{pg_backend_pid(),current_setting(text),"current_setting(text, bool)",unnest(oid[]),
        "generate_series(int, int)",cardinality(oid[])}'::text[] LOOP
        EXECUTE format('CREATE FUNCTION evil.%s RETURNS text LANGUAGE plpgsql AS %L', made, 'BEGIN RAISE ''evil''; END');
    END LOOP;
    FOR made IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') LOOP
        EXECUTE format('CREATE TABLE evil.%I ()', made);
    END LOOP;
    FOREACH made IN ARRAY '{oid,text,regclass,int2,"\"char\""}'::text[] LOOP
        EXECUTE format('CREATE DOMAIN evil.%s AS pg_catalog.int8', made);
    END LOOP;
END$$
"#;

#[test]
fn the_question_means_postgresqls_own_whatever_comes_before_it() {
    on_every_server(|server| {
        let database = server.database();
        Dba::new(&database).run(EVIL);
        let proxy = Proxy::with_rules(&database, RULES);
        let mut by_statement = Client::connect(proxy.endpoint());
        by_statement.run("SET search_path = evil, public, pg_catalog");
        let path = [("search_path", "evil, public, pg_catalog")];
        let from_the_start = Client::connect_with(proxy.endpoint(), &path);
        for (count, mut client) in [(1, by_statement), (2, from_the_start)] {
            let evil = client
                .query("SELECT FROM public.t WHERE 'a'::pg_catalog.name = 'a'::pg_catalog.name");
            assert_eq!(evil, "T / E P0001 / Z I");
            client.begin("TABLE t");
            releases(&proxy, count);
            assert_eq!(client.query("TABLE t"), "T / D 1|one / C SELECT 1 / Z T");
        }
    });
}

/// Their casts and operators are to and from types that no expression here can be of.
#[test]
fn extensions_with_types_of_their_own_are_not_in_the_way_of_those_who_do_not_use_them() {
    on_every_server(|server| {
        let database = server.database();
        Dba::new(&database)
            .run("CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree");
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let reader = "SELECT max(replace(v, 'o', '0')) FROM t WHERE id = 1 AND v LIKE 'o%' AND v || '' <> 'x'";
        client.begin(reader);
        incident(&proxy, "released");
        assert_eq!(client.query(reader), "T / D 0ne / C SELECT 1 / Z T");
        for reader in [
            "SELECT 'A'::citext = 'a'",
            "SELECT 'a=>1'::hstore -> 'a'",
            "SELECT nlevel('a.b')",
        ] {
            refused(&database, &["BEGIN", reader]);
        }
        Dba::new(&database).run("ALTER TABLE t ADD COLUMN c citext");
        let why = refused(&database, &["BEGIN", "SELECT id FROM t"]);
        assert!(why.contains("a column of a user-made type"), "{why}");
    });
}

#[test]
fn a_write_a_savepoint_and_a_copy_can_follow_a_release() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("SELECT v FROM t");
        releases(&proxy, 1);
        proxy.change_rules(NO_RULES);
        assert_eq!(client.query("SAVEPOINT a"), "C SAVEPOINT / Z T");
        client.run("INSERT INTO t VALUES (2, 'undone')");
        assert_eq!(client.query("ROLLBACK TO a"), "C ROLLBACK / Z T");
        client.run("INSERT INTO t VALUES (2, 'two'); RELEASE a");
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");

        proxy.change_rules(RULES);
        client.begin("SELECT v FROM t");
        releases(&proxy, 2);
        proxy.change_rules(NO_RULES);
        client.send(&query("COPY t FROM STDIN"));
        assert_eq!(client.until(b'G'), "G");
        let copied = client.ask(&[copy_data("3\tthree\n"), copy_done()]);
        assert_eq!(copied, "C COPY 1 / Z T");
        assert_eq!(
            client.query("COPY (TABLE t ORDER BY id) TO STDOUT"),
            "H / d 1\\tone / d 2\\ttwo / d 3\\tthree / c / C COPY 3 / Z T"
        );
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
        let mut dba = Dba::new(&database);
        assert!(dba.sees_row(2) && !dba.sees_row(3));
    });
}

#[test]
fn a_cancel_hits_what_runs_after_a_release_and_nothing_while_it_is_released() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let cancel = |key: &[u8]| {
            let mut canceller = Client::silent(proxy.endpoint());
            canceller.send(&cancel_request(key));
            assert_eq!(canceller.until_closed(), "closed");
        };
        client.begin("SELECT v FROM t");
        releases(&proxy, 1);
        cancel(&client.backend_key);
        client.send(&query("SELECT pg_sleep(60)"));
        let mut dba = Dba::new(&database);
        wait_for("the statement to run", || {
            (dba.state(client.server_pid()) == "active").then_some(())
        });
        cancel(&client.backend_key);
        assert_eq!(client.until_ready(), "T / E 57014 / Z E");
        assert_eq!(client.query("COMMIT"), "C ROLLBACK / Z I");
    });
}

#[test]
fn age_counts_from_the_clients_transaction() {
    on_every_server(|server| {
        let rules = format!("{RULES}\nage = {{ rollback = \"4s\" }}");
        let proxy = Proxy::with_rules(&server.database(), &rules);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("SELECT v FROM t");
        for count in 1..=2 {
            releases(&proxy, count);
            client.run("SELECT v FROM t");
        }
        let ended = proxy.rolled_back(client.server_pid());
        assert_eq!(ended["kind"], "age", "{ended}");
        assert!(ended["age_ms"].as_f64() >= Some(4000.0), "{ended}");
        assert_eq!(client.query("COMMIT"), "E 25P04 / Z I");
    });
}

#[test]
fn a_client_that_leaves_while_it_is_released_leaves_nothing_behind() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("SELECT v FROM t");
        releases(&proxy, 1);
        let pid = client.server_pid();
        drop(client);
        let mut dba = Dba::new(&database);
        wait_for("the end of the server's session", || {
            (dba.state(pid) == "gone").then_some(())
        });
        let line = proxy.audit_line(&[("event", "transaction")]);
        assert_eq!(line["outcome"], "disconnect", "{line}");
    });
}

#[test]
fn a_late_commit_of_a_reader_succeeds_in_every_driver() {
    let server = newest();
    for name in DRIVERS {
        let proxy = Proxy::with_rules(&server.database(), RULES);
        let mut driver = Driver::connect(name, proxy.endpoint());
        assert_eq!(driver.execute("SELECT v FROM t"), "one", "{name}");
        releases(&proxy, 1);
        assert_eq!(driver.commit(), "ok", "{name}");
        assert_eq!(driver.execute("SELECT v FROM t"), "one", "{name}");
        assert_eq!(driver.rollback(), "ok", "{name}");
    }
}

/// psycopg prepares by name what it has run five times.
#[test]
fn a_driver_that_prepares_its_statements_keeps_them() {
    on_every_server(|server| {
        let rules = "[[rule]]\nname = \"readers\"\nidle = { release = \"50ms\" }\nrelease_timeout = \"20s\"";
        let proxy = Proxy::patient(&server.database());
        let mut driver = Driver::connect("psycopg", proxy.endpoint());
        for count in 1..=8 {
            assert_eq!(driver.execute("SELECT v FROM t"), "one");
            proxy.change_rules(rules);
            releases(&proxy, count);
            // Between two steps of a statement there may be a release too, and it would be counted.
            proxy.change_rules(NO_RULES);
        }
        let prepared = "SELECT statement FROM pg_prepared_statements";
        assert_eq!(driver.execute(prepared), "SELECT v FROM t");
    });
}

#[test]
fn behind_a_pooler_that_gives_servers_away_nothing_is_released() {
    let database = newest().database();
    let pooler = Pooler::start(&database, "transaction");
    let why = refused(pooler.endpoint(), &["BEGIN", "TABLE t"]);
    assert!(why.contains("is there a pooler?"), "{why}");
}

#[test]
fn behind_a_pooler_that_keeps_servers_it_has_to_be_said() {
    let database = newest().database();
    let pooler = Pooler::start(&database, "session");
    let why = refused(pooler.endpoint(), &["BEGIN", "TABLE t"]);
    assert!(why.contains("is there a pooler?"), "{why}");

    let rules = format!("[upstream]\npooler = \"session\"\n{RULES}");
    let proxy = Proxy::with_rules(pooler.endpoint(), &rules);
    let mut client = Client::connect(proxy.endpoint());
    client.run("SET my.setting = 'kept'");
    client.begin("SELECT v FROM t");
    releases(&proxy, 1);
    Dba::new(&database).alters_table().join().unwrap();
    assert_eq!(client.query("SHOW my.setting"), "T / D kept / C SHOW / Z T");
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
}

#[test]
fn a_rollback_works_through_a_pooler_in_either_mode() {
    let database = newest().database();
    for mode in ["session", "transaction"] {
        let pooler = Pooler::start(&database, mode);
        let rules = format!(
            "[upstream]\npooler = \"{mode}\"\n[[rule]]\nname = \"all\"\nidle = {{ rollback = \"200ms\" }}"
        );
        let proxy = Proxy::with_rules(pooler.endpoint(), &rules);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("INSERT INTO t VALUES (2, 'two')");
        proxy.rolled_back(client.server_pid());
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I", "{mode}");
        client.run("SELECT v FROM t");
        assert!(!Dba::new(&database).sees_row(2), "{mode}");
    }
}

/// The text that was parsed under a name is not what the name stands for, and nothing on the wire says so.
#[test]
fn a_name_under_which_sql_has_prepared_another_statement_is_not_believed() {
    on_every_server(|server| {
        let proxy = Proxy::with_rules(&server.database(), RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.ask(&[parse("q", "SELECT v FROM t"), sync()]);
        client.run(
            "DO $$BEGIN EXECUTE 'DEALLOCATE q'; \
             EXECUTE 'PREPARE q AS SELECT set_config(''my.effect'', ''done'', true)'; END$$",
        );
        client.query("BEGIN");
        let ran = client.ask(&[bind("", "q", &[]), execute("", 0), sync()]);
        assert_eq!(ran, "2 / D done / C SELECT 1 / Z T");
        let why = incident(&proxy, "not_releasable");
        assert!(why.contains("prepared by SQL"), "{why}");
    });
}

/// A simple Query would have dropped it.
#[test]
fn the_unnamed_statement_survives_and_the_portal_does_not() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let run = [bind("", "", &[]), execute("", 0), sync()];
        let first = [
            vec![query("BEGIN"), parse("", "SELECT v FROM t")],
            run.to_vec(),
        ]
        .concat();
        assert_eq!(client.ask(&first), "C BEGIN / Z T");
        assert_eq!(client.until_ready(), "1 / 2 / D one / C SELECT 1 / Z T");
        incident(&proxy, "released");
        assert_eq!(client.ask(&run), "2 / D one / C SELECT 1 / Z T");
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
        client.ask(&first);
        client.until_ready();
        releases(&proxy, 2);
        let portal = client.ask(&[execute("", 0), sync()]);
        assert_eq!(
            portal, "E 34000 / Z E",
            "portals end with their transaction"
        );
    });
}

#[test]
fn a_server_that_closes_idle_sessions_does_not_close_a_released_one() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let set = "SET idle_session_timeout = '600ms'";
        client.at_once(&[set, "BEGIN", "SELECT v FROM t"]);
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
        client.at_once(&["BEGIN READ ONLY", "SELECT v FROM t"]);
        incident(&proxy, "released");
        assert_eq!(client.query("INSERT INTO t VALUES (2)"), "E 25006 / Z E");
        client.query("ROLLBACK");
        client.begin("SELECT v FROM t");
        releases(&proxy, 2);
        let late = client.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(late, "E 25001 / Z E");
    });
}

#[test]
fn the_table_of_harmless_names_is_what_its_script_makes() {
    let made = Command::new(in_repository("scripts/harmless-names.sh"))
        .output()
        .unwrap();
    let kept = fs::read_to_string(in_repository("src/sql/harmless/names.txt")).unwrap();
    assert!(made.status.success());
    assert_eq!(
        String::from_utf8_lossy(&made.stdout),
        kept,
        "run scripts/harmless-names.sh"
    );
}
