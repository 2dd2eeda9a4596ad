//! A Python driver that is told what to do: one process with one connection for each [`Driver`].

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{Endpoint, end, in_repository, installed};

/// The drivers that every promise to drivers is tested with.
pub(crate) const DRIVERS: [&str; 5] = ["psycopg2", "psycopg", "asyncpg", "pg8000", "sqlalchemy"];

/// A connection of a driver, in a process of its own.
pub(crate) struct Driver {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Driver {
    /// Connects by `tests/python/session.py`.
    pub(crate) fn connect(name: &str, endpoint: &Endpoint) -> Self {
        let mut child = Command::new(installed("python").join("bin/python"))
            .arg(in_repository("tests/python/session.py"))
            .arg(name)
            .envs(endpoint.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut driver = Self {
            child,
            orders,
            answers,
        };
        assert_eq!(driver.answer(), "connected", "{name}");
        driver
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn order(&mut self, order: &str) -> String {
        assert!(!order.contains('\n'), "an order is one line");
        writeln!(self.orders, "{order}").expect("the driver's process lives");
        self.answer()
    }

    /// Runs a statement, in a transaction as the driver opens them: its rows as `1|one; 2|two`, or `error 25P03`.
    pub(crate) fn execute(&mut self, sql: &str) -> String {
        self.order(&format!("execute {sql}"))
    }

    /// Commits by the driver's own method: `ok`, or `error 25P03`.
    pub(crate) fn commit(&mut self) -> String {
        self.order("commit")
    }

    /// Rolls back by the driver's own method: `ok`, or `error …`.
    pub(crate) fn rollback(&mut self) -> String {
        self.order("rollback")
    }

    /// Inserts many rows, the first of which exists already, in one `executemany`.
    pub(crate) fn insert_many(&mut self, rows: u32, bytes_each: u32) -> String {
        self.order(&format!("insert_many {rows} {bytes_each}"))
    }

    /// Cancels the statement, run by this order, shortly after it was sent, by the driver's own method.
    pub(crate) fn execute_and_cancel(&mut self, sql: &str) -> String {
        self.order(&format!("execute_and_cancel {sql}"))
    }

    /// The server's process id, asked by SQL.
    pub(crate) fn server_pid(&mut self) -> i32 {
        let pid = self.execute("SELECT pg_backend_pid()");
        pid.parse()
            .unwrap_or_else(|_| panic!("not a process id: {pid}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
