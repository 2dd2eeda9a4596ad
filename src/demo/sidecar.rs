//! pgidle itself, as the demo runs it: a child process with a configuration, an audit file and a log of its own.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::time;

use super::owned_process::{OwnedProcess, POLL_INTERVAL, PrivateFolder};
use crate::audit::schema::{IncidentLine, Line, Record};

/// How often a starting pgidle is looked at: for ten seconds.
const START_POLLS: u32 = 500;
const CONFIG_FILE: &str = "pgidle.toml";
const AUDIT_FILE: &str = "audit.jsonl";

/// Why pgidle does not stand between the demo's clients and its server.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// No folder, no configuration file, or no process.
    #[error("cannot start pgidle in a temporary folder")]
    Spawn(#[source] io::Error),
    /// It ended, or never said that it listens.
    #[error("pgidle does not listen; the end of its log:\n{log}")]
    NotListening {
        /// The last lines of its log.
        log: String,
    },
    /// The audit file cannot be read.
    #[error("cannot read the audit file")]
    Audit(#[source] io::Error),
}

/// A running `pgidle serve`.
#[derive(Debug)]
pub(super) struct Sidecar {
    process: OwnedProcess,
    address: SocketAddr,
}

impl Sidecar {
    /// Runs this very program as a proxy before the server on `upstream_port`, and waits until it listens.
    pub(super) fn start(upstream_port: u16, rules: &str) -> Result<Self, SidecarError> {
        let folder = PrivateFolder::new(None).map_err(SidecarError::Spawn)?;
        let path = |name: &str| folder.path().join(name).into_os_string();
        fs::write(path(CONFIG_FILE), rules).map_err(SidecarError::Spawn)?;
        let program = env::current_exe().map_err(SidecarError::Spawn)?;
        let mut arguments = vec![program.into_os_string()];
        arguments.extend(["serve", "--listen", "127.0.0.1:0", "--upstream"].map(Into::into));
        arguments.push(format!("127.0.0.1:{upstream_port}").into());
        arguments.extend(["--config".into(), path(CONFIG_FILE)]);
        arguments.extend(["--audit".into(), path(AUDIT_FILE)]);
        arguments.extend(["--log-format", "json"].map(Into::into));
        let mut process = folder
            .spawn("exec \"$@\"", arguments)
            .map_err(SidecarError::Spawn)?;
        for _ in 0..START_POLLS {
            if let Some(address) = process.log().lines().find_map(listening_address) {
                return Ok(Self { process, address });
            }
            if process.has_exited() {
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        Err(SidecarError::NotListening {
            log: process.end_of_log(),
        })
    }

    /// Where it accepts clients.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it writes what it did.
    pub(super) fn audit_path(&self) -> PathBuf {
        self.process.folder().join(AUDIT_FILE)
    }

    /// Waits until the audit file tells of an incident in each of the given server processes, and returns these in order.
    pub(super) async fn incidents<const N: usize>(
        &self,
        server_pids: [i32; N],
        patience: Duration,
    ) -> Result<Option<[IncidentLine; N]>, SidecarError> {
        let deadline = time::Instant::now() + patience;
        while time::Instant::now() < deadline {
            let seen = read_incidents(&self.audit_path()).map_err(SidecarError::Audit)?;
            let of = |pid| {
                seen.iter()
                    .find(|incident| incident.who.server_pid == Some(pid))
            };
            if server_pids.iter().all(|pid| of(*pid).is_some()) {
                let found: Vec<_> = server_pids
                    .iter()
                    .filter_map(|pid| of(*pid))
                    .cloned()
                    .collect();
                return Ok(found.try_into().ok());
            }
            time::sleep(POLL_INTERVAL).await;
        }
        Ok(None)
    }
}

/// The address in the log line that says where pgidle listens.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("message")?
        .as_str()?
        .starts_with("listening")
        .then_some(())?;
    line.get("address")?.as_str()?.parse().ok()
}

/// The incidents in an audit file, leaving out a last line that is still being written.
fn read_incidents(path: &Path) -> io::Result<Vec<IncidentLine>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut incidents = Vec::new();
    for line in BufReader::new(file).lines() {
        match line?.parse::<Line>() {
            Ok(line) => {
                if let Record::Incident(incident) = line.record {
                    incidents.push(*incident);
                }
            }
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(incidents)
}
