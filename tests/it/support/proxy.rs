//! The built program as a proxy before a server, with its audit file and its log.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use super::{Endpoint, PATIENCE, end, leashed, let_pass, wait_for};

/// How late pgidle may act on a limit, and how long it may take to end a transaction that has answers to be read.
const LATE_MS: f64 = 500.0;
const LONG_MS: f64 = 5_000.0;

/// A running `pgidle serve`.
pub(crate) struct Proxy {
    child: Child,
    endpoint: Endpoint,
    log: Arc<Mutex<String>>,
    reading: Arc<Mutex<Reading>>,
    folder: TempDir,
    sockets: Option<TempDir>,
    rules: Option<NamedTempFile>,
}

/// What the reader of the log does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Goes,
    StandsStill,
    IsOver,
}

impl Proxy {
    /// Starts a proxy on a port of its own before a database.
    pub(crate) fn start(database: &Endpoint, arguments: &[&str]) -> Self {
        let upstream = address(database);
        Self::start_with(
            database,
            &["--listen", "127.0.0.1:0", "--upstream", &upstream],
            arguments,
        )
    }

    /// Starts a proxy that rolls back what is idle in a transaction for longer than the limit.
    pub(crate) fn rolling_back(database: &Endpoint, limit: &str) -> Self {
        Self::start(database, &["--idle-limit", limit, "--action", "rollback"])
    }

    /// Starts a proxy with a configuration file.
    pub(crate) fn with_rules(database: &Endpoint, rules: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        let mut proxy = Self::start(database, &["--config", file.path().to_str().unwrap()]);
        proxy.rules = Some(file);
        proxy
    }

    /// Has other rules take the place of those of [`Proxy::with_rules`], for open sessions too.
    pub(crate) fn change_rules(&self, rules: &str) {
        assert!(self.try_rules(rules), "{}", self.log());
    }

    /// The file of [`Proxy::with_rules`].
    pub(crate) fn settings_file(&self) -> PathBuf {
        let file = self.rules.as_ref().expect("a proxy that began with rules");
        file.path().to_owned()
    }

    /// Whether other rules can take the place of those of [`Proxy::with_rules`].
    pub(crate) fn try_rules(&self, rules: &str) -> bool {
        fs::write(self.settings_file(), rules).unwrap();
        self.reload()
    }

    /// Starts a proxy whose file says where the server is.
    pub(crate) fn by_file_alone(database: &Endpoint, settings: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), settings).unwrap();
        let path = file.path().to_str().unwrap();
        Self::start_with(database, &["--listen", "127.0.0.1:0"], &["--config", path])
    }

    /// Starts a proxy that listens and connects by IPv6.
    pub(crate) fn by_ipv6(database: &Endpoint, arguments: &[&str]) -> Self {
        let database = database.at("::1", database.port);
        let upstream = address(&database);
        let addresses = ["--listen", "[::1]:0", "--upstream", &upstream];
        let mut proxy = Self::start_with(&database, &addresses, arguments);
        proxy.endpoint.host = database.host;
        proxy
    }

    /// Starts a proxy that listens on a Unix socket.
    pub(crate) fn on_socket(database: &Endpoint, arguments: &[&str]) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let door = database.at(sockets.path().to_str().unwrap(), 6432);
        let (listen, upstream) = (address(&door), address(database));
        let mut proxy = Self::start_with(
            &door,
            &[
                "--listen",
                &listen,
                "--listen",
                "127.0.0.1:0",
                "--upstream",
                &upstream,
            ],
            arguments,
        );
        proxy.endpoint = door;
        proxy.sockets = Some(sockets);
        proxy
    }

    /// Starts a proxy that listens and connects as these flags say; a port of 127.0.0.1 must be among them.
    pub(crate) fn start_with(database: &Endpoint, addresses: &[&str], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::launch(database, folder, &[], &[addresses, arguments].concat())
    }

    /// Starts a proxy whose audit file lies in this folder, by a program that runs another one.
    pub(crate) fn in_folder(
        database: &Endpoint,
        folder: TempDir,
        by: &[&str],
        arguments: &[&str],
    ) -> Self {
        let upstream = address(database);
        let addresses = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
        Self::launch(database, folder, by, &[&addresses, arguments].concat())
    }

    /// Starts a proxy on another host, by a program that runs another one there, with rules and a server that it reaches.
    pub(crate) fn on_another_host(
        database: &Endpoint,
        host: &str,
        by: &[&str],
        rules: &str,
    ) -> Self {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        let (listen, upstream) = (format!("{host}:0"), address(database));
        let addresses = ["--listen", &listen, "--upstream", &upstream];
        let arguments = ["--config", file.path().to_str().unwrap()];
        let folder = tempfile::tempdir().unwrap();
        let mut proxy = Self::launch(database, folder, by, &[&addresses[..], &arguments].concat());
        proxy.endpoint.host = host.to_owned();
        proxy.rules = Some(file);
        proxy
    }

    fn launch(database: &Endpoint, folder: TempDir, by: &[&str], arguments: &[&str]) -> Self {
        let program = [by, &[env!("CARGO_BIN_EXE_pgidle")]].concat();
        let mut child = leashed(program[0])
            .args(&program[1..])
            .args(["serve", "--log-format", "json"])
            .args(arguments)
            .arg("--audit")
            .arg(folder.path().join("audit.jsonl"))
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (bound, is_bound) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let written = Arc::clone(&log);
        let reading = Arc::new(Mutex::new(Reading::Goes));
        let mode = Arc::clone(&reading);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                drop(log);
                if let Some(port) = listening_port(&line) {
                    bound.send(port).ok();
                }
                while *mode.lock().unwrap() == Reading::StandsStill {
                    let_pass(Duration::from_millis(5));
                }
                if *mode.lock().unwrap() == Reading::IsOver {
                    return;
                }
            }
        });
        let Ok(port) = is_bound.recv_timeout(PATIENCE) else {
            end(&mut child);
            panic!("pgidle does not listen:\n{}", log.lock().unwrap());
        };
        Self {
            child,
            endpoint: database.at("127.0.0.1", port),
            log,
            reading,
            folder,
            sockets: None,
            rules: None,
        }
    }

    /// Has the reader of the log stop, go on or leave after the next line.
    pub(crate) fn set_reading(&self, reading: Reading) {
        *self.reading.lock().unwrap() = reading;
    }

    /// The database that the proxy was started for, through the proxy.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the proxy has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Where the proxy writes its audit.
    pub(crate) fn audit_file(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    /// Every whole line of the audit file so far that is about a session.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let mut lines = self.whole_audit();
        let own = ["started", "reloaded", "stopped"];
        lines.retain(|line| !own.contains(&line["event"].as_str().unwrap_or_default()));
        lines
    }

    /// Every whole line of the audit file so far.
    pub(crate) fn whole_audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_file()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
            })
            .collect()
    }

    /// The first audit line with these fields, once it is there.
    pub(crate) fn audit_line(&self, fields: &[(&str, &str)]) -> Value {
        wait_for(&format!("an audit line with {fields:?}"), || {
            self.audit()
                .into_iter()
                .find(|line| fields.iter().all(|(name, value)| line[name] == *value))
        })
    }

    /// A proxy without limits, until [`Proxy::end_now`] brings one.
    pub(crate) fn patient(database: &Endpoint) -> Self {
        Self::with_rules(database, "")
    }

    /// Has the transaction of a server session that is idle in it rolled back, and goes on without a limit: what comes
    /// before and after may take the time that it takes.
    pub(crate) fn end_now(&self, server_pid: i32) -> Value {
        self.change_rules("[[rule]]\nname = 'all'\nidle = { rollback = '200ms' }");
        let incident = self.rolled_back(server_pid);
        self.change_rules("");
        incident
    }

    /// Waits until a server session's stuck transaction was ended, and returns the incident.
    pub(crate) fn rolled_back(&self, server_pid: i32) -> Value {
        wait_for("the rollback", || {
            self.audit()
                .into_iter()
                .find(|line| line["outcome"] == "rolled_back" && line["server_pid"] == server_pid)
        })
    }

    /// Fails where pgidle acted before a limit or late, or was long about it. By its own clock, as the audit has it: what
    /// a test has to wait for on a busy machine does not count.
    pub(crate) fn in_time(&self, incident: &Value) {
        let number = |line: &Value, field: &str| line[field].as_f64();
        let clock = if incident["kind"] == "age" {
            "age_ms"
        } else {
            "idle_ms"
        };
        let late = number(incident, clock).unwrap() - number(incident, "limit_ms").unwrap();
        assert!(late >= 0.0, "early: {incident}");
        assert!(late <= LATE_MS, "late by {late} ms: {incident}");
        let pid = &incident["server_pid"];
        let line = self
            .audit()
            .into_iter()
            .find(|line| line["outcome"] == "enforced" && line["server_pid"] == *pid);
        // A transaction without a block has no line of its own.
        if let (Some(line), Some(age)) = (line, number(incident, "age_ms")) {
            let took = number(&line, "duration_ms").unwrap() - age;
            assert!(took <= LONG_MS, "{took} ms: {line} {incident}");
        }
    }

    /// The incidents so far.
    pub(crate) fn incidents(&self) -> Vec<Value> {
        let mut lines = self.audit();
        lines.retain(|line| line["event"] == "incident");
        lines
    }

    /// Fails when there is an incident within the time.
    pub(crate) fn sees_no_incident_for(&self, time: Duration) {
        let_pass(time);
        assert_eq!(self.incidents(), Vec::<Value>::new());
    }

    /// Resident memory of the process in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// How many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        let all = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        all.unwrap().count()
    }

    /// The most that its resident memory has ever been, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("a line with the memory").parse().unwrap()
    }

    /// Has the settings read again, and waits until they were, or were refused.
    pub(crate) fn reload(&self) -> bool {
        let said = |text| self.log().matches(text).count();
        let before = (said("\"reloaded"), said("not reloaded"));
        self.signal(Signal::SIGHUP);
        wait_for("a reload", || {
            let now = (said("\"reloaded"), said("not reloaded"));
            (now != before).then_some(now.0 > before.0)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// How the process ended, once it has.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        wait_for("the end of the process", || self.child.try_wait().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set_reading(Reading::IsOver);
        end(&mut self.child);
        if thread::panicking() {
            eprintln!("log of the proxy:\n{}", self.log());
        }
    }
}

/// An address as `--listen` and `--upstream` take it.
pub(crate) fn address(endpoint: &Endpoint) -> String {
    endpoint.socket().map_or_else(
        || match endpoint.host.contains(':') {
            true => format!("[{}]:{}", endpoint.host, endpoint.port),
            false => format!("{}:{}", endpoint.host, endpoint.port),
        },
        |path| format!("unix:{}", path.display()),
    )
}

/// Where a proxy answers by HTTP.
pub(crate) fn http_address(proxy: &Proxy) -> String {
    let log = proxy.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut addresses = lines.filter_map(|line: Value| Some(line["http"].as_str()?.to_owned()));
    addresses
        .next()
        .unwrap_or_else(|| panic!("no HTTP:\n{log}"))
}

/// The port in the log line that tells where the proxy listens.
fn listening_port(line: &str) -> Option<u16> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if !fields["message"].as_str()?.starts_with("listening") {
        return None;
    }
    let mut addresses = fields["address"].as_str()?.split(", ");
    addresses.find_map(|address| address.rsplit_once(':')?.1.parse().ok())
}
