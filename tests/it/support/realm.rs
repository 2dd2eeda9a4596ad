//! A Kerberos realm of its own: a KDC on a loopback port, a user with a ticket, and a PostgreSQL that takes it.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use pgidle::demo::{Cluster, ClusterOptions};
use tempfile::TempDir;

use super::{Endpoint, end, leashed, wait_for, wire::Client};

/// The realm's name.
pub(crate) const REALM: &str = "PGIDLE.TEST";

/// The host that the server's keytab has, which no resolver knows: clients say by `hostaddr` where it is.
pub(crate) const HOST: &str = "db.pgidle.test";

/// A running KDC, and a server for the service `postgres` on [`HOST`]. The role `gss_user` has a ticket.
pub(crate) struct Realm {
    kdc: Child,
    cluster: Cluster,
    folder: TempDir,
}

impl Realm {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path());
        let run = |program: &str, arguments: &[&str]| tool(folder.path(), program, arguments, "");
        run("kdb5_util", &["create", "-s", "-r", REALM, "-P", "master"]);
        let kdc = leashed("/usr/sbin/krb5kdc")
            .arg("-n")
            .envs(environment(folder.path()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keytab = folder.path().join("keytab");
        let admin = |order: &str| run("kadmin.local", &["-r", REALM, "-q", order]);
        admin(&format!("addprinc -randkey postgres/{HOST}"));
        admin("addprinc -pw secret gss_user");
        admin(&format!("ktadd -k {} postgres/{HOST}", keytab.display()));
        let realm = Self {
            kdc,
            cluster: server(&keytab),
            folder,
        };
        let port = fs::read_to_string(realm.folder.path().join("port")).unwrap();
        wait_for("the KDC", || {
            TcpStream::connect(format!("127.0.0.1:{port}")).ok()
        });
        tool(realm.folder.path(), "kinit", &["gss_user"], "secret\n");
        realm
    }

    /// The server.
    pub(crate) fn database(&self) -> Endpoint {
        door(&self.cluster)
    }

    /// What libpq needs to authenticate as `gss_user`.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut set = environment(self.folder.path()).to_vec();
        set.push(("PGUSER", "gss_user".to_owned()));
        set.push(("PGHOST", HOST.to_owned()));
        set.push(("PGHOSTADDR", "127.0.0.1".to_owned()));
        set
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        end(&mut self.kdc);
    }
}

fn environment(folder: &Path) -> [(&'static str, String); 3] {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        ("KRB5_CONFIG", path("krb5.conf")),
        ("KRB5_KDC_PROFILE", path("kdc.conf")),
        ("KRB5CCNAME", format!("FILE:{}", path("ticket"))),
    ]
}

/// Writes the settings of the realm, with a port that is free.
fn configure(folder: &Path) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let here = folder.display();
    let client = format!(
        "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_canonicalize_hostname = false\n\
         rdns = false\nudp_preference_limit = 1\n[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n\
         [domain_realm]\n{HOST} = {REALM}\n[logging]\nkdc = FILE:{here}/kdc.log\n"
    );
    let kdc = format!(
        "[realms]\n{REALM} = {{\ndatabase_name = {here}/principal\nkey_stash_file = {here}/stash\n\
         kdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n}}\n"
    );
    for (name, text) in [
        ("krb5.conf", client),
        ("kdc.conf", kdc),
        ("port", port.to_string()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// Runs one of Kerberos' programs, which must succeed.
fn tool(folder: &Path, program: &str, arguments: &[&str], input: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment(folder))
        .env("PATH", format!("{path}:/usr/sbin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`"));
    // A program that asks nothing may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// Debian's PostgreSQL, which is built with GSSAPI; those of the other tests are not.
fn server(keytab: &Path) -> Cluster {
    let cluster = Cluster::start(&ClusterOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let owner = fs::metadata(cluster.data_dir()).unwrap();
    let own: PathBuf = cluster.data_dir().join("keytab");
    fs::copy(keytab, &own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&own, Some(owner.uid()), Some(owner.gid())).unwrap();
    let access = cluster.data_dir().join("pg_hba.conf");
    let trusting = fs::read_to_string(&access).unwrap();
    let gss = format!("host all gss_user all gss include_realm=0 krb_realm={REALM}\n{trusting}");
    fs::write(&access, gss).unwrap();
    let mut admin = Client::connect(&door(&cluster));
    admin.run("CREATE USER gss_user");
    admin.run(&format!(
        "ALTER SYSTEM SET krb_server_keyfile = '{}'",
        own.display()
    ));
    admin.run("SELECT pg_reload_conf()");
    cluster
}

fn door(cluster: &Cluster) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: cluster.port(),
        database: "postgres".to_owned(),
    }
}
