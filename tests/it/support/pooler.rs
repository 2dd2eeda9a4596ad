//! PgBouncer between a proxy and its server: it gives clients keys of its own for cancelling.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
};

use nix::unistd::Uid;
use tempfile::TempDir;

use super::{Endpoint, end, leashed, wait_for};

/// A running PgBouncer.
pub(crate) struct Pooler {
    child: Child,
    endpoint: Endpoint,
    _folder: TempDir,
}

impl Pooler {
    /// Starts one before a database, in the mode `session` or `transaction`.
    pub(crate) fn start(database: &Endpoint, mode: &str) -> Self {
        Self::with_servers(database, mode, 20)
    }

    /// Starts one that has so many server connections.
    pub(crate) fn with_servers(database: &Endpoint, mode: &str, servers: u32) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = database.at("127.0.0.1", free.local_addr().unwrap().port());
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(file("users"), "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
             default_pool_size = {servers}\n",
            database.port,
            endpoint.port,
            file("users")
        );
        fs::write(file("pgbouncer.ini"), settings).unwrap();
        let mut command = leashed("/usr/sbin/pgbouncer");
        if Uid::effective().is_root() {
            // It does not run as root.
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(file("pgbouncer.ini"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("PgBouncer (`make setup` installs it)", || {
            TcpStream::connect((endpoint.host.as_str(), endpoint.port)).ok()
        });
        Self {
            child,
            endpoint,
            _folder: folder,
        }
    }

    /// The database through the pooler.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
