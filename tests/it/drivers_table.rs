//! What the user of each driver sees who comes too late: the table in docs/drivers.md, which this test writes and holds
//! to what really happens.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde::Deserialize;
use sqlx::{Connection, Executor};

use crate::support::{
    PATIENCE, dba::Dba, end, in_repository, installed, let_pass, proxy::Proxy, server::newest,
};

/// The driver's name in the table, the program that speaks through it, and its argument.
const DRIVERS: [(&str, Program, &str); 11] = [
    ("psycopg2", Program::Python, "psycopg2"),
    (
        "psycopg 3, simple queries",
        Program::Python,
        "psycopg-simple",
    ),
    (
        "psycopg 3, extended queries",
        Program::Python,
        "psycopg-extended",
    ),
    (
        "psycopg 3, pipeline mode",
        Program::Python,
        "psycopg-pipeline",
    ),
    ("asyncpg", Program::Python, "asyncpg"),
    ("pg8000", Program::Python, "pg8000"),
    (
        "SQLAlchemy's pool on psycopg2",
        Program::Python,
        "sqlalchemy",
    ),
    ("node-postgres", Program::Node, "pg"),
    ("postgres.js", Program::Node, "postgres"),
    ("tokio-postgres", Program::Rust, "tokio-postgres"),
    ("sqlx", Program::Rust, "sqlx"),
];

/// A column: its title, pgidle's action, and what the client does too late.
const SITUATIONS: [(&str, &str, &str); 4] = [
    ("late COMMIT", "rollback", "commit"),
    ("late statement", "rollback", "statement"),
    ("late ROLLBACK", "rollback", "rollback"),
    ("late COMMIT after `terminate`", "terminate", "commit"),
];

const MARKERS: [&str; 2] = [
    "<!-- The table, written by `make drivers`. -->\n",
    "<!-- The end of the table. -->\n",
];

#[derive(Clone, Copy)]
enum Program {
    Python,
    Node,
    Rust,
}

/// What a user saw.
#[derive(Debug, Deserialize)]
struct Seen {
    error: Option<String>,
    sqlstate: Option<String>,
    /// Whether the same session answered afterwards.
    usable: bool,
}

impl Seen {
    fn cell(&self) -> String {
        let error = self
            .error
            .as_ref()
            .map_or_else(|| "no error".to_owned(), |name| format!("`{name}`"));
        let state = self
            .sqlstate
            .as_ref()
            .map_or(String::new(), |state| format!(" {state}"));
        let after = if self.usable {
            "goes on"
        } else {
            "connect again"
        };
        format!("{error}{state}, {after}")
    }
}

/// One driver in one situation, on a database of its own.
fn see(action: &str, program: Program, driver: &str, late: &str) -> Seen {
    let database = newest().database();
    let proxy = &Proxy::patient(&database);
    let seen = match (program, driver) {
        (Program::Python, _) => {
            let mut command = Command::new(installed("python").join("bin/python"));
            command.arg(in_repository("tests/python/late.py"));
            by_program(command, proxy, action, driver, late)
        }
        (Program::Node, _) => {
            let mut command = Command::new("node");
            command
                .arg(in_repository("tests/node/late.mjs"))
                .env("NODE_DRIVERS", installed("node"));
            by_program(command, proxy, action, driver, late)
        }
        (Program::Rust, "sqlx") => in_runtime(by_sqlx(proxy, action, late)),
        (Program::Rust, _) => in_runtime(by_tokio_postgres(proxy, action, late)),
    };
    assert!(
        !Dba::new(&database).sees_row(2),
        "{driver}: what was ended is there"
    );
    seen
}

fn by_program(mut command: Command, proxy: &Proxy, action: &str, driver: &str, late: &str) -> Seen {
    let mut child = command
        .args([driver, late])
        .envs(proxy.endpoint().environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answer = || {
        lines
            .next()
            .unwrap_or_else(|| panic!("{driver} has ended"))
            .unwrap()
    };
    assert_eq!(answer(), "stuck", "{driver}");
    limit(proxy, action);
    proxy.audit_line(&[("event", "incident")]);
    // At the very moment of the end postgres.js may send a query whose promise never settles; a little later it has
    // failed its transaction by itself, and waits for nobody.
    let_pass(Duration::from_millis(200));
    drop(writeln!(child.stdin.take().unwrap(), "go on"));
    let answer = answer();
    end(&mut child);
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{driver}: {error}: {answer}"))
}

fn in_runtime(seen: impl Future<Output = Seen>) -> Seen {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, seen)
            .await
            .expect("an answer in time")
    })
}

/// Brings the limit when the driver is stuck, however long it took to get there.
fn limit(proxy: &Proxy, action: &str) {
    proxy.change_rules(&format!(
        "[[rule]]\nname = 'all'\nidle = {{ {action} = '300ms' }}"
    ));
}

/// Waits for the end of the transaction, while the driver's own tasks run.
async fn ended(proxy: &Proxy, action: &str) {
    limit(proxy, action);
    while proxy.incidents().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn by_tokio_postgres(proxy: &Proxy, action: &str, late: &str) -> Seen {
    let endpoint = proxy.endpoint();
    let mut config = tokio_postgres::Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .user("postgres")
        .dbname(&endpoint.database);
    let (mut client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let pid = "SELECT pg_backend_pid()";
    let before: i32 = client.query_one(pid, &[]).await.unwrap().get(0);
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("INSERT INTO t VALUES (2, 'two')", &[])
        .await
        .unwrap();
    ended(proxy, action).await;
    let result = match late {
        "commit" => transaction.commit().await,
        "rollback" => transaction.rollback().await,
        _ => {
            let result = transaction
                .execute("INSERT INTO t VALUES (3, 'three')", &[])
                .await;
            drop(transaction);
            result.map(drop)
        }
    };
    let error = result.err();
    let after = client.query_one(pid, &[]).await;
    Seen {
        sqlstate: error
            .as_ref()
            .and_then(|error| Some(error.code()?.code().to_owned())),
        error: error.map(|_| "tokio_postgres::Error".to_owned()),
        usable: after.is_ok_and(|row| row.get::<_, i32>(0) == before),
    }
}

async fn by_sqlx(proxy: &Proxy, action: &str, late: &str) -> Seen {
    let endpoint = proxy.endpoint();
    let options = sqlx::postgres::PgConnectOptions::new()
        .host(&endpoint.host)
        .port(endpoint.port)
        .username("postgres")
        .database(&endpoint.database);
    let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
    let pid = "SELECT pg_backend_pid()";
    let before: i32 = sqlx::query_scalar(pid)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let mut transaction = connection.begin().await.unwrap();
    transaction
        .execute("INSERT INTO t VALUES (2, 'two')")
        .await
        .unwrap();
    ended(proxy, action).await;
    let result = match late {
        "commit" => transaction.commit().await,
        "rollback" => transaction.rollback().await,
        _ => {
            let result = transaction
                .execute("INSERT INTO t VALUES (3, 'three')")
                .await;
            drop(transaction);
            result.map(drop)
        }
    };
    let error = result.err();
    let after: Result<i32, _> = sqlx::query_scalar(pid).fetch_one(&mut connection).await;
    Seen {
        sqlstate: error
            .as_ref()
            .and_then(|error| Some(error.as_database_error()?.code()?.into_owned())),
        error: error.map(|error| {
            let kind = format!("{error:?}");
            let kind = kind.split(['(', ' ']).next().unwrap_or_default();
            format!("sqlx::Error::{kind}")
        }),
        usable: after.is_ok_and(|after| after == before),
    }
}

fn row((name, program, driver): (&str, Program, &str)) -> String {
    let mut row = format!("| {name} |");
    for (title, action, late) in SITUATIONS {
        let terminates = action == "terminate";
        let seen = see(action, program, driver, late);
        assert_eq!(seen.usable, !terminates, "{name}, {title}: {seen:?}");
        assert_eq!(
            seen.error.is_some(),
            late != "rollback",
            "{name}, {title}: {seen:?}"
        );
        row.push_str(&format!(" {} |", seen.cell()));
    }
    row + "\n"
}

fn table() -> String {
    let titles = SITUATIONS
        .map(|(title, _, _)| format!(" {title} |"))
        .concat();
    let header = format!(
        "| driver |{titles}\n|{}\n",
        "---|".repeat(SITUATIONS.len() + 1)
    );
    thread::scope(|scope| {
        let rows = DRIVERS.map(|driver| scope.spawn(move || row(driver)));
        header + &rows.map(|row| row.join().unwrap()).concat()
    })
}

#[test]
fn the_table_of_drivers_says_what_their_users_see() {
    let path = in_repository("docs/drivers.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(MARKERS[0]).unwrap();
    let (written, after) = rest.split_once(MARKERS[1]).unwrap();
    let table = table();
    if env::var_os("WRITE_DRIVERS").is_some() {
        fs::write(
            &path,
            [before, MARKERS[0], &table, MARKERS[1], after].concat(),
        )
        .unwrap();
    } else {
        assert_eq!(
            written, table,
            "docs/drivers.md is out of date; run `make drivers`"
        );
    }
}
