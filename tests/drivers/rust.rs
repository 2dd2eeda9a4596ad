//! tokio-postgres and sqlx: `rust LIBRARY [FLOW]`. A nested transaction that is dropped sends ROLLBACK TO, and tokio-postgres
//! reads no answer to it. The command line and the lines that are printed: flow.py.

#![allow(clippy::print_stdout, reason = "its output is what the runner reads")]
#![allow(clippy::unwrap_used, reason = "a program that cannot go on fails")]

use std::{env, io::stdin};

use serde_json::{Value, json};
use sqlx::{Connection, Executor};

const INSERT: &str = "INSERT INTO t VALUES (2, 'two')";
const LATE: &str = "INSERT INTO t VALUES (3, 'three')";
const FAILS: &str = "SELECT 1/0";

/// For each step its name, and what the program was told.
#[derive(Default)]
struct Steps(Vec<(&'static str, Option<String>)>);

impl Steps {
    fn tokio<T>(&mut self, step: &'static str, result: Result<T, tokio_postgres::Error>) -> bool {
        let error = result.err();
        let seen = error.as_ref().map(|error| {
            let state = error.code().map_or("", |state| state.code());
            format!("tokio_postgres::Error {state}")
        });
        self.0.push((step, seen));
        error.is_none()
    }

    fn sqlx<T>(&mut self, step: &'static str, result: Result<T, sqlx::Error>) -> bool {
        let error = result.err();
        let seen = error.as_ref().map(|error| {
            let state = error.as_database_error().and_then(|error| error.code());
            format!("sqlx::Error {}", state.unwrap_or_default())
        });
        self.0.push((step, seen));
        error.is_none()
    }
}

/// The silence; returns whether a statement that fails has to be run in its place.
fn silence() -> bool {
    println!("stuck");
    let mut line = String::new();
    stdin().read_line(&mut line).unwrap();
    line.trim() == "fail"
}

fn variable(name: &str) -> String {
    env::var(name).unwrap()
}

async fn by_tokio_postgres(flow: &str, steps: &mut Steps) {
    let mut config = tokio_postgres::Config::new();
    config
        .host(variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .user(variable("PGUSER"))
        .dbname(variable("PGDATABASE"));
    let (mut client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    match flow.split_at(1) {
        ("S" | "R", how) => {
            let nested = transaction.transaction().await.unwrap();
            if silence() {
                drop(nested.execute(FAILS, &[]).await);
            }
            if flow == "S" {
                steps.tokio("release", nested.commit().await);
            } else {
                if how.is_empty() {
                    steps.tokio("statement", nested.execute(LATE, &[]).await);
                }
                drop(nested);
            }
        }
        _ => {
            let statement = transaction.prepare("SELECT v FROM t").await.unwrap();
            if silence() {
                drop(transaction.execute(FAILS, &[]).await);
            }
            drop(statement);
            if flow == "B" {
                steps.tokio("statement", transaction.execute(LATE, &[]).await);
            }
        }
    }
    steps.tokio("commit", transaction.commit().await);
}

async fn by_sqlx(flow: &str, steps: &mut Steps) {
    let options = sqlx::postgres::PgConnectOptions::new()
        .host(&variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .username(&variable("PGUSER"))
        .database(&variable("PGDATABASE"));
    let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    transaction.execute(INSERT).await.unwrap();
    if let "S" | "R" = flow.split_at(1).0 {
        let mut nested = transaction.begin().await.unwrap();
        if silence() {
            drop(nested.execute(FAILS).await);
        }
        match flow {
            "S" => drop(steps.sqlx("release", nested.commit().await)),
            "R" => {
                steps.sqlx("statement", nested.execute(LATE).await);
                drop(nested);
            }
            _ => drop(nested),
        }
    } else {
        if silence() {
            drop(transaction.execute(FAILS).await);
        }
        if flow == "B" {
            steps.sqlx("statement", transaction.execute(LATE).await);
        }
        if flow.starts_with('D') {
            steps.sqlx("ping", transaction.ping().await);
        }
    }
    steps.sqlx("commit", transaction.commit().await);
}

/// The version of a package that Cargo.lock pins.
fn locked_version(package: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock
        .split_once(&format!("name = \"{package}\"\nversion = \""))
        .unwrap();
    rest.split('"').next().unwrap()
}

fn answer(library: &str, flow: Option<&str>) -> Value {
    let by_tokio = library == "tokio-postgres";
    let Some(flow) = flow else {
        let own = ["D ping()", "D statement dropped"][usize::from(by_tokio)];
        let flows = ["A", "B", own, "S", "R", "R by the program's own exception"];
        return json!({ "version": locked_version(library), "flows": flows });
    };
    let mut steps = Steps::default();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        if by_tokio {
            by_tokio_postgres(flow, &mut steps).await;
        } else {
            by_sqlx(flow, &mut steps).await;
        }
    });
    json!({ "flow": flow, "steps": steps.0 })
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let flow = arguments.get(1).map(String::as_str);
    println!("{}", answer(&arguments[0], flow));
}
