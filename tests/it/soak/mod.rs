//! An hour, or some minutes, of everything at once: the bank, legacy applications that get stuck in every way, migrations,
//! reloads, and faults at random. Afterwards books and rows are checked, every incident is explained by a session that was
//! stuck on purpose, and pgidle is as large as it was.

mod legacy;
mod measures;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use self::{
    legacy::{Habit, Told},
    measures::Measures,
};
use crate::{
    bank::Bank,
    support::{
        Endpoint,
        breakable::Breakable,
        dba::Dba,
        fragile::Fragile,
        let_pass,
        observed::{dsn, observing},
        proxy::Proxy,
        server::newest_version,
        wire::Client,
    },
};

/// Legacy applications at a time.
const APPLICATIONS: u64 = 8;
/// How often the settings are read again, and a line tells how it goes.
const RELOAD: Duration = Duration::from_secs(10);
const PROGRESS: Duration = Duration::from_secs(10);

/// Numbers that are the same for the same seed (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    /// A number from a range of them.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (z ^ (z >> 31)) % (high - low)
    }

    /// As long as that many milliseconds.
    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

/// What all threads of a soak share.
struct Soak {
    proxy: Proxy,
    /// Where clients connect: a way to pgidle that breaks.
    door: Breakable,
    server: Endpoint,
    seed: u64,
    start: Instant,
    end: Instant,
    /// What legacy applications are to be caught at, and what they were told of their rows.
    habits: Mutex<BTreeMap<String, Habit>>,
    told: Mutex<Vec<(u64, Told)>>,
    number: AtomicU64,
    migrations: AtomicU64,
    /// The longest that a migration has taken, in milliseconds.
    longest: AtomicU64,
    reloads: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u32>>,
}

impl Soak {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn random(&self, thread: u64) -> Random {
        Random(self.seed.wrapping_mul(1000) + thread)
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn rules(&self, limit: u64) -> String {
        rules(&self.server, limit)
    }

    /// Waits for so long, or until the soak is over.
    fn wait(&self, time: Duration) {
        let until = self.end.min(Instant::now() + time);
        let_pass(until.saturating_duration_since(Instant::now()));
    }
}

fn rules(server: &Endpoint, limit: u64) -> String {
    let limits = format!(
        "idle = {{ rollback = '{limit}ms' }}\nstalled = {{ rollback = '{limit}ms' }}\n\
         failed = {{ rollback = '{limit}ms' }}\nage = {{ rollback = '5s' }}"
    );
    observing(&dsn(server, "postgres"), &limits)
}

/// A number from the environment.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
#[ignore = "takes minutes: make soak MINUTES=10"]
fn a_soak_leaves_no_trace() {
    let minutes: f64 = setting("SOAK_MINUTES", 1.0);
    let seed: u64 = setting("SOAK_SEED", 1);
    eprintln!("soak: {minutes} min; repeat it with  make soak MINUTES={minutes} SEED={seed}");
    let mut server = Fragile::start(newest_version(), &[("max_connections", "150")]);
    let endpoint = server.endpoint();
    Client::connect(&endpoint).run("CREATE DATABASE bank");
    Client::connect(&endpoint).run("CREATE TABLE orders (id bigint PRIMARY KEY, item text)");
    let way = Breakable::open(&endpoint);
    let proxy = Proxy::with_rules(way.endpoint(), &rules(&endpoint, 300));
    let mut measures = Measures::begin(&proxy);
    let start = Instant::now();
    let soak = Soak {
        door: Breakable::open(proxy.endpoint()),
        proxy,
        server: endpoint.clone(),
        seed,
        start,
        end: start + Duration::from_secs_f64(60.0 * minutes),
        habits: Mutex::new([(measures::FIRST.to_owned(), Habit::Reader)].into()),
        told: Mutex::default(),
        number: AtomicU64::new(1),
        migrations: AtomicU64::new(0),
        longest: AtomicU64::new(0),
        reloads: AtomicU64::new(0),
        faults: Mutex::default(),
    };
    let bank = Endpoint {
        database: "bank".to_owned(),
        ..endpoint
    };
    let (seconds, seed) = ((60.0 * minutes).to_string(), seed.to_string());
    let more = ["--faults", "--seconds", &seconds, "--seed", &seed];
    let bank = Bank::open("rollback", &bank, soak.door.endpoint(), &more);
    thread::scope(|scope| {
        for number in 0..APPLICATIONS {
            let soak = &soak;
            scope.spawn(move || legacy::live(soak, soak.random(number)));
        }
        scope.spawn(|| migrate(&soak));
        scope.spawn(|| reload(&soak));
        scope.spawn(|| do_harm(&soak, &mut server, &way));
        while !soak.is_over() {
            soak.wait(PROGRESS);
            measures.take(&soak.proxy);
            tell(&soak, &measures);
        }
    });
    let report = bank.report();
    assert!(report["enforced"]["25P03"].as_u64() > Some(0), "{report:#}");
    check_rows(&soak);
    check_incidents(&soak);
    check_log(&soak);
    measures.end(&soak.proxy);
}

/// One line on how it goes.
fn tell(soak: &Soak, measures: &Measures) {
    let told = soak.told.lock().unwrap();
    let count = |which: Told| told.iter().filter(|(_, told)| *told == which).count();
    eprintln!(
        "soak: {:5.0} s: {measures}; legacy {} acknowledged, {} refused, {} unknown; {} migrations, longest {} ms; {} reloads; faults {:?}",
        soak.seconds(),
        count(Told::Acknowledged),
        count(Told::Refused),
        count(Told::Unknown),
        soak.migrations.load(Ordering::Relaxed),
        soak.longest.load(Ordering::Relaxed),
        soak.reloads.load(Ordering::Relaxed),
        soak.faults.lock().unwrap(),
    );
}

/// Changes a table again and again, in a way that nobody else may hold it meanwhile.
fn migrate(soak: &Soak) {
    let name = [("application_name", "migration")];
    while !soak.is_over() {
        let Ok(mut client) = Client::try_connect(soak.door.endpoint(), &name) else {
            soak.wait(Duration::from_millis(100));
            continue;
        };
        for number in 0.. {
            let began = Instant::now();
            let change = format!("ALTER TABLE orders ALTER item SET DEFAULT '{number}'");
            client
                .try_send(&crate::support::frontend::query(&change))
                .ok();
            let heard = client.until_ready();
            if soak.is_over() || heard != "C ALTER TABLE / Z I" {
                // A connection that is lost, or the server's last word; nothing else may keep a migration from going through.
                let ended = heard.ends_with("closed") || heard.contains("57P0");
                assert!(soak.is_over() || ended, "a migration heard {heard}");
                break;
            }
            let took = u64::try_from(began.elapsed().as_millis()).unwrap();
            soak.longest.fetch_max(took, Ordering::Relaxed);
            soak.migrations.fetch_add(1, Ordering::Relaxed);
            soak.wait(Duration::from_millis(500));
        }
    }
}

/// Reads the settings again and again; every third time they are broken for a moment.
fn reload(soak: &Soak) {
    for turn in 1_u64.. {
        soak.wait(RELOAD);
        if soak.is_over() {
            return;
        }
        if turn.is_multiple_of(3) {
            assert!(!soak.proxy.try_rules("[[rule]]\nname = 'half"));
        }
        soak.proxy
            .change_rules(&soak.rules(if turn % 2 == 0 { 300 } else { 250 }));
        soak.reloads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does harm of every kind, by turns that the seed decides.
fn do_harm(soak: &Soak, server: &mut Fragile, way: &Breakable) {
    let mut random = soak.random(APPLICATIONS);
    loop {
        soak.wait(random.millis(2000, 9000));
        if soak.is_over() {
            return;
        }
        let pause = random.millis(100, 1500);
        let name = match random.between(0, 10) {
            0 | 1 => {
                server.crash();
                "server process killed"
            }
            2 => {
                server.kill();
                let_pass(pause);
                server.start_again();
                "server killed and started again"
            }
            3 | 4 => {
                server.pause();
                let_pass(pause);
                server.go_on();
                "server paused"
            }
            5 | 6 => {
                way.reset_one_in(3);
                "connections to the server reset"
            }
            7 | 8 => {
                soak.door.reset_one_in(3);
                "clients reset"
            }
            _ => {
                soak.proxy.signal(nix::sys::signal::Signal::SIGSTOP);
                let_pass(pause);
                soak.proxy.signal(nix::sys::signal::Signal::SIGCONT);
                "pgidle suspended"
            }
        };
        eprintln!("soak: {:5.0} s: {name}", soak.seconds());
        *soak.faults.lock().unwrap().entry(name).or_default() += 1;
    }
}

/// Fails where a legacy application was told what is not so.
fn check_rows(soak: &Soak) {
    let rows =
        Dba::new(&soak.server).value("SELECT coalesce(string_agg(id::text, ','), '') FROM orders");
    let rows: BTreeSet<u64> = rows.split(',').filter_map(|id| id.parse().ok()).collect();
    let told = soak.told.lock().unwrap();
    for (id, told) in told.iter() {
        let there = rows.contains(id);
        let lost = *told == Told::Acknowledged && !there;
        let ghost = *told == Told::Refused && there;
        assert!(!lost && !ghost, "{id} was {told:?}, and its row is {there}");
    }
}

/// Fails unless every incident is about somebody who was stuck on purpose, and every habit was caught.
fn check_incidents(soak: &Soak) {
    let habits = soak.habits.lock().unwrap();
    let mut counts = BTreeMap::<_, u32>::new();
    let mut unexplained = Vec::new();
    let incidents = soak.proxy.incidents();
    for incident in &incidents {
        let text = |field: &str| incident[field].as_str().unwrap_or_default().to_owned();
        let habit = habits.get(&text("application_name"));
        let who = match habit {
            // The bank's customers think for about as long as they may.
            None if incident["database"] == "bank" => "bank".to_owned(),
            Some(habit) if habit.kinds().contains(&text("kind").as_str()) => format!("{habit:?}"),
            _ => {
                unexplained.push(incident);
                continue;
            }
        };
        *counts
            .entry((who, text("kind"), text("outcome")))
            .or_default() += 1;
    }
    for ((who, kind, outcome), count) in &counts {
        eprintln!("soak: {count:6} incidents: {who}, {kind}, {outcome}");
    }
    assert_eq!(unexplained, Vec::<&Value>::new());
    assert!(
        counts
            .keys()
            .all(|(_, _, outcome)| outcome != "unexpected_reply")
    );
    for habit in Habit::ALL.iter().filter(|habit| !habit.kinds().is_empty()) {
        let caught = counts
            .keys()
            .any(|(who, _, _)| *who == format!("{habit:?}"));
        assert!(
            caught,
            "{habit:?} was never caught: nothing is proven of it"
        );
    }
}

/// Fails where the log has an error that no fault explains.
fn check_log(soak: &Soak) {
    let log = soak.proxy.log();
    let is_error = |line: &&str| line.contains("\"level\":\"ERROR\"");
    let broken = |line: &&str| line.contains("not reloaded; the running settings stay");
    let mut errors = log.lines().filter(is_error).filter(|line| !broken(line));
    assert_eq!(errors.next(), None);
    let mut kinds = BTreeMap::<String, u32>::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let message = line["message"].as_str().unwrap_or_default();
        let session = message.starts_with("session ") && message.contains("past the limit");
        let text = |field: &str| line[field].as_str().unwrap_or_default();
        let what = if session { "an incident" } else { message };
        *kinds
            .entry(format!("{what} {} {}", text("reason"), text("error")))
            .or_default() += 1;
    }
    for (what, count) in kinds {
        eprintln!("soak: {count:6} lines of the log: {what}");
    }
}
