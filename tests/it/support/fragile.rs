//! A server that belongs to one test: its processes are stopped for a while or killed, and it is started again on its port.

use std::{fs, path::Path, process::Command};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgidle::demo::Cluster;

use super::{Endpoint, frontend::query, server::cluster, wait_for, wire::Client};

/// The server, with a table `t (id int primary key, v text)` of one row in its database `postgres`.
pub(crate) struct Fragile {
    version: u32,
    settings: Vec<(String, String)>,
    cluster: Cluster,
    port: u16,
}

impl Fragile {
    pub(crate) fn start(version: u32, settings: &[(&str, &str)]) -> Self {
        let cluster = cluster(version, settings, None);
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let fragile = Self {
            version,
            settings: settings.iter().map(owned).collect(),
            port: cluster.port(),
            cluster,
        };
        Client::connect(&fragile.endpoint())
            .run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')");
        fragile
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            database: "postgres".to_owned(),
        }
    }

    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.cluster.data_dir()
    }

    /// Every process of the server, the first of all included.
    fn processes(&self) -> Vec<i32> {
        let postmaster = i32::try_from(self.cluster.pid()).unwrap();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter(|&pid| parent(pid) == Some(postmaster));
        [postmaster].into_iter().chain(children).collect()
    }

    /// Stops every process of the server where it stands.
    pub(crate) fn pause(&self) {
        // A process may begin while the others are found; the one that begins them is the first that stops.
        for pid in self.processes().into_iter().chain(self.processes()) {
            signal(pid, Signal::SIGSTOP);
        }
    }

    /// Has every process of the server go on.
    pub(crate) fn go_on(&self) {
        for pid in self.processes() {
            signal(pid, Signal::SIGCONT);
        }
    }

    /// Kills the process of some session, where there is one, and with that ends all.
    pub(crate) fn crash(&self) {
        const SOME: &str = "SELECT min(pid) FROM pg_stat_activity \
                            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let Ok(mut client) = Client::try_connect(&self.endpoint(), &[]) else {
            return;
        };
        client.try_send(&query(SOME)).ok();
        let told = client.until_ready();
        let pid = told.split_once("D ").and_then(|(_, row)| {
            let (pid, _) = row.split_once(' ')?;
            pid.parse().ok()
        });
        if let Some(pid) = pid {
            kill_process(pid);
        }
    }

    /// Kills the server's first process, as the kernel does when memory is short, and waits until the others have gone.
    pub(crate) fn kill(&self) {
        let processes = self.processes();
        signal(processes[0], Signal::SIGKILL);
        wait_for("the end of the server", || {
            let all_gone = processes.iter().all(|&pid| has_ended(pid));
            all_gone.then_some(())
        });
    }

    /// Starts the server again, which recovers, with the same port and what was in its files.
    pub(crate) fn start_again(&mut self) {
        let data = self.data_dir();
        let left = data.join("postmaster.pid");
        forget_shared_memory(&left);
        fs::remove_file(left).ok();
        let port = self.port.to_string();
        let mut settings = vec![("port", port.as_str())];
        let given = self.settings.iter();
        settings.extend(given.map(|(name, value)| (name.as_str(), value.as_str())));
        self.cluster = cluster(self.version, &settings, Some(data));
    }
}

/// Kills one process.
pub(crate) fn kill_process(pid: i32) {
    signal(pid, Signal::SIGKILL);
}

/// Sends a signal to a process, which may have ended.
fn signal(pid: i32, signal: Signal) {
    let sent = kill(Pid::from_raw(pid), signal);
    assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
}

/// The process that has begun this one.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process is gone, or is only waited for by nobody.
fn has_ended(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |text| text.is_empty())
}

/// Removes the segment that a killed server leaves, which the next one would remove if its files had not moved.
fn forget_shared_memory(pid_file: &Path) {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let line = text.lines().nth(6).unwrap_or_default();
    if let Some(id) = line.split_whitespace().nth(1) {
        Command::new("ipcrm").args(["-m", id]).output().ok();
    }
}
