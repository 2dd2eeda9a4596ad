//! The first packets: startup, encryption requests, authentication, garbage, and a server that is not there.

use std::{net::TcpListener, process::Command, time::Duration};

use crate::support::{
    dba::Dba,
    frontend::{cancel_request, gssenc_request, query, ssl_request, startup},
    let_pass,
    program::{psql, psql_as},
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

#[test]
fn a_startup_packet_may_come_byte_by_byte() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::silent(proxy.endpoint());
    for byte in startup(&[("user", "postgres"), ("database", &database.database)]) {
        client.send(&[byte]);
        let_pass(Duration::from_millis(1));
    }
    assert!(client.until_ready().ends_with("Z I"));
    assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
}

/// The first ReadyForQuery answers the startup packet.
#[test]
fn requests_may_come_together_with_the_startup_packet() {
    on_every_server(|server| {
        let database = server.database();
        let limit = ["--idle-limit", "200ms", "--action", "rollback"];
        let proxy = Proxy::start(&database, &limit);
        let mut client = Client::silent(proxy.endpoint());
        let named = [("user", "postgres"), ("database", &database.database)];
        let requests = ["BEGIN", "LOCK TABLE t", "SELECT pg_sleep(0.5)"].map(query);
        client.send(&[startup(&named), requests.concat()].concat());
        assert!(client.until_ready().ends_with("/ Z I"));
        assert_eq!(client.until_ready(), "C BEGIN / Z T");
        assert_eq!(client.until_ready(), "C LOCK TABLE / Z T");
        assert_eq!(client.until_ready(), "T / D  / C SELECT 1 / Z T");
        let incident = proxy.audit_line(&[("event", "incident")]);
        assert_eq!(incident["position"], "idle in transaction");
        assert_eq!(incident["outcome"], "rolled_back");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
    });
}

#[test]
fn encryption_is_declined_and_the_session_goes_on_in_the_clear() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::silent(proxy.endpoint());
    for request in [gssenc_request(), ssl_request()] {
        client.send(&request);
        assert_eq!(client.byte(), b'N');
    }
    client.send(&startup(&[
        ("user", "postgres"),
        ("database", &database.database),
    ]));
    assert!(client.until_ready().ends_with("Z I"));
}

#[test]
fn every_way_to_prove_who_one_is_passes_through() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::start(&database, &[]);
        for user in ["scram_user", "md5_user", "password_user"] {
            let printed = psql_as(user, proxy.endpoint(), "SELECT current_user");
            // PostgreSQL 19 warns of md5 too.
            assert_eq!(printed.lines().next(), Some(user));
        }
        assert_eq!(psql(proxy.endpoint(), &["SELECT current_user"]), "postgres");
    });
}

#[test]
fn startup_parameters_become_the_defaults_of_the_session() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let parameters = [
        ("options", "-c work_mem=7MB"),
        ("application_name", "given"),
        ("timezone", "Asia/Tokyo"),
    ];
    let mut client = Client::connect_with(proxy.endpoint(), &parameters);
    client.run("SET work_mem = '9MB'");
    client.run("RESET work_mem");
    assert_eq!(client.value("SHOW work_mem"), "7MB");
    assert_eq!(client.value("SHOW application_name"), "given");
    assert_eq!(client.value("SHOW timezone"), "Asia/Tokyo");
}

#[test]
fn the_servers_process_id_is_the_one_the_client_is_told() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    let told = client.server_pid().to_string();
    assert_eq!(client.value("SELECT pg_backend_pid()"), told);
}

#[test]
fn what_the_server_refuses_reaches_the_client() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::silent(proxy.endpoint());
    client.send(&startup(&[
        ("user", "postgres"),
        ("database", "no such database"),
    ]));
    let refusal = client.until_closed();
    assert!(refusal.ends_with("E FATAL 3D000 / closed"), "{refusal}");
}

#[test]
fn garbage_is_answered_with_an_error_and_hurts_nobody_else() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut other = Client::connect(proxy.endpoint());
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        // Lengths: nothing, less than a protocol version, and more than a startup packet may have.
        b"\0\0\0\0\0\0\0\0",
        b"\0\0\0\x05\0\x03\0\0",
        b"\x7f\xff\xff\xff\0\x03\0\0",
        // A body without its final zero.
        b"\0\0\0\x0c\0\x03\0\0user",
    ];
    for bytes in garbage {
        let mut client = Client::silent(proxy.endpoint());
        client.send(bytes);
        assert_eq!(client.until_closed(), "E FATAL 08P01 / closed", "{bytes:?}");
    }
    assert_eq!(other.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_reason() {
    let database = newest().database();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let nobody = database.at("127.0.0.1", port);
    let proxy = Proxy::start(&nobody, &[]);
    let mut client = Client::silent(proxy.endpoint());
    client.send(&startup(&[("user", "postgres")]));
    assert_eq!(client.until_closed(), "E FATAL 08006 / closed");
    let text = client.error_text();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(text.to_lowercase().contains("refused"), "{text}");
}

#[test]
fn ipv6_works_on_both_sides() {
    if TcpListener::bind("[::1]:0").is_err() {
        // A machine without IPv6, not even on the loopback interface: pgidle cannot listen there, and says so.
        let pgidle = Command::new(env!("CARGO_BIN_EXE_pgidle"))
            .args(["serve", "--listen", "[::1]:0"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&pgidle.stderr);
        assert_eq!(pgidle.status.code(), Some(1), "{errors}");
        assert!(errors.contains("could not listen on [::1]:0"), "{errors}");
        return;
    }
    on_every_server(|server| {
        let proxy = Proxy::by_ipv6(
            &server.database(),
            &["--idle-limit", "150ms", "--action", "rollback"],
        );
        let through = "SELECT family(inet_client_addr()), family(inet_server_addr())";
        assert_eq!(psql(proxy.endpoint(), &[through]), "6|6");
        let mut client = Client::connect(proxy.endpoint());
        client.begin("INSERT INTO t VALUES (2, 'two')");
        let incident = proxy.rolled_back(client.server_pid());
        assert_eq!(incident["client_addr"], "::1");
        let mut canceller = Client::silent(proxy.endpoint());
        canceller.send(&cancel_request(&client.backend_key));
        assert_eq!(canceller.until_closed(), "closed");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    });
}

#[test]
fn unix_sockets_work_on_both_sides() {
    on_every_server(|server| {
        let database = server.by_socket(&server.database());
        let proxy = Proxy::on_socket(
            &database,
            &["--idle-limit", "150ms", "--action", "rollback"],
        );
        assert_eq!(psql(proxy.endpoint(), &["SELECT v FROM t"]), "one");
        let mut client = Client::connect(proxy.endpoint());
        client.begin("INSERT INTO t VALUES (2, 'two')");
        let incident = proxy.rolled_back(client.server_pid());
        assert!(incident["client_addr"].is_null(), "{incident}");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    });
}

#[test]
fn more_sessions_than_allowed_are_refused() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "[upstream]\nmax_sessions = 2");
    let first = Client::connect(proxy.endpoint());
    let mut second = Client::connect(proxy.endpoint());
    let mut third = Client::silent(proxy.endpoint());
    third.send(&startup(&[("user", "postgres")]));
    assert_eq!(third.until_closed(), "E FATAL 53300 / closed");
    assert_eq!(second.value("SELECT 1"), "1");
    drop(first);
    wait_for("a free place", || {
        let mut fourth = Client::silent(proxy.endpoint());
        fourth.send(&startup(&[("user", "postgres")]));
        fourth.until_ready().ends_with("Z I").then_some(())
    });
}

#[test]
fn a_load_balancer_says_for_whom_it_speaks() {
    let database = newest().database();
    let rules = "[listen]\nproxy_protocol = true\n[[rule]]\nname = 'remote'\n\
                 match = { client = '192.0.2.0/24' }\nidle = { rollback = '100ms' }";
    let proxy = Proxy::with_rules(&database, rules);
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 5432\r\n".to_vec();
    let v2 = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
        &[192, 0, 2, 7, 192, 0, 2, 1, 0xc7, 0x38, 0x15, 0x38],
    ]
    .concat();
    let parameters = [
        ("user", "postgres"),
        ("database", database.database.as_str()),
    ];
    for header in [v1, v2] {
        let mut client = Client::silent(proxy.endpoint());
        client.send(&[header, startup(&parameters)].concat());
        assert!(client.until_ready().ends_with("Z I"));
        client.begin("SELECT v FROM t");
        let incident = proxy.rolled_back(client.server_pid());
        assert_eq!(incident["client_addr"], "192.0.2.7");
    }
    let mut without = Client::silent(proxy.endpoint());
    without.send(&startup(&parameters));
    assert_eq!(without.until_closed(), "closed");
    wait_for("the log", || {
        proxy.log().contains("without a PROXY header").then_some(())
    });
}

/// A server that accepts and never answers is given up after the timeout, and another address has its turn.
#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = newest();
    let database = server.database();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let settings = |timeout: &str, addresses: &str| {
        format!(
            "[upstream]\nsslmode = 'require'\nconnect_timeout = '{timeout}'\naddress = [{addresses}]"
        )
    };
    let alone = Proxy::by_file_alone(&database, &settings("300ms", &format!("'{silent}'")));
    let mut client = Client::silent(alone.endpoint());
    client.send(&startup(&[("user", "postgres")]));
    assert_eq!(client.until_closed(), "E FATAL 08006 / closed");
    let text = client.error_text();
    assert!(text.ends_with("no answer within 300ms"), "{text}");
    let both = format!("'{silent}', 'localhost:{}'", database.port);
    let both = Proxy::by_file_alone(&database, &settings("3s", &both));
    assert_eq!(
        Client::connect(both.endpoint()).value("SELECT v FROM t"),
        "one"
    );
}

#[test]
fn the_first_address_that_can_be_reached_is_taken() {
    let database = newest().database();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let settings = format!(
        "[upstream]\naddress = ['{nobody}', 'unix:/nonexistent/socket', 'localhost:{}']",
        database.port
    );
    let proxy = Proxy::by_file_alone(&database, &settings);
    let mut client = Client::connect(proxy.endpoint());
    assert_eq!(client.value("SELECT v FROM t"), "one");
    client.send(&query("SELECT pg_sleep(60)"));
    let mut dba = Dba::new(&database);
    wait_for("a running statement", || {
        (dba.state(client.server_pid()) == "active").then_some(())
    });
    let mut canceller = Client::silent(proxy.endpoint());
    canceller.send(&cancel_request(&client.backend_key));
    assert_eq!(canceller.until_closed(), "closed");
    assert_eq!(client.until_ready(), "T / E 57014 / Z I");
}
