//! A network between this host and another one, which is a network namespace: its packets take their time or get lost.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use super::{end, in_repository, installed};

/// The addresses of this host and of the other one.
pub(crate) const HERE: &str = "10.9.0.1";
pub(crate) const THERE: &str = "10.9.0.2";

/// The network, up for as long as this lives.
pub(crate) struct Link {
    process: Child,
    namespace: String,
}

impl Link {
    /// Makes the other host. It needs a namespace in which one may: see scripts/faults.sh.
    pub(crate) fn start() -> Self {
        let mut process = Command::new(installed("python").join("bin/python"))
            .arg(in_repository("tests/python/network.py"))
            .arg("1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        lines.read_line(&mut pid).unwrap();
        assert!(!pid.is_empty(), "no network; run `make faults`");
        let namespace = format!("--net=/proc/{}/ns/net", pid.trim());
        Self { process, namespace }
    }

    /// Changes it: `delay MILLISECONDS`, `loss PERCENT` or `silent PORT`.
    pub(crate) fn set(&self, what: &str) {
        let mut lines = self.process.stdin.as_ref().unwrap();
        lines.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// A program that runs another one on the other host.
    pub(crate) fn other_host(&self) -> [&str; 2] {
        ["nsenter", &self.namespace]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}
