//! A throwaway PostgreSQL in a private temporary folder, for the demo, the tests and the benchmarks.
//!
//! Nothing of it outlives its owner, however that ends: see [`OwnedProcess`].

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::unistd::{Uid, User};

use super::owned_process::{OwnedProcess, POLL_INTERVAL, PrivateFolder};

/// Makes the data directory and becomes the server. `$1` is the folder of programs, `$2` a data directory to copy if there
/// is one, the rest are server settings.
const SCRIPT: &str = r#"
bin=$1 copied=$2
shift 2
if [ -n "$copied" ]; then
    cp -a "$copied" "$0/data"
else
    "$bin/initdb" -D "$0/data" -U postgres --auth=trust --no-locale --encoding=UTF8 --no-sync --no-instructions
fi && exec "$bin/postgres" -D "$0/data" "$@"
"#;

/// How often a starting server is looked at: for thirty seconds.
const START_POLLS: u32 = 1500;
/// How often a start is tried when another program takes the chosen port first.
const ATTEMPTS: u32 = 3;

/// What the throwaway server is made of.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The folder with `initdb` and `postgres`; searched for when `None`.
    pub bin_dir: Option<PathBuf>,
    /// Server settings, as `postgres -c name=value` takes them; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
    /// A data directory to copy, such as a base backup; `None` makes a new one.
    pub copy_of: Option<PathBuf>,
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
    /// The temporary folder cannot be made, or no process started in it.
    #[error("cannot start a process in a temporary folder")]
    Spawn(#[source] io::Error),
    /// No free port on the loopback interface.
    #[error("no free port on 127.0.0.1")]
    Port(#[source] io::Error),
    /// The server, or initdb before it, ended by itself.
    #[error("PostgreSQL did not start; the end of its log:\n{log}")]
    Exited {
        /// The last lines of its log.
        log: String,
    },
    /// The server did not become ready in time.
    #[error("PostgreSQL was not ready after {} s; the end of its log:\n{log}", (START_POLLS * POLL_INTERVAL).as_secs())]
    TimedOut {
        /// The last lines of its log.
        log: String,
    },
}

/// A running throwaway server, reached as user `postgres` without a password.
#[derive(Debug)]
pub struct Cluster {
    server: OwnedProcess,
    bin_dir: PathBuf,
    port: u16,
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
            match Self::try_start(&bin_dir, user.as_ref(), options) {
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
        options: &ClusterOptions,
    ) -> Result<Self, ClusterError> {
        let folder = PrivateFolder::new(user).map_err(ClusterError::Spawn)?;
        let port = free_port().map_err(ClusterError::Port)?;
        let copied = options.copy_of.as_deref();
        let mut arguments = [bin_dir, copied.unwrap_or_else(|| Path::new(""))]
            .map(|path| path.display().to_string())
            .to_vec();
        arguments.extend(server_arguments(port, folder.path(), &options.settings));
        let server = folder
            .spawn(SCRIPT, arguments)
            .map_err(ClusterError::Spawn)?;
        let mut cluster = Self {
            server,
            bin_dir: bin_dir.to_owned(),
            port,
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
        self.server.folder()
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.server.folder().join("data")
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
        self.server.pid()
    }

    /// Stops the server and removes everything, as dropping does.
    pub fn stop(self) {
        drop(self);
    }

    fn wait_until_ready(&mut self) -> Result<(), ClusterError> {
        let pid_file = self.data_dir().join("postmaster.pid");
        for _ in 0..START_POLLS {
            if self.server.has_exited() {
                return Err(ClusterError::Exited {
                    log: self.server.end_of_log(),
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
            log: self.server.end_of_log(),
        })
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

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// What `postgres` gets besides its data directory. Durability is off: nothing here is meant to last.
fn server_arguments(port: u16, folder: &Path, settings: &[(String, String)]) -> Vec<String> {
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
