//! What the tests stand on: real servers, the built proxy, a raw protocol client, drivers, and a DBA who judges.

pub(crate) mod breakable;
pub(crate) mod certificates;
pub(crate) mod dba;
pub(crate) mod driver;
pub(crate) mod fragile;
pub(crate) mod frontend;
pub(crate) mod keyless;
pub(crate) mod keys;
pub(crate) mod link;
pub(crate) mod observed;
pub(crate) mod pair;
pub(crate) mod pooler;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod realm;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod slow;
pub(crate) mod valve;
pub(crate) mod wire;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything that must happen may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a PostgreSQL or a proxy is reached, as libpq has it: a host name, or the folder of a Unix socket.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
}

impl Endpoint {
    /// The same database through another door.
    pub(crate) fn at(&self, host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            database: self.database.clone(),
        }
    }

    /// The path of the Unix socket, where the host is a folder.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let name = format!(".s.PGSQL.{}", self.port);
        self.host
            .starts_with('/')
            .then(|| Path::new(&self.host).join(name))
    }

    /// The environment variables that libpq, and the drivers' script, connect by.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGDATABASE", self.database.clone()),
            ("PGUSER", "postgres".to_owned()),
        ]
    }
}

/// Asks again until there is an answer, and fails when there is none in time.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Lets time pass in which nothing may happen: the only wait that has no condition to wait for.
pub(crate) fn let_pass(time: Duration) {
    thread::sleep(time);
}

/// Ends a process that a test has started and that did not end by itself.
pub(crate) fn end(child: &mut Child) {
    let pipe = child.stdin.take();
    if matches!(child.try_wait(), Ok(None)) {
        drop(child.kill());
        drop(child.wait());
    }
    if let Some(mut pipe) = pipe {
        // Tells the watcher of a leash that there is nobody left to kill.
        drop(pipe.write_all(b"ended\n"));
    }
}

/// A program that is killed when the pipe at its standard input ends: even when the tests are killed.
pub(crate) fn leashed(program: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", LEASH, program])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// Becomes the program, beside a shell that waits for the end of the pipe.
const LEASH: &str = r#"
exec 3<&0 </dev/null
( { read -r _ || kill -KILL $$; } <&3 >/dev/null 2>&1 & )
exec 3<&-
exec "$0" "$@"
"#;

/// A file below the repository's folder.
pub(crate) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Something that `scripts/setup.sh` makes, by its real path: the servers' user cannot look into every home.
pub(crate) fn installed(path: &str) -> PathBuf {
    let path = in_repository(".cache").join(path);
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}; run `make setup`", path.display()))
}
