//! Who keeps others waiting is ended by that clock, and by no other; and when a session wants to be looked at.

use std::time::Duration;

use expect_test::expect;

use super::script::{Player, check};

const BLOCKING: &str = "blocking: log 0s, rollback 1s";

const READ: &str = "C: Q BEGIN
    S: C BEGIN | Z T
    C: Q SELECT 1
    S: C SELECT 1 | Z T";

#[test]
fn a_session_that_keeps_others_waiting_is_ended_when_that_is_seen_to_last_too_long() {
    check(
        BLOCKING,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1h
            seen: nobody
            +1s
            seen: 400ms for AccessExclusiveLock
              * blocking log logged at 0ns in "idle in transaction" after 3601s
            +500ms
            +100ms
            seen: 1s for AccessExclusiveLock; 3ms for AccessShareLock
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * blocking rollback rolled_back at 1s in "idle in transaction" after 3601.6s
            seen: 5s for AccessExclusiveLock
            +1h
            C: Q SELECT 2
              < E 25P03 (ours) | Z E
        "#]],
    );
}

#[test]
fn a_wait_from_before_the_session_was_idle_counts_from_then() {
    check(
        BLOCKING,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q UPDATE t SET v = 1
              > Q UPDATE t SET v = 1
            +5s
            seen: 5s for ShareLock
            S: C UPDATE 1 | Z T
              < C UPDATE 1 | Z T
            +999ms
            seen: 6s for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 999ms
            +1ms
            seen: 6s for ShareLock
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn when_nobody_waits_the_clock_stops_and_begins_anew() {
    check(
        BLOCKING,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1h
            seen: 900ms for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 3600s
            +1s
            seen: nobody
            +1s
            seen: 100ms for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 3602s
        "#]],
    );
}

#[test]
fn where_the_server_does_not_say_since_when_the_first_sight_counts() {
    check(
        "blocking: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            seen: ? for ShareLock
            +999ms
            seen: ? for ShareLock
            +1ms
            seen: ? for ShareLock
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn only_those_who_want_the_mode_of_the_rule_count() {
    check(
        "blocking: log 1s; blocking_mode: AccessExclusiveLock",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1h
            seen: 5s for ShareLock; 900ms for AccessExclusiveLock
            seen: 5s for ShareLock; 1s for AccessExclusiveLock
              * blocking log logged at 1s in "idle in transaction" after 3600s
        "#]],
    );
}

#[test]
fn nobody_is_ended_for_those_whom_that_does_not_free() {
    check(
        "blocking: log 0s, release 1s, rollback 2s, terminate 5s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            seen: 1s for ExclusiveLock, freed by terminate
              * blocking log logged at 0ns in "idle in transaction" after 0ns
            +1s
            seen: 2s for ExclusiveLock, freed by terminate
              * blocking release not_possible at 1s in "idle in transaction" after 1s
            +1s
            seen: 3s for ExclusiveLock, freed by terminate
              * blocking rollback not_possible at 2s in "idle in transaction" after 2s
            +1s
            seen: 4s for ExclusiveLock, freed by terminate
            +2s
            seen: 6s for ExclusiveLock, freed by terminate
              ! close: policy
              * blocking terminate terminated at 5s in "idle in transaction" after 5s
              > X
              < E FATAL 25P03 (ours)
        "#]],
    );
    check(
        "blocking: rollback 2s, terminate 5s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +10s
            seen: 9s for ShareLock, freed by nothing
              * blocking rollback not_possible at 2s in "idle in transaction" after 10s
              * blocking terminate not_possible at 5s in "idle in transaction" after 10s
            seen: 9s for ShareLock, freed by nothing
        "#]],
    );
}

#[test]
fn those_whom_it_does_free_count_from_their_own_time() {
    check(
        BLOCKING,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1h
            seen: 9s for ShareLock, freed by nothing; 900ms for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 3600s
              * blocking rollback not_possible at 1s in "idle in transaction" after 3600s
            +100ms
            seen: 9s for ShareLock, freed by nothing; ? for ShareLock
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
            +1s
            seen: 9s for ShareLock, freed by nothing; ? for ShareLock
        "#]],
    );
}

/// From when and by when a look is wanted, from the moment that the last step left, and whether it goes on.
fn look(limits: &str, script: &str) -> Option<(Duration, Duration, bool)> {
    let mut player = Player::new(limits);
    player.play(script);
    player
        .session
        .handle_observer(Some(Duration::from_secs(1)), player.now);
    let look = player.session.observation_due()?;
    let after = |at: std::time::Instant| at.saturating_duration_since(player.now);
    Some((after(look.from), after(look.by), look.continuous))
}

#[test]
fn looks_are_wanted_ahead_of_rungs_and_steadily_for_blocking() {
    let ms = Duration::from_millis;
    assert_eq!(
        look("idle: log 5s", READ),
        Some((ms(3750), ms(4750), false))
    );
    assert_eq!(
        look("idle: log 5s, rollback 60s", &format!("{READ}\n+5s")),
        Some((ms(53_750), ms(54_750), false))
    );
    assert_eq!(look("idle: log 150ms", READ), Some((ms(75), ms(75), false)));
    assert_eq!(
        look("idle: log 5s; blocking: rollback 3s", READ),
        Some((ms(100), ms(100), true))
    );
    let running = "C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1";
    assert_eq!(look("idle: log 5s; blocking: rollback 3s", running), None);
    assert_eq!(
        look("age: log 5s", running),
        Some((ms(3750), ms(4750), false))
    );
    assert_eq!(
        look(
            "idle: log 5s; blocking: rollback 3s",
            "C: Q SELECT 1\nS: Z I"
        ),
        None
    );
    assert_eq!(look("idle: log 5s", &format!("{READ}\n+5s")), None);
}
