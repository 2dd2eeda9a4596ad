//! Faults for which a network and mounts of our own are needed: `make faults` runs these tests in namespaces.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    bank::{Bank, rules},
    support::{
        Endpoint,
        dba::Dba,
        fragile::Fragile,
        installed, let_pass,
        link::{HERE, Link, THERE},
        proxy::Proxy,
        server::newest_version,
        wait_for,
        wire::Client,
    },
};

use super::{SOON, logged, works};

/// A server on this host, and a proxy on another one.
fn apart(link: &Link, more: &str) -> (Fragile, Proxy) {
    let server = Fragile::start(newest_version(), &[("listen_addresses", "*")]);
    let access = server.data_dir().join("pg_hba.conf");
    let known = fs::read_to_string(&access).unwrap();
    fs::write(&access, format!("{known}host all all {THERE}/32 trust\n")).unwrap();
    Client::connect(&server.endpoint()).run("SELECT pg_reload_conf()");
    let from_there = server.endpoint().at(HERE, server.endpoint().port);
    let proxy = Proxy::on_another_host(&from_there, THERE, &link.other_host(), more);
    (server, proxy)
}

/// A bank whose network takes 100 ms there and back and loses packets: books balance, and limits are kept.
#[test]
#[ignore = "needs a network of its own: make faults"]
fn in_a_namespace_a_bank_balances_on_a_network_that_is_slow_and_loses_packets() {
    let link = Link::start();
    let limits = "idle = { rollback = \"300ms\" }\nstalled = { rollback = \"300ms\" }";
    let (server, proxy) = apart(&link, "");
    let from_there = server.endpoint().at(HERE, server.endpoint().port);
    proxy.change_rules(&rules(&from_there, limits));
    for (delay, loss) in [(50, 0), (10, 3)] {
        link.set(&format!("delay {delay}"));
        link.set(&format!("loss {loss}"));
        let database = format!("bank_{delay}");
        Client::connect(&server.endpoint()).run(&format!("CREATE DATABASE {database}"));
        let bank = Endpoint {
            database: database.clone(),
            ..server.endpoint()
        };
        let through = Endpoint {
            database,
            ..proxy.endpoint().clone()
        };
        let more = ["--faults", "--seconds", "15"];
        Bank::open("rollback", &bank, &through, &more).report();
    }
    works(&proxy, 10);
}

/// A client's host that is gone: its transaction ends at its limit, and its session when nothing has answered for a minute
/// and the probes after it.
#[test]
#[ignore = "needs a network of its own: make faults"]
fn in_a_namespace_a_client_whose_host_is_gone_is_noticed() {
    let link = Link::start();
    let (server, proxy) = apart(&link, "");
    set_probes(&link);
    let mut client = Client::connect(proxy.endpoint());
    client.begin("INSERT INTO t VALUES (2, 'late')");
    let pid = client.server_pid();
    let mut dba = Dba::new(&server.endpoint());
    // What was received is confirmed a moment later.
    let_pass(Duration::from_secs(1));
    link.set(&format!("silent {}", proxy.endpoint().port));
    proxy.change_rules(SOON);
    proxy.rolled_back(pid);
    assert_eq!(dba.locked_relations(pid), "0");
    // The first probe comes after a minute.
    let_pass(Duration::from_secs(55));
    wait_for("the end of the server's process", || {
        (dba.state(pid) == "gone").then_some(())
    });
    logged(&proxy, &["session closed", "client_io", "timed out"]);
    assert!(!dba.sees_row(2));
    link.set("silent 0");
    works(&proxy, 10);
}

/// The server's host that is gone: clients that wait hear of it, and are served again when it is back.
#[test]
#[ignore = "needs a network of its own: make faults"]
fn in_a_namespace_a_server_whose_host_is_gone_is_noticed() {
    let link = Link::start();
    let (server, proxy) = apart(&link, "");
    set_probes(&link);
    let mut idle = Client::connect(proxy.endpoint());
    idle.begin("INSERT INTO t VALUES (2, 'lost')");
    let_pass(Duration::from_secs(1));
    link.set(&format!("silent {}", server.endpoint().port));
    // The first probe comes after a minute.
    let_pass(Duration::from_secs(55));
    let heard = idle.until_closed();
    assert!(heard.ends_with("closed"), "{heard}");
    logged(&proxy, &["session closed", "server_io", "timed out"]);
    link.set("silent 0");
    proxy.change_rules(SOON);
    works(&proxy, 10);
}

/// Has probes on the other host follow each other within a second, and what is not confirmed be given up after some: Linux's
/// own settings take a quarter of an hour. The minute before the first probe is pgidle's.
fn set_probes(link: &Link) {
    let [program, namespace] = link.other_host();
    let set = "cd /proc/sys/net/ipv4; echo 1 >tcp_keepalive_intvl; echo 3 >tcp_keepalive_probes; echo 5 >tcp_retries2";
    let set = Command::new(program)
        .args([namespace, "sh", "-c", set])
        .status();
    assert!(set.unwrap().success());
}

/// A file system in memory, of so many KiB.
fn mount(folder: &Path, kib: u32) {
    const MOUNT: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
flags = 32 if sys.argv[3] == 'again' else 0
if libc.mount(b'none', sys.argv[1].encode(), b'tmpfs', flags, sys.argv[2].encode()) != 0:
    raise OSError(ctypes.get_errno(), 'mount; run `make faults`')
";
    let is_one = fs::read_to_string("/proc/self/mounts").unwrap();
    let again = is_one.contains(folder.to_str().unwrap());
    let mounted = Command::new(installed("python").join("bin/python"))
        .args([
            "-c",
            MOUNT,
            folder.to_str().unwrap(),
            &format!("size={kib}k,mode=777"),
        ])
        .arg(if again { "again" } else { "new" })
        .status();
    assert!(mounted.unwrap().success());
}

#[test]
#[ignore = "needs mounts of its own: make faults"]
fn in_a_namespace_a_full_disk_of_the_audit_holds_nobody_up_and_costs_no_line_when_there_is_room_again()
 {
    let server = Fragile::start(newest_version(), &[]);
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), 16);
    let limit = ["--idle-limit", "300ms", "--action", "rollback"];
    let proxy = Proxy::in_folder(&server.endpoint(), folder, &[], &limit);
    let mut client = Client::connect(proxy.endpoint());
    let mut count = 0;
    wait_for("a full disk", || {
        client.run("BEGIN; SELECT 'some text that takes its place in the audit'");
        client.run("COMMIT");
        count += 1;
        let log = proxy.log();
        let full = log.contains("audit file cannot be written") && log.contains("No space left");
        full.then_some(())
    });
    for _ in 0..100 {
        client.run("BEGIN");
        client.run("COMMIT");
    }
    client.begin("INSERT INTO t VALUES (2, 'late')");
    logged(&proxy, &["was rolled back"]);
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    mount(proxy.audit_file().parent().unwrap(), 4096);
    logged(&proxy, &["audit file can be written again"]);
    // The last transaction is the one that was rolled back.
    wait_for("every line", || {
        let lines = proxy.audit();
        let finished = lines.iter().filter(|line| line["event"] == "transaction");
        (finished.count() >= count + 101).then_some(())
    });
    works(&proxy, 10);
}

#[test]
#[ignore = "needs mounts of its own: make faults"]
fn in_a_namespace_a_full_disk_of_temporary_files_is_the_servers_error_and_no_more() {
    const SORT: &str = "SELECT count(*) FROM (SELECT i FROM generate_series(1, 300000) i ORDER BY md5(i::text) OFFSET 1) s";
    let server = Fragile::start(newest_version(), &[]);
    let folder = server.data_dir().with_file_name("tiny");
    fs::create_dir(&folder).unwrap();
    mount(&folder, 1024);
    // It must belong to the server's user, who makes a folder of its own in there.
    let inside = folder.join("space");
    let mut dba = Client::connect(&server.endpoint());
    dba.run(&format!(
        "COPY (SELECT) TO PROGRAM 'mkdir {}'",
        inside.display()
    ));
    dba.run(&format!(
        "CREATE TABLESPACE tiny LOCATION '{}'",
        inside.display()
    ));
    let proxy = Proxy::with_rules(&server.endpoint(), SOON);
    let fails = |client: &mut Client| {
        client.run("SET temp_tablespaces = 'tiny'; SET work_mem = '64kB'");
        client.at_once(&[
            "BEGIN",
            "INSERT INTO t VALUES (2, 'late')",
            "SAVEPOINT a",
            SORT,
        ])
    };
    let mut direct = Client::connect(&server.endpoint());
    let natively = fails(&mut direct);
    assert_eq!(natively, "T / E 53100 / Z E");
    drop(direct);
    let mut client = Client::connect(proxy.endpoint());
    assert_eq!(fails(&mut client), natively);
    proxy.rolled_back(client.server_pid());
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    client.run("SET work_mem = '1GB'");
    assert_eq!(client.value(SORT), "299999");
    works(&proxy, 10);
    // A file system that is in use cannot be left behind.
    drop((client, proxy, dba, server));
}
