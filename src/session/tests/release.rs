//! Release: the question, the end, the new beginning, and everything that stands in its way.

use expect_test::expect;

use super::script::{Player, check};

const BEGUN: &str = "C: Q BEGIN
    S: C BEGIN | Z T
    C: Q SELECT v FROM t
    S: T | D | C SELECT 1 | Z T";

fn play(limits: &str, script: &str) -> String {
    let mut player = Player::new(limits);
    player.play(BEGUN);
    player.transcript.clear();
    player.play(script);
    player.transcript
}

#[test]
fn a_reader_is_released_and_begins_again_when_it_speaks() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 1 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        +1h
        C: Q SELECT v FROM t
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: own BEGIN | own SELECT 1 | Z T
          > Q SELECT v FROM t
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 2 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: own BEGIN | own SELECT 1 | Z T
          > Q COMMIT
        S: C COMMIT | Z I
          < C COMMIT | Z I
          * transaction commit of 3 statement(s)
        +1h
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: own SELECT 1 | Z T
         S: own ROLLBACK | Z I
         +1h
         C: Q SELECT v FROM t
         S: own BEGIN | own SELECT 1 | Z T
         S: T | D | C SELECT 1 | Z T
         +1s
         S: own SELECT 2 | Z T
         S: own ROLLBACK | Z I
         C: Q COMMIT
         S: own BEGIN | own SELECT 1 | Z T
         S: C COMMIT | Z I
         +1h",
    ));
}

#[test]
fn what_the_server_says_no_to_is_left_as_it_is_and_the_next_rung_acts() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 7 | Z T
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        +1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * idle rollback rolled_back at 2s in "idle in transaction" after 2s
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: own SELECT 7 | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    ));
}

#[test]
fn a_question_that_fails_is_a_rollback_and_the_client_is_told() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: 1 | E 57014 | Z E
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * idle release rolled_back at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: 1 | E 57014 | Z E
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    ));
}

#[test]
fn a_question_that_is_not_answered_in_time_is_cancelled() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        +5s
          ! Cancel
        S: E 57014 | Z E
        cancelled
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * idle release rolled_back at 1s in "idle in transaction" after 1s
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         +5s
         S: E 57014 | Z E
         cancelled
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    ));
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_session() {
    for answer in [
        "own SELECT 0 | Z T",
        "own SELECT 99 | Z T",
        "own SELECT 1 | Z I",
        "1 | C x",
        "1 | 2 | Z T",
        "own SELECT 1 | Z E",
    ] {
        let transcript = play("idle: release 1s", &format!("+1s\nS: {answer}"));
        assert!(
            transcript.contains("FATAL 25P03 (ours)"),
            "{answer}: {transcript}"
        );
        assert!(
            transcript.contains("unexpected_reply"),
            "{answer}: {transcript}"
        );
    }
}

#[test]
fn a_begin_that_is_hit_by_a_timeout_is_sent_again() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 1 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: 1 | 2 | E 57014 | Z I
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: own BEGIN | 1 | E 57014 | Z E
          > P pgidle_release- ROLLBACK | B | E | C | C | P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: own ROLLBACK | own BEGIN | own SELECT 1 | Z T
          > Q COMMIT
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: own SELECT 1 | Z T
         S: own ROLLBACK | Z I
         C: Q COMMIT
         S: 1 | 2 | E 57014 | Z I
         S: own BEGIN | 1 | E 57014 | Z E
         S: own ROLLBACK | own BEGIN | own SELECT 1 | Z T",
    ));
}

#[test]
fn where_the_server_closes_idle_sessions_the_transaction_begins_again_at_once() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 4 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
        S: own BEGIN | own SELECT 1 | Z T
          * idle release released at 1s in "idle in transaction" after 1s
        +1h
        C: Q COMMIT
          > Q COMMIT
        S: C COMMIT | Z I
          < C COMMIT | Z I
          * transaction commit of 2 statement(s)
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: own SELECT 4 | Z T
         S: own ROLLBACK | Z I
         S: own BEGIN | own SELECT 1 | Z T
         +1h
         C: Q COMMIT
         S: C COMMIT | Z I",
    ));
}

#[test]
fn a_released_transaction_still_has_an_age() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 1 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        +9s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 10 s'::pg_catalog.int4
        S: N 25P01 | C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * age rollback rolled_back at 10s in "released" after 0ns
        C: Q SELECT 1
          < E 25P04 (ours) | Z E
    "#]].assert_eq(&play(
        "idle: release 1s; age: rollback 10s",
        "+1s
         S: own SELECT 1 | Z T
         S: own ROLLBACK | Z I
         +9s
         S: N 25P01 | C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q SELECT 1",
    ));
}

#[test]
fn a_client_that_leaves_needs_no_transaction() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        S: own SELECT 1 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        drain
        C: X
          > X
    "#]]
    .assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: own SELECT 1 | Z T
         S: own ROLLBACK | Z I
         drain
         C: X",
    ));
}

#[test]
fn a_client_that_speaks_during_the_question_waits() {
    expect![[r#"
        +1s
          > P pgidle_release- WITH held AS ( | B | E | C | C | S
        C: Q SELECT 2
        S: own SELECT 1 | Z T
          > P pgidle_release- ROLLBACK | B | E | C | C | S
        S: own ROLLBACK | Z I
          > P pgidle_release- BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | B | E | C | C | P pgidle_release- SELECT 1 | B | E | C | C | S
          * idle release released at 1s in "idle in transaction" after 1s
        S: own BEGIN | own SELECT 1 | Z T
          > Q SELECT 2
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         C: Q SELECT 2
         S: own SELECT 1 | Z T
         S: own ROLLBACK | Z I
         S: own BEGIN | own SELECT 1 | Z T",
    ));
}

#[test]
fn statements_of_the_extended_protocol_are_known_by_their_names() {
    let mut player = Player::new("idle: release 1s");
    player.play(
        "C: P s SELECT v FROM t | S
                 S: 1 | Z I
                 C: P - BEGIN | B - - | E - | B - s | DP - | E - | S
                 S: 1 | 2 | C BEGIN | 2 | T | C SELECT 1 | Z T
                 +1s",
    );
    assert!(
        player.transcript.contains("> P pgidle_release-"),
        "{}",
        player.transcript
    );
}

/// Nothing goes to the server, nothing to the client.
#[test]
fn what_stands_in_the_way_is_refused_without_a_word_to_anybody() {
    for script in [
        "C: Q SELECT set_config('a.b', 'c', true)\nS: T | D | C SELECT 1 | Z T",
        "C: Q SAVEPOINT a\nS: C SAVEPOINT | Z T\nC: Q RELEASE a\nS: C RELEASE | Z T",
        "C: Q SELECT 1 FOR UPDATE\nS: T | C SELECT 0 | Z T",
        "C: Q SELECT 'a\\b'\nS: T | C SELECT 1 | Z T",
        "C: F\nS: V | Z T",
        "C: P - SELECT 1 | S\nS: 1 | Z T",
        "C: P - SELECT 1 | B - - | S\nS: 1 | 2 | Z T",
        "C: P - SELECT 1 | B p - | E p | S\nS: 1 | 2 | C SELECT 1 | Z T",
        "C: P - SELECT 1 | B - - | E - | S\nS: 1 | 2 | D | s | Z T",
        "C: P a SELECT 1 | P b SELECT 2 | B - a | E - | B - b | E - | S\nS: 1 | 1 | 2 | C SELECT 1 | 2 | C SELECT 1 | Z T",
        "C: DS unknown | S\nS: t | T | Z T",
        "C: B - unknown | E - | S\nS: 2 | C SELECT 1 | Z T",
        "S: PS standard_conforming_strings=off",
        "S: PS client_encoding=SJIS",
        "C: Q COMMIT AND CHAIN\nS: C COMMIT | Z T",
        "C: Q COMMIT; SELECT 1; BEGIN\nS: C COMMIT | T | C SELECT 1 | C BEGIN | Z T",
    ] {
        let mut player = Player::new("idle: release 1s");
        player.play(BEGUN).play(script);
        player.transcript.clear();
        player.play("+1s");
        assert!(
            player.transcript.contains("idle release not_releasable"),
            "{script}: {}",
            player.transcript
        );
        assert!(
            !player.transcript.contains("  > ") && !player.transcript.contains("  < "),
            "{script}: {}",
            player.transcript
        );
    }
}

/// The seed's reader: it never commits, and its transaction is released again and again.
#[test]
fn a_reader_of_many_statements_is_released_again() {
    let mut player = Player::new("idle: release 1s");
    player.play(BEGUN);
    for _ in 0..10 {
        player.play("+1s\nS: own SELECT 1 | Z T\nS: own ROLLBACK | Z I\nC: Q SELECT 1\nS: own BEGIN | own SELECT 1 | Z T\nS: T | C SELECT 1 | Z T");
        for _ in 0..9 {
            player.play("C: Q SELECT 1\nS: T | C SELECT 1 | Z T");
        }
    }
    assert_eq!(
        player.transcript.matches("idle release released").count(),
        10,
        "{}",
        player.transcript
    );
}

#[test]
fn the_isolation_level_is_read_from_its_begin() {
    check(
        "idle: release 1s",
        "C: Q BEGIN ISOLATION LEVEL REPEATABLE READ
         S: C BEGIN | Z T
         +1s",
        &expect![[r#"
            C: Q BEGIN ISOLATION LEVEL REPEATABLE READ
              > Q BEGIN ISOLATION LEVEL REPEATABLE READ
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              * idle release not_releasable at 1s in "idle in transaction" after 1s
        "#]],
    );
}
