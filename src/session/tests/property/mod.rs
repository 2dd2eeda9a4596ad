//! Random clients, servers and clocks against the machine: nothing acknowledged is lost, nothing refused is kept.

mod op;

use std::time::Duration;

use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};

use self::op::{READS, STATEMENTS, op};
use super::{
    model::{Act, End},
    world::{Op, World},
};
use crate::policy::Action;

/// Ladders of every kind; all of them are over before [`super::world`]'s silence is.
const LIMITS: &[&str] = &[
    "",
    "idle: log 1s, rollback 2s; failed: rollback 5s; stalled: rollback 1s; age: rollback 8s",
    "idle: rollback 1s; failed: rollback 1s; stalled: rollback 1s",
    "idle: rollback 1s, terminate 3s; stalled: rollback 2s, terminate 4s; age: rollback 3s",
    "idle: notice 1s, rollback 2s; stalled: notice 1s; age: rollback 1s",
    "implicit:; age: rollback 1s; idle: rollback 3s; stalled: rollback 3s",
    "idle: log 1s; failed: log 1s; stalled: log 1s; age: log 1s",
    "idle: terminate 2s; failed: terminate 2s; stalled: terminate 1s",
    "implicit:; idle: terminate 2s; stalled: terminate 2s; age: terminate 1s",
];

/// Ladders that release.
const RELEASES: &[&str] = &[
    "idle: release 1s",
    "idle: release 500ms, rollback 2s; stalled: rollback 1s; age: rollback 8s",
    "idle: release 1s, terminate 3s; age: rollback 2s",
];

/// What is around a client for one case.
#[derive(Clone, Copy, Debug)]
struct Setting {
    closes_idle: bool,
    standby: bool,
    observed: bool,
    silent: bool,
    /// Whether its first requests come with the startup packet.
    early: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    any::<[bool; 5]>().prop_map(|[closes_idle, standby, observed, silent, early]| Setting {
        closes_idle,
        standby,
        observed,
        silent,
        early,
    })
}

fn run(limits: &'static str, setting: Setting, ops: &[Op]) -> Result<(), String> {
    let mut world = World::new(limits, setting.closes_idle);
    world.server.standby = setting.standby;
    world.observed = setting.observed;
    let interval = setting.observed.then_some(Duration::from_secs(1));
    world.session.handle_observer(interval, world.now);
    if !setting.early {
        world.start_up()?;
        world.settle()?;
    }
    for op in ops {
        world.apply(op)?;
    }
    if world.hangs {
        world.check_patience()?;
    } else if setting.silent || world.insisted {
        world.be_silent()?;
        world.check_free()?;
    }
    if world.insisted && !world.closed {
        return Err("the session outlives pgidle".to_owned());
    }
    if !world.closed {
        world.check_alive()?;
    }
    world.check_books()
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(cases())
    })]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_refused_is_kept(
        limits in select(LIMITS),
        ops in prop::collection::vec(op(STATEMENTS, LIMITS), 0..50),
        setting in setting(),
    ) {
        let setting = Setting { closes_idle: false, ..setting };
        let result: TestCaseResult = run(limits, setting, &ops).map_err(TestCaseError::fail);
        result?;
    }

    #[test]
    fn a_release_takes_nothing_away(
        limits in select(RELEASES),
        setting in setting(),
        ops in prop::collection::vec(op(READS, RELEASES), 0..50),
    ) {
        let setting = Setting { early: false, ..setting };
        let result: TestCaseResult = run(limits, setting, &ops).map_err(TestCaseError::fail);
        result?;
    }
}

/// How many cases are run: few enough for every `cargo test`, unless more are asked for.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

#[test]
fn a_request_sent_with_the_startup_packet_is_not_refused_by_a_shutdown() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: false,
        silent: false,
        early: true,
    };
    let query = Act::Query(vec!["INSERT N"]);
    // It commits by itself, without a Sync.
    let batch = Act::Batch("VACUUM N", false, End::Flush);
    for act in [query, batch] {
        let ops = [Op::Client(act), Op::Send(1000), Op::Shutdown];
        run("", setting, &ops).unwrap();
    }
}

/// The enforcement that was under way comes to nothing by what the observer saw.
#[test]
fn a_shutdown_is_not_forgotten_when_an_observation_ends_what_came_first() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: true,
        silent: false,
        early: false,
    };
    let ops = [
        Op::Hang(true),
        Op::Reads(false),
        Op::Unasked("N 00000"),
        Op::Client(Act::Call),
        Op::Exchange,
        Op::Pass(1000),
        Op::Shutdown,
    ];
    run("stalled: rollback 1s", setting, &ops).unwrap();
}

/// A batch came with the request that was cancelled, and the client is held until the server has answered it.
#[test]
fn a_batch_without_sync_that_is_held_for_its_answer_is_answered() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: true,
        silent: false,
        early: false,
    };
    let ops = [
        Op::Client(Act::Query(vec!["BEGIN"])),
        Op::Client(Act::Batch("COMMIT", false, End::Sync)),
        Op::Send(31),
        Op::Command(Action::Rollback),
        Op::Serve(2),
        Op::Hang(true),
    ];
    run("idle: release 1s", setting, &ops).unwrap();
}

/// It begins while the observer is asked, in which the client is not held yet.
#[test]
fn a_message_that_is_half_forwarded_when_its_enforcement_gives_up_goes_on() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: true,
        silent: false,
        early: false,
    };
    let ops = [
        Op::Client(Act::Query(vec!["BEGIN"])),
        Op::Exchange,
        Op::Client(Act::Query(vec!["SLEEP"])),
        Op::Client(Act::Query(vec!["SELECT 1", "COMMIT"])),
        Op::Client(Act::LargeQuery),
        Op::Send(33),
        Op::Serve(2),
        Op::Lag,
        Op::Command(Action::Rollback),
        Op::Send(35_000),
        Op::CancelsLand,
        Op::Pass(5000),
        Op::CancelsLand,
        Op::Pass(5000),
    ];
    run("idle: release 1s", setting, &ops).unwrap();
}
