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
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        +1h
        C: Q SELECT v FROM t
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: own BEGIN | own SELECT 1 | closed | Z T
          > Q SELECT v FROM t
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 2 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: own BEGIN | own SELECT 1 | closed | Z T
          > Q COMMIT
        S: C COMMIT | Z I
          < C COMMIT | Z I
          * transaction commit of 3 statement(s)
        +1h
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: answer 1 | closed | Z T
         S: own ROLLBACK | closed | Z I
         +1h
         C: Q SELECT v FROM t
         S: own BEGIN | own SELECT 1 | closed | Z T
         S: T | D | C SELECT 1 | Z T
         +1s
         S: answer 2 | closed | Z T
         S: own ROLLBACK | closed | Z I
         C: Q COMMIT
         S: own BEGIN | own SELECT 1 | closed | Z T
         S: C COMMIT | Z I
         +1h",
    ));
}

#[test]
fn what_the_server_says_no_to_is_left_as_it_is_and_the_next_rung_acts() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 7 | closed | Z T
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | closed | Z T
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        +1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * idle rollback rolled_back at 2s in "idle in transaction" after 2s
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: answer 7 | closed | Z T
         S: own ROLLBACK | own RELEASE | closed | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    ));
}

/// The savepoint holds what the question does, and what becomes of it.
#[test]
fn a_question_that_fails_leaves_the_transaction_as_it_was() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        C: Q SELECT v FROM t
        S: own SAVEPOINT | closed | 1 | E 57014 | Z E
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | closed | Z T
          > Q SELECT v FROM t
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: own SAVEPOINT | own SET | own SET | own SELECT 1 | E 42501 | Z E
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: closed | 1 | 2 | E 57014 | Z E
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | closed | 1 | E 57014 | Z E
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | closed | Z T
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > Q COMMIT
        S: C COMMIT | Z I
          < C COMMIT | Z I
          * transaction commit of 3 statement(s)
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         C: Q SELECT v FROM t
         S: own SAVEPOINT | closed | 1 | E 57014 | Z E
         S: own ROLLBACK | own RELEASE | closed | Z T
         S: T | D | C SELECT 1 | Z T
         +1s
         S: own SAVEPOINT | own SET | own SET | own SELECT 1 | E 42501 | Z E
         S: closed | 1 | 2 | E 57014 | Z E
         S: own ROLLBACK | closed | 1 | E 57014 | Z E
         S: own ROLLBACK | own RELEASE | closed | Z T
         C: Q COMMIT
         S: C COMMIT | Z I",
    ));
}

#[test]
fn a_savepoint_that_fails_has_ended_the_transaction_and_the_client_is_told() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: closed | 1 | E 57014 | Z E
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
         S: closed | 1 | E 57014 | Z E
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    ));
}

/// A cancel by somebody else can come after RELEASE was carried out (see `errfinish` in the server).
#[test]
fn a_failure_after_the_savepoint_is_gone_has_ended_the_transaction_and_the_client_is_told() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 7 | closed | Z T
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | E 57014 | Z E
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
         S: answer 7 | closed | Z T
         S: own ROLLBACK | own RELEASE | E 57014 | Z E
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    ));
}

#[test]
fn a_rollback_of_a_release_that_is_hit_by_a_timeout_is_sent_again() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: closed | 1 | E 57014 | Z E
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          * idle release released at 1s in "idle in transaction" after 1s
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: answer 1 | closed | Z T
         S: closed | 1 | E 57014 | Z E
         S: own ROLLBACK | closed | Z I",
    ));
}

/// Locks stay until the transaction ends: whoever was refused for one is not asked about again.
#[test]
fn what_cannot_be_released_before_its_end_is_asked_about_once() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 7 | closed | Z T
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | closed | Z T
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        C: Q SELECT v FROM t
          > Q SELECT v FROM t
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > Q COMMIT
        S: C COMMIT | Z I
          < C COMMIT | Z I
          * transaction commit of 3 statement(s)
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        C: Q SELECT v FROM t
          > Q SELECT v FROM t
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 6 | closed | Z T
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | own RELEASE | closed | Z T
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        C: Q SELECT v FROM t
          > Q SELECT v FROM t
        S: T | D | C SELECT 1 | Z T
          < T | D | C SELECT 1 | Z T
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: answer 7 | closed | Z T
         S: own ROLLBACK | own RELEASE | closed | Z T
         C: Q SELECT v FROM t
         S: T | D | C SELECT 1 | Z T
         +1s
         C: Q COMMIT
         S: C COMMIT | Z I
         C: Q BEGIN
         S: C BEGIN | Z T
         C: Q SELECT v FROM t
         S: T | D | C SELECT 1 | Z T
         +1s
         S: answer 6 | closed | Z T
         S: own ROLLBACK | own RELEASE | closed | Z T
         C: Q SELECT v FROM t
         S: T | D | C SELECT 1 | Z T
         +1s",
    ));
}

/// `client_min_messages` can ask for lines about each statement, and ours are no business of the client's.
#[test]
fn notices_about_statements_of_ours_are_dropped() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: NOTICE DEBUG | answer 7 | NOTICE LOG | closed | Z T
          > own ROLLBACK TO SAVEPOINT pgidle_release | own RELEASE SAVEPOINT pgidle_release | closed | S
        S: own ROLLBACK | NOTICE INFO | N 01000 | PS a=b | A | own RELEASE | closed | Z T
          < N 01000 | S | A
          * idle release not_releasable at 1s in "idle in transaction" after 1s
        +1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
        S: NOTICE DEBUG | C ROLLBACK | NOTICE LOG | C BEGIN | N 01000 | E 22P02 | Z E
          < N 01000
          * transaction enforced of 2 statement(s)
          * idle rollback rolled_back at 2s in "idle in transaction" after 2s
    "#]].assert_eq(&play(
        "idle: release 1s, rollback 2s",
        "+1s
         S: NOTICE DEBUG | answer 7 | NOTICE LOG | closed | Z T
         S: own ROLLBACK | NOTICE INFO | N 01000 | PS a=b | A | own RELEASE | closed | Z T
         +1s
         S: NOTICE DEBUG | C ROLLBACK | NOTICE LOG | C BEGIN | N 01000 | E 22P02 | Z E",
    ));
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_session() {
    for answer in [
        "answer 0 | closed | Z T",
        "answer 99 | closed | Z T",
        "answer 1 | closed | Z I",
        "closed | 1 | C x",
        "closed | 1 | 2 | Z T",
        "answer 1 | closed | Z E",
        "answer 7 | closed | Z T\nS: own ROLLBACK | own RELEASE | closed | Z I",
        "closed | 1 | E 57014 | Z I",
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
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        C: Q COMMIT
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: closed | 1 | 2 | E 57014 | Z I
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: own BEGIN | closed | 1 | E 57014 | Z E
          > own ROLLBACK | own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: own ROLLBACK | own BEGIN | own SELECT 1 | closed | Z T
          > Q COMMIT
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: answer 1 | closed | Z T
         S: own ROLLBACK | closed | Z I
         C: Q COMMIT
         S: closed | 1 | 2 | E 57014 | Z I
         S: own BEGIN | closed | 1 | E 57014 | Z E
         S: own ROLLBACK | own BEGIN | own SELECT 1 | closed | Z T",
    ));
}

#[test]
fn where_the_server_closes_idle_sessions_the_transaction_begins_again_at_once() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 4 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE | own SELECT 1 | closed | S
        S: own BEGIN | own SELECT 1 | closed | Z T
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
         S: answer 4 | closed | Z T
         S: own ROLLBACK | closed | Z I
         S: own BEGIN | own SELECT 1 | closed | Z T
         +1h
         C: Q COMMIT
         S: C COMMIT | Z I",
    ));
}

#[test]
fn a_released_transaction_still_has_an_age() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
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
         S: answer 1 | closed | Z T
         S: own ROLLBACK | closed | Z I
         +9s
         S: N 25P01 | C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q SELECT 1",
    ));
}

#[test]
fn a_client_that_leaves_needs_no_transaction() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          * idle release released at 1s in "idle in transaction" after 1s
        drain
        C: X
          > X
    "#]]
    .assert_eq(&play(
        "idle: release 1s",
        "+1s
         S: answer 1 | closed | Z T
         S: own ROLLBACK | closed | Z I
         drain
         C: X",
    ));
}

#[test]
fn a_client_that_speaks_during_the_question_waits() {
    expect![[r#"
        +1s
          > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        C: Q SELECT 2
        S: answer 1 | closed | Z T
          > own ROLLBACK | closed | S
        S: own ROLLBACK | closed | Z I
          > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
          * idle release released at 1s in "idle in transaction" after 1s
        S: own BEGIN | own SELECT 1 | closed | Z T
          > Q SELECT 2
    "#]].assert_eq(&play(
        "idle: release 1s",
        "+1s
         C: Q SELECT 2
         S: answer 1 | closed | Z T
         S: own ROLLBACK | closed | Z I
         S: own BEGIN | own SELECT 1 | closed | Z T",
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
        player.transcript.contains("> own SAVEPOINT"),
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
        player.play("+1s\nS: answer 1 | closed | Z T\nS: own ROLLBACK | closed | Z I\nC: Q SELECT 1\nS: own BEGIN | own SELECT 1 | closed | Z T\nS: T | C SELECT 1 | Z T");
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
        expect![[r#"
            C: Q BEGIN ISOLATION LEVEL REPEATABLE READ
              > Q BEGIN ISOLATION LEVEL REPEATABLE READ
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              * idle release not_releasable at 1s in "idle in transaction" after 1s
        "#]],
    );
}
