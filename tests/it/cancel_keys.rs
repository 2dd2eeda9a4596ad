//! Keys for cancelling: one that names no session costs its own connection and nothing else, however long it is, and none
//! is written down anywhere.

use std::{fs, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{cancel_request, query, untagged},
    keys::Keys,
    program::psql,
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

/// How long the secrets are: as the protocol has them (4 bytes, or up to 256 from 3.2 on), and as it has them not.
const LENGTHS: [usize; 11] = [4, 5, 31, 32, 255, 256, 0, 1, 3, 257, 1000];

/// Asks to cancel by a key, and waits for the end of the connection.
fn ask(door: &Endpoint, key: &[u8]) {
    let mut canceller = Client::silent(door);
    canceller.send(&cancel_request(key));
    let answer = canceller.until_closed();
    assert!(
        answer == "closed",
        "a cancel request has no answer: {answer}"
    );
}

/// A client whose statement runs.
fn running(door: &Endpoint, dba: &mut Dba) -> Client {
    let mut client = Client::connect(door);
    client.send(&query("SELECT pg_sleep(600)"));
    wait_for("a running statement", || {
        (dba.state(client.server_pid()) == "active").then_some(())
    });
    client
}

/// Keys that are almost this one.
fn wrong(key: &[u8]) -> Vec<Vec<u8>> {
    let (pid, secret) = key.split_at(4);
    let changed = |at: usize| {
        let mut key = key.to_vec();
        key[at] ^= 1;
        key
    };
    let mut keys: Vec<_> = (3..key.len()).step_by(50).map(changed).collect();
    keys.extend([
        changed(key.len() - 1),
        [key, b"\0"].concat(),
        [key, secret, b"x"].concat(),
        [pid, &vec![0; secret.len() + 1]].concat(),
        [pid, &[secret, &[b'x'; 8000]].concat()].concat(),
    ]);
    if let Some((_, shorter)) = secret.split_last() {
        let (_, front) = secret.split_first().unwrap();
        keys.extend([pid.to_vec(), [pid, &secret[..shorter.len()]].concat()]);
        keys.push([pid, front].concat());
    }
    keys
}

#[test]
fn a_key_of_any_length_names_its_own_session_and_no_other() {
    on_every_server(|server| {
        let database = server.database();
        let secrets = LENGTHS.iter().enumerate().map(|(index, &length)| {
            let first = u8::try_from(index).unwrap();
            (first..=255).cycle().take(length).collect()
        });
        let way = Keys::open(&database, secrets.collect());
        let proxy = Proxy::start(way.endpoint(), &[]);
        let mut dba = Dba::new(&database);
        let mut clients: Vec<_> = LENGTHS
            .iter()
            .map(|_| running(proxy.endpoint(), &mut dba))
            .collect();
        let keys: Vec<_> = clients
            .iter()
            .map(|client| client.backend_key.clone())
            .collect();
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(key.len(), 4 + LENGTHS[index]);
            for key in wrong(key) {
                ask(proxy.endpoint(), &key);
            }
            // Another's secret, with the process id of this one.
            for other in keys.iter().filter(|other| *other != key) {
                ask(proxy.endpoint(), &[&key[..4], &other[4..]].concat());
            }
        }
        assert_eq!(way.hits(), 0, "a wrong key has named a session");
        for (index, key) in keys.iter().enumerate() {
            ask(proxy.endpoint(), key);
            assert_eq!(clients[index].until_ready(), "T / E 57014 / Z I");
            assert_eq!(way.hits(), index + 1);
            for later in &clients[index + 1..] {
                assert_eq!(dba.state(later.server_pid()), "active");
            }
        }
    });
}

/// What is no whole key ends its connection too.
#[test]
fn a_request_without_a_whole_process_id_is_refused() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    for key in [&b""[..], b"\0", b"\0\0\0"] {
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(key));
        assert_eq!(canceller.until_closed(), "E FATAL 08P01 / closed");
    }
    // Longer than a first packet may be.
    let mut canceller = Client::silent(proxy.endpoint());
    let long = [&80_877_102_u32.to_be_bytes()[..], &[7; 20_000]].concat();
    canceller.try_send(&untagged(&long)).ok();
    assert!(canceller.until_closed().ends_with("closed"));
    assert_eq!(Client::connect(proxy.endpoint()).value("SELECT 1"), "1");
}

#[test]
fn the_key_of_a_session_that_is_over_names_none() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut dba = Dba::new(&database);
        let gone = Client::connect(proxy.endpoint());
        let (pid, old) = (gone.server_pid(), gone.backend_key.clone());
        drop(gone);
        wait_for("the end of a session", || {
            (dba.state(pid) == "gone").then_some(())
        });
        let mut client = running(proxy.endpoint(), &mut dba);
        let new = client.backend_key.clone();
        for key in [
            old.clone(),
            [&old[..4], &new[4..]].concat(),
            [&new[..4], &old[4..]].concat(),
        ] {
            ask(proxy.endpoint(), &key);
        }
        assert_eq!(dba.state(client.server_pid()), "active");
        ask(proxy.endpoint(), &new);
        assert_eq!(client.until_ready(), "T / E 57014 / Z I");
    });
}

/// Someone tries keys as fast as can be: no statement is hit, no limit is missed, and nothing is left of it.
#[test]
fn a_flood_of_wrong_keys_costs_nobody_anything() {
    let database = newest().database();
    let proxy = Proxy::with_rules(
        &database,
        "[[rule]]\nname = 'all'\nidle = { rollback = '150ms' }",
    );
    let mut dba = Dba::new(&database);
    let mut client = running(proxy.endpoint(), &mut dba);
    let mut other = Client::connect(proxy.endpoint());
    let (memory, descriptors) = (proxy.memory_kib(), proxy.descriptors());
    let key = client.backend_key.clone();
    let flooding: Vec<_> = (0..4_u32)
        .map(|thread| {
            let (door, key) = (proxy.endpoint().clone(), key.clone());
            thread::spawn(move || {
                for number in 0..250_u32 {
                    let secret = (number * 4 + thread).to_be_bytes();
                    let length = key.len() - 4;
                    let secret: Vec<u8> = secret.into_iter().cycle().take(length).collect();
                    if secret != key[4..] {
                        ask(&door, &[&key[..4], &secret].concat());
                    }
                }
            })
        })
        .collect();
    while flooding.iter().any(|thread| !thread.is_finished()) {
        let before = proxy.incidents().len();
        other.begin("INSERT INTO t VALUES (2, 'two')");
        wait_for("the rollback", || {
            (proxy.incidents().len() > before).then_some(())
        });
        assert_eq!(other.query("COMMIT"), "E 25P03 / Z I");
        assert_eq!(other.value("SELECT 1"), "1");
    }
    for thread in flooding {
        thread.join().unwrap();
    }
    assert_eq!(dba.state(client.server_pid()), "active");
    wait_for("the end of what the flood has opened", || {
        (proxy.descriptors() <= descriptors).then_some(())
    });
    let grown = proxy.memory_kib().saturating_sub(memory);
    assert!(grown < 20_000, "grown by {grown} KiB");
    ask(proxy.endpoint(), &key);
    assert_eq!(client.until_ready(), "T / E 57014 / Z I");
}

/// What a secret begins with: as text, in hexadecimal, in decimal, in base64.
const SECRET: [&str; 4] = [
    "zqsecret",
    "7a71736563726574",
    "122, 113, 115, 101, 99",
    "enfzzwnyzx",
];

/// The first line that shows a key, in any form.
fn shown(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let has_key = |line: &&str| SECRET.iter().any(|form| line.contains(form));
    text.lines().find(has_key).map(str::to_owned)
}

fn has_no_key(what: &str, text: &str) {
    assert_eq!(shown(text), None, "{what} shows a key");
}

#[test]
fn a_key_is_found_in_every_form() {
    let key = b"zqsecret000000000000000000000001";
    let hexadecimal: String = key.iter().map(|byte| format!("{byte:02X}")).collect();
    for form in [
        format!("{{\"key\":\"{}\"}}", key.escape_ascii()),
        format!("{key:?}"),
        format!("\n\\x{hexadecimal}"),
        "enFzZWNyZXQwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDE=".to_owned(),
    ] {
        assert!(shown(&form).is_some(), "{form}");
    }
    assert_eq!(shown("CancelKey { pid: 7, .. }"), None);
}

#[test]
fn no_key_is_written_anywhere() {
    let database = newest().database();
    let secrets = (0..20).map(|number| format!("zqsecret{number:024}").into_bytes());
    let way = Keys::open(&database, secrets.collect());
    let folder = tempfile::tempdir().unwrap();
    let (settings, records) = (
        folder.path().join("pgidle.toml"),
        folder.path().join("records"),
    );
    let rules = "[[rule]]\nname = 'all'\nage = { rollback = '300ms', terminate = '1h' }";
    fs::write(&settings, rules).unwrap();
    let mut proxy = Proxy::in_folder(
        way.endpoint(),
        tempfile::tempdir().unwrap(),
        &["env", "PGIDLE_LOG=trace"],
        &[
            "--config",
            settings.to_str().unwrap(),
            "--record",
            records.to_str().unwrap(),
        ],
    );
    // pgidle's own cancel, the client's, and one by a wrong key that begins in the same way.
    let mut client = Client::connect(proxy.endpoint());
    client.send(&[query("BEGIN"), query("SELECT pg_sleep(600)")].concat());
    assert_eq!(client.until_ready(), "C BEGIN / Z T");
    assert_eq!(client.until_ready(), "T / E 25P04 / Z E");
    assert_eq!(way.hits(), 1);
    client.run("ROLLBACK");
    client.send(&query("SELECT pg_sleep(600)"));
    client.hears_nothing_for(Duration::from_millis(200));
    ask(proxy.endpoint(), b"\0\0\0\x01zqsecret of nobody");
    ask(proxy.endpoint(), &client.backend_key);
    assert_eq!(client.until_ready(), "T / E 57014 / Z I");
    let mut session = Client::connect(proxy.endpoint());
    session.begin("INSERT INTO t VALUES (2, 'two')");
    let console = Endpoint {
        database: "pgidle".to_owned(),
        ..proxy.endpoint().clone()
    };
    for topic in ["SESSIONS", "TRANSACTIONS", "LOCKS", "INCIDENTS", "CONFIG"] {
        has_no_key(topic, &psql(&console, &[&format!("SHOW {topic}")]));
    }
    proxy.signal(Signal::SIGTERM);
    proxy.exit_status();
    let log = proxy.log();
    assert!(log.contains("\"DEBUG\""), "{log}");
    has_no_key("the log", &log);
    let audit = fs::read_to_string(proxy.audit_file()).unwrap();
    assert!(audit.contains("rolled_back"), "{audit}");
    has_no_key("the audit", &audit);
    let files: Vec<_> = fs::read_dir(&records).unwrap().collect();
    assert!(files.len() >= 2, "{files:?}");
    let mut cancels = 0;
    for file in files {
        let path = file.unwrap().path();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        cancels += text.matches("cancel").count();
        has_no_key(&path.display().to_string(), &text);
    }
    assert!(cancels > 0, "no cancel was recorded");
}

#[test]
fn a_key_that_cannot_be_passed_on_is_not_written_either() {
    let database = newest().database();
    let proxy = Proxy::by_file_alone(&database, "[upstream]\naddress = '127.0.0.1:1'");
    ask(proxy.endpoint(), b"\0\0\0\x01zqsecret of nobody");
    wait_for("a line in the log", || {
        let log = proxy.log();
        log.contains("a cancel request could not be sent")
            .then_some(())
    });
    has_no_key("the log", &proxy.log());
}
