//! How things stand with a session, for those who ask.

use std::time::Duration;

use super::script::Player;
use crate::{
    policy::{Action, StuckKind},
    session::{event::Position, snapshot::Clock},
};

#[test]
fn a_snapshot_tells_how_things_stand() {
    let mut player = Player::new("idle: log 1s, rollback 5s; age: terminate 1min");
    let now = player.session.snapshot(player.now);
    assert_eq!(
        (now.position, now.who.server_pid),
        (Position::Idle, Some(7))
    );
    assert_eq!(
        (now.transaction_for, now.statement_count, now.clocks.len()),
        (None, 0, 0)
    );

    player.play("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nC: Q SELECT 1\n+1s");
    let now = player.session.snapshot(player.now);
    assert_eq!(
        (now.position, now.position_for),
        (Position::Running, Duration::from_secs(1))
    );
    assert_eq!(now.statement_count, 2);
    let statement = now.statement.unwrap();
    assert_eq!(
        (statement.text.as_deref(), statement.duration),
        (Some("SELECT 1"), None)
    );

    player.play("S: C SELECT 1 | Z T\n+2s\nan observer\nseen: 500ms for ShareLock");
    let now = player.session.snapshot(player.now);
    assert_eq!(
        (now.position, now.position_for),
        (Position::IdleInTransaction, Duration::from_secs(2))
    );
    assert_eq!(now.transaction_for, Some(Duration::from_secs(4)));
    assert_eq!(
        (&*now.rule, now.blocked(), now.enforcement),
        ("test", Some(1), None)
    );
    let clock = |kind, seconds, taken: &[Action], next| Clock {
        kind,
        shows: Duration::from_secs(seconds),
        taken: taken.to_vec(),
        next,
    };
    let rollback = (Action::Rollback, Duration::from_secs(3));
    let terminate = (Action::Terminate, Duration::from_secs(56));
    assert_eq!(
        now.clocks[..2],
        [
            clock(StuckKind::Idle, 2, &[Action::Log], Some(rollback)),
            clock(StuckKind::Age, 4, &[], Some(terminate)),
        ]
    );
    assert_eq!(
        (now.clocks[2].kind, now.clocks[2].shows),
        (StuckKind::Blocking, Duration::from_millis(500))
    );

    player.play("+3s");
    let now = player.session.snapshot(player.now);
    assert_eq!(now.enforcement, Some("abort"));
}
