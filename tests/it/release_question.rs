//! The question that a release asks: it leaves nothing behind, and whatever goes wrong with it hurts nobody.

use std::time::{Duration, Instant};

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{bind, cancel_request, execute, parse, query, sync},
    let_pass,
    pair::Pair,
    proxy::Proxy,
    server::{newest, oldest_and_newest, on_every_server},
    slow::slow,
    wait_for,
    wire::Client,
};

/// Long enough for a busy machine.
const RULES: &str =
    "[[rule]]\nname = \"readers\"\nidle = { release = \"300ms\" }\nrelease_timeout = \"20s\"";

/// A function of this name is in the way of those who call `lower`, and no text can tell.
const IN_THE_WAY: &str =
    "CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT $1'";
const READER: &str = "SELECT lower(v) FROM t";

/// The incident of this number, which has to be a refusal: why.
fn refusal(proxy: &Proxy, number: usize) -> String {
    let incident = wait_for("a refusal", || proxy.incidents().into_iter().nth(number));
    assert_eq!(incident["outcome"], "not_releasable", "{incident}");
    incident["why"].as_str().unwrap().to_owned()
}

/// The transaction is as it was: it can write, and commit.
fn goes_on(client: &mut Client, database: &Endpoint) {
    let insert = "INSERT INTO t VALUES (2, 'two')";
    assert_eq!(client.query(insert), "C INSERT 0 1 / Z T");
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert!(Dba::new(database).sees_row(2));
}

#[test]
fn a_refused_transaction_holds_what_it_held_and_nothing_else() {
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        dba.run(IN_THE_WAY);
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let set = [
            ("statement_timeout", "7s"),
            ("jit", "on"),
            ("enable_nestloop", "off"),
            ("work_mem", "64kB"),
        ];
        for (name, value) in set {
            client.run(&format!("SET {name} = '{value}'"));
        }
        client.begin(READER);
        let why = refusal(&proxy, 0);
        assert!(why.contains("a user-made function"), "{why}");
        let locks = format!(
            "SELECT string_agg(coalesce(relation::regclass::text, locktype), ' ' ORDER BY locktype, relation) \
             FROM pg_locks WHERE pid = {}",
            client.server_pid()
        );
        assert_eq!(dba.value(&locks), "t t_pkey virtualxid");
        assert!(!dba.holds_back_vacuum(client.server_pid()));
        for (name, value) in set {
            assert_eq!(client.value(&format!("SHOW {name}")), value);
        }
        assert_eq!(
            client.value("SELECT count(*) FROM pg_prepared_statements"),
            "0"
        );
        goes_on(&mut client, &database);
        client.begin(READER);
        refusal(&proxy, 1);
        assert_eq!(
            client.query("ROLLBACK TO pgidle_release"),
            "E 3B001 / Z E",
            "no savepoint of ours is left"
        );
    });
}

#[test]
fn a_role_that_may_not_read_the_catalogues_is_left_alone() {
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        dba.run("REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC");
        dba.run("CREATE TABLE open (id int); GRANT ALL ON t, open TO tls_user");
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.run("SET ROLE tls_user");
        for number in 0..2 {
            client.query("BEGIN");
            client.query("SELECT v FROM t");
            let why = refusal(&proxy, number);
            assert!(why.contains("42501"), "{why}");
            assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
        }
        client.begin("SELECT v FROM t");
        refusal(&proxy, 2);
        goes_on(&mut client, &database);
    });
}

#[test]
fn a_catalogue_that_somebody_has_locked_keeps_nobody_longer_than_the_limit() {
    on_every_server(|server| {
        let database = server.database();
        for catalogue in ["pg_cast", "pg_depend", "pg_proc"] {
            let rules = "[[rule]]\nname = \"readers\"\nidle = { release = \"300ms\" }";
            let proxy = Proxy::with_rules(&database, rules);
            let mut client = Client::connect(proxy.endpoint());
            let mut dba = Dba::new(&database);
            // What it needs of the catalogues is in its caches then.
            client.run("SELECT v FROM t");
            dba.run(&format!(
                "BEGIN; LOCK TABLE pg_catalog.{catalogue} IN ACCESS EXCLUSIVE MODE"
            ));
            client.begin("SELECT v FROM t");
            let why = refusal(&proxy, 0);
            assert!(why.contains("release_timeout"), "{catalogue}: {why}");
            assert_eq!(client.query("COMMIT"), "C COMMIT / Z I", "{catalogue}");
            dba.run("ROLLBACK");
        }
    });
}

#[test]
fn a_question_that_somebody_cancels_is_a_refusal() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let (mut dba, mut locker) = (Dba::new(&database), Dba::new(&database));
        locker.run("BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
        client.begin("SELECT v FROM t");
        dba.wait_for_waiters(1);
        dba.value(&format!(
            "SELECT pg_cancel_backend({})",
            client.server_pid()
        ));
        let why = refusal(&proxy, 0);
        assert!(why.contains("cancelled"), "{why}");
        locker.run("ROLLBACK");
        goes_on(&mut client, &database);
    });
}

/// With nothing but nested loops the question takes seconds where so many tables are locked.
#[test]
fn planner_settings_of_the_clients_do_not_slow_the_question_down() {
    let database = newest().database();
    Dba::new(&database).run(
        "CREATE TABLE p (id int PRIMARY KEY, a text, b text) PARTITION BY RANGE (id); \
         DO $$BEGIN FOR i IN 1..1200 LOOP EXECUTE format( \
         'CREATE TABLE p%s PARTITION OF p FOR VALUES FROM (%s) TO (%s)', i, i, i + 1); END LOOP; END$$",
    );
    let rules =
        "[[rule]]\nname = \"readers\"\nidle = { release = \"300ms\" }\nrelease_timeout = \"4s\"";
    let proxy = Proxy::with_rules(&database, rules);
    let mut client = Client::connect(proxy.endpoint());
    for plan in ["hashjoin", "mergejoin", "material", "memoize"] {
        client.run(&format!("SET enable_{plan} = off"));
    }
    client.run("SET jit_above_cost = 0; SET work_mem = '64kB'");
    client.begin("SELECT count(*) FROM p");
    let incident = wait_for("an incident", || proxy.incidents().into_iter().next());
    assert_eq!(incident["outcome"], "released", "{incident}");
}

/// The question takes milliseconds, and its limit is not the client's.
#[test]
fn a_short_statement_timeout_of_the_clients_is_in_nobodys_way() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.run("SET statement_timeout = '500ms'");
        let (mut dba, mut locker) = (Dba::new(&database), Dba::new(&database));
        locker.run("BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
        client.begin("SELECT v FROM t");
        dba.wait_for_waiters(1);
        let since = Instant::now();
        wait_for("longer than the client's limit", || {
            (since.elapsed() > Duration::from_millis(700)).then_some(())
        });
        locker.run("ROLLBACK");
        let incident = wait_for("an incident", || proxy.incidents().into_iter().next());
        assert_eq!(incident["outcome"], "released", "{incident}");
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    });
}

#[test]
fn names_that_a_client_has_used_too_are_in_nobodys_way() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.ask(&[parse("pgidle_release", "SELECT v FROM t"), sync()]);
        client.query("BEGIN");
        let run = [bind("", "pgidle_release", &[]), execute("", 0), sync()];
        assert_eq!(client.ask(&run), "2 / D one / C SELECT 1 / Z T");
        let incident = wait_for("an incident", || proxy.incidents().into_iter().next());
        assert_eq!(incident["outcome"], "released", "{incident}");
        assert_eq!(client.ask(&run), "2 / D one / C SELECT 1 / Z T");
        client.run("SAVEPOINT pgidle_release; INSERT INTO t VALUES (2, 'two')");
        refusal(&proxy, 1);
        assert_eq!(
            client.query("ROLLBACK TO pgidle_release"),
            "C ROLLBACK / Z T"
        );
        goes_on(&mut client, &database);
    });
}

#[test]
fn a_client_hears_nothing_about_statements_that_it_did_not_send() {
    on_every_server(|server| {
        let database = server.database();
        Dba::new(&database).run(IN_THE_WAY);
        for level in ["log", "debug2"] {
            let rules = format!("{RULES}\n[rule.failed]\nlog = \"1h\"").replace(
                "idle = { release = \"300ms\" }",
                "idle = { release = \"300ms\", rollback = \"900ms\" }",
            );
            let proxy = Proxy::with_rules(&database, &rules);
            let mut client = Client::connect(proxy.endpoint());
            client.run("SET log_duration = on; SET log_statement = 'all'");
            client.run(&format!("SET client_min_messages = {level}"));
            // Released, and begun again.
            client.begin("SELECT v FROM t");
            wait_for("a release", || proxy.incidents().into_iter().next());
            client.hears_nothing_for(Duration::from_millis(100));
            let alone = client.query("SELECT 1");
            assert!(alone.contains("N LOG 00000"), "{alone}");
            assert_eq!(
                client.query("SELECT 1"),
                alone,
                "what is heard of a statement alone"
            );
            client.query("COMMIT");
            // Refused, and rolled back.
            client.begin(READER);
            proxy.rolled_back(client.server_pid());
            client.hears_nothing_for(Duration::from_millis(100));
        }
    });
}

/// It is about the request that waits until the question is answered, and follows it. psycopg's `cancel()` waits too.
#[test]
fn a_cancel_that_comes_during_the_question_hits_the_request_that_waits_for_it() {
    on_every_server(|server| {
        let database = server.database();
        let (mut dba, mut locker) = (Dba::new(&database), Dba::new(&database));
        dba.run(IN_THE_WAY);
        for (reader, outcome) in [("SELECT v FROM t", "released"), (READER, "not_releasable")] {
            let proxy = Proxy::with_rules(&database, RULES);
            let mut client = Client::connect(proxy.endpoint());
            locker.run("BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
            client.begin(reader);
            dba.wait_for_waiters(1);
            let key = client.backend_key.clone();
            let cancel = || {
                let mut canceller = Client::silent(proxy.endpoint());
                canceller.send(&cancel_request(&key));
                canceller
            };
            assert_eq!(cancel().until_closed(), "closed", "nothing waits");
            client.send(&query("SELECT pg_sleep(60)"));
            let mut canceller = cancel();
            canceller.hears_nothing_for(Duration::from_millis(100));
            locker.run("ROLLBACK");
            assert_eq!(client.until_ready(), "T / E 57014 / Z E", "{outcome}");
            assert_eq!(canceller.until_closed(), "closed");
            let incident = wait_for("an incident", || proxy.incidents().into_iter().next());
            assert_eq!(incident["outcome"], outcome, "{incident}");
            assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
            assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
        }
    });
}

/// Whatever pgidle does in a session that takes its time, a cancel for what waits is not lost.
#[test]
fn no_cancel_is_lost_where_the_network_is_slow() {
    let database = newest().database();
    Dba::new(&database).run(IN_THE_WAY);
    let door = slow(&database, Duration::from_millis(60));
    for reader in ["SELECT v FROM t", READER] {
        let rules = RULES.replace("300ms", "1ms");
        let proxy = Proxy::with_rules(&door, &rules);
        let mut client = Client::connect(proxy.endpoint());
        for _ in 0..3 {
            client.begin(reader);
            // The question takes two times the delay, and the limit is a millisecond.
            let_pass(Duration::from_millis(30));
            client.send(&query("SELECT pg_sleep(60)"));
            let_pass(Duration::from_millis(30));
            let mut canceller = Client::silent(proxy.endpoint());
            canceller.send(&cancel_request(&client.backend_key));
            assert_eq!(client.until_ready(), "T / E 57014 / Z E");
            assert_eq!(canceller.until_closed(), "closed");
            assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
        }
    }
}

/// What waits may only prepare: then the cancel is about the statement that is run next, unless an error comes before it.
#[test]
fn a_cancel_for_what_only_prepares_follows_the_statement_after_it() {
    let database = newest().database();
    let (mut dba, mut locker) = (Dba::new(&database), Dba::new(&database));
    dba.run(IN_THE_WAY);
    let proxy = Proxy::with_rules(&database, RULES);
    let mut client = Client::connect(proxy.endpoint());
    let sleeps = "SELECT pg_sleep(1), 'slept'";
    for (text, prepared) in [
        (sleeps, "1 / Z T"),
        ("SELECT FROM nowhere", "E 42P01 / Z E"),
    ] {
        locker.run("BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
        client.begin("SELECT v FROM t");
        dba.wait_for_waiters(1);
        client.send(&[parse("s", text), sync()].concat());
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        canceller.hears_nothing_for(Duration::from_millis(100));
        locker.run("ROLLBACK");
        assert_eq!(client.until_ready(), prepared);
        if text == sleeps {
            client.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
            assert_eq!(client.until_ready(), "2 / E 57014 / Z E");
        }
        assert_eq!(canceller.until_closed(), "closed");
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
        assert_eq!(client.query(sleeps), "T / D |slept / C SELECT 1 / Z I");
    }
}

/// The text in pg_stat_activity is that of the latest statement.
#[test]
fn what_stays_until_the_end_is_asked_about_once() {
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        dba.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY");
        let proxy = Proxy::with_rules(&database, RULES);
        let mut client = Client::connect(proxy.endpoint());
        let latest = format!(
            "SELECT query FROM pg_stat_activity WHERE pid = {}",
            client.server_pid()
        );
        client.begin("SELECT v FROM t");
        let why = refusal(&proxy, 0);
        assert_ne!(dba.value(&latest), "SELECT v FROM t");
        client.run("SELECT v FROM t");
        assert_eq!(refusal(&proxy, 1), why);
        assert_eq!(dba.value(&latest), "SELECT v FROM t");
    });
}

/// Locks of the question's that stayed would be in the way of replay, which ends the session for that.
#[test]
fn a_refused_reader_on_a_hot_standby_is_in_the_way_of_no_catalogue() {
    for &version in oldest_and_newest() {
        let pair = Pair::start(version);
        let mut primary = Dba::new(&pair.primary());
        primary.run("CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'one')");
        primary.run(IN_THE_WAY);
        let mut standby = Dba::new(&pair.standby());
        standby.run("ALTER SYSTEM SET max_standby_streaming_delay = 0");
        standby.run("SELECT pg_reload_conf()");
        let replayed = |primary: &mut Dba, standby: &mut Dba| {
            let written = primary.value("SELECT pg_current_wal_lsn()");
            wait_for("replay", || {
                let there = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
                (standby.value(&there) == "t").then_some(())
            });
        };
        replayed(&mut primary, &mut standby);
        let proxy = Proxy::with_rules(&pair.standby(), RULES);
        let mut client = Client::connect(proxy.endpoint());
        client.begin(READER);
        refusal(&proxy, 0);
        primary.run("VACUUM FULL pg_catalog.pg_cast");
        primary.run("VACUUM FULL pg_catalog.pg_depend");
        replayed(&mut primary, &mut standby);
        assert_eq!(client.query(READER), "T / D one / C SELECT 1 / Z T");
        assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    }
}
