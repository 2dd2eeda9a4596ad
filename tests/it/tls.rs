//! TLS on both legs: who gets in, what each side sees, channel binding, cancels and reload.

use std::{fs, thread};

use serde_json::Value;

use crate::support::{
    Endpoint,
    certificates::offering,
    dba::Dba,
    frontend::{query, ssl_request, startup},
    in_repository,
    program::{Libpq, ask, python},
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

const BOTH: [Libpq; 2] = [Libpq::Debian, Libpq::Psycopg];

/// `[upstream]` with an `sslmode` and more keys.
fn upstream(sslmode: &str, more: &str) -> String {
    format!("[upstream]\nsslmode = '{sslmode}'\n{more}\n")
}

/// A proxy with settings, and the file that a reload reads.
fn proxy(database: &Endpoint, settings: &str) -> (Proxy, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), settings).unwrap();
    let proxy = Proxy::start(database, &["--config", file.path().to_str().unwrap()]);
    (proxy, file)
}

/// Whether the server sees TLS.
const SERVER_LEG: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn is_true(answer: &str) -> bool {
    ["t", "True"].contains(&answer)
}

#[test]
fn verify_full_holds_on_both_legs() {
    on_every_server(|server| {
        let database = server.database();
        let database = database.at("localhost", database.port);
        let root = format!("sslrootcert = '{}'", server.pem("ca.crt"));
        let settings = upstream("verify-full", &root) + &offering(server, "pgidle", "prefer");
        let (proxy, _file) = proxy(&database, &settings);
        let door = proxy.endpoint().at("localhost", proxy.endpoint().port);
        for libpq in BOTH {
            let ca = server.pem("ca.crt");
            let set = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", ca.as_str())];
            let answer = ask(libpq, &door, &set, SERVER_LEG);
            assert!(is_true(&answer), "{libpq:?}: {answer}");
        }
        let other = server.pem("other.crt");
        let set = [
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", other.as_str()),
        ];
        let answer = ask(Libpq::Debian, &door, &set, SERVER_LEG);
        assert!(answer.contains("certificate verify failed"), "{answer}");
    });
}

#[test]
fn each_version_of_tls_works_on_the_clients_leg() {
    let server = newest();
    let (proxy, _file) = proxy(&server.database(), &offering(server, "pgidle", "require"));
    for libpq in BOTH {
        for version in ["TLSv1.2", "TLSv1.3"] {
            let set = [
                ("PGSSLMODE", "require"),
                ("PGSSLMINPROTOCOLVERSION", version),
                ("PGSSLMAXPROTOCOLVERSION", version),
            ];
            let answer = ask(libpq, proxy.endpoint(), &set, "SELECT 7");
            assert_eq!(answer, "7", "{libpq:?} {version}");
        }
    }
}

#[test]
fn direct_tls_works_on_both_legs() {
    let server = newest();
    let settings =
        upstream("require", "sslnegotiation = 'direct'") + &offering(server, "pgidle", "require");
    let (proxy, _file) = proxy(&server.database(), &settings);
    let set = [("PGSSLMODE", "require"), ("PGSSLNEGOTIATION", "direct")];
    let answer = ask(Libpq::Psycopg, proxy.endpoint(), &set, SERVER_LEG);
    assert_eq!(answer, "True");
}

#[test]
fn what_a_clients_leg_insists_on() {
    let server = newest();
    let database = server.database();
    let certificate = [server.pem("client.crt"), server.pem("client.key")];
    let certificate = [
        ("PGSSLCERT", certificate[0].as_str()),
        ("PGSSLKEY", certificate[1].as_str()),
    ];
    let other = [server.pem("other.crt"), server.pem("other.key")];
    let other = [
        ("PGSSLCERT", other[0].as_str()),
        ("PGSSLKEY", other[1].as_str()),
    ];
    let none = [("PGSSLCERT", "/nonexistent"), ("PGSSLKEY", "/nonexistent")];
    let enters = |settings: &str, sslmode, user, certificate: [(&str, &str); 2]| {
        let (proxy, _file) = proxy(&database, settings);
        let set = [
            &certificate[..],
            &[("PGSSLMODE", sslmode), ("PGUSER", user)],
        ]
        .concat();
        ask(Libpq::Debian, proxy.endpoint(), &set, "SELECT 'in'")
    };
    let (no_tls, none_offered) = (
        "connections without TLS are refused",
        "does not support SSL",
    );
    let another = "The common name of its subject is \"cert_user\", the role is \"postgres\".";
    for (mode, plain, encrypted, with_certificate) in [
        ("disable", "in", none_offered, none_offered),
        ("allow", "in", "in", "in"),
        ("prefer", "in", "in", "in"),
        ("require", no_tls, "in", "in"),
        ("verify-ca", no_tls, "certificate required", "in"),
        ("verify-full", no_tls, "certificate required", another),
    ] {
        let settings = offering(server, "pgidle", mode);
        for (expected, sslmode, certificate) in [
            (plain, "disable", none),
            (encrypted, "require", none),
            (with_certificate, "require", certificate),
        ] {
            let answer = enters(&settings, sslmode, "postgres", certificate);
            assert!(answer.contains(expected), "{mode}, {sslmode}: {answer}");
        }
    }
    let full = offering(server, "pgidle", "verify-full")
        + &upstream(
            "require",
            &format!(
                "sslcert = '{}'\nsslkey = '{}'",
                server.pem("client.crt"),
                server.pem("client.key")
            ),
        );
    assert_eq!(enters(&full, "require", "cert_user", certificate), "in");
    let answer = enters(&full, "require", "cert_user", other);
    assert!(
        answer.contains("SSL error") || answer.contains("closed"),
        "{answer}"
    );
}

#[test]
fn what_the_servers_leg_insists_on() {
    on_every_server(|server| {
        let database = server.database();
        let database = database.at("localhost", database.port);
        let as_user = |settings: &str, user: &str, sql: &str| {
            let (proxy, _file) = proxy(&database, settings);
            ask(Libpq::Debian, proxy.endpoint(), &[("PGUSER", user)], sql)
        };
        for (mode, tls_user, plain_user, postgres) in [
            ("disable", "rejects", "f", "f"),
            ("allow", "t", "f", "f"),
            ("prefer", "t", "f", "t"),
            ("require", "t", "rejects", "t"),
        ] {
            for (user, expected) in [
                ("tls_user", tls_user),
                ("plain_user", plain_user),
                ("postgres", postgres),
            ] {
                let answer = as_user(&upstream(mode, ""), user, SERVER_LEG);
                assert!(answer.contains(expected), "{mode}, {user}: {answer}");
            }
        }
        for (root, answers) in [("ca", "t"), ("other", "invalid peer certificate")] {
            let root = format!("sslrootcert = '{}'", server.pem(&format!("{root}.crt")));
            let answer = as_user(&upstream("verify-ca", &root), "postgres", SERVER_LEG);
            assert!(answer.contains(answers), "{answer}");
        }
        // The server's own certificate may be its authority.
        let own = format!("sslrootcert = '{}'", server.pem("server.crt"));
        assert_eq!(
            as_user(&upstream("verify-full", &own), "postgres", SERVER_LEG),
            "t"
        );
        let identity = format!(
            "sslcert = '{}'\nsslkey = '{}'",
            server.pem("client.crt"),
            server.pem("client.key")
        );
        let me = "SELECT current_user";
        assert_eq!(
            as_user(&upstream("require", &identity), "cert_user", me),
            "cert_user"
        );
        let answer = as_user(&upstream("require", ""), "cert_user", me);
        assert!(
            answer.contains("requires a valid client certificate"),
            "{answer}"
        );
    });
}

/// The server's certificate is for `localhost`, not for its address.
#[test]
fn verify_full_looks_at_the_name_and_verify_ca_does_not() {
    let server = newest();
    let database = server.database();
    let root = format!("sslrootcert = '{}'", server.pem("ca.crt"));
    for (mode, expected) in [("verify-full", "not valid for name"), ("verify-ca", "t")] {
        let (proxy, _file) = proxy(&database, &upstream(mode, &root));
        let answer = ask(Libpq::Debian, proxy.endpoint(), &[], SERVER_LEG);
        assert!(answer.contains(expected), "{mode}: {answer}");
    }
}

/// Of the client's leg and the server's, who offers channel binding, and what comes of it when the client disables,
/// prefers and requires it.
const CHANNEL_BINDING: [(&str, &str, &str, [&str; 3]); 5] = [
    (
        "no",
        "no",
        "pgidle",
        ["works", "works", "the client refuses"],
    ),
    (
        "no",
        "TLS",
        "pgidle",
        ["works", "works", "the client refuses"],
    ),
    (
        "TLS",
        "no",
        "pgidle",
        ["works", "works", "the client refuses"],
    ),
    (
        "TLS",
        "TLS",
        "pgidle",
        ["works", "pgidle refuses", "the client refuses"],
    ),
    ("TLS", "TLS", "server", ["works", "works", "works"]),
];

/// Every cell of the table in docs/tls.md.
#[test]
fn the_table_of_channel_binding() {
    on_every_server(|server| {
        let database = server.database();
        thread::scope(|scope| {
            for (client_leg, server_leg, pair, expected) in CHANNEL_BINDING {
                let database = &database;
                scope.spawn(move || {
                    let mode = if server_leg == "TLS" {
                        "require"
                    } else {
                        "disable"
                    };
                    let settings = upstream(mode, "") + &offering(server, pair, "prefer");
                    let (proxy, _file) = proxy(database, &settings);
                    let sslmode = if client_leg == "TLS" {
                        "require"
                    } else {
                        "disable"
                    };
                    for libpq in BOTH {
                        let met = ["disable", "prefer", "require"]
                            .map(|binding| scram(libpq, proxy.endpoint(), sslmode, binding));
                        assert_eq!(met, expected, "{libpq:?} {client_leg} {server_leg} {pair}");
                    }
                });
            }
        });
    });
    let table = fs::read_to_string(in_repository("docs/tls.md")).unwrap();
    for (client_leg, server_leg, pair, [disable, prefer, require]) in CHANNEL_BINDING {
        let pair = match (client_leg, server_leg, pair) {
            ("TLS", "TLS", "server") => "the same",
            ("TLS", "TLS", _) => "different",
            _ => "any",
        };
        let row =
            format!("| {client_leg} | {server_leg} | {pair} | {disable} | {prefer} | {require} |");
        assert!(table.contains(&row), "docs/tls.md lacks {row}");
    }
}

/// Authenticates by SCRAM, and says who refused it.
fn scram(libpq: Libpq, door: &Endpoint, sslmode: &str, binding: &str) -> &'static str {
    let set = [
        ("PGSSLMODE", sslmode),
        ("PGCHANNELBINDING", binding),
        ("PGUSER", "scram_user"),
        ("PGPASSWORD", "secret"),
    ];
    let answer = ask(libpq, door, &set, "SELECT current_user");
    match answer.as_str() {
        "scram_user" => "works",
        text if text.contains("pgidle: SCRAM") && text.contains("channel_binding=disable") => {
            "pgidle refuses"
        }
        text if text.contains("channel binding") && !text.contains("FATAL") => "the client refuses",
        text => panic!("{libpq:?}: {text}"),
    }
}

#[test]
fn a_transaction_is_rolled_back_and_an_answer_may_be_long() {
    let server = newest();
    let settings = upstream("require", "")
        + &offering(server, "pgidle", "require")
        + "[[rule]]\nname = 'all'\nidle = { rollback = '200ms' }\n";
    let (proxy, _file) = proxy(&server.database(), &settings);
    let script = "
import meanwhile, psycopg
with psycopg.connect('sslmode=require') as c:
    rows = c.execute(\"SELECT repeat('x', 1000) FROM generate_series(1, 30000)\").fetchall()
    assert sum(len(r[0]) for r in rows) == 30_000_000
    meanwhile.until(meanwhile.ENDED, c.info.backend_pid, conninfo='sslmode=require')
    try:
        c.execute('SELECT 1')
    except psycopg.Error as e:
        print(e.sqlstate)
        c.rollback()
    c.autocommit = True
    with c.cursor().copy('COPY t FROM STDIN') as copy:
        for n in range(100, 30_100):
            copy.write_row((n, 'x' * 1000))
    print(c.execute('SELECT count(*) FROM t').fetchone()[0])
";
    assert_eq!(python(proxy.endpoint(), script), "25P03\n30001");
    let incident = proxy.audit_line(&[("outcome", "rolled_back")]);
    assert_eq!(incident["tls"], true, "{incident}");
}

#[test]
fn a_cancel_request_goes_the_way_of_its_session() {
    on_every_server(|server| {
        let settings = upstream("require", "") + &offering(server, "pgidle", "require");
        let (proxy, _file) = proxy(&server.database(), &settings);
        let script = "
import meanwhile, psycopg
with psycopg.connect('sslmode=require') as c:
    meanwhile.when(meanwhile.SLEEPS, c.cancel_safe, 'sslmode=require')
    try:
        c.execute('SELECT pg_sleep(30)')
    except psycopg.Error as e:
        print(e.sqlstate)
";
        let heard = python(proxy.endpoint(), script);
        assert_eq!(heard, "57014");
    });
}

#[test]
fn a_certificate_is_reloaded_and_a_wrong_one_is_refused() {
    let server = newest();
    let (proxy, file) = proxy(&server.database(), &offering(server, "pgidle", "require"));
    let trusting = |ca: &str| {
        let ca = server.pem(ca);
        let set = [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", ca.as_str())];
        ask(Libpq::Debian, proxy.endpoint(), &set, "SELECT 'in'")
    };
    assert_eq!(trusting("ca.crt"), "in");
    let mut open = Dba::new(&server.database());
    fs::write(file.path(), offering(server, "other", "require")).unwrap();
    assert!(proxy.reload());
    assert_eq!(trusting("other.crt"), "in");
    assert!(trusting("ca.crt").contains("verify failed"));
    // A key that does not belong to the certificate.
    let crossed = offering(server, "pgidle", "require").replace("pgidle.key", "server.key");
    fs::write(file.path(), crossed).unwrap();
    assert!(!proxy.reload());
    assert!(proxy.log().contains("tls.key"), "the key is named");
    assert_eq!(trusting("other.crt"), "in", "the running settings stay");
    assert_eq!(open.value("SELECT 1"), "1");
}

/// CVE-2021-23214: what lies behind an SSLRequest may be somebody else's.
#[test]
fn nothing_in_the_clear_is_taken_behind_a_request_for_tls() {
    let server = newest();
    let database = server.database();
    let (proxy, _file) = proxy(&database, &offering(server, "pgidle", "prefer"));
    let mut client = Client::silent(proxy.endpoint());
    let injected = [startup(&[("user", "postgres")]), query("SELECT 1")].concat();
    client.send(&[ssl_request(), injected].concat());
    assert_eq!(client.until_closed(), "E FATAL 08P01 / closed");
    assert!(client.error_text().contains("unencrypted data"));
}

#[test]
fn tls_does_not_concern_unix_sockets() {
    let server = newest();
    let database = server.by_socket(&server.database());
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = upstream("require", "") + &offering(server, "pgidle", "require");
    fs::write(file.path(), settings).unwrap();
    let proxy = Proxy::on_socket(&database, &["--config", file.path().to_str().unwrap()]);
    let mut client = Client::connect(proxy.endpoint());
    assert_eq!(client.value(SERVER_LEG), "f");
}

/// Half of a handshake holds nobody else up, and ends with the startup timeout.
#[test]
fn a_handshake_that_stops_is_given_up() {
    let server = newest();
    let settings = format!(
        "startup_timeout = '2s'\n{}",
        offering(server, "pgidle", "prefer")
    );
    let (proxy, _file) = proxy(&server.database(), &settings);
    let mut client = Client::silent(proxy.endpoint());
    client.send(&ssl_request());
    assert_eq!(client.byte(), b'S');
    client.send(&[0x16, 3, 1, 0, 100]);
    assert_eq!(client.until_closed(), "closed");
    wait_for("the log", || {
        proxy.log().contains("no startup packet").then_some(())
    });
}

/// A farewell waits for a client that is slow: all that was due, the FATAL error, and the close of TLS behind it.
#[test]
fn the_farewell_reaches_a_client_that_reads_late() {
    let server = newest();
    let settings = upstream("require", "")
        + &offering(server, "pgidle", "require")
        + "[[rule]]\nname = 'all'\nstalled = { terminate = '300ms' }\n";
    let (proxy, _file) = proxy(&server.database(), &settings);
    assert_eq!(python(proxy.endpoint(), READS_LATE), "25P03 closed");
    proxy.audit_line(&[("outcome", "terminated")]);
}

/// Asks for more than sockets hold, reads nothing until the server's process is gone, then everything.
const READS_LATE: &str = "
import meanwhile, os, socket, ssl, struct
raw = socket.create_connection((os.environ['PGHOST'], int(os.environ['PGPORT'])))
raw.sendall(struct.pack('!ii', 8, 80877103))
assert raw.recv(1) == b'S'
context = ssl._create_unverified_context()
tls = context.wrap_socket(raw, suppress_ragged_eofs=False)
body = struct.pack('!i', 196608) + b'user\\0postgres\\0database\\0' + os.environ['PGDATABASE'].encode() + b'\\0\\0'
tls.sendall(struct.pack('!i', len(body) + 4) + body)
received = b''
while not received.endswith(b'Z\\0\\0\\0\\5I'):
    received += tls.recv(65536)
sql = b\"SELECT repeat('x', 1000) FROM generate_series(1, 20000)\\0\"
tls.sendall(b'Q' + struct.pack('!i', len(sql) + 4) + sql)
meanwhile.until(meanwhile.ALONE, conninfo='sslmode=require')
received = bytearray()
while chunk := tls.recv(65536):
    received += chunk
while received:
    tag, length = received[:1], struct.unpack('!i', received[1:5])[0]
    last, received = received[5:length + 1], received[length + 1:]
fields = {field[:1]: field[1:] for field in bytes(last).split(b'\\0')}
assert tag == b'E' and fields[b'V'] == b'FATAL'
print(fields[b'C'].decode(), 'closed')
";

/// The observer's connection string knows libpq's words.
#[test]
fn the_observer_connects_by_tls() {
    on_every_server(|server| {
        let database = server.database();
        let looks = |words: &str, until: &dyn Fn(&Proxy, &Value) -> bool| {
            let settings = format!(
                "[observer]\ndsn = \"host=localhost port={} dbname={} user=tls_user {words}\"\ninterval = '300ms'\n\
                 [[rule]]\nname = 'all'\nidle = {{ log = '300ms' }}\n",
                database.port, database.database
            );
            let (proxy, _file) = proxy(&database, &settings);
            let mut client = Client::connect(proxy.endpoint());
            client.begin("SELECT v FROM t");
            // Each incident has what was seen by then: an observer that is slow to connect misses some.
            wait_for(&format!("{words}: what is expected"), || {
                let before = proxy.incidents().len();
                client.run("SELECT v FROM t");
                let incident =
                    wait_for("an incident", || proxy.incidents().into_iter().nth(before));
                until(&proxy, &incident).then_some(())
            });
        };
        let (ca, other) = (server.pem("ca.crt"), server.pem("other.crt"));
        let verified = format!("sslmode=verify-full sslrootcert={ca}");
        for words in ["", "sslmode=allow", "sslmode=require", &verified] {
            looks(words, &|_, incident| incident["locks"].is_array());
        }
        let strange = format!("sslmode=verify-full sslrootcert={other}");
        for (words, why) in [
            ("sslmode=disable", "rejects connection"),
            (&strange, "invalid peer certificate"),
        ] {
            looks(words, &|proxy, incident| {
                assert!(incident["locks"].is_null(), "{words}: {incident}");
                proxy.log().contains(why)
            });
        }
    });
}
