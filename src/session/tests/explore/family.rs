//! What can happen in an exploration: families of things that meet each other, and the positions that each begins in.

use std::time::Duration;

use crate::{
    policy::Action as PolicyAction,
    session::{
        Side,
        tests::{
            model::{Act, Eager, End, Statement},
            world::{Op, World},
        },
    },
};

/// Something that can happen: what it is made of happens at once.
pub(super) type Letter = Vec<Op>;

/// A bounded alphabet, and where its interleavings begin.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) limits: &'static str,
    /// What is around the session besides.
    around: fn(&mut World),
    /// How each of its positions is reached.
    pub(super) seeds: Vec<Letter>,
    pub(super) letters: Vec<Letter>,
}

impl Family {
    /// The world in one of its positions.
    pub(super) fn begin(
        &self,
        seed: usize,
        world: impl FnOnce(&mut World),
    ) -> Result<World, String> {
        let mut begun = World::new(self.limits, false);
        // A clock as coarse as the relay's, which reads both sides at one time.
        begun.tick = Duration::ZERO;
        (self.around)(&mut begun);
        world(&mut begun);
        for op in &self.seeds[seed] {
            begun.apply(op)?;
        }
        Ok(begun)
    }

    /// Whether this may happen now.
    pub(super) fn allows(world: &World, letter: &Letter) -> bool {
        match letter.first() {
            Some(Op::Client(_)) => world.client.outstanding() < MOST_REQUESTS,
            Some(_) | None => true,
        }
    }
}

/// Requests that a client has under way at most.
const MOST_REQUESTS: usize = 2;

const ALL: usize = usize::MAX;

fn says(act: Act) -> Letter {
    vec![Op::Client(act), Op::Send(ALL)]
}

fn query(list: &[Statement]) -> Letter {
    says(Act::Query(list.to_vec()))
}

fn batch(statement: Statement, end: End) -> Letter {
    says(Act::Batch(statement, false, end))
}

/// Queries that are answered.
fn answered(list: &[Statement]) -> Letter {
    list.iter()
        .flat_map(|statement| [query(&[statement]), vec![Op::Exchange]].concat())
        .collect()
}

/// The same, with something after them.
fn after(list: &[Statement], then: impl IntoIterator<Item = Op>) -> Letter {
    answered(list).into_iter().chain(then).collect()
}

/// What every family has: the server works, its answers come, the next timer rings.
fn world_goes_on() -> [Letter; 3] {
    [vec![Op::Serve(20)], vec![Op::Deliver(ALL)], vec![Op::Ring]]
}

fn starts(mut seeds: Vec<Letter>) -> Vec<Letter> {
    for seed in &mut seeds {
        seed.insert(0, Op::Deliver(ALL));
    }
    seeds
}

fn family(
    name: &'static str,
    limits: &'static str,
    seeds: Vec<Letter>,
    letters: Vec<Letter>,
) -> Family {
    Family {
        name,
        limits,
        around: |_| {},
        seeds: starts(seeds),
        letters: letters.into_iter().chain(world_goes_on()).collect(),
    }
}

pub(super) fn families() -> Vec<Family> {
    vec![
        queries(),
        lists(),
        savepoints(),
        batches(),
        prepared(),
        copy(),
        running(),
        standby(),
        cancels(),
        release(),
        sockets(),
        large(),
        operator(),
        terminate(),
        waiters(),
        replication(),
    ]
}

const IDLE: &str = "idle: rollback 1s; failed: rollback 1s; stalled: rollback 1s";

fn queries() -> Family {
    let half = [Op::Client(Act::Query(vec!["COMMIT"])), Op::SendHalf];
    let mut queries = family(
        "queries",
        IDLE,
        vec![
            vec![],
            answered(&["BEGIN", "INSERT N"]),
            answered(&["BEGIN", "INSERT N", "FAIL"]),
            after(&["BEGIN", "INSERT N"], half.clone()),
            after(&["BEGIN", "INSERT N"], [Op::Pass(1000), Op::Exchange]),
        ],
        vec![
            query(&["BEGIN"]),
            query(&["INSERT N"]),
            query(&["COMMIT"]),
            query(&["ROLLBACK"]),
            half.to_vec(),
        ],
    );
    // The startup packet is not answered yet.
    queries.seeds.push(vec![]);
    queries
}

fn lists() -> Family {
    family(
        "lists",
        IDLE,
        vec![vec![], answered(&["BEGIN", "INSERT N"])],
        vec![
            query(&["BEGIN", "INSERT N"]),
            query(&["INSERT N", "COMMIT"]),
            query(&["ROLLBACK", "BEGIN"]),
            query(&["COMMIT AND CHAIN"]),
            query(&[]),
        ],
    )
}

fn savepoints() -> Family {
    family(
        "savepoints",
        "idle: rollback 1s; stalled: rollback 1s",
        vec![
            answered(&["BEGIN", "SAVEPOINT a", "INSERT N"]),
            answered(&["BEGIN", "SAVEPOINT a", "FAIL"]),
        ],
        vec![
            query(&["SAVEPOINT a"]),
            query(&["INSERT N"]),
            query(&["ROLLBACK TO a"]),
            query(&["RELEASE a"]),
            query(&["COMMIT"]),
        ],
    )
}

fn batches() -> Family {
    let unsynced = batch("INSERT N", End::Flush);
    family(
        "batches",
        IDLE,
        vec![
            vec![],
            after(&["BEGIN"], [unsynced.clone(), vec![Op::Exchange]].concat()),
            [unsynced, vec![Op::Exchange]].concat(),
            after(
                &["BEGIN"],
                [batch("FAIL", End::Flush), vec![Op::Exchange]].concat(),
            ),
        ],
        vec![
            batch("BEGIN", End::Sync),
            batch("INSERT N", End::Nothing),
            batch("COMMIT", End::Sync),
            says(Act::Sync),
        ],
    )
}

fn prepared() -> Family {
    let prepare = |index| [says(Act::Prepare(index)), vec![Op::Exchange]].concat();
    let both = [prepare(0), prepare(1)].concat();
    family(
        "prepared statements",
        IDLE,
        vec![
            [both.clone(), answered(&["BEGIN", "INSERT N"])].concat(),
            [both, answered(&["BEGIN", "INSERT N", "FAIL"])].concat(),
        ],
        vec![
            query(&["BEGIN"]),
            says(Act::Run(0, End::Sync)),
            says(Act::Run(1, End::Sync)),
            says(Act::Dialect("INSERT N", false)),
            says(Act::Call),
        ],
    )
}

fn copy() -> Family {
    let begun = |execute| [says(Act::Copy(execute, Eager::Nothing)), vec![Op::Exchange]].concat();
    family(
        "copy",
        IDLE,
        vec![
            vec![],
            begun(false),
            begun(true),
            after(&["BEGIN", "INSERT N"], begun(false)),
        ],
        vec![
            says(Act::Copy(true, Eager::Sync)),
            says(Act::Copy(false, Eager::Everything)),
            says(Act::Data(1)),
            says(Act::CopyDone),
            says(Act::CopyFail),
            query(&["COMMIT"]),
        ],
    )
}

fn running() -> Family {
    let sleeps = [query(&["SLEEP"]), vec![Op::Exchange]].concat();
    family(
        "running",
        "implicit:; age: rollback 1s; idle: rollback 3s; stalled: rollback 3s",
        vec![
            vec![],
            sleeps.clone(),
            after(&["BEGIN", "INSERT N"], sleeps),
        ],
        vec![
            query(&["BEGIN"]),
            query(&["SLEEP"]),
            query(&[]),
            query(&["COMMIT"]),
            batch("INSERT N", End::Flush),
            vec![Op::Wake],
            vec![Op::CancelsLand],
        ],
    )
}

fn standby() -> Family {
    let commits = [query(&["COMMIT"]), vec![Op::Serve(20)]].concat();
    Family {
        around: |world| {
            world.server.standby = true;
            world.observed = true;
            let second = Some(Duration::from_secs(1));
            world.session.handle_observer(second, world.now);
        },
        ..family(
            "standby",
            "implicit:; age: rollback 1s; idle: rollback 1s; stalled: rollback 1s",
            vec![vec![], after(&["BEGIN", "INSERT N"], commits)],
            vec![
                query(&["INSERT N"]),
                query(&["BEGIN", "INSERT N", "COMMIT"]),
                says(Act::Sync),
                vec![Op::Wake],
                vec![Op::CancelsLand],
            ],
        )
    }
}

fn cancels() -> Family {
    family(
        "cancels",
        "idle: rollback 1s; stalled: rollback 1s; age: rollback 2s",
        vec![
            answered(&["BEGIN", "INSERT N"]),
            after(&["BEGIN"], [query(&["SLEEP"]), vec![Op::Exchange]].concat()),
        ],
        vec![
            query(&["INSERT N"]),
            query(&["COMMIT"]),
            vec![Op::CancelRequest],
            vec![Op::CancelsLand],
            vec![Op::Timeout],
        ],
    )
}

fn release() -> Family {
    let released = || after(&["BEGIN", "SELECT 1"], [Op::Pass(1000), Op::Exchange]);
    family(
        "release",
        "idle: release 1s, rollback 3s",
        vec![
            answered(&["BEGIN", "SELECT 1"]),
            released(),
            [vec![Op::ProverLags(true)], answered(&["BEGIN", "SELECT 1"])].concat(),
        ],
        vec![
            query(&["BEGIN"]),
            query(&["SELECT 1"]),
            query(&["INSERT N"]),
            query(&["COMMIT"]),
            vec![Op::Prove(true)],
        ],
    )
}

fn sockets() -> Family {
    let result = [query(&["SELECT 1"]), vec![Op::Reads(false), Op::Serve(20)]].concat();
    family(
        "sockets",
        "idle: rollback 1s; stalled: rollback 2s, terminate 4s",
        vec![vec![], after(&["BEGIN"], result)],
        vec![
            query(&["BEGIN", "INSERT N"]),
            query(&["COMMIT"]),
            vec![Op::Reads(false)],
            vec![Op::TakesSome],
            vec![Op::Reads(true)],
            vec![Op::ServerReads(false)],
            vec![Op::ServerReads(true)],
        ],
    )
}

fn large() -> Family {
    let most = [Op::Client(Act::LargeQuery), Op::Send(35_000)];
    family(
        "large messages",
        "idle: rollback 1s; stalled: rollback 1s, terminate 3s; age: rollback 2s",
        vec![most.to_vec(), after(&["BEGIN", "INSERT N"], most)],
        vec![
            vec![Op::Send(1)],
            vec![Op::Send(ALL)],
            query(&["COMMIT"]),
            vec![Op::ServerReads(false)],
            vec![Op::ServerReads(true)],
        ],
    )
}

fn operator() -> Family {
    let sleeps = [query(&["SLEEP"]), vec![Op::Exchange]].concat();
    family(
        "operator",
        IDLE,
        vec![
            answered(&["BEGIN", "INSERT N"]),
            after(&["BEGIN", "INSERT N"], sleeps),
        ],
        vec![
            query(&["BEGIN", "INSERT N"]),
            query(&["COMMIT"]),
            vec![Op::Limits("idle: log 1s; age: rollback 2s")],
            vec![Op::Limits(IDLE)],
            vec![Op::Command(PolicyAction::Rollback)],
            vec![Op::Command(PolicyAction::Terminate)],
            vec![Op::Shutdown],
            vec![Op::Leave(Side::Client)],
            vec![Op::Leave(Side::Server)],
            vec![Op::CancelsLand],
        ],
    )
}

fn terminate() -> Family {
    let sleeps = [query(&["SLEEP"]), vec![Op::Exchange]].concat();
    family(
        "terminate",
        "implicit:; idle: rollback 1s, terminate 2s; stalled: terminate 2s; age: terminate 3s",
        vec![
            answered(&["BEGIN", "INSERT N"]),
            after(&["BEGIN"], sleeps),
            [batch("INSERT N", End::Flush), vec![Op::Exchange]].concat(),
        ],
        vec![
            query(&["INSERT N"]),
            query(&["COMMIT"]),
            query(&["DOZE"]),
            vec![Op::CancelsLand],
            vec![Op::Hang(true)],
            vec![Op::Hang(false)],
        ],
    )
}

fn waiters() -> Family {
    Family {
        around: |world| {
            let second = Some(Duration::from_secs(1));
            world.session.handle_observer(second, world.now);
        },
        ..family(
            "waiters",
            "blocking: rollback 1s; idle: log 1s, rollback 9s",
            vec![
                answered(&["BEGIN", "INSERT N"]),
                [batch("INSERT N", End::Flush), vec![Op::Exchange]].concat(),
            ],
            vec![
                query(&["INSERT N"]),
                query(&["COMMIT"]),
                says(Act::Sync),
                vec![Op::Seen("1s for AccessExclusiveLock")],
                vec![Op::Seen("0ms for ShareLock, freed by terminate")],
                vec![Op::Seen("nobody")],
            ],
        )
    }
}

fn replication() -> Family {
    Family {
        around: |world| world.session.state.replication = true,
        ..family(
            "replication",
            "idle: rollback 1s; failed: rollback 1s; stalled: terminate 1s; age: terminate 1s",
            vec![vec![], answered(&["BEGIN", "INSERT N"])],
            vec![
                query(&["INSERT N"]),
                query(&["COMMIT"]),
                batch("INSERT N", End::Flush),
                says(Act::Sync),
                vec![Op::Shutdown],
            ],
        )
    }
}
