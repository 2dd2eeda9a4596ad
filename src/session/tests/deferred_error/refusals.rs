//! Every other request: refused, passed, or discarded with its batch.

use expect_test::expect;

use super::{check, untold};
use crate::session::tests::script::{Player, frame, frontend};

#[test]
fn a_statement_is_refused_and_the_next_one_is_the_servers() {
    check(expect![[r#"
        C: Q INSERT INTO t VALUES (1) | Q SELECT 1
          > Q SELECT 1
          < E 25P03 (ours) | Z E
        S: E 25P02 | Z E
          < E 25P02 | Z E
        C: Q ROLLBACK
          > Q ROLLBACK
        S: C ROLLBACK | Z I
          < C ROLLBACK | Z I
    "#]]);
}

#[test]
fn lists_chains_and_savepoints_are_refused() {
    for text in [
        "COMMIT; INSERT INTO t VALUES (1)",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "ROLLBACK TO a",
        "RELEASE a",
        "DEALLOCATE ALL",
        "CLOSE ALL",
        "DEALLOCATE a; SELECT 1",
        "ROLLBACK PREPARED 'a'",
        "BEGIN",
        "SELECT 1; COMMIT",
    ] {
        let mut player = untold("");
        player.play(&format!("C: Q {text}"));
        assert!(
            player.transcript.ends_with("\n  < E 25P03 (ours) | Z E\n"),
            "{}",
            player.transcript
        );
    }
}

#[test]
fn a_parse_that_draws_25p02_is_told_by_it() {
    check(expect![[r#"
            C: P - SELECT 1 | B - - | E - | S
              > P - SELECT 1 | H
            S: E 25P02
              < E 25P03 (ours)
              > S
            S: Z E
              < Z E
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]]);
}

#[test]
fn a_bind_of_a_statement_prepared_before_is_refused_and_its_batch_discarded() {
    untold("C: P s SELECT 1 | S\nS: 1 | Z I").check(expect![[r#"
            C: B - s | E - | Q SELECT 2 | F | S
              > S
              < E 25P03 (ours)
            S: Z E
              < Z E
        "#]]);
}

#[test]
fn a_function_call_is_refused() {
    check(expect![[r#"
        C: F
          < E 25P03 (ours) | Z E
    "#]]);
}

#[test]
fn lone_syncs_and_flushes_tell_nothing() {
    check(expect![[r#"
            C: S
              > S
            S: Z E
              < Z T
            C: H
              > H
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]]);
}

#[test]
fn text_that_may_lex_otherwise_is_refused() {
    let mut player = Player::new("idle: rollback 1s");
    player.play(
        "C: Q SET client_encoding = 'SJIS'
         S: C SET | PS client_encoding=SJIS | Z I
         C: Q BEGIN
         S: C BEGIN | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    );
    player.transcript.clear();
    player.play("C: Q /* ソ */ COMMIT");
    expect![[r#"
        C: Q /* ソ */ COMMIT
          < E 25P03 (ours) | Z E
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn terminate_passes() {
    check(expect![[r#"
        C: X
          > X
    "#]]);
}

#[test]
fn a_portal_bound_before_the_end_is_gone() {
    let mut player = Player::new("idle: rollback 1s");
    player.play(
        "C: Q BEGIN
         S: C BEGIN | Z T
         C: P - COMMIT | B p - | S
         S: 1 | 2 | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    );
    player.transcript.clear();
    player.play("C: E p | S\nS: Z E");
    expect![[r#"
        C: E p | S
          > S
          < E 25P03 (ours)
        S: Z E
          < Z E
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_parse_that_fails_leaves_the_old_statement_behind_its_name() {
    let mut player = untold("C: P s COMMIT | S\nS: 1 | Z I\nC: P s ROLLBACK | S\nS: E 42P05 | Z I");
    player.play("C: B - s | E - | S\nS: 2\nS: C ROLLBACK\nS: Z I");
    expect![[r#"
        C: B - s | E - | S
          > B | H
        S: 2
          < 2
          > E | H
        S: C ROLLBACK
          > S
          < E 25P03 (ours)
        S: Z I
          < Z I
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_query_behind_a_batch_that_was_ended_gets_its_ready_for_query() {
    let mut player = Player::new("stalled: rollback 1s");
    player.play(
        "C: P - INSERT INTO t VALUES (1) | B - - | E - | H
         S: 1 | 2 | C INSERT 0 1
         +1s
         S: E 42601
         S: Z I",
    );
    player.transcript.clear();
    player.play("C: Q SELECT 1\nC: Q SELECT 1");
    expect![[r#"
        C: Q SELECT 1
          < E 25P03 (ours) | Z I
        C: Q SELECT 1
          > Q SELECT 1
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn an_error_that_comes_while_the_gate_closes_has_told_the_client() {
    let mut player = Player::new("age: rollback 1s; implicit:");
    player.play("C: P - SELECT pg_sleep(60) | B - - | E - | H\nS: 1 | 2\ncancel opens\n+1s");
    player.transcript.clear();
    player.play("S: E 57014\ncancel closes\nS: Z I\nC: S\nS: Z I\nC: Q SELECT 1");
    expect![[r#"
        S: E 57014
          < E 57014
        cancel closes
          > S
        S: Z I
          * age rollback rolled_back at 1s in "active" after 0ns
        C: S
          > S
        S: Z I
          < Z I
        C: Q SELECT 1
          > Q SELECT 1
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_batch_that_was_ended_is_closed_without_being_told() {
    let mut player = Player::new("stalled: rollback 1s");
    player.play(
        "C: Q BEGIN
         S: C BEGIN | Z T
         C: P - SELECT 1 | B c - | E c | H
         S: 1 | 2 | s
         +1s
         S: E 42601
         S: Z E
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    );
    player.transcript.clear();
    player.play("C: CP c | S\nS: 3\nS: Z E\nC: Q COMMIT\nS: C ROLLBACK | Z I");
    expect![[r#"
        C: CP c | S
          > C | H
        S: 3
          < 3
          > S
        S: Z E
          < Z T
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]
    .assert_eq(&player.transcript);
}

/// What is too large to be held until it is whole waits for the answer before it all the same: an error that overtakes
/// that answer would be read as the ROLLBACK's, and the ROLLBACK's tag as that of the INSERT.
#[test]
fn a_large_message_waits_for_the_answer_before_it() {
    let large = format!("INSERT INTO t VALUES (1){}\0", " ".repeat(50_000));
    let large = frame(b'Q', large.as_bytes());
    let mut player = untold("");
    player.client_raw(&[&frontend("Q ROLLBACK"), &large[..30_000]].concat());
    player.play("S: C ROLLBACK | Z I");
    player.client_raw(&large[30_000..]);
    player.play("S: C INSERT 0 1 | Z I");
    let batch = ["P - SAVEPOINT a", "B - -", "E -", "S"].map(frontend);
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.client_raw(&[&batch.concat(), &large[..30_000]].concat());
    player.play("S: Z E");
    player.client_raw(&large[30_000..]);
    expect![[r#"
          > Q ROLLBACK
        S: C ROLLBACK | Z I
          < C ROLLBACK | Z I
          > Q INSERT INTO t VALUES (1)
          > … 20030 bytes
        S: C INSERT 0 1 | Z I
          < C INSERT 0 1 | Z I
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        +1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 1 statement(s)
          * idle rollback rolled_back at 1s in "idle in transaction" after 1s
          > S
          < 1 | 2 | C SAVEPOINT
        S: Z E
          < Z T
          < E 25P03 (ours) | Z E
    "#]].assert_eq(&player.transcript);
}
