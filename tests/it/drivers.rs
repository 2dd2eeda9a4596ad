//! The promises as real programs meet them: Python's drivers, psql and pgbench.

use std::{fs, thread};

use crate::support::{
    dba::Dba,
    driver::{DRIVERS, Driver},
    program::{pgbench, psql},
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
};

#[test]
fn a_late_commit_raises_in_every_driver_and_its_connection_works_on() {
    on_every_server(|server| {
        for name in DRIVERS {
            let database = server.database();
            let proxy = Proxy::patient(&database);
            let mut dba = Dba::new(&database);
            let mut driver = Driver::connect(name, proxy.endpoint());
            let pid = driver.server_pid();
            assert_eq!(
                driver.execute("INSERT INTO t VALUES (2, 'two')"),
                "ok",
                "{name}"
            );
            proxy.end_now(pid);

            assert_eq!(driver.commit(), "error 25P03", "{name}");
            assert!(!dba.sees_row(2), "{name}");
            assert_eq!(driver.rollback(), "ok", "{name}");
            assert_eq!(
                driver.execute("INSERT INTO t VALUES (3, 'three')"),
                "ok",
                "{name}"
            );
            assert_eq!(driver.commit(), "ok", "{name}");
            assert!(dba.sees_row(3), "{name}");
            assert_eq!(driver.server_pid(), pid, "{name}");
        }
    });
}

#[test]
fn a_late_rollback_sees_nothing_in_every_driver() {
    let server = newest();
    for name in DRIVERS {
        let database = server.database();
        let proxy = Proxy::patient(&database);
        let mut driver = Driver::connect(name, proxy.endpoint());
        let pid = driver.server_pid();
        proxy.end_now(pid);
        assert_eq!(driver.rollback(), "ok", "{name}");
        assert_eq!(driver.execute("SELECT v FROM t"), "one", "{name}");
        assert_eq!(driver.commit(), "ok", "{name}");
        assert_eq!(driver.server_pid(), pid, "{name}");
    }
}

#[test]
fn a_late_statement_raises_in_every_driver() {
    let server = newest();
    for name in DRIVERS {
        let database = server.database();
        let proxy = Proxy::patient(&database);
        let mut driver = Driver::connect(name, proxy.endpoint());
        let pid = driver.server_pid();
        assert_eq!(
            driver.execute("INSERT INTO t VALUES (2, 'two')"),
            "ok",
            "{name}"
        );
        proxy.end_now(pid);
        let late = driver.execute("INSERT INTO t VALUES (3, 'three')");
        assert_eq!(late, "error 25P03", "{name}");
        assert_eq!(driver.rollback(), "ok", "{name}");
        assert_eq!(driver.execute("SELECT v FROM t"), "one", "{name}");
        assert_eq!(driver.server_pid(), pid, "{name}");
    }
}

/// asyncpg sends all rows at once and reads only then: the server's error must pass while the client still sends.
#[test]
fn an_error_reaches_a_client_that_is_still_sending() {
    let database = newest().database();
    let proxy = Proxy::patient(&database);
    for name in ["asyncpg", "psycopg"] {
        let mut driver = Driver::connect(name, proxy.endpoint());
        assert_eq!(driver.insert_many(2000, 8000), "error 23505", "{name}");
        assert_eq!(driver.rollback(), "ok", "{name}");
        assert_eq!(driver.execute("SELECT v FROM t"), "one", "{name}");
    }
}

#[test]
fn psql_is_told_of_its_late_commit() {
    let database = newest().database();
    let proxy = Proxy::patient(&database);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (stuck, ended) = (file("stuck"), file("ended"));
    let wait = format!(
        "\\! touch {}; while [ ! -e {} ]; do sleep 0.05; done",
        stuck.display(),
        ended.display()
    );
    let insert = "INSERT INTO t VALUES (2, 'two')";
    let count = "SELECT count(*) FROM t";
    let commands = ["BEGIN", insert, &wait, "COMMIT", count];
    let printed = thread::scope(|scope| {
        let psql = scope.spawn(|| psql(proxy.endpoint(), &commands));
        wait_for("psql's transaction", || stuck.exists().then_some(()));
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
        proxy.end_now(Dba::new(&database).value(sql).parse().unwrap());
        fs::write(&ended, "").unwrap();
        psql.join().unwrap()
    });
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines[0], "1",
        "the session lives and the row is absent: {printed}"
    );
    assert!(lines[1].starts_with("ERROR:  25P03: "), "{printed}");
}

#[test]
fn pgbench_runs_without_an_error_in_its_three_modes() {
    on_every_server(|server| {
        let database = server.database();
        pgbench(&database, &["-i", "-q", "-s", "1"]);
        let proxy = Proxy::rolling_back(&database, "1min");
        for mode in ["simple", "extended", "prepared"] {
            for script in [&["-S"][..], &[]] {
                let arguments = [&["-n", "-c", "4", "-t", "50", "-M", mode], script].concat();
                let report = pgbench(proxy.endpoint(), &arguments);
                assert!(
                    report.contains("number of transactions actually processed: 200/200"),
                    "{report}"
                );
                assert!(
                    report.contains("number of failed transactions: 0"),
                    "{report}"
                );
            }
        }
        assert!(proxy.incidents().is_empty());
    });
}

#[test]
fn connections_come_and_go() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "1min");
    pgbench(&database, &["-i", "-q", "-s", "1"]);
    let report = pgbench(proxy.endpoint(), &["-n", "-S", "-C", "-c", "4", "-t", "25"]);
    assert!(
        report.contains("number of failed transactions: 0"),
        "{report}"
    );
}
