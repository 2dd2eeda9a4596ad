//! ROLLBACK in each of its forms, and what a rollback undoes anyway: savepoints, names and cursors.

use expect_test::expect;

use super::{check, untold, untold_in_savepoint};
use crate::session::tests::script::Player;

#[test]
fn rollback_in_every_form_is_the_servers_to_answer() {
    for text in [
        "ROLLBACK",
        "abort work",
        "ROLLBACK AND NO CHAIN;",
        "/* x */ rollback -- y",
    ] {
        let mut player = untold("");
        player.play(&format!(
            "C: Q {text}\nS: C ROLLBACK | Z I\nC: Q COMMIT\nS: C COMMIT | Z I"
        ));
        assert!(!player.transcript.contains("ours"), "{}", player.transcript);
    }
    check(expect![[r#"
            C: P - ROLLBACK | B - - | E - | S
              > P - ROLLBACK | H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
              < C ROLLBACK
              > S
            S: Z I
              < Z I
        "#]]);
}

#[test]
fn rollback_with_more_behind_it_is_the_servers_to_answer() {
    check(expect![[r#"
        C: Q ROLLBACK; SELECT 1
          > Q ROLLBACK; SELECT 1
        S: C ROLLBACK | T | D | C SELECT 1 | Z I
          < C ROLLBACK | T | D | C SELECT 1 | Z I
    "#]]);
}

#[test]
fn rollback_to_behind_a_cancelled_statement_leaves_the_client_untold() {
    let mut player = Player::new("age: rollback 1s");
    player.play(
        "C: Q BEGIN; SAVEPOINT a
         S: C BEGIN | C SAVEPOINT | Z T
         C: Q SELECT pg_sleep(60)
         C: Q ROLLBACK TO a
         +1s",
    );
    player.transcript.clear();
    player.play(
        "cancelled
         S: E 57014 | Z E | C ROLLBACK | Z T
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        cancelled
        S: E 57014 | Z E | C ROLLBACK | Z T
          < E 25P04 (ours) | Z E | C ROLLBACK | Z T
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 3 statement(s)
          * age rollback rolled_back at 1s in "active" after 0ns
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P04 (ours) | Z I
    "#]].assert_eq(&player.transcript);
}

#[test]
fn what_a_client_that_does_not_read_runs_behind_its_rollback_is_ended_too() {
    let mut player = Player::new("stalled: rollback 1s");
    player.play(
        "C: Q BEGIN
         S: C BEGIN | Z T
         client blocks
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q ROLLBACK; SELECT pg_sleep(60)",
    );
    player.transcript.clear();
    player.play("+1s\ncancelled\nS: C ROLLBACK | E 57014 | Z I\nC: Q SELECT 1");
    expect![[r#"
        +1s
          ! Cancel
        cancelled
        S: C ROLLBACK | E 57014 | Z I
          < C ROLLBACK | E 57014 (ours) | Z I
          * stalled rollback next_cancelled at 1s in "client not reading" after 1s
        C: Q SELECT 1
          > Q SELECT 1
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn what_a_rollback_undoes_is_answered_as_natively_and_tells_nothing() {
    let mut player = untold_in_savepoint();
    player.play(
        "C: Q SAVEPOINT b
         C: Q RELEASE SAVEPOINT b
         C: Q ROLLBACK TO A; RELEASE a
         C: Q UNLISTEN *
         C: Q /* ping */
         C: F 953
         C: Q RELEASE a
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        C: Q SAVEPOINT b
          < C SAVEPOINT | Z T
        C: Q RELEASE SAVEPOINT b
          < C RELEASE | Z T
        C: Q ROLLBACK TO A; RELEASE a
          < C ROLLBACK | C RELEASE | Z T
        C: Q UNLISTEN *
          < C UNLISTEN | Z T
        C: Q /* ping */
          < I | Z T
        C: F 953
          < V | Z T
        C: Q RELEASE a
          < E 25P03 (ours) | Z E
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_name_that_is_given_up_is_closed_in_the_server() {
    let mut player = untold_in_savepoint();
    player.play(
        "C: Q DEALLOCATE pdo_stmt_00000001
         S: 3
         S: Z E
         C: Q SAVEPOINT s;DEALLOCATE \"_PLAN1\";CLOSE c;RELEASE s
         S: 3 | 3 | Z E
         C: Q INSERT INTO t VALUES (1)
         C: Q DEALLOCATE x
         S: E 25P02 | Z E",
    );
    expect![[r#"
        C: Q DEALLOCATE pdo_stmt_00000001
          > C | S
          < C DEALLOCATE | Z T
        S: 3
        S: Z E
        C: Q SAVEPOINT s;DEALLOCATE "_PLAN1";CLOSE c;RELEASE s
          > C | C | S
          < C SAVEPOINT | C DEALLOCATE | C CLOSE CURSOR | C RELEASE | Z T
        S: 3 | 3 | Z E
        C: Q INSERT INTO t VALUES (1)
          < E 25P03 (ours) | Z E
        C: Q DEALLOCATE x
          > Q DEALLOCATE x
        S: E 25P02 | Z E
          < E 25P02 | Z E
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_batch_of_what_a_rollback_undoes_is_answered_as_natively() {
    let mut player = untold_in_savepoint();
    player.play(
        "C: P - ROLLBACK TO a | B - - | DP - | E - | S
         S: Z E
         C: P - /* ping */ | DS - | B - - | E - | S
         S: Z E
         C: P - DEALLOCATE x | B - - | E - | H
         S: 3 | Z E
         C: P - SELECT 1 | B - - | E - | S
         S: E 25P02
         S: Z E",
    );
    expect![[r#"
        C: P - ROLLBACK TO a | B - - | DP - | E - | S
          > S
          < 1 | 2 | n | C ROLLBACK
        S: Z E
          < Z T
        C: P - /* ping */ | DS - | B - - | E - | S
          > S
          < 1 | t | n | 2 | I
        S: Z E
          < Z T
        C: P - DEALLOCATE x | B - - | E - | H
          > C | S
          < 1 | 2 | C DEALLOCATE
        S: 3 | Z E
          > H
        C: P - SELECT 1 | B - - | E - | S
          > P - SELECT 1 | H
        S: E 25P02
          < E 25P03 (ours)
          > S
        S: Z E
          < Z E
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_client_that_was_told_goes_back_to_a_savepoint_and_is_told_again() {
    let mut player = untold_in_savepoint();
    player.play(
        "C: Q SELECT 1
         C: Q RELEASE a
         S: E 25P02 | Z E
         C: Q ROLLBACK TO a
         C: Q SELECT 1
         C: P s ROLLBACK TO a | DS s | B - s | E - | S
         S: 1
         S: t | n
         S: 2
         S: Z E
         C: Q RELEASE a
         C: Q SELECT 1
         C: Q ROLLBACK TO a
         S: E 3B001 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        C: Q SELECT 1
          < E 25P03 (ours) | Z E
        C: Q RELEASE a
          > Q RELEASE a
        S: E 25P02 | Z E
          < E 25P02 | Z E
        C: Q ROLLBACK TO a
          < C ROLLBACK | Z T
        C: Q SELECT 1
          < E 25P03 (ours) | Z E
        C: P s ROLLBACK TO a | DS s | B - s | E - | S
          > P s- ROLLBACK TO a | H
        S: 1
          < 1
          > D | H
        S: t | n
          < t | n
          > B | H
        S: 2
          < 2
          > S
          < C ROLLBACK
        S: Z E
          < Z T
        C: Q RELEASE a
          < C RELEASE | Z T
        C: Q SELECT 1
          < E 25P03 (ours) | Z E
        C: Q ROLLBACK TO a
          > Q ROLLBACK TO a
        S: E 3B001 | Z E
          < E 25P03 (ours) | Z E
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]
    .assert_eq(&player.transcript);
}

/// As drivers do that put a savepoint before each statement, in the same Query.
#[test]
fn a_savepoint_before_a_statement_that_is_refused_is_one_to_go_back_to() {
    let mut player = untold_in_savepoint();
    player.play(
        "C: Q SAVEPOINT b;INSERT INTO t VALUES (1)
         C: Q ROLLBACK TO b;RELEASE b
         C: Q RELEASE b;SELECT 1
         C: Q ROLLBACK TO a; SELECT 1
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        C: Q SAVEPOINT b;INSERT INTO t VALUES (1)
          < C SAVEPOINT | E 25P03 (ours) | Z E
        C: Q ROLLBACK TO b;RELEASE b
          < C ROLLBACK | C RELEASE | Z T
        C: Q RELEASE b;SELECT 1
          < E 25P03 (ours) | Z E
        C: Q ROLLBACK TO a; SELECT 1
          < C ROLLBACK | E 25P03 (ours) | Z E
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_transaction_that_went_back_to_a_savepoint_and_was_not_ended_is_the_clients_own() {
    let mut player = Player::new("age: rollback 1s");
    player.play(
        "an observer
         C: Q BEGIN; SAVEPOINT a
         S: C BEGIN | C SAVEPOINT | Z T
         C: Q SELECT pg_sleep(60)
         C: Q ROLLBACK TO a
         C: Q COMMIT
         C: Q BEGIN
         +1s
         seen: nobody",
    );
    player.transcript.clear();
    player.play(
        "S: E 57014 | Z E | C ROLLBACK | Z T
         cancelled
         S: C COMMIT | Z I | C BEGIN | Z T
         C: Q COMMIT AND CHAIN
         S: C COMMIT | Z T",
    );
    expect![[r#"
        S: E 57014 | Z E | C ROLLBACK | Z T
          < E 25P04 (ours) | Z E | C ROLLBACK | Z T
        cancelled
        S: C COMMIT | Z I | C BEGIN | Z T
          < C COMMIT | Z I | C BEGIN | Z T
          * transaction commit of 3 statement(s)
          * age rollback moot at 1s in "active" after 0ns
        C: Q COMMIT AND CHAIN
          > Q COMMIT AND CHAIN
        S: C COMMIT | Z T
          < C COMMIT | Z T
          * transaction commit of 1 statement(s)
    "#]]
    .assert_eq(&player.transcript);
}
