//! What stuck sessions hold and who waits for them, as the observer tells; and the limit that knows it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgidle::policy::LockMode;
use serde_json::Value;

use crate::support::{
    Endpoint,
    dba::Dba,
    driver::Driver,
    frontend::{message, query, startup, untagged},
    let_pass,
    observed::{
        SEEN_SOON, dsn, incident_of, modes, observed, observed_by, observed_through, observing,
        seen, seen_of,
    },
    pair::door,
    proxy::Proxy,
    server::{Server, cluster, newest, on_every_server, versions},
    wait_for,
    wire::Client,
};

#[test]
fn the_celery_reader_and_the_alter_table_behind_it() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, "exempt = true");
        let mut dba = Dba::new(&database);
        let mut reader = Driver::connect("psycopg2", proxy.endpoint());
        let pid = reader.server_pid();
        let mut reads = || {
            let sql = "SELECT * FROM t /*route='%2Fpets',traceparent='00-ab-cd-01'*/";
            assert_eq!(reader.execute(sql), "1|one");
        };
        reads();
        let alter = dba.alters_table();
        dba.wait_for_waiters(1);
        let mut behind: Vec<_> = (0..10).map(|_| Client::connect(&database)).collect();
        for client in &mut behind {
            client.send(&query("SELECT v FROM t WHERE id = 1"));
        }
        dba.wait_for_waiters(11);
        proxy.change_rules(&observing(&dsn(&database, "postgres"), SEEN_SOON));
        let incident = seen_of(&proxy, pid, reads);
        let rollback = "idle = { rollback = '300ms' }";
        proxy.change_rules(&observing(&dsn(&database, "postgres"), rollback));
        proxy.rolled_back(pid);
        alter.join().unwrap();

        assert_eq!(modes(&incident, Some("public.t")), ["AccessShareLock"]);
        let lock = &incident["locks"][0];
        assert_eq!(
            lock["blocks"],
            "ALTER TABLE, DROP TABLE, TRUNCATE, VACUUM FULL"
        );
        assert_eq!(lock["granted"], true);
        check_those_behind(&incident, pid);
        let log = wait_for("the log line", || {
            let log = proxy.log();
            log.contains("10 more wait with or behind it")
                .then_some(log)
        });
        assert!(log.contains("ALTER TABLE by "), "{log}");

        let statements = incident["statements"].as_array().unwrap();
        let tags = &statements.last().unwrap()["tags"];
        assert_eq!(tags["route"], "/pets");
        assert_eq!(tags["traceparent"], "00-ab-cd-01");
    });
}

/// The ALTER TABLE waits for the reader, and ten more wait for the ALTER TABLE.
fn check_those_behind(incident: &Value, pid: i32) {
    let blocked = incident["blocked"].as_array().unwrap();
    let [altering, reading @ ..] = blocked.as_slice() else {
        panic!("nobody waits: {incident}");
    };
    assert_eq!(altering["depth"], 1);
    assert_eq!(altering["user"], "postgres");
    assert_eq!(altering["relation"], "public.t");
    assert_eq!(altering["mode"], "AccessExclusiveLock");
    assert_eq!(altering["statement"], "ALTER TABLE t ADD COLUMN added int");
    assert_eq!(altering["blocked_by"], serde_json::json!([pid]));
    assert!(altering["waiting_ms"].as_f64().unwrap() > 0.0, "{altering}");
    assert_eq!(reading.len(), 10, "{incident}");
    for reader in reading {
        assert_eq!(reader["depth"], 2);
        assert_eq!(reader["mode"], "AccessShareLock");
        assert_eq!(reader["statement"], "SELECT v FROM t WHERE id = $1");
        assert_eq!(
            reader["blocked_by"],
            serde_json::json!([altering["server_pid"]])
        );
    }
}

/// Each mode and a statement that takes it (documentation, section 13.3.1).
const TAKEN_BY: [(LockMode, &str); 12] = [
    (LockMode::AccessShare, "SELECT * FROM t"),
    (LockMode::RowShare, "SELECT * FROM t FOR UPDATE"),
    (LockMode::RowExclusive, "INSERT INTO t VALUES (2, 'two')"),
    (LockMode::RowExclusive, "UPDATE t SET v = 'new'"),
    (LockMode::RowExclusive, "DELETE FROM t"),
    (LockMode::ShareUpdateExclusive, "ANALYZE t"),
    (
        LockMode::ShareUpdateExclusive,
        "CREATE STATISTICS s ON id, v FROM t",
    ),
    (LockMode::Share, "CREATE INDEX i ON t (v)"),
    (
        LockMode::ShareRowExclusive,
        "CREATE TRIGGER g BEFORE UPDATE ON t EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    (
        LockMode::Exclusive,
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
    ),
    (LockMode::AccessExclusive, "ALTER TABLE t ADD COLUMN w int"),
    (LockMode::AccessExclusive, "TRUNCATE t"),
];

#[test]
fn every_lock_mode_is_seen_by_the_statement_that_takes_it() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, SEEN_SOON);
        let mut dba = Dba::new(&database);
        dba.run("CREATE MATERIALIZED VIEW m AS SELECT 1 AS id; CREATE UNIQUE INDEX ON m (id)");
        let locking = LockMode::ALL.map(|mode| {
            let words = words(mode);
            (mode, format!("LOCK TABLE t IN {words} MODE"))
        });
        let owned = TAKEN_BY.map(|(mode, sql)| (mode, sql.to_owned()));
        for (mode, sql) in owned.into_iter().chain(locking) {
            let relation = if sql.contains("VIEW") {
                "public.m"
            } else {
                "public.t"
            };
            let mut client = Client::connect(proxy.endpoint());
            client.run("BEGIN");
            client.run(&sql);
            let incident = seen(&proxy, &mut client);
            let modes = modes(&incident, Some(relation));
            assert!(modes.contains(&mode.name().to_owned()), "{sql}: {incident}");
            client.run("ROLLBACK");
        }
    });
}

/// A mode as LOCK TABLE spells it: `AccessShareLock` is `ACCESS SHARE`.
fn words(mode: LockMode) -> String {
    let name = mode.name().trim_end_matches("Lock");
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

#[test]
fn two_modes_conflict_exactly_where_the_server_says_so() {
    on_every_server(|server| {
        let database = server.database();
        let (mut one, mut other) = (Client::connect(&database), Client::connect(&database));
        for held in LockMode::ALL {
            one.run("BEGIN");
            one.run(&format!("LOCK TABLE t IN {} MODE", words(held)));
            for wanted in LockMode::ALL {
                other.run("BEGIN");
                let answer = other.query(&format!("LOCK TABLE t IN {} MODE NOWAIT", words(wanted)));
                let refused = answer.starts_with("E 55P03");
                assert!(refused || answer.starts_with("C LOCK"), "{answer}");
                assert_eq!(refused, held.conflicts_with(wanted), "{held} {wanted}");
                other.run("ROLLBACK");
            }
            one.run("ROLLBACK");
        }
    });
}

#[test]
fn all_locks_of_a_table_with_21_indexes_are_seen() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, SEEN_SOON);
        let mut dba = Dba::new(&database);
        dba.run("CREATE TABLE wide (id int)");
        for _ in 0..21 {
            dba.run("CREATE INDEX ON wide (id)");
        }
        let mut client = Client::connect(proxy.endpoint());
        client.run("BEGIN");
        client.run("SELECT * FROM wide WHERE id = 1");
        let incident = seen(&proxy, &mut client);
        assert_eq!(modes(&incident, None), ["AccessShareLock"; 22]);
        let locks = incident["locks"].as_array().unwrap();
        let fastpath = locks.iter().filter(|lock| lock["fastpath"] == true).count();
        // Sixteen slots before 18, and from 18 on as many in each of several groups, into which the oids fall.
        let version = dba.value("SHOW server_version_num");
        let all = fastpath == 16 || version.as_str() >= "180000" && fastpath > 16;
        assert!(all, "{fastpath} of {incident}");
        client.run("ROLLBACK");
    });
}

/// Starts a statement that waits until another session ends its transaction.
fn waits(database: &Endpoint, sql: &str) -> Client {
    let mut client = Client::connect(database);
    client.send(&query(sql));
    client
}

#[test]
fn who_blocks_is_ended_that_long_after_somebody_began_to_wait_and_who_does_not_stays() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, "blocking = { rollback = \"1s\" }");
        Dba::new(&database).run("CREATE TABLE other (id int)");
        let mut harmless = Client::connect(proxy.endpoint());
        harmless.run("BEGIN; SELECT * FROM other");
        let mut reader = Client::connect(proxy.endpoint());
        reader.run("BEGIN; SELECT * FROM t");
        // The wait for this incident is longer than the limit: idleness alone is none.
        proxy.sees_no_incident_for(Duration::from_millis(1500));

        let began = Instant::now();
        let mut altering = waits(&database, "ALTER TABLE t ADD COLUMN added int");
        assert_eq!(altering.until_ready(), "C ALTER TABLE / Z I");
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
        let incident = proxy.rolled_back(reader.server_pid());
        assert_eq!(incident["kind"], "blocking");
        assert_eq!(incident["blocked"][0]["mode"], "AccessExclusiveLock");
        assert!(reader.query("COMMIT").starts_with("E 25P03"));
        let error = reader.error_text();
        let (_, waited) = error.split_once("keeping others waiting for ").unwrap();
        let waited = waited.split(' ').next().unwrap().parse::<f64>().unwrap();
        assert!((1.0..2.5).contains(&waited), "{error}");

        assert_eq!(harmless.query("COMMIT"), "C COMMIT / Z I");
        assert_eq!(proxy.incidents().len(), 1);
    });
}

#[test]
fn a_wait_that_ends_by_itself_stops_the_clock() {
    let database = newest().database();
    let proxy = observed(
        &database,
        "blocking = { log = \"0s\", rollback = \"3s\" }\nblocking_mode = \"AccessExclusiveLock\"",
    );
    let mut reader = Client::connect(proxy.endpoint());
    reader.run("BEGIN; SELECT * FROM t");
    let mut dba = Dba::new(&database);
    for count in 1..=3 {
        let mut altering = waits(&database, "ALTER TABLE t ADD COLUMN added int");
        wait_for("the incident", || {
            (proxy.incidents().len() == count).then_some(())
        });
        // Three such waits are longer than the limit.
        let_pass(Duration::from_millis(1100));
        let cancel = format!("SELECT pg_cancel_backend({})", altering.server_pid());
        assert_eq!(dba.value(&cancel), "t");
        assert_eq!(altering.until_ready(), "E 57014 / Z I");
        // A look that began after the wait has ended when the next one begins.
        let look = "SELECT query_start FROM pg_stat_activity \
                    WHERE application_name = 'pgidle observer' AND datname = current_database()";
        for _ in 0..2 {
            let before = dba.value(look);
            wait_for("the next look", || {
                (dba.value(look) != before).then_some(())
            });
        }
    }
    let actions: Vec<_> = proxy
        .incidents()
        .iter()
        .map(|line| line["action"].clone())
        .collect();
    assert_eq!(actions, ["log"; 3]);
    assert_eq!(reader.query("COMMIT"), "C COMMIT / Z I");
}

#[test]
fn a_writer_blocks_by_its_transaction_id() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, "blocking = { rollback = \"500ms\" }");
        let mut writer = Client::connect(proxy.endpoint());
        writer.run("BEGIN; UPDATE t SET v = 'mine' WHERE id = 1");
        let mut other = waits(&database, "UPDATE t SET v = 'theirs' WHERE id = 1");
        let incident = proxy.rolled_back(writer.server_pid());
        assert_eq!(incident["blocked"][0]["mode"], "ShareLock");
        assert_eq!(incident["blocked"][0]["relation"], Value::Null);
        let locks = incident["locks"].as_array().unwrap();
        let own = locks
            .iter()
            .find(|lock| lock["locktype"] == "transactionid");
        assert_eq!(own.unwrap()["mode"], "ExclusiveLock");
        assert_eq!(own.unwrap()["blocks"], Value::Null);
        assert_eq!(other.until_ready(), "C UPDATE 1 / Z I");
    });
}

fn seen_by(role: &str, server: &Server) -> Value {
    let database = server.database();
    let mut dba = Dba::new(&database);
    let user = format!("{role}_{}", database.database);
    dba.run(&format!("CREATE USER {user}"));
    match role {
        "superuser" => dba.run(&format!("ALTER USER {user} SUPERUSER")),
        "monitor" => dba.run(&format!("GRANT pg_monitor TO {user}")),
        _ => {}
    }
    let proxy = observed_by(&user, &database, "blocking = { log = \"300ms\" }");
    let mut reader = Client::connect(proxy.endpoint());
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t");
    let altering = waits(&database, "ALTER TABLE t ADD COLUMN added int");
    let incident = incident_of(&proxy, reader.server_pid());
    drop(altering);
    // Of those who wait for no lock an ordinary role knows nothing.
    let harmless = observed_by(&user, &database, SEEN_SOON);
    let mut other = Client::connect(harmless.endpoint());
    other.run("BEGIN; CREATE TABLE other ()");
    let blocked = &seen(&harmless, &mut other)["blocked"];
    assert_eq!(blocked.is_null(), role == "ordinary", "{blocked}");
    incident
}

#[test]
fn every_role_sees_locks_and_waiters_and_monitors_see_statements() {
    on_every_server(|server| {
        for (role, sees) in [("superuser", true), ("monitor", true), ("ordinary", false)] {
            let incident = seen_by(role, server);
            assert_eq!(
                modes(&incident, Some("public.t")),
                ["AccessShareLock"],
                "{role}"
            );
            assert!(incident["xmin_age"].is_i64(), "{role}: {incident}");
            let waiter = &incident["blocked"][0];
            assert_eq!(waiter["mode"], "AccessExclusiveLock", "{role}");
            assert_eq!(waiter["user"], "postgres", "{role}");
            assert_eq!(waiter["statement"].is_string(), sees, "{role}: {waiter}");
        }
    });
}

#[test]
fn an_observer_in_another_database_sees_locks_without_names() {
    let database = newest().database();
    let elsewhere = newest().database();
    let proxy = observed_through(&dsn(&elsewhere, "postgres"), &database, SEEN_SOON);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN; LOCK TABLE t");
    let incident = seen(&proxy, &mut client);
    assert_eq!(modes(&incident, None), ["AccessExclusiveLock"]);
    assert_eq!(incident["locks"][0]["relation"], Value::Null);
}

#[test]
fn an_observer_that_cannot_look_says_so_once_and_delays_nobody() {
    let database = newest().database();
    let config = "[observer]\ndsn = \"host=127.0.0.1 port=1 user=postgres\"\n[[rule]]\nname = \"all\"\n\
                  idle = { rollback = \"300ms\" }\n";
    let proxy = Proxy::with_rules(&database, config);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN; LOCK TABLE t");
    let incident = proxy.rolled_back(client.server_pid());
    proxy.in_time(&incident);
    assert_eq!(incident["locks"], Value::Null);
    assert_eq!(incident["blocked"], Value::Null);
    let said = || proxy.log().matches("the observer sees no locks").count();
    wait_for("the log", || (said() > 0).then_some(()));
    let_pass(Duration::from_secs(2));
    assert_eq!(said(), 1);
}

#[test]
fn an_observer_whose_connection_was_lost_comes_back() {
    let database = newest().database();
    let proxy = observed(
        &database,
        "blocking = { log = \"100ms\", rollback = \"3s\" }",
    );
    let mut reader = Client::connect(proxy.endpoint());
    reader.run("BEGIN; SELECT * FROM t");
    let mut dba = Dba::new(&database);
    let observer = format!(
        "application_name = 'pgidle observer' AND datname = '{}'",
        database.database
    );
    let lose =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {observer}");
    let mut altering = waits(&database, "ALTER TABLE t ADD COLUMN added int");
    assert_eq!(dba.value(&lose), "1");
    let incident = incident_of(&proxy, reader.server_pid());
    assert_eq!(incident["blocked"][0]["depth"], 1);
    assert_eq!(altering.until_ready(), "C ALTER TABLE / Z I");
}

#[test]
fn a_stalled_copy_that_blocks_is_ended_too() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = observed(&database, "blocking = { rollback = \"500ms\" }");
        let mut loader = Client::connect(proxy.endpoint());
        loader.run("BEGIN");
        loader.send(&query("COPY t FROM STDIN"));
        assert_eq!(loader.until(b'G'), "G");
        let mut altering = waits(&database, "ALTER TABLE t ADD COLUMN added int");
        assert_eq!(altering.until_ready(), "C ALTER TABLE / Z I");
        let incident = proxy.rolled_back(loader.server_pid());
        assert_eq!(incident["kind"], "blocking");
        assert_eq!(incident["position"], "copy in");
        assert_eq!(modes(&incident, Some("public.t")), ["RowExclusiveLock"]);
        assert_eq!(loader.until_ready(), "E 25P03 / Z E");
    });
}

#[test]
fn a_reload_brings_an_observer() {
    let database = newest().database();
    let file = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[rule]]\nname = \"all\"\nidle = { log = \"300ms\" }\n";
    std::fs::write(file.path(), rule).unwrap();
    let proxy = Proxy::start(&database, &["--config", file.path().to_str().unwrap()]);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN; LOCK TABLE t");
    assert_eq!(
        incident_of(&proxy, client.server_pid())["locks"],
        Value::Null
    );

    let observer = format!(
        "[observer]\ndsn = \"{}\"\n{rule}",
        dsn(&database, "postgres")
    );
    std::fs::write(file.path(), observer).unwrap();
    proxy.signal(Signal::SIGHUP);
    wait_for("locks", || {
        client.run("SELECT 1");
        let seen = proxy
            .incidents()
            .into_iter()
            .any(|line| line["locks"].is_array());
        let_pass(Duration::from_millis(500));
        seen.then_some(())
    });
}

#[test]
fn a_client_on_a_unix_socket_is_known_by_its_process() {
    let database = newest().database();
    let proxy = Proxy::on_socket(&database, &["--idle-limit", "100ms"]);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    let incident = incident_of(&proxy, client.server_pid());
    assert_eq!(incident["client_pid"], std::process::id());
    assert_eq!(incident["client_addr"], Value::Null);
}

/// Opens a session with these names as a client may spell them.
fn named(endpoint: &Endpoint, names: &[(&str, &str)]) -> Client {
    let mut client = Client::silent(endpoint);
    client.send(&startup(names));
    let greeting = client.until_ready();
    assert!(greeting.ends_with("Z I"), "{greeting}");
    client
}

#[test]
fn names_are_the_servers_however_the_client_spells_them() {
    on_every_server(|server| {
        let admin = server.database();
        // The server keeps 63 bytes of a name.
        let (name, spelt) = (
            format!("{:x<63}", admin.database),
            format!("{:x<70}", admin.database),
        );
        Dba::new(&admin).run(&format!("CREATE USER {name} SUPERUSER"));
        Dba::new(&admin).run(&format!("CREATE DATABASE {name}"));
        let database = Endpoint {
            database: name.clone(),
            ..admin
        };
        Dba::new(&database).run("CREATE TABLE t (id int)");
        let limits = format!(
            "match = {{ user = \"{name}\", database = \"{name}\" }}\nblocking = {{ rollback = \"300ms\" }}"
        );
        let proxy = observed(&database, &limits);
        for names in [
            &[("user", &*spelt), ("database", &*spelt)] as &[_],
            &[("user", &*spelt), ("database", "")],
            &[("user", &*spelt)],
        ] {
            let mut holder = named(proxy.endpoint(), names);
            holder.run("BEGIN; LOCK TABLE t");
            let mut waiting = waits(&database, "SELECT * FROM t");
            let incident = proxy.rolled_back(holder.server_pid());
            assert_eq!(incident["user"], name, "{names:?}");
            assert_eq!(incident["database"], name, "{names:?}");
            assert_eq!(waiting.until_ready(), "T / C SELECT 0 / Z I");
        }
    });
}

/// A database in an encoding of its own, with a table `t`.
fn encoded(server: &Server, encoding: &str) -> Endpoint {
    let plain = server.database();
    let name = format!("{}_{}", plain.database, encoding.to_lowercase());
    Dba::new(&plain).run(&format!(
        "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let endpoint = Endpoint {
        database: name,
        ..plain
    };
    Client::connect(&endpoint).run("CREATE TABLE t (id int)");
    endpoint
}

/// Runs statements given as bytes, in whatever encoding.
fn run_bytes(client: &mut Client, sql: &[u8]) {
    client.send(&message(b'Q', &[sql, b"\0"].concat()));
    let answer = client.until_ready();
    let failed = answer.split(" / ").any(|part| part.starts_with("E "));
    assert!(!failed, "{answer}");
}

/// Connects by a role whose name need not be UTF-8.
fn connect_as(role: &[u8], endpoint: &Endpoint, database: &Endpoint) -> Client {
    let mut client = Client::silent(endpoint);
    let parameters = [
        b"\0\x03\0\0user\0",
        role,
        b"\0database\0",
        database.database.as_bytes(),
        b"\0client_encoding\0SQL_ASCII\0application_name\0it waits\0\0",
    ];
    client.send(&untagged(&parameters.concat()));
    assert!(client.until_ready().ends_with("Z I"));
    client
}

#[test]
fn what_cannot_be_read_is_null_and_hides_nothing_else() {
    // Bytes of LATIN1, and what is made of them in the statement of the waiter, the name of its relation, and its role,
    // by an observer in a database of one encoding who looks at another.
    let readable = (Some("SELECT café FROM t"), Some("public.\"café\""));
    on_every_server(|server| {
        for (encoding, observer, (statement, relation)) in [
            ("LATIN1", "LATIN1", readable),
            ("LATIN1", "UTF8", (readable.0, None)),
            ("SQL_ASCII", "SQL_ASCII", (None, None)),
            ("WIN1252", "LATIN1", (readable.0, None)),
            // A statement of UTF-8 is none in EUC_JP, so that a server which converts it fails.
            ("UTF8", "EUC_JP", (readable.0, None)),
        ] {
            let database = encoded(server, encoding);
            let from = if observer == encoding {
                database.clone()
            } else {
                encoded(server, observer)
            };
            let cafe: &[u8] = match encoding {
                "UTF8" => "café".as_bytes(),
                _ => b"caf\xe9",
            };
            let mut dba = Client::connect(&database);
            let role = [cafe, database.database.as_bytes()].concat();
            run_bytes(&mut dba, b"SET client_encoding = SQL_ASCII");
            for sql in [
                [b"CREATE USER \"", &*role, b"\" SUPERUSER"].concat(),
                [b"CREATE TABLE \"", cafe, b"\" (\"", cafe, b"\" int)"].concat(),
            ] {
                run_bytes(&mut dba, &sql);
            }
            let proxy = observed_through(
                &dsn(&from, "postgres"),
                &database,
                "blocking = { log = \"0s\", rollback = \"1s\" }",
            );
            let mut holder = connect_as(&role, proxy.endpoint(), &database);
            let lock = [b"BEGIN; LOCK TABLE \"", cafe, b"\""].concat();
            run_bytes(&mut holder, &lock);
            let mut waiting = connect_as(&role, &database, &database);
            let select = [b"SELECT ", cafe, b" FROM t, \"", cafe, b"\"\0"].concat();
            waiting.send(&message(b'Q', &select));

            let incident = proxy.rolled_back(holder.server_pid());
            let waiter = &incident["blocked"][0];
            let context = format!("{encoding} seen from {observer}: {incident}");
            assert_eq!(waiter["server_pid"], waiting.server_pid(), "{context}");
            assert_eq!(waiter["application_name"], "it waits", "{context}");
            let user = String::from_utf8_lossy(&role);
            assert_eq!(incident["user"], *user, "{context}");
            assert_eq!(waiter["user"].is_string(), encoding == "UTF8", "{context}");
            let statement = statement.map(|text| text.replace(" t", " t, \"café\""));
            assert_eq!(
                waiter["statement"].as_str(),
                statement.as_deref(),
                "{context}"
            );
            assert_eq!(waiter["relation"].as_str(), relation, "{context}");
            assert_eq!(proxy.log().matches("the observer is connected").count(), 1);
        }
    });
}

#[test]
fn the_statement_of_a_waiter_is_cut_and_loses_its_literals_as_all_do() {
    let settings = [("track_activity_query_size", "1MB")];
    let server = cluster(versions()[0], &settings, None);
    let database = door(&server);
    Dba::new(&database).run("CREATE TABLE t (id int, v text)");
    let proxy = observed(&database, "blocking = { rollback = \"300ms\" }");
    // What is kept ends within the first literal, with the half of a character.
    let before = "SELECT 'a secret', id FROM t -- ".to_owned();
    let filled = format!(
        "{before}{}\nWHERE v = 'é",
        "x".repeat(4096 - before.len() - 13)
    );
    let statement = format!("{filled}{}'", "another secret".repeat(1000));
    assert!(!statement.is_char_boundary(4096));
    let mut holder = Client::connect(proxy.endpoint());
    holder.run("BEGIN; LOCK TABLE t");
    let mut waiting = waits(&database, &statement);
    let incident = proxy.rolled_back(holder.server_pid());
    let shown = incident["blocked"][0]["statement"].as_str().unwrap();
    assert!(shown.starts_with("SELECT $1, id FROM t"), "{shown}");
    assert!(shown.ends_with("WHERE v = …"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(waiting.until_ready(), "T / C SELECT 0 / Z I");
}
