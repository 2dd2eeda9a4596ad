//! The PostgreSQL servers under test: one for each version and test run, started when first asked for, a database for
//! each test.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use pgidle::demo::{Cluster, ClusterOptions};

use super::{Endpoint, certificates::Certificates, installed, wire::Client};

/// Versions that pgidle is tested with, and the one that comes next, with which `make test-next` tests it.
const VERSIONS: [u32; 4] = [15, 16, 17, 18];
const NEXT: u32 = 19;

/// The versions that this run tests with, the oldest first.
pub(crate) fn versions() -> &'static [u32] {
    if is_next() { &[NEXT] } else { &VERSIONS }
}

fn is_next() -> bool {
    env::var_os("PGIDLE_TEST_NEXT").is_some()
}

/// Room for every test at once, and for what the promises speak of: replication and prepared transactions.
const SETTINGS: [(&str, &str); 5] = [
    // Where there is no IPv6, the server warns and goes on.
    ("listen_addresses", "127.0.0.1,::1"),
    ("max_connections", "300"),
    ("wal_level", "logical"),
    ("max_prepared_transactions", "20"),
    ("autovacuum", "off"),
];

/// Users who must prove who they are, or come with TLS or without; all others are trusted.
const ACCESS: &str = "\
host all scram_user all scram-sha-256
host all md5_user all md5
host all password_user all password
hostssl all cert_user all cert
hostssl all tls_user all trust
hostnossl all plain_user all trust
host all cert_user,tls_user,plain_user all reject
";

/// A running PostgreSQL. The cluster's watcher ends it with the test process, however that ends.
pub(crate) struct Server {
    cluster: Cluster,
    certificates: Certificates,
    databases: AtomicU32,
}

impl Server {
    /// The server of a version, started by whoever asks first.
    fn of(version: u32) -> &'static Self {
        static SERVERS: [OnceLock<Server>; VERSIONS.len()] = [const { OnceLock::new() }; _];
        let index = versions().iter().position(|&known| known == version);
        SERVERS[index.expect("a tested version")].get_or_init(|| Self::start(version))
    }

    /// A server of the oldest version that has no other databases, for what reads all of it.
    pub(crate) fn alone() -> Self {
        Self::start(versions()[0])
    }

    fn start(version: u32) -> Self {
        let cluster = cluster(version, &SETTINGS, None);
        let certificates = Certificates::make(&cluster.data_dir());
        let server = Self {
            cluster,
            certificates,
            databases: AtomicU32::new(0),
        };
        let access = server.cluster.data_dir().join("pg_hba.conf");
        let trusting = fs::read_to_string(&access).unwrap();
        fs::write(&access, format!("{ACCESS}{trusting}")).unwrap();
        let mut admin = Client::connect(&server.endpoint("postgres"));
        for statement in [
            "CREATE USER scram_user PASSWORD 'secret'",
            "CREATE USER password_user PASSWORD 'secret'",
            "SET password_encryption = md5",
            "CREATE USER md5_user PASSWORD 'secret'",
            "CREATE USER cert_user; CREATE USER tls_user; CREATE USER plain_user",
            "ALTER SYSTEM SET ssl_cert_file = '../tls/server.crt'",
            "ALTER SYSTEM SET ssl_key_file = '../tls/server.key'",
            "ALTER SYSTEM SET ssl_ca_file = '../tls/ca.crt'",
            "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()",
        ] {
            admin.run(statement);
        }
        server
    }

    fn endpoint(&self, database: &str) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".to_owned(),
            port: self.cluster.port(),
            database: database.to_owned(),
        }
    }

    /// The path of a PEM file, such as `ca.crt`: the server has `server.crt` and trusts `ca.crt`.
    pub(crate) fn pem(&self, name: &str) -> String {
        self.certificates.path(name)
    }

    /// The same database through the server's Unix socket.
    pub(crate) fn by_socket(&self, endpoint: &Endpoint) -> Endpoint {
        endpoint.at(self.cluster.socket_dir().to_str().unwrap(), endpoint.port)
    }

    /// Makes a database for one test, with a table `t (id int primary key, v text)` of one row.
    pub(crate) fn database(&self) -> Endpoint {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.endpoint(&format!("test_{number}"));
        Client::connect(&self.endpoint("postgres"))
            .run(&format!("CREATE DATABASE {}", endpoint.database));
        Client::connect(&endpoint)
            .run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')");
        endpoint
    }
}

/// Starts a server of a version: a new one, or a copy of a data directory.
pub(crate) fn cluster(
    version: u32,
    settings: &[(&str, &str)],
    copy_of: Option<PathBuf>,
) -> Cluster {
    let bin_dir = if version == NEXT {
        installed("next/bin")
    } else {
        installed(&format!(
            "servers/node_modules/postgresql-{version}/native/bin"
        ))
    };
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    Cluster::start(&ClusterOptions {
        bin_dir: Some(bin_dir),
        settings: settings.iter().map(owned).collect(),
        copy_of,
    })
    .unwrap_or_else(|error| panic!("PostgreSQL {version}: {error}"))
}

/// Runs a test on every version at once; the thread's name in a failure says which it was.
pub(crate) fn on_every_server(test: impl Fn(&'static Server) + Sync) {
    thread::scope(|scope| {
        let test = &test;
        for &version in versions() {
            thread::Builder::new()
                .name(format!("PostgreSQL {version}"))
                .spawn_scoped(scope, move || test(Server::of(version)))
                .unwrap();
        }
    });
}

/// The server that the programs of Debian's packages belong to.
pub(crate) fn oldest() -> &'static Server {
    Server::of(versions()[0])
}

/// The oldest version and the newest, for what takes long, or the only one.
pub(crate) fn oldest_and_newest() -> &'static [u32] {
    static ENDS: [u32; 2] = [VERSIONS[0], VERSIONS[VERSIONS.len() - 1]];
    if is_next() { &[NEXT] } else { &ENDS }
}

/// The server of the version that the programs in the path have (pg_dump and its like), for what these send to it: an older
/// one would not know all of that, and a newer one they refuse.
pub(crate) fn of_programs() -> &'static Server {
    let output = Command::new("pg_dump").arg("--version").output();
    let output = output.expect("pg_dump, which `make setup` installs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = said
        .split(|c: char| !c.is_ascii_digit())
        .find(|part| !part.is_empty());
    let major = major
        .and_then(|major| major.parse().ok())
        .expect("a version");
    Server::of(if versions().contains(&major) {
        major
    } else {
        newest_version()
    })
}

/// The newest version, for a server that nobody else uses.
pub(crate) fn newest_version() -> u32 {
    *versions().last().expect("a version")
}

/// The newest server, for what does not depend on its version.
pub(crate) fn newest() -> &'static Server {
    Server::of(newest_version())
}
