//! A primary, and a standby that streams from it.

use std::{fs, process::Command};

use pgidle::demo::Cluster;

use super::{Endpoint, server::cluster, wait_for, wire::Client};

/// Two servers that nobody else uses.
pub(crate) struct Pair {
    pub(crate) primary: Option<Cluster>,
    pub(crate) standby: Cluster,
}

impl Pair {
    /// Starts a primary, takes a base backup of it, and starts a standby from that.
    pub(crate) fn start(version: u32) -> Self {
        Self::with_settings(version, &[])
    }

    /// The same, with settings for both servers; a standby takes no notice of what is for a primary.
    pub(crate) fn with_settings(version: u32, settings: &[(&str, &str)]) -> Self {
        let primary = cluster(version, settings, None);
        let access = primary.data_dir().join("pg_hba.conf");
        let trusting = fs::read_to_string(&access).unwrap();
        fs::write(
            &access,
            format!("host all prober all scram-sha-256\n{trusting}"),
        )
        .unwrap();
        let mut dba = Client::connect(&door(&primary));
        dba.run("SELECT pg_reload_conf()");
        dba.run("CREATE USER prober PASSWORD 'secret'");
        dba.run("CREATE USER reader; ALTER USER reader SET default_transaction_read_only = on");
        dba.run("SELECT pg_backup_start('standby', true)");
        let copy = primary.data_dir().with_file_name("backup");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&primary.data_dir(), &copy])
            .status();
        assert!(copied.unwrap().success());
        let label = dba.value("SELECT labelfile FROM pg_backup_stop(false)");
        fs::write(copy.join("backup_label"), label).unwrap();
        fs::write(copy.join("standby.signal"), "").unwrap();
        fs::remove_file(copy.join("postmaster.pid")).unwrap();
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port());
        let settings = [&[("primary_conninfo", from.as_str())], settings].concat();
        let standby = cluster(version, &settings, Some(copy));
        wait_for("a standby that streams", || {
            let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            (dba.value(streams) == "1").then_some(())
        });
        Self {
            primary: Some(primary),
            standby,
        }
    }

    /// Where the primary listens, while there is one.
    pub(crate) fn primary(&self) -> Endpoint {
        door(self.primary.as_ref().expect("a primary"))
    }

    /// Where the standby listens.
    pub(crate) fn standby(&self) -> Endpoint {
        door(&self.standby)
    }
}

/// Where a server listens.
pub(crate) fn door(cluster: &Cluster) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: cluster.port(),
        database: "postgres".to_owned(),
    }
}
