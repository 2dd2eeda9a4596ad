//! Where clients connect: one process for one address, unless a new one is to take over from an old one.

use std::{fs, os::unix::fs::FileTypeExt as _, path::Path};

use nix::sys::signal::Signal;

use crate::support::{
    dba::Dba,
    program::pgidle,
    proxy::{Proxy, address},
    server::newest,
    wait_for,
    wire::Client,
};

/// Says what a process that must be refused has written, with its exit status.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = pgidle(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), errors)
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let database = newest().database();
    for handing_over in [&["--reuse-port"][..], &[]] {
        let first = Proxy::start(&database, handing_over);
        let taken = address(first.endpoint());
        let (status, said) = refused(&["serve", "--listen", &taken]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("Address already in use"), "{said}");
        Client::connect(first.endpoint()).run("SELECT 1");
    }
    let first = Proxy::start(&database, &[]);
    let taken = address(first.endpoint());
    let (status, said) = refused(&["serve", "--reuse-port", "--listen", &taken]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("was not started with --reuse-port"), "{said}");
}

#[test]
fn a_new_process_takes_over_a_port() {
    let database = newest().database();
    let mut first = Proxy::start(&database, &["--reuse-port"]);
    let (port, upstream) = (address(first.endpoint()), address(&database));
    let mut old = Client::connect(first.endpoint());
    old.run("BEGIN");
    let second = Proxy::start_with(
        &database,
        &["--listen", &port, "--upstream", &upstream],
        &["--reuse-port"],
    );
    first.signal(Signal::SIGTERM);
    wait_for("the drain", || {
        first.log().contains("draining").then_some(())
    });
    old.run("SELECT 1");
    wait_for("the new process to have the port alone", || {
        (0..5)
            .all(|_| {
                let mut client = Client::connect(first.endpoint());
                client.run("BEGIN");
                client.run("ROLLBACK");
                second
                    .audit()
                    .iter()
                    .any(|line| line["server_pid"] == client.server_pid())
            })
            .then_some(())
    });
    assert_eq!(old.query("COMMIT"), "C COMMIT / Z I");
    assert!(first.exit_status().success());
}

#[test]
fn a_new_process_takes_over_a_socket_and_the_old_one_leaves_it() {
    let database = newest().database();
    let mut first = Proxy::on_socket(&database, &["--reuse-port"]);
    let (socket, upstream) = (address(first.endpoint()), address(&database));
    let listen = ["--listen", "127.0.0.1:0", "--listen", &socket];
    let (status, said) = refused(&["serve", "--listen", &socket]);
    assert_eq!(status, Some(1), "{said}");
    let second = Proxy::start_with(
        &database,
        &[&listen[..], &["--upstream", &upstream, "--reuse-port"]].concat(),
        &[],
    );
    first.signal(Signal::SIGTERM);
    assert!(first.exit_status().success());
    Client::connect(first.endpoint()).run("SELECT 1");
    drop(second);
}

#[test]
fn only_a_socket_that_nobody_serves_is_replaced() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("unix:{}", path.display());
    fs::write(&path, "precious").unwrap();
    let (status, said) = refused(&["serve", "--listen", &listen]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    let upstream = address(&database);
    let addresses = [
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &listen,
        "--upstream",
        &upstream,
    ];
    let is_socket = |path: &Path| fs::metadata(path).unwrap().file_type().is_socket();
    drop(Proxy::start_with(&database, &addresses, &[]));
    assert!(is_socket(&path), "a killed process leaves it");
    let mut again = Proxy::start_with(&database, &addresses, &[]);
    again.signal(Signal::SIGTERM);
    assert!(again.exit_status().success());
    assert!(!path.exists());
}

#[test]
fn pgidle_is_not_its_own_server() {
    for (listen, upstream) in [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0:1", "localhost:1"),
        ("[::1]:1", "[::]:1"),
        ("127.0.0.1:2,127.0.0.1:1", "192.0.2.1:1,127.0.0.1:1"),
        ("unix:/no/such/socket", "unix:/no/such/socket"),
    ] {
        let (status, said) = refused(&["serve", "--listen", listen, "--upstream", upstream]);
        assert_eq!(status, Some(2), "{said}");
        assert!(
            said.starts_with("pgidle: --upstream: ") && said.contains("itself listens"),
            "{said}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgidle.toml");
    let file = path.to_str().unwrap();
    fs::write(&path, "[listen]\naddresses = [\"0.0.0.0:5432\"]\n[upstream]\n# Here.\naddress = \"localhost:5432\"\n").unwrap();
    for command in ["check", "serve"] {
        let (status, said) = refused(&[command, "--config", file]);
        assert_eq!(status, Some(2), "{said}");
        assert!(
            said.contains(&format!("{file}:5: upstream.address: ")),
            "{said}"
        );
    }
}

#[test]
fn a_reload_says_what_needs_a_restart_and_leads_to_no_loop() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgidle.toml");
    let write = |listen: &str, upstream: &str, rest: &str| {
        let text = format!("[listen]\n{listen}\n[upstream]\naddress = \"{upstream}\"\n{rest}");
        fs::write(&path, text).unwrap();
    };
    let upstream = address(&database);
    write("addresses = [\"127.0.0.1:0\"]\nworkers = 1", &upstream, "");
    let file = path.to_str().unwrap();
    let proxy = Proxy::start_with(&database, &[], &["--config", file]);
    assert!(proxy.reload());
    assert!(!proxy.log().contains("a restart is needed"));
    write(
        "addresses = [\"127.0.0.1:1\"]\nreuse_port = true\nworkers = 2\nproxy_protocol = false",
        &upstream,
        "[[rule]]\nname = \"new\"\nidle = { rollback = \"200ms\" }",
    );
    assert!(proxy.reload());
    for expected in [
        "a restart is needed for the new listen.addresses, listen.reuse_port, listen.workers",
        "\"changed\":\"rule \\\"new\\\" added\"",
        "listen.workers from 1 to 2",
    ] {
        assert!(proxy.log().contains(expected), "{}", proxy.log());
    }
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    let incident = proxy.rolled_back(client.server_pid());
    assert_eq!(incident["rule"], "new", "the rest of the file is in force");

    // Of the running listeners, not of those in the file, must the server be another.
    write(
        "addresses = [\"127.0.0.1:1\"]",
        &address(proxy.endpoint()),
        "",
    );
    assert!(!proxy.reload());
    assert!(proxy.log().contains("itself listens"), "{}", proxy.log());
    Dba::new(proxy.endpoint()).value("SELECT 1");
}

#[test]
fn an_audit_file_without_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgidle.toml");
    let missing = folder.path().join("no/audit.jsonl");
    let file = path.to_str().unwrap();
    fs::write(
        &path,
        format!("[audit]\n# Here.\nfile = \"{}\"\n", missing.display()),
    )
    .unwrap();
    for command in ["check", "serve"] {
        let (status, said) = refused(&[command, "--config", file]);
        assert_eq!(status, Some(2), "{said}");
        let expected = format!(
            "{file}:3: audit.file: {}: No such file",
            folder.path().join("no").display()
        );
        assert!(said.contains(&expected), "{said}");
    }
    let (status, said) = refused(&["serve", "--audit", &format!("{file}/audit.jsonl")]);
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("--audit: ") && said.contains("is no folder"),
        "{said}"
    );
}

/// The first line of the log, as its fields.
fn first_line(proxy: &Proxy) -> serde_json::Value {
    serde_json::from_str(proxy.log().lines().next().unwrap()).unwrap()
}

#[test]
fn the_first_line_says_what_runs() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let line = first_line(&proxy);
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"INFO".into(), &"listening".into())
    );
    assert_eq!(line["address"], address(proxy.endpoint()));
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        line["upstream"],
        format!("{} (answers)", address(&database))
    );
    assert_eq!(line["audit"], proxy.audit_file().to_str().unwrap());
    assert_eq!(
        (&line["observer"], &line["http"]),
        (&"none".into(), &"none".into())
    );
    let rules = line["rules"].as_str().unwrap();
    assert!(rules.starts_with("observing only; "), "{rules}");
    assert!(rules.contains("; default: idle log 10s, "), "{rules}");

    // A server that is not there yet is no reason not to start.
    let nowhere = database.at("127.0.0.1", 1);
    let dsn = "host=db1 port=7 user=pgidle password=secret";
    let arguments = [
        "--idle-limit",
        "30s",
        "--action",
        "rollback",
        "--observer-dsn",
        dsn,
    ];
    let proxy = Proxy::start(&nowhere, &arguments);
    let line = first_line(&proxy);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["upstream"], "127.0.0.1:1 (does not answer)");
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("Connection refused"),
        "{line}"
    );
    assert_eq!(line["observer"], "pgidle@db1:7");
    let rules = line["rules"].as_str().unwrap();
    // No rule is reached after one for every session.
    let expected =
        "flags: idle rollback 30s, failed rollback 30s, stalled rollback 30s, age log 15min";
    assert!(
        rules.ends_with(expected) && !rules.contains("observing"),
        "{rules}"
    );
}
