//! `target_session_attrs`: sessions go to the server that they are meant for, also after a failover.

use std::thread;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    Endpoint,
    frontend::startup,
    pair::Pair,
    proxy::Proxy,
    server::{newest, oldest_and_newest, versions},
    wait_for,
    wire::Client,
};

/// Runs a test on a pair of the oldest servers and on one of the newest.
fn on_pairs(test: impl Fn(Pair) + Sync) {
    thread::scope(|scope| {
        let test = &test;
        for &version in oldest_and_newest() {
            thread::Builder::new()
                .name(format!("PostgreSQL {version}"))
                .spawn_scoped(scope, move || test(Pair::start(version)))
                .unwrap();
        }
    });
}

/// A proxy before several servers, with a role to ask them.
fn proxy(target: &str, servers: &[Endpoint]) -> Proxy {
    let asking = "[observer]\ndsn = 'host=127.0.0.1 user=prober password=secret dbname=postgres'\n";
    unasking(target, servers, asking)
}

fn unasking(target: &str, servers: &[Endpoint], more: &str) -> Proxy {
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| format!("'{}:{}'", server.host, server.port))
        .collect();
    let addresses = addresses.join(", ");
    let settings =
        format!("{more}[upstream]\naddress = [{addresses}]\ntarget_session_attrs = '{target}'\n");
    Proxy::by_file_alone(&servers[0], &settings)
}

/// The port of the server that a session is with, or the error that it met.
fn server_of(proxy: &Proxy, user: &str) -> String {
    let mut client = Client::silent(proxy.endpoint());
    client.send(&startup(&[("user", user), ("database", "postgres")]));
    if client.until_ready().ends_with("Z I") {
        client.value("SHOW port")
    } else {
        client.error_text()
    }
}

#[test]
fn each_word_finds_the_server_that_it_names() {
    on_pairs(|pair| {
        let (primary, standby) = (pair.primary(), pair.standby());
        let [on_primary, on_standby] = [&primary, &standby].map(|server| server.port.to_string());
        for (target, first, found) in [
            ("any", &primary, &on_primary),
            ("any", &standby, &on_standby),
            ("read-write", &standby, &on_primary),
            ("read-only", &primary, &on_standby),
            ("primary", &standby, &on_primary),
            ("standby", &primary, &on_standby),
            ("prefer-standby", &primary, &on_standby),
        ] {
            let second = if first.port == primary.port {
                &standby
            } else {
                &primary
            };
            let proxy = proxy(target, &[first.clone(), second.clone()]);
            assert_eq!(server_of(&proxy, "postgres"), *found, "{target}");
        }
        let alone = proxy("prefer-standby", std::slice::from_ref(&primary));
        assert_eq!(server_of(&alone, "postgres"), on_primary);
    });
}

#[test]
fn where_no_server_fits_the_reason_is_told() {
    on_pairs(|pair| {
        let (primary, standby) = (pair.primary(), pair.standby());
        let twice = proxy("standby", &[primary.clone(), primary.clone()]);
        let met = server_of(&twice, "postgres");
        let why = "server is not in hot standby mode";
        assert!(
            met.starts_with("08006") && met.matches(why).count() == 2,
            "{met}"
        );
        let wrong = "[observer]\ndsn = 'host=127.0.0.1 user=prober password=wrong'\n";
        let met = server_of(
            &unasking("standby", std::slice::from_ref(&primary), wrong),
            "postgres",
        );
        assert!(met.contains("password authentication failed"), "{met}");
        // Without a role to ask with, the session itself finds out.
        for (target, server, why) in [
            ("standby", &primary, why),
            ("primary", &standby, "server is in hot standby mode"),
            ("read-write", &standby, "session is read-only"),
            ("read-only", &primary, "session is not read-only"),
        ] {
            let proxy = unasking(target, std::slice::from_ref(server), "");
            let met = server_of(&proxy, "postgres");
            assert_eq!(met, format!("08004 pgidle: {why}"), "{target}");
        }
        // What the client's own role may do is known only then.
        let proxy = proxy("read-write", &[standby, primary]);
        let met = server_of(&proxy, "reader");
        assert_eq!(met, "08004 pgidle: session is read-only");
    });
}

#[test]
fn after_a_failover_sessions_go_to_the_server_that_was_promoted() {
    on_pairs(|mut pair| {
        let (primary, standby) = (pair.primary(), pair.standby());
        let proxy = proxy("primary", &[primary.clone(), standby.clone()]);
        assert_eq!(server_of(&proxy, "postgres"), primary.port.to_string());
        pair.primary = None;
        let met = server_of(&proxy, "postgres");
        assert!(
            met.contains("refused") && met.contains("in hot standby mode"),
            "{met}"
        );
        Client::connect(&standby).run("SELECT pg_promote()");
        wait_for("a session with the server that was promoted", || {
            (server_of(&proxy, "postgres") == standby.port.to_string()).then_some(())
        });
    });
}

/// As libpq: a server that takes no sessions now (57P03) is passed over.
#[test]
fn a_server_that_shuts_down_is_passed_over() {
    let pair = Pair::start(versions()[0]);
    let (primary, standby) = (pair.primary(), pair.standby());
    let proxy = unasking("any", &[primary.clone(), standby.clone()], "");
    assert_eq!(server_of(&proxy, "postgres"), primary.port.to_string());
    // A smart shutdown waits for the sessions that are open.
    let _open = Client::connect(&primary);
    let postmaster = pair.primary.as_ref().unwrap().pid();
    kill(
        Pid::from_raw(i32::try_from(postmaster).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    wait_for("a session with the other server", || {
        (server_of(&proxy, "postgres") == standby.port.to_string()).then_some(())
    });
    let alone = unasking("any", std::slice::from_ref(&primary), "");
    assert!(server_of(&alone, "postgres").starts_with("57P03"));
}

/// As PostgreSQL 19 does to who has an MD5 password, and any server with a trigger on login.
#[test]
fn a_warning_after_authentication_names_the_connection_that_got_it() {
    let database = newest().database();
    let mut dba = Client::connect(&database);
    dba.run(
        "CREATE FUNCTION warn() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'think of it'; END$$",
    );
    dba.run("CREATE EVENT TRIGGER warn ON login EXECUTE FUNCTION warn()");
    let address = format!("127.0.0.1:{}", database.port);
    let settings = format!(
        "[observer]\ndsn = 'host=127.0.0.1 port={} user=postgres dbname={}'\n\
         [upstream]\naddress = '{address}'\ntarget_session_attrs = 'primary'\n\
         [[rule]]\nname = 'all'\nidle = {{ log = '300ms' }}\n",
        database.port, database.database
    );
    let proxy = Proxy::by_file_alone(&database, &settings);
    let mut client = Client::silent(proxy.endpoint());
    client.send(&startup(&[
        ("user", "postgres"),
        ("database", &database.database),
    ]));
    assert!(client.until_ready().contains("N WARNING 01000"));
    client.begin("SELECT v FROM t");
    for name in [
        "the observer's connection".to_owned(),
        format!("the connection that asks what {address} is"),
    ] {
        wait_for(&name, || {
            let said = format!("the server said to {name}: WARNING: \\\"think of it\\\"");
            proxy.log().contains(&said).then_some(())
        });
    }
}
