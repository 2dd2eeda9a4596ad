//! A throwaway PostgreSQL in a private temporary folder, for the demo, the tests and the benchmarks.
//!
//! Nothing of it outlives its owner: dropping a [`Cluster`] stops the server and removes the folder, and when the owner
//! dies without dropping (kill -9), a shell that waits for the end of a pipe does the same.

use std::{
    env, fs,
    fs::File,
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use tempfile::TempDir;

/// The shell that becomes the server. Its standard input is a pipe of which we hold the other end: a line means that all
/// is done, the end of the pipe that the owner is gone. `$0` is the folder, `$1` the programs, the rest server settings.
const SCRIPT: &str = r#"
exec 3<&0 </dev/null
(
    {
        read -r _ || {
            kill -INT -$$
            turn=0
            while kill -0 $$ && [ $turn -lt 100 ]; do sleep 0.1; turn=$((turn + 1)); done
            rm -rf "$0"
        }
    } <&3 &
)
exec 3<&-
bin=$1
shift
"$bin/initdb" -D "$0/data" -U postgres --auth=trust --no-locale --encoding=UTF8 --no-sync --no-instructions &&
    exec "$bin/postgres" -D "$0/data" "$@"
"#;

/// How often, in all, a starting or stopping server is looked at.
const POLLS: u32 = 1500;
/// How long to wait between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a start is tried when somebody else takes the chosen port first.
const ATTEMPTS: u32 = 3;
/// The longest temporary folder under which a socket's path still fits `sun_path` (104 bytes on the BSDs).
const MAX_TEMP_DIR: usize = 64;

/// What the throwaway server is made of.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The folder with `initdb` and `postgres`; searched for when `None`.
    pub bin_dir: Option<PathBuf>,
    /// Server settings, as `postgres -c name=value` takes them; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
}

/// Why there is no throwaway server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No folder with PostgreSQL's server programs was found.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) in {looked_in}; install them with `apt-get install postgresql`"
    )]
    NotInstalled {
        /// Where they were searched for.
        looked_in: String,
    },
    /// PostgreSQL refuses to run as root, and there is no ordinary user to run it as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as"
    )]
    NoUser,
    /// The temporary folder cannot be made or handed over to the server's user.
    #[error("cannot make a temporary folder under {}", parent.display())]
    Folder {
        /// The folder in which it was to be.
        parent: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No free port on the loopback interface.
    #[error("no free port on 127.0.0.1")]
    Port(#[source] io::Error),
    /// The shell cannot be run.
    #[error("cannot run /bin/sh")]
    Shell(#[source] io::Error),
    /// The server, or initdb before it, ended by itself.
    #[error("PostgreSQL did not start; the end of its log:\n{log}")]
    Exited {
        /// The last lines of its log.
        log: String,
    },
    /// The server did not become ready in time.
    #[error("PostgreSQL was not ready after {} s; the end of its log:\n{log}", (POLLS * POLL_INTERVAL).as_secs())]
    TimedOut {
        /// The last lines of its log.
        log: String,
    },
}

/// A running throwaway server, reached as user `postgres` without a password.
#[derive(Debug)]
pub struct Cluster {
    server: Child,
    bin_dir: PathBuf,
    port: u16,
    folder: TempDir,
}

impl Cluster {
    /// Makes a cluster, starts its server and waits until it accepts connections. Run by root, the server belongs to the
    /// user `postgres`, or `nobody` where there is none. It blocks the thread for a second or two.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start; the message holds the end of its log.
    pub fn start(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let bin_dir = find_bin_dir(options.bin_dir.as_deref())?;
        let user = server_user()?;
        let mut attempt = 1;
        loop {
            match Self::try_start(&bin_dir, user.as_ref(), &options.settings) {
                Err(ClusterError::Exited { log })
                    if attempt < ATTEMPTS && log.contains("Address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(
        bin_dir: &Path,
        user: Option<&User>,
        settings: &[(String, String)],
    ) -> Result<Self, ClusterError> {
        let parent = temp_dir(user.is_some());
        let (folder, log) = make_folder(&parent, user).map_err(|source| ClusterError::Folder {
            parent: parent.clone(),
            source,
        })?;
        let errors = log.try_clone().map_err(ClusterError::Shell)?;
        let port = free_port().map_err(ClusterError::Port)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT])
            .args([folder.path(), bin_dir])
            .args(arguments(port, folder.path(), settings))
            .env("LC_ALL", "C")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // A group of its own: Ctrl-C in the terminal is for the owner, which then stops the server in order.
            .process_group(0);
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let server = command.spawn().map_err(ClusterError::Shell)?;
        let mut cluster = Self {
            server,
            bin_dir: bin_dir.to_owned(),
            port,
            folder,
        };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// The TCP port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket `.s.PGSQL.<port>`.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The path of one of PostgreSQL's programs, such as `psql`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// The folder of PostgreSQL's programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The process id of the server (the postmaster).
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Stops the server and removes everything, as dropping does.
    pub fn stop(self) {
        drop(self);
    }

    fn wait_until_ready(&mut self) -> Result<(), ClusterError> {
        let pid_file = self.data_dir().join("postmaster.pid");
        for _ in 0..POLLS {
            if !matches!(self.server.try_wait(), Ok(None)) {
                return Err(ClusterError::Exited {
                    log: self.end_of_log(),
                });
            }
            // The eighth line is the server's own word on its state, which pg_ctl reads too.
            if let Ok(text) = fs::read_to_string(&pid_file)
                && text
                    .lines()
                    .nth(7)
                    .is_some_and(|line| line.trim() == "ready")
            {
                return Ok(());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Err(ClusterError::TimedOut {
            log: self.end_of_log(),
        })
    }

    fn end_of_log(&self) -> String {
        let log = fs::read(log_path(self.folder.path())).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Asks the server to stop and reports whether it did.
    fn shut_down(&mut self, signal: Signal) -> bool {
        let Ok(pid) = i32::try_from(self.server.id()) else {
            return false;
        };
        for poll in 0..POLLS {
            // Not reaped before it has exited, so the process id is still its own.
            if !matches!(self.server.try_wait(), Ok(None)) {
                return true;
            }
            if poll == 0 && kill(Pid::from_raw(pid), signal).is_err() {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
        false
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT is PostgreSQL's fast shutdown, SIGQUIT the immediate one.
        let stopped = self.shut_down(Signal::SIGINT) || self.shut_down(Signal::SIGQUIT);
        if let Some(mut watcher) = self.server.stdin.take()
            && stopped
        {
            // Should the watcher be gone already, nobody needs to be told.
            drop(watcher.write_all(b"stopped\n"));
        }
    }
}

/// Finds the folder of PostgreSQL's server programs: the given one, or what `pg_config` says, or Debian's newest, or `PATH`.
///
/// # Errors
/// When none of these holds both `initdb` and `postgres`.
fn find_bin_dir(given: Option<&Path>) -> Result<PathBuf, ClusterError> {
    let complete = |dir: &PathBuf| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| dir.join(name).is_file())
    };
    if let Some(given) = given {
        return Some(given.to_owned())
            .filter(complete)
            .ok_or_else(|| ClusterError::NotInstalled {
                looked_in: given.display().to_string(),
            });
    }
    configured_bin_dir()
        .into_iter()
        .chain(debian_bin_dirs())
        .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default()))
        .find(complete)
        .ok_or_else(|| ClusterError::NotInstalled {
            looked_in: "`pg_config --bindir`, /usr/lib/postgresql/*/bin and PATH".to_owned(),
        })
}

fn configured_bin_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim()))
}

/// Debian's folders of server programs, newest version first.
fn debian_bin_dirs() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    let path = |version: &u32| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
    versions.iter().rev().map(path).collect()
}

/// The user that the server runs as when it cannot be the present one, which is root.
fn server_user() -> Result<Option<User>, ClusterError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Some)
        .ok_or(ClusterError::NoUser)
}

/// The folder for temporary folders. Root's own may be closed to the server's user, a long one breaks socket paths.
fn temp_dir(other_user: bool) -> PathBuf {
    let dir = env::temp_dir();
    if other_user || dir.as_os_str().len() > MAX_TEMP_DIR {
        return PathBuf::from("/tmp");
    }
    dir
}

/// Makes the folder and the log in it, both owned by the server's user.
fn make_folder(parent: &Path, user: Option<&User>) -> io::Result<(TempDir, File)> {
    let folder = tempfile::Builder::new()
        .prefix("pgidle-")
        .tempdir_in(parent)?;
    let log = File::create(log_path(folder.path()))?;
    if let Some(user) = user {
        for path in [folder.path(), &log_path(folder.path())] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
    }
    Ok((folder, log))
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// What `postgres` gets besides its data directory. Durability is off: nothing here is meant to last.
fn arguments(port: u16, folder: &Path, settings: &[(String, String)]) -> Vec<String> {
    let built_in = [
        ("port", port.to_string()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("unix_socket_directories", folder.display().to_string()),
        ("fsync", "off".to_owned()),
        ("full_page_writes", "off".to_owned()),
    ];
    let given = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()));
    built_in
        .into_iter()
        .chain(given)
        .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_leaves_nothing_behind() {
        let options = ClusterOptions {
            settings: vec![("application_name".to_owned(), "throwaway".to_owned())],
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&options).unwrap();
        let folder = cluster.socket_dir().to_owned();
        let asked = Command::new(cluster.bin("psql"))
            .args(["-XAtU", "postgres", "-p", &cluster.port().to_string()])
            .arg("-h")
            .arg(cluster.socket_dir())
            .args(["-c", "SELECT current_setting('fsync')"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "off\n");
        let port = cluster.port();
        cluster.stop();
        assert!(!folder.exists());
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }

    #[test]
    fn a_folder_without_postgres_is_refused_with_the_command_that_installs_it() {
        let options = ClusterOptions {
            bin_dir: Some(PathBuf::from("/nonexistent")),
            ..ClusterOptions::default()
        };
        let error = Cluster::start(&options).unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
        assert!(error.contains("apt-get install postgresql"), "{error}");
    }

    #[test]
    fn a_bad_setting_is_an_error_with_the_servers_words() {
        let options = ClusterOptions {
            settings: vec![("no_such_setting".to_owned(), "1".to_owned())],
            ..ClusterOptions::default()
        };
        let error = Cluster::start(&options).unwrap_err().to_string();
        assert!(error.contains("no_such_setting"), "{error}");
    }
}
