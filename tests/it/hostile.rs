//! What a client, a server or a man between them may send that no honest one would. Each kind was a published hole in a
//! pooler or in PostgreSQL; SECURITY.md has the table. Nothing here harms a server: what is asked is whether pgidle keeps
//! its own promises.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::support::{
    Endpoint,
    frontend::{copy_data, gssenc_request, message, query, ssl_request, startup, untagged},
    program::python,
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

/// The answer of whoever listens there to bytes that may end the connection.
fn answer_of(endpoint: &Endpoint, bytes: &[u8]) -> String {
    let mut client = Client::silent(endpoint);
    client.send(bytes);
    client.until_closed()
}

fn still_serves(client: &mut Client) {
    assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
}

/// The first packet of a role, with parameters written by hand: names and values, each with its zero byte.
fn first_packet(parameters: &[u8]) -> Vec<u8> {
    untagged(&[&(3_u32 << 16).to_be_bytes(), parameters].concat())
}

/// CVE-2026-107350: a second StartupMessage in the middle of a login made another role of it.
#[test]
fn a_second_startup_packet_changes_nobody() {
    on_every_server(|server| {
        let database = server.database();
        let rules = "startup_timeout = '2s'\n[[rule]]\nname = 'all'\nidle = { log = '1h' }";
        let proxy = Proxy::with_rules(&database, rules);
        let mut other = Client::connect(proxy.endpoint());
        let named =
            |user: &str| startup(&[("user", user), ("database", database.database.as_str())]);
        for user in ["scram_user", "md5_user", "password_user"] {
            let mut client = Client::silent(proxy.endpoint());
            client.send(&named(user));
            assert_eq!(client.until(b'R'), "R", "{user} has to prove who it is");
            client.send(&named("postgres"));
            // Filled up, so that it is a whole message to the server, who looks at its type.
            drop(client.try_send(&[0; 9000]));
            let answer = client.until_closed();
            assert!(!answer.contains('Z'), "{user}: {answer}");
        }
        still_serves(&mut other);
        let ended = other.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND usename LIKE '%\\_user'",
        );
        assert_eq!(ended, "0");
    });
}

/// CVE-2025-2291, CVE-2025-46801: whoever decides in the server's place may decide otherwise.
#[test]
fn the_server_alone_decides_who_comes_in() {
    on_every_server(|server| {
        let database = server.database();
        let mut admin = Client::connect(&database);
        admin.run("ALTER ROLE password_user VALID UNTIL 'infinity'");
        let proxy = Proxy::start(&database, &[]);
        let login = |door: &Endpoint, user: &str, answer: &[u8]| {
            let mut client = Client::silent(door);
            client.say_who(door, &[("user", user)]);
            assert_eq!(client.until(b'R'), "R");
            client.send(answer);
            client.until_closed()
        };
        let wrong = message(b'p', b"wrong\0");
        for (user, answer) in [
            ("password_user", wrong.clone()),
            ("password_user", message(b'p', b"\0")),
            ("md5_user", wrong.clone()),
            ("scram_user", wrong),
            // What is no answer to the question, and may be somebody's who believes to be in.
            ("password_user", query("SELECT 1")),
            ("scram_user", query("SELECT 1")),
        ] {
            let directly = login(&database, user, &answer);
            let through = login(proxy.endpoint(), user, &answer);
            assert_eq!(through, directly, "{user}");
            assert!(through.contains("FATAL") && through.ends_with("closed"));
        }
    });
}

/// CVE-2026-6664: a length inside of a SCRAM message, counted past the end of it.
#[test]
fn what_scram_messages_say_of_themselves_is_not_believed() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut other = Client::connect(proxy.endpoint());
        let first = |mechanism: &[u8], length: u32, data: &[u8]| {
            let body = [mechanism, b"\0", &length.to_be_bytes(), data].concat();
            message(b'p', &body)
        };
        let scram = b"SCRAM-SHA-256";
        let login = |door: &Endpoint, answer: &[u8]| {
            let mut client = Client::silent(door);
            client.say_who(door, &[("user", "scram_user")]);
            assert_eq!(client.until(b'R'), "R");
            client.send(answer);
            client.until_closed()
        };
        for answer in [
            first(scram, u32::MAX, b"n,,n=,r=x"),
            first(scram, 1 << 31, b"n,,n=,r=x"),
            first(scram, i32::MAX as u32, b""),
            first(scram, 3, b"n,,n=,r=x"),
            first(b"", 0, b""),
            first(&[b'S'; 5000], 1, b"n"),
            message(b'p', b""),
            message(b'p', b"SCRAM-SHA-256"),
            message(b'p', b"SCRAM-SHA-256\0\0\0"),
        ] {
            let directly = login(&database, &answer);
            assert_eq!(login(proxy.endpoint(), &answer), directly, "{answer:?}");
            assert!(directly.ends_with("closed"), "{directly}");
            still_serves(&mut other);
        }
    });
}

/// CVE-2026-107349: an option without a name; and parameters that break off, or come twice.
#[test]
fn startup_parameters_are_answered_as_by_the_server() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut other = Client::connect(proxy.endpoint());
        let who = format!("user\0postgres\0database\0{}\0", database.database);
        let option = |text: &str| format!("{who}options\0{text}\0\0").into_bytes();
        let long = "x".repeat(9000);
        let mut parameters: Vec<Vec<u8>> = ["-c=", "-c =x", "-c", "--=", "--", "-", "\\", "-c a"]
            .iter()
            .map(|text| option(text))
            .collect();
        parameters.extend([
            option(&format!("-c application_name={long}")),
            // A name of nothing ends the list: what comes after it is too much.
            format!("{who}\0\0").into_bytes(),
            format!("{who}\0options\0-c=\0\0").into_bytes(),
            who.clone().into_bytes(),
            b"\0".to_vec(),
            b"user\0\0\0".to_vec(),
            b"user\0".to_vec(),
            format!("{who}_pq_.unknown\0x\0\0").into_bytes(),
            format!("{who}no_such_setting\0x\0\0").into_bytes(),
            format!("{who}replication\0perhaps\0\0").into_bytes(),
        ]);
        // A session that is let in is ended by its client.
        let goes = message(b'X', b"");
        for parameters in parameters {
            let packet = [first_packet(&parameters), goes.clone()].concat();
            let directly = answer_of(&database, &packet);
            let through = answer_of(proxy.endpoint(), &packet);
            let shown = String::from_utf8_lossy(&parameters).into_owned();
            assert_eq!(through, directly, "{shown:?}");
            still_serves(&mut other);
        }
    });
}

/// A client that names two roles is the one that the server takes, for the rules too.
#[test]
fn a_role_named_twice_leaves_no_rule() {
    on_every_server(|server| {
        let database = server.database();
        let rules = "[[rule]]\nname = 'exempt'\nmatch = { user = 'lax' }\nidle = { log = '1h' }\n\
                     [[rule]]\nname = 'strict'\nidle = { rollback = '150ms' }";
        let proxy = Proxy::with_rules(&database, rules);
        let mut client = Client::silent(proxy.endpoint());
        client.send(&startup(&[
            ("user", "lax"),
            ("user", "postgres"),
            ("database", "lax"),
            ("database", &database.database),
        ]));
        assert!(client.until_ready().ends_with("Z I"));
        client.begin("INSERT INTO t VALUES (2, 'two')");
        let incident = proxy.rolled_back(client.server_pid());
        assert_eq!(
            (&incident["user"], &incident["rule"]),
            (&"postgres".into(), &"strict".into())
        );
    });
}

/// CVE-2026-6668, CVE-2026-107348, CVE-2015-4054: lengths that no message has, and a message before the first packet.
#[test]
fn lengths_that_no_message_has_end_their_connection() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        let mut other = Client::connect(proxy.endpoint());
        let before = proxy.memory_kib();
        let lengths = [0, 3, 1 << 31, (1 << 31) + 5, u32::MAX - 3, u32::MAX];
        for length in lengths {
            let length = length.to_be_bytes();
            let first = [&length[..], &(3_u32 << 16).to_be_bytes(), b"user\0x\0\0"].concat();
            assert_eq!(
                answer_of(proxy.endpoint(), &first),
                "E FATAL 08P01 / closed"
            );
            for tag in *b"QPBpdFX\0" {
                let header = [&[tag][..], &length].concat();
                let mut client = Client::silent(proxy.endpoint());
                client.say_who(proxy.endpoint(), &[("user", "scram_user")]);
                client.until(b'R');
                client.send(&header);
                let answer = client.until_closed();
                assert!(
                    answer.ends_with("closed") && !answer.contains('Z'),
                    "{answer}"
                );

                let mut client = Client::connect(proxy.endpoint());
                client.begin("INSERT INTO t VALUES (2, 'two')");
                client.send(&header);
                // As with PostgreSQL, without a word.
                assert_eq!(client.until_closed(), "closed", "{tag}");
            }
        }
        let unasked = answer_of(proxy.endpoint(), &message(b'p', b"secret\0"));
        assert_eq!(unasked, "E FATAL 08P01 / closed");
        still_serves(&mut other);
        assert_eq!(
            other.value("SELECT count(*) FROM t"),
            "1",
            "nothing was kept"
        );
        let grown = proxy.memory_kib().saturating_sub(before);
        assert!(grown < 20_000, "grown by {grown} KiB");
    });
}

/// A message of two gigabytes that is announced and does not come costs no memory, and is the server's to refuse.
#[test]
fn what_is_announced_is_not_reserved() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let before = proxy.memory_kib();
    let mut clients = Vec::new();
    for tag in *b"QPBF" {
        let mut client = Client::connect(proxy.endpoint());
        client.send(&[&[tag][..], &i32::MAX.to_be_bytes(), b"SELECT"].concat());
        clients.push(client);
    }
    let mut copy = Client::connect(proxy.endpoint());
    copy.send(&query("COPY t FROM STDIN"));
    copy.until(b'G');
    copy.send(
        &[
            b"d".as_slice(),
            &i32::MAX.to_be_bytes(),
            &copy_data("3\tthree\n")[5..],
        ]
        .concat(),
    );
    for client in &mut clients {
        assert!(
            client.until_closed().ends_with("closed"),
            "the server refuses such a length"
        );
    }
    assert!(copy.until_closed().ends_with("closed"));
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 20_000, "grown by {grown} KiB");
}

/// CVE-2026-6479: one request for encryption after the other, each of which is declined.
#[test]
fn requests_for_encryption_without_end_cost_nothing() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::silent(proxy.endpoint());
    let mut ask = |times: usize| {
        for _ in 0..times {
            for request in [gssenc_request(), ssl_request()] {
                client.send(&request);
                assert_eq!(client.byte(), b'N');
            }
        }
    };
    ask(100);
    let before = proxy.memory_kib();
    ask(10_000);
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 1000, "grown by {grown} KiB");
    client.say_who(proxy.endpoint(), &[]);
    assert!(client.until_ready().ends_with("Z I"));
    still_serves(&mut client);
}

/// CVE-2021-23214, for GSSAPI: what comes in the clear after a request for encryption may be another's. That for TLS is in
/// `tls.rs`.
#[test]
fn nothing_in_the_clear_is_taken_after_a_request_for_gssapi() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let injected = startup(&[("user", "postgres"), ("database", &database.database)]);
    let answer = answer_of(proxy.endpoint(), &[gssenc_request(), injected].concat());
    assert_eq!(answer, "E FATAL 08P01 / closed");
}

/// What a client hears that asks for encryption again inside of TLS.
const ASK_AGAIN: &str = r#"
import os, socket, ssl, struct
trusting = ssl.create_default_context()
trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
trusting.set_alpn_protocols(["postgresql"])
for first, again in [(80877103, 80877103), (80877103, 80877104), (None, 80877104)]:
    plain = socket.create_connection((os.environ["PGHOST"], os.environ["PGPORT"]), 60)
    if first:
        plain.sendall(struct.pack("!ii", 8, first))
        assert plain.recv(1) == b"S"
    tls = trusting.wrap_socket(plain)
    tls.sendall(struct.pack("!ii", 8, again))
    heard = b""
    while more := tls.recv(1000):
        heard += more
    print(b"C08P01" in heard and heard[:1] == b"E")
"#;

/// CVE-2026-14681: GSSAPI in place of the TLS that was agreed on.
#[test]
fn a_request_for_encryption_inside_of_tls_is_refused() {
    let server = newest();
    let database = server.database();
    let settings = format!(
        "[tls]\nsslmode = 'require'\ncert = '{}'\nkey = '{}'",
        server.pem("pgidle.crt"),
        server.pem("pgidle.key")
    );
    let proxy = Proxy::with_rules(&database, &settings);
    assert_eq!(python(proxy.endpoint(), ASK_AGAIN), "True\nTrue\nTrue");
}

/// Answers the request for TLS of each connection with these bytes.
fn false_server(answer: &'static [u8]) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let accepting = listener.try_clone().unwrap();
    thread::spawn(move || {
        for stream in accepting.incoming() {
            let respond = |mut stream: TcpStream| {
                stream.read_exact(&mut [0; 8])?;
                stream.write_all(answer)?;
                // Until the other side has gone: a reset would hide what it says.
                stream.read_to_end(&mut Vec::new())
            };
            stream.and_then(respond).ok();
        }
    });
    listener
}

/// CVE-2021-23222, CVE-2021-43767, CVE-2024-10977: what a man before the server says in the clear, where TLS was asked for,
/// reaches no client and opens no session.
#[test]
fn what_is_said_before_tls_reaches_no_client() {
    let database = newest().database();
    let error = b"E\0\0\0\x1eSFATAL\0C28P01\0Mcall me\0\0\0\0\0\0";
    let session = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let plain = b"N";
    for sslmode in ["prefer", "require", "verify-full"] {
        for answer in [&error[..], session, b"X", plain] {
            let listener = false_server(Box::leak(answer.into()));
            let address = listener.local_addr().unwrap();
            // Where TLS may be left out, a server that declines it is a server: the login goes there.
            if sslmode == "prefer" && answer == plain {
                continue;
            }
            let root = match sslmode {
                "verify-full" => format!("sslrootcert = '{}'\n", newest().pem("ca.crt")),
                _ => String::new(),
            };
            let settings =
                format!("[upstream]\naddress = '{address}'\nsslmode = '{sslmode}'\n{root}");
            let proxy = Proxy::by_file_alone(&database, &settings);
            let mut client = Client::silent(proxy.endpoint());
            client.say_who(proxy.endpoint(), &[]);
            assert_eq!(client.until_closed(), "E FATAL 08006 / closed", "{sslmode}");
            let text = client.error_text();
            assert!(
                !text.contains("call me") && text.contains("pgidle"),
                "{text}"
            );
            assert!(!proxy.log().contains("call me"), "{}", proxy.log());
        }
    }
}

/// What a client calls itself stands in the log and the audit as data: it ends no line and begins none.
#[test]
fn names_forge_no_lines() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let by = ["env", "PGIDLE_LOG=trace"];
    let limit = ["--idle-limit", "150ms", "--action", "rollback"];
    let proxy = Proxy::in_folder(&database, folder, &by, &limit);
    let forged = "\n{\"event\":\"forged\"}\r\n\u{1b}[2J forged";
    let mut refused = Client::silent(proxy.endpoint());
    refused.say_who(proxy.endpoint(), &[("user", forged), ("database", forged)]);
    assert!(refused.until_closed().contains("FATAL"));
    let mut client = Client::connect_with(proxy.endpoint(), &[("application_name", forged)]);
    client.run("BEGIN");
    proxy.rolled_back(client.server_pid());
    drop(client);
    wait_for("the end of the session", || {
        (proxy.log().matches("session closed").count() >= 2).then_some(())
    });
    for line in proxy.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of pgidle's");
        assert!(line.get("level").is_some(), "{line}");
    }
    assert!(!proxy.log().contains('\u{1b}'));
    assert!(proxy.audit().iter().all(|line| line["event"] != "forged"));
}
