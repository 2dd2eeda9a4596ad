//! What can happen in a case, and how often.

use proptest::{prelude::*, sample::select};

use crate::{
    policy::Action as PolicyAction,
    session::tests::{
        model::{Act, Eager, End, NAMED, Statement},
        world::Op,
    },
};

pub(super) const STATEMENTS: &[Statement] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "INSERT N",
    "INSERT N",
    "INSERT N",
    "COMMIT",
    "COMMIT",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SAVEPOINT b",
    "ROLLBACK TO b",
    "RELEASE b",
    "SELECT 1",
    "FAIL",
    "SLEEP",
    "DOZE",
    "VACUUM N",
    "CALL N",
];

/// Statements of transactions that mostly read.
pub(super) const READS: &[Statement] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "INSERT N",
    "SAVEPOINT a",
    "COMMIT",
    "ROLLBACK",
];

/// Messages that come unasked.
const UNASKED: &[&str] = &[
    "N 00000",
    "A",
    "PS standard_conforming_strings=off",
    "PS standard_conforming_strings=on",
    "PS client_encoding=SJIS",
    "PS client_encoding=UTF8",
    "PS application_name=other",
];

/// What the console commands.
const COMMANDS: &[PolicyAction] = &[PolicyAction::Rollback, PolicyAction::Terminate];

fn act(statements: &'static [Statement]) -> impl Strategy<Value = Act> {
    let statement = move || select(statements);
    let end = || select(&[End::Sync, End::Sync, End::Flush, End::Nothing][..]);
    let eager = select(&[Eager::Nothing, Eager::Sync, Eager::Everything][..]);
    prop_oneof![
        8 => prop::collection::vec(statement(), 1..2).prop_map(Act::Query),
        2 => prop::collection::vec(statement(), 0..5).prop_map(Act::Query),
        1 => Just(Act::LargeQuery),
        8 => (statement(), any::<bool>(), end()).prop_map(|(s, d, e)| Act::Batch(s, d, e)),
        2 => (statement(), any::<bool>()).prop_map(|(s, early)| Act::Dialect(s, early)),
        1 => (0..NAMED.len()).prop_map(Act::Prepare),
        2 => (0..NAMED.len(), end()).prop_map(|(index, end)| Act::Run(index, end)),
        3 => Just(Act::Sync),
        1 => Just(Act::Flush),
        1 => Just(Act::Call),
        2 => (any::<bool>(), eager).prop_map(|(execute, eager)| Act::Copy(execute, eager)),
        2 => select(&[1_usize, 100, 60_000][..]).prop_map(Act::Data),
        2 => Just(Act::CopyDone),
        1 => Just(Act::CopyFail),
    ]
}

pub(super) fn op(
    statements: &'static [Statement],
    limits: &'static [&'static str],
) -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => act(statements).prop_map(Op::Client),
        8 => Just(Op::Exchange),
        4 => select(&[1_usize, 3, 7, 30, 1000, 35_000, 1_000_000][..]).prop_map(Op::Send),
        4 => (1_usize..6).prop_map(Op::Serve),
        4 => select(&[1_usize, 3, 9, 40, 100_000][..]).prop_map(Op::Deliver),
        6 => select(&[1_u64, 100, 150, 500, 950, 1000, 1500, 5000][..]).prop_map(Op::Pass),
        2 => Just(Op::Wake),
        1 => Just(Op::CancelRequest),
        2 => Just(Op::CancelsLand),
        1 => Just(Op::Timeout),
        2 => Just(Op::Interrupt),
        1 => any::<bool>().prop_map(Op::Hang),
        1 => select(UNASKED).prop_map(Op::Unasked),
        1 => Just(Op::Spill),
        1 => any::<bool>().prop_map(Op::Reads),
        1 => Just(Op::Lag),
        1 => any::<bool>().prop_map(Op::ProverLags),
        1 => any::<bool>().prop_map(Op::Prove),
        1 => select(limits).prop_map(Op::Limits),
        1 => select(COMMANDS).prop_map(Op::Command),
        1 => Just(Op::Shutdown),
    ]
}
