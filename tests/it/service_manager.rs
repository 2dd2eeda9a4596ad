//! What systemd is told, by a real datagram socket, and what it says of the unit.

use std::{fs, os::unix::net::UnixDatagram, process::Command};

use nix::sys::signal::Signal;

use crate::support::{
    PATIENCE, in_repository,
    proxy::{Proxy, address},
    server::newest,
    wire::Client,
};

/// The next message that says this.
fn told(socket: &UnixDatagram, wanted: &str) -> String {
    let mut message = [0; 4096];
    loop {
        let length = socket.recv(&mut message).expect("a message in time");
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        if message.lines().any(|line| line.starts_with(wanted)) {
            return message;
        }
    }
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let mut values = message
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values
        .next()
        .unwrap_or_else(|| panic!("no {name}: {message}"))
}

#[test]
fn systemd_is_told_when_it_is_ready_reloads_and_ends() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let settings = folder.path().join("pgidle.toml");
    fs::write(&settings, "drain_timeout = '1min'").unwrap();
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut proxy = Proxy::in_folder(
        &database,
        folder,
        &["env", &variable],
        &["--config", settings.to_str().unwrap()],
    );
    let ready = told(&socket, "READY=1");
    let expected = format!(
        "listens at {}, leads to {}",
        address(proxy.endpoint()),
        address(&database)
    );
    assert_eq!(field(&ready, "STATUS"), expected);

    let mut last = 0;
    for (text, status) in [
        ("drain_timeout = '2min'", expected.clone()),
        (
            "nonsense = 1",
            format!(
                "{expected}; not reloaded: {}:1: nonsense: unknown key",
                settings.display()
            ),
        ),
    ] {
        fs::write(&settings, text).unwrap();
        proxy.signal(Signal::SIGHUP);
        let reloading = told(&socket, "RELOADING=1");
        let at: u64 = field(&reloading, "MONOTONIC_USEC").parse().unwrap();
        assert!(at > last, "{reloading}");
        last = at;
        let ready = told(&socket, "READY=1");
        assert!(field(&ready, "STATUS").starts_with(&status), "{ready}");
    }

    let mut writer = Client::connect(proxy.endpoint());
    writer.run("BEGIN");
    proxy.signal(Signal::SIGTERM);
    let stopping = told(&socket, "STOPPING=1");
    assert_eq!(field(&stopping, "EXTEND_TIMEOUT_USEC"), "135000000");
    writer.run("COMMIT");
    assert!(proxy.exit_status().success());
}

/// What a program prints, which must succeed.
fn printed(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"));
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {printed}");
    printed
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_gives_little_away() {
    let unit = in_repository("config/pgidle.service");
    let mut security = Command::new("systemd-analyze");
    // In tenths: an exposure of 2.0 at most.
    security
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(&unit);
    let exposure = printed(&mut security);
    assert!(exposure.contains("Overall exposure level"), "{exposure}");

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("pgidle.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(
        &copy,
        text.replace("/usr/bin/pgidle", env!("CARGO_BIN_EXE_pgidle")),
    )
    .unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&copy);
    let said = printed(&mut verify);
    // Before version 253, which has the type.
    let complaints = said
        .lines()
        .filter(|line| !line.ends_with("service type, ignoring: notify-reload"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
}
