//! Limits that change under a stuck session, rungs that are not possible, and clocks that begin anew.

use expect_test::expect;

use super::script::{Player, check};

#[test]
fn a_severer_rung_of_new_limits_is_due_at_its_time() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1500ms
              * idle log logged at 1s in "idle in transaction" after 1s
            limits: idle: rollback 2s
            +400ms
            +100ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 2s in "idle in transaction" after 2s
        "#]],
    );
}

#[test]
fn a_rung_of_new_limits_whose_time_is_past_is_due_at_once() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1h
              * idle log logged at 1s in "idle in transaction" after 1s
            limits: idle: log 1s, rollback 2s
            +0ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3600 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn what_is_no_severer_than_what_was_done_is_not_done_again() {
    check(
        "idle: log 1s, notice 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
              * idle log logged at 1s in "idle in transaction" after 1s
              < N 25P03 (ours)
              * idle notice noticed at 2s in "idle in transaction" after 2s
            limits: idle: log 3s, notice 4s, rollback 5s, terminate 6s
            +2s
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 5 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 5s in "idle in transaction" after 5s
            limits: idle: log 5s, rollback 5s, terminate 7s
            +1s
            +1s
              ! close: policy
              * idle terminate terminated at 7s in "idle in transaction (aborted)" after 7s
              > X
              < E FATAL 25P03 (ours)
        "#]],
    );
}

#[test]
fn limits_that_are_taken_away_and_come_back_begin_nothing_anew() {
    check(
        "idle: log 1s, rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
              * idle log logged at 1s in "idle in transaction" after 1s
            limits: age: log 1h
            +5s
            limits: idle: log 1s, rollback 10s
            +2999ms
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 10 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn the_age_of_a_transaction_meets_the_limits_of_its_new_application_name() {
    check(
        "age: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1500ms
              * age log logged at 1s in "idle in transaction" after 1s
            C: Q SET application_name = 'b'
              > Q SET application_name = 'b'
            S: C SET | PS application_name=b | Z T
              < C SET | S | Z T
              ! MatchRules
            limits: age: rollback 2s
            +500ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 2 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn new_limits_for_what_keeps_others_waiting() {
    check(
        "blocking: log 0s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
            seen: 400ms for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 1s
            limits: blocking: log 0s, rollback 1s
            +500ms
            seen: 900ms for ShareLock
            +100ms
            seen: nobody
            +1s
            seen: 900ms for ShareLock
              * blocking log logged at 0ns in "idle in transaction" after 2.6s
            +100ms
            seen: 1s for ShareLock
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_transaction_that_was_released_is_released_again_and_new_limits_end_it() {
    check(
        "idle: release 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1s
              > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
            S: answer 1 | closed | Z T
              > own ROLLBACK | closed | S
            S: own ROLLBACK | closed | Z I
              * idle release released at 1s in "idle in transaction" after 1s
            limits: idle: release 1s, rollback 2s
            +1h
            C: Q SELECT 2
              > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
            S: own BEGIN | own SELECT 1 | closed | Z T
              > Q SELECT 2
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1s
              > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
            S: answer 7 | closed | Z T
              > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
            S: own ROLLBACK TO | own RELEASE | closed | Z T
              * idle release not_releasable at 1s in "idle in transaction" after 1s
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 3 statement(s)
              * idle rollback rolled_back at 2s in "idle in transaction" after 2s
        "#]],
    );
}

#[test]
fn a_transaction_that_was_not_released_meets_the_severer_rungs_of_new_limits() {
    check(
        "idle: release 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1)
              > Q INSERT INTO t VALUES (1)
            S: C INSERT 0 1 | Z T
              < C INSERT 0 1 | Z T
            +1s
              * idle release not_releasable at 1s in "idle in transaction" after 1s
            limits: idle: notice 2s, release 2s, terminate 3s
            +1s
            limits: idle: rollback 1s
            +0ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
        "#]],
    );
}

/// Sends all the cancels that there are, of which none helps.
fn swallow_cancels(player: &mut Player) {
    for _ in 0..10 {
        player.play("cancelled\n+500ms");
    }
}

#[test]
fn a_rollback_that_was_not_possible_is_due_when_the_statement_has_ended() {
    let mut player = Player::new("age: rollback 1s, terminate 1h");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT stubborn()\n+1s");
    swallow_cancels(&mut player);
    player.transcript.clear();
    player.play("+10s\nS: C SELECT 1 | Z T\n+0ms\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    expect![[r#"
        +10s
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        +0ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 16 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * age rollback rolled_back at 1s in "idle in transaction" after 0ns
    "#]].assert_eq(&player.transcript);
}

#[test]
fn a_rollback_that_was_not_possible_twice_is_due_again() {
    let mut player = Player::new("age: rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT stubborn() | Q SELECT stubborn()\n+1s");
    swallow_cancels(&mut player);
    player.transcript.clear();
    player.play("S: C SELECT 1 | Z T\n+10s\nS: C SELECT 1 | Z T\n+0ms");
    expect![[r#"
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        +10s
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        +0ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 16 s'::pg_catalog.int4
    "#]].assert_eq(&player.transcript);
}

#[test]
fn terminate_does_not_wait_for_a_rollback_that_is_not_possible() {
    let mut player = Player::new("age: rollback 1s, terminate 10s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT stubborn()\n+1s");
    swallow_cancels(&mut player);
    player.transcript.clear();
    player.play("+3s\n+2s");
    swallow_cancels(&mut player);
    expect![[r#"
        +3s
        +2s
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          ! Cancel
        cancelled
        +500ms
          < E FATAL 25P04 (ours)
          ! close: policy
          * age terminate terminated at 10s in "active" after 0ns
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_session_without_a_key_is_ended_when_its_statement_has_ended() {
    let mut player = Player::new("age: rollback 1s");
    player.session.who.server_pid = None;
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\n+1s\n+1s\nS: C SELECT 1 | Z T\n+0ms");
    expect![[r#"
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        C: Q SELECT 1
          > Q SELECT 1
        +1s
          * age rollback not_possible at 1s in "active" after 0ns
        +1s
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        +0ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 2 s'::pg_catalog.int4
    "#]].assert_eq(&player.transcript);
}

#[test]
fn a_rollback_in_the_middle_of_a_message_is_due_when_the_message_is_whole() {
    let mut player = Player::new("stalled: rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T");
    let query = super::script::frontend(&format!("Q SELECT '{}'", "x".repeat(50_000)));
    player.client_raw(&query[..40_000]);
    player.transcript.clear();
    player.play("+1s\n+1h");
    player.client_raw(&query[40_000..]);
    player.transcript.clear();
    player.play("S: C SELECT 1 | Z T\nC: P - SELECT 1 | H\nS: 1\n+1s");
    expect![[r#"
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        C: P - SELECT 1 | H
          > P - SELECT 1 | H
        S: 1
          < 1
        +1s
          > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_client_that_was_answered_by_our_error_has_spoken() {
    for said in [
        "C: Q SELECT 1",
        "C: P - SELECT 1 | B - - | E - | S\nS: E 25P02\nS: Z E",
        "C: F",
    ] {
        let mut player = Player::new("idle: rollback 1s, terminate 3s");
        player.play(
            "C: Q BEGIN
             S: C BEGIN | Z T
             +1s
             S: C ROLLBACK | C BEGIN | E 22P02 | Z E
             +1500ms",
        );
        player.play(said);
        player.play("+2999ms");
        assert!(
            !player.transcript.contains("! close"),
            "{}",
            player.transcript
        );
        player.play("+1ms");
        assert!(
            player.transcript.contains("! close"),
            "{}",
            player.transcript
        );
    }
}
