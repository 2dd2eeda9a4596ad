//! One client cannot hurt the others: not by what it pipelines, nor by a login that it does not finish, nor by being one
//! too many.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    http::get,
    support::{
        dba::Dba,
        frontend::{cancel_request, messages, query, startup},
        let_pass,
        proxy::Proxy,
        server::newest,
        wait_for,
        wire::Client,
    },
};

/// Rows that a client sends behind a lock.
const ROWS: usize = 60_000;

/// How long a small session may wait beside them: an unoptimised build on a busy machine takes its time, but not the
/// seconds that a search through everything in flight took.
const WAIT: Duration = Duration::from_secs(1);

#[test]
fn a_pipeline_behind_a_lock_leaves_the_thread_to_others() {
    let database = newest().database();
    let rules = "[listen]\nworkers = 1\n[[rule]]\nname = 'all'\nidle = { rollback = '1h' }";
    let proxy = Proxy::with_rules(&database, rules);
    let mut holder = Client::connect(&database);
    holder.run("CREATE TABLE many (i int)");
    holder.begin("LOCK TABLE many");
    let mut writer = Client::connect(proxy.endpoint());
    let mut small = Client::connect(proxy.endpoint());
    let pipeline = [
        messages("P row INSERT INTO many VALUES (1)").concat(),
        messages("B - row | E -").concat().repeat(ROWS),
        messages("S").concat(),
    ]
    .concat();
    let answers = thread::spawn(move || {
        writer.be_patient();
        writer.send(&pipeline);
        writer.until(b'Z').matches("INSERT").count()
    });
    let mut longest = Duration::ZERO;
    for round in 0..100 {
        let before = Instant::now();
        small.run("SELECT 1");
        longest = longest.max(before.elapsed());
        if round == 50 {
            holder.run("COMMIT");
        }
    }
    assert_eq!(answers.join().unwrap(), ROWS);
    assert!(longest < WAIT, "a small session waited for {longest:?}");
}

#[test]
fn a_login_that_is_not_finished_ends_with_the_startup_timeout() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "startup_timeout = '1s'");
    let stalled = startup(&[("user", "scram_user"), ("database", &database.database)]);
    let mut client = Client::silent(proxy.endpoint());
    client.send(&stalled);
    let heard = client.until_closed();
    assert!(heard.contains("57014"), "{heard}");
    // A session that is authenticated has all the time that it wants.
    let mut client = Client::connect(proxy.endpoint());
    let_pass(Duration::from_millis(1500));
    client.run("SELECT 1");
}

#[test]
fn clients_that_do_not_log_in_cannot_hold_every_place() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "[upstream]\nmax_sessions = 2");
    let mut inside = Client::connect(proxy.endpoint());
    let mut stalled = Client::silent(proxy.endpoint());
    stalled.send(&startup(&[
        ("user", "scram_user"),
        ("database", &database.database),
    ]));
    let_pass(Duration::from_millis(1500));
    let mut late = Client::connect(proxy.endpoint());
    let heard = stalled.until_closed();
    assert!(heard.contains("53300"), "{heard}");
    late.run("SELECT 1");
    inside.run("SELECT 1");
}

#[test]
fn who_comes_when_descriptors_run_out_is_refused_and_those_inside_go_on() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::in_folder(&database, folder, &["prlimit", "--nofile=64:64"], &[]);
    let hello = startup(&[("user", "postgres"), ("database", &database.database)]);
    let (mut inside, mut refused) = (Vec::new(), 0);
    for _ in 0..40 {
        let mut client = Client::silent(proxy.endpoint());
        client.send(&hello);
        let heard = client.until_ready();
        if heard.ends_with("Z I") {
            inside.push(client);
        } else {
            assert!(heard.contains("53300"), "{heard}");
            refused += 1;
        }
    }
    assert!(inside.len() >= 5 && refused >= 5, "{} inside", inside.len());
    let slow = &mut inside[0];
    slow.send(&query("SELECT pg_sleep(60)"));
    // A server ignores a cancel that comes before it has begun.
    let mut dba = Dba::new(&database);
    let begun = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'",
        slow.server_pid()
    );
    wait_for("the statement", || (dba.value(&begun) == "1").then_some(()));
    let mut canceller = Client::silent(proxy.endpoint());
    canceller.send(&cancel_request(&slow.backend_key));
    let heard = slow.until_ready();
    assert!(heard.contains("57014"), "{heard}");
    let told = proxy.log().matches("all places are taken").count();
    assert_eq!(told, 1, "{}", proxy.log());
    drop(inside);
    wait_for("a place", || {
        let mut client = Client::silent(proxy.endpoint());
        client.send(&hello);
        client.until_ready().ends_with("Z I").then_some(())
    });
}

/// Connections that say nothing take descriptors that sessions were to have: accepting fails, and goes on when there are
/// some again.
#[test]
fn without_descriptors_it_accepts_no_more_for_a_while() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let limited = ["prlimit", "--nofile=64:64"];
    let proxy = Proxy::in_folder(&database, folder, &limited, &["--http", "127.0.0.1:0"]);
    let mut inside = Client::connect(proxy.endpoint());
    let silent: Vec<_> = (0..100).map(|_| Client::silent(proxy.endpoint())).collect();
    let complaint = "could not accept a connection\"";
    wait_for("the last descriptor", || {
        proxy.log().contains(complaint).then_some(())
    });
    inside.run("SELECT 1");
    drop(silent);
    let mut late = Client::connect(proxy.endpoint());
    late.run("SELECT 1");
    let (_, series) = get(&proxy, "/metrics");
    let errors = series
        .lines()
        .find_map(|line| line.strip_prefix("pgidle_accept_errors_total "));
    assert!(errors.unwrap().parse::<u32>().unwrap() >= 1, "{series}");
}
