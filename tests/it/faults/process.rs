//! pgidle itself: suspended, with a clock that jumps, and with files that somebody breaks.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::support::{
    dba::Dba,
    frontend::query,
    let_pass,
    program::{Libpq, ask},
    proxy::Proxy,
    server::newest,
    wait_for,
    wire::Client,
};

use super::{SOON, ids, logged, works};

/// A laptop that sleeps, a container that is frozen: limits are long past when pgidle wakes, and some have spoken meanwhile.
#[test]
fn after_a_suspension_who_is_told_of_a_success_has_it_and_who_is_refused_has_nothing() {
    const SESSIONS: u32 = 12;
    let database = newest().database();
    let proxy = Proxy::with_rules(
        &database,
        "[[rule]]\nname = 'all'\nidle = { rollback = '1s' }",
    );
    let open = |id: u32| {
        let mut client = Client::connect(proxy.endpoint());
        client.begin(&format!("INSERT INTO t VALUES ({}, 'suspended')", 100 + id));
        (100 + id, client)
    };
    let mut sessions: Vec<_> = (0..SESSIONS).map(open).collect();
    proxy.signal(Signal::SIGSTOP);
    let (speaking, silent) = sessions.split_at_mut(SESSIONS as usize / 2);
    for (_, client) in speaking.iter_mut() {
        client.send(&query("COMMIT"));
    }
    let_pass(Duration::from_millis(2500));
    proxy.signal(Signal::SIGCONT);
    for (_, client) in silent.iter_mut() {
        proxy.rolled_back(client.server_pid());
        client.send(&query("COMMIT"));
    }
    let mut acknowledged = Vec::new();
    for (id, client) in &mut sessions {
        let heard = client.until_ready();
        if heard == "C COMMIT / Z I" {
            acknowledged.push(id.to_string());
        } else {
            assert_eq!(heard, "E 25P03 / Z I");
        }
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(ids(&mut sessions[0].1, 100), acknowledged.join(","));
    works(&proxy, 10);
}

/// Limits go by a clock that nobody sets; what is written down has the time of day.
#[test]
fn a_clock_that_jumps_moves_no_limit() {
    const LIBRARY: &str = "faketime/libfaketime.so.1";
    let library = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
    ]
    .map(|folder| Path::new(folder).join(LIBRARY))
    .into_iter()
    .find(|path| path.is_file())
    .expect("libfaketime, which `make setup` installs");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    // A file that is put in place whole: pgidle looks at it whenever it asks for the time.
    let set = |offset: &str| {
        let new = folder.path().join("new");
        fs::write(&new, offset).unwrap();
        fs::rename(&new, &clock).unwrap();
    };
    set("+0");
    let by = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let by = by.each_ref().map(String::as_str);
    let database = newest().database();
    let limit = ["--idle-limit", "2s", "--action", "rollback"];
    let proxy = Proxy::in_folder(&database, tempfile::tempdir().unwrap(), &by, &limit);
    for (offset, hours) in [("-2d", -48), ("+2d", 48), ("+0", 0)] {
        let mut client = Client::connect(proxy.endpoint());
        client.begin("INSERT INTO t VALUES (2, 'late')");
        set(offset);
        let incident = proxy.rolled_back(client.server_pid());
        proxy.in_time(&incident);
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        let written: Timestamp = incident["time"].as_str().unwrap().parse().unwrap();
        let jumped = written.duration_since(Timestamp::now()).as_hours();
        assert!((jumped - hours).abs() <= 1, "{offset}: {incident}");
    }
}

/// Every reload finds another mistake, while sessions come and work.
#[test]
fn a_configuration_that_is_broken_under_load_changes_nothing_until_it_is_whole_again() {
    const ROUNDS: usize = 12;
    const BROKEN: [&str; 4] = [
        "[[rule]]\nname = 'all'\nidle = { rollback = '300m",
        "[[rule]]\nname = 'all'\nidle = { rolback = '300ms' }",
        "[[rule]]\nname = 'all'\nidle = { rollback = '1s', log = '2s' }",
        "\u{0}\u{1}\u{2}",
    ];
    let database = newest().database();
    let settings = tempfile::NamedTempFile::new().unwrap();
    fs::write(settings.path(), SOON).unwrap();
    let path = settings.path().to_str().unwrap();
    let proxy = Proxy::start(&database, &["--config", path]);
    let done = AtomicBool::new(false);
    let (acknowledged, refused) = thread::scope(|scope| {
        let session = |first: u32| {
            let (proxy, done) = (&proxy, &done);
            scope.spawn(move || keeps_working(proxy, done, first))
        };
        let sessions = [1000, 2000, 3000].map(session);
        for round in 0..ROUNDS {
            fs::write(settings.path(), BROKEN[round % BROKEN.len()]).unwrap();
            assert!(!proxy.reload(), "{}", proxy.log());
        }
        done.store(true, Ordering::Relaxed);
        let told = sessions.map(|session| session.join().unwrap());
        let kept: Vec<_> = told.iter().flat_map(|(kept, _)| kept.clone()).collect();
        (kept, told.map(|(_, refused)| refused).iter().sum::<usize>())
    });
    let said = proxy
        .log()
        .matches("not reloaded; the running settings stay")
        .count();
    assert_eq!(said, ROUNDS);
    assert!(refused > 0, "no limit was reached");
    assert_eq!(
        ids(&mut Client::connect(&database), 1000),
        acknowledged.join(",")
    );
    fs::write(settings.path(), SOON.replace("300ms", "200ms")).unwrap();
    assert!(proxy.reload());
    works(&proxy, 10);
    assert_eq!(proxy.incidents().last().unwrap()["limit_ms"], 200);
}

/// Commits in time, and every third time too late, in sessions that come and go: what was acknowledged, and how many were
/// refused.
fn keeps_working(proxy: &Proxy, done: &AtomicBool, first: u32) -> (Vec<String>, usize) {
    let (mut kept, mut refused) = (Vec::new(), 0);
    for id in first.. {
        if done.load(Ordering::Relaxed) && refused > 0 {
            break;
        }
        let mut client = Client::connect(proxy.endpoint());
        client.run(&format!("BEGIN; INSERT INTO t VALUES ({id}, 'load')"));
        if id % 3 == 0 {
            proxy.rolled_back(client.server_pid());
        }
        let heard = client.query("COMMIT");
        if heard == "C COMMIT / Z I" {
            kept.push(id.to_string());
        } else {
            assert_eq!(heard, "E 25P03 / Z I");
            refused += 1;
        }
    }
    (kept, refused)
}

/// The files of the certificate are replaced where they are, as a tool that renews them does, and not well.
#[test]
fn a_certificate_that_is_broken_where_it_is_leaves_the_one_in_use_until_it_is_mended() {
    let server = newest();
    let database = server.database();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
    let restore = |pair: &str| {
        fs::copy(server.pem(&format!("{pair}.crt")), &cert).unwrap();
        fs::copy(server.pem(&format!("{pair}.key")), &key).unwrap();
    };
    restore("pgidle");
    let tls = format!(
        "[tls]\nsslmode = 'require'\ncert = '{}'\nkey = '{}'\n",
        cert.display(),
        key.display()
    );
    let proxy = Proxy::with_rules(&database, &format!("{tls}{SOON}"));
    let sees = |ca: &str| {
        let ca = server.pem(ca);
        let set = [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", ca.as_str())];
        ask(Libpq::Debian, proxy.endpoint(), &set, "SELECT 'in'")
    };
    assert_eq!(sees("ca.crt"), "in");
    let half = |path: &Path| {
        let whole = fs::read(path).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    };
    for (breaks, names) in [
        (&(|| half(&cert)) as &dyn Fn(), "tls.cert"),
        (&|| fs::write(&cert, "").unwrap(), "tls.cert"),
        (&|| half(&key), "tls.key"),
        (&|| fs::remove_file(&key).unwrap(), "tls.key"),
    ] {
        restore("pgidle");
        breaks();
        let before = proxy.log().len();
        assert!(!proxy.reload(), "{names}");
        let said = proxy.log().split_off(before);
        assert!(said.contains(names), "{said}");
        assert_eq!(sees("ca.crt"), "in");
    }
    restore("other");
    assert!(proxy.reload());
    assert_eq!(sees("other.crt"), "in");
    let mut dba = Dba::new(&database);
    wait_for("an end of all", || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        (dba.value(others) == "0").then_some(())
    });
    logged(&proxy, &["reloaded"]);
}
