//! COMMIT in each of its forms, which is an error.

use expect_test::expect;

use super::{check, untold};
use crate::session::tests::script::Player;

#[test]
fn commit_as_a_simple_query_is_an_error() {
    check(expect![[r#"
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
        C: Q COMMIT
          > Q COMMIT
        S: N 25P01 | C COMMIT | Z I
          < N 25P01 | C COMMIT | Z I
    "#]]);
}

#[test]
fn commit_as_a_batch_is_an_error() {
    check(expect![[r#"
            C: P - COMMIT | B - - | DP - | E - | S
              > P - COMMIT | H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > D | H
            S: n
              < n
              > E | H
            S: C ROLLBACK
              > S
              < E 25P03 (ours)
            S: Z I
              < Z I
        "#]]);
}

#[test]
fn commit_of_a_named_statement_prepared_before_is_an_error() {
    untold("C: P c COMMIT | S\nS: 1 | Z I").check(expect![[r#"
            C: B - c | E - | S
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
              > S
              < E 25P03 (ours)
            S: Z I
              < Z I
        "#]]);
}

#[test]
fn pg8000_commits_in_three_batches() {
    check(expect![[r#"
            C: P s COMMIT | S
              > P s- COMMIT | H
            S: 1
              < 1
              > S
            S: Z E
              < Z T
            C: DS s | S
              > D | H
            S: t | n
              < t | n
              > S
            S: Z E
              < Z T
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
        "#]]);
}

#[test]
fn prepare_transaction_is_an_error() {
    check(expect![[r#"
        C: Q PREPARE TRANSACTION 'x'
          > Q PREPARE TRANSACTION 'x'
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]);
}

#[test]
fn commit_of_a_client_that_does_not_read_is_an_error() {
    let mut player = Player::new("idle: rollback 1s; stalled: terminate 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.transcript.clear();
    player.play("client blocks\nC: Q COMMIT\n+1s\nS: C ROLLBACK\nS: Z I");
    expect![[r#"
        client blocks
        C: Q COMMIT
          > Q COMMIT
        +1s
        S: C ROLLBACK
          < E 25P03 (ours)
        S: Z I
          < Z I
          * stalled terminate moot at 1s in "client not reading" after 1s
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn a_commit_is_an_error_however_many_errors_came_before_it() {
    for (prepared, hidden) in [
        ("", "C: Q DEALLOCATE ALL"),
        ("", "C: Q SELECT 1"),
        ("", "C: F"),
        ("", "C: Q DEALLOCATE ALL\nC: Q SELECT 1\nS: E 25P02 | Z E"),
        ("", "C: P - SELECT 1 | B - - | E - | S\nS: E 25P02\nS: Z E"),
        (
            "C: P s SELECT 1 | S\nS: 1 | Z I",
            "C: B - s | E - | S\nS: Z E",
        ),
        ("", "C: Q SELEC\nC: P - SELEC | S\nS: E 42601\nS: Z E"),
    ] {
        for commit in [
            "C: Q COMMIT\nS: C ROLLBACK | Z I",
            "C: Q END WORK\nS: C ROLLBACK | Z I",
            "C: Q PREPARE TRANSACTION 'x'\nS: C ROLLBACK | Z I",
            "C: Q COMMIT AND CHAIN",
            "C: Q COMMIT; SELECT 1",
            "C: Q SELECT 1; COMMIT",
            "C: Q RELEASE a; PREPARE TRANSACTION 'x'",
            "C: Q ROLLBACK AND CHAIN",
            "C: P - COMMIT | B - - | E - | S\nS: 1\nS: 2\nS: C ROLLBACK\nS: Z I",
            "C: P - COMMIT AND CHAIN | B - - | E - | S\nS: 1\nS: Z E",
        ] {
            let mut player = untold(prepared);
            player.play(hidden);
            player.transcript.clear();
            player.play(commit);
            assert!(
                player.transcript.contains("E 25P03 (ours)")
                    && !player.transcript.contains("< C ROLLBACK"),
                "{hidden}\n{}",
                player.transcript
            );
        }
        let mut player = untold(prepared);
        player.play(hidden);
        player.transcript.clear();
        player.play(
            "C: Q ROLLBACK\nS: C ROLLBACK | Z I\nC: Q BEGIN; COMMIT\nS: C BEGIN | C COMMIT | Z I",
        );
        assert!(!player.transcript.contains("ours"), "{}", player.transcript);
    }
}

#[test]
fn a_commit_that_was_under_way_when_its_transaction_was_cancelled_is_an_error() {
    for (commit, answer, error) in [
        ("Q COMMIT", "C ROLLBACK | Z I", "E 25P04 (ours) | Z I"),
        (
            "Q PREPARE TRANSACTION 'x'",
            "C ROLLBACK | Z I",
            "E 25P04 (ours) | Z I",
        ),
        (
            "P - COMMIT | B - - | E - | S",
            "1 | 2 | C ROLLBACK | Z I",
            "1 | 2 | E 25P04 (ours) | Z I",
        ),
        ("Q ROLLBACK", "C ROLLBACK | Z I", "C ROLLBACK | Z I"),
        (
            "Q ROLLBACK AND CHAIN",
            "C ROLLBACK | Z T",
            "C ROLLBACK | Z T",
        ),
    ] {
        let mut player = Player::new("age: rollback 1s");
        player.play("an observer\nC: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT pg_sleep(60)");
        player.play(&format!(
            "C: {commit}\n+1s\nseen: nobody\ncancelled\nS: E 57014 | Z E"
        ));
        player.transcript.clear();
        player.play(&format!("S: {answer}"));
        assert!(
            player.transcript.contains(&format!("< {error}\n")),
            "{}",
            player.transcript
        );
    }
}

#[test]
fn what_commit_and_chain_has_begun_is_ended_too() {
    let mut player = Player::new("age: rollback 1s");
    player.play(
        "an observer
         C: Q BEGIN
         S: C BEGIN | Z T
         C: Q SELECT pg_sleep(60)
         C: Q COMMIT AND CHAIN
         +1s
         seen: nobody
         cancelled",
    );
    player.transcript.clear();
    player.play(
        "S: E 57014 | Z E | C ROLLBACK | Z T
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q COMMIT
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        S: E 57014 | Z E | C ROLLBACK | Z T
          < E 25P04 (ours) | Z E | E 25P04 (ours) | Z T
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
          * transaction rollback of 2 statement(s)
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 1 statement(s)
          * age rollback rolled_back at 1s in "active" after 0ns
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P04 (ours) | Z I
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn the_error_of_a_commit_comes_with_the_next_message_of_its_batch() {
    check(expect![[r#"
            C: P - COMMIT | B - - | E - | H
              > P - COMMIT | H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
              < E 25P03 (ours)
            C: S
              > S
            S: Z I
              < Z I
        "#]]);
    check(expect![[r#"
            C: P - COMMIT | B - - | E -
              > P - COMMIT | H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
            C: Q SELECT 1
              < E 25P03 (ours)
            C: S
              > S
            S: Z I
              < Z I
        "#]]);
}

#[test]
fn an_insert_behind_the_commit_in_one_packet_is_discarded_with_the_batch() {
    check(expect![[r#"
            C: P - COMMIT | B - - | E - | P - INSERT INTO t VALUES (1) | B - - | E - | S
              > P - COMMIT | H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
              > S
              < E 25P03 (ours)
            S: Z I
              < Z I
        "#]]);
}

#[test]
fn a_simple_insert_behind_a_simple_commit_is_a_request_of_its_own() {
    check(expect![[r#"
        C: Q COMMIT | Q INSERT INTO t VALUES (1)
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
          > Q INSERT INTO t VALUES (1)
        S: C INSERT 0 1 | Z I
          < C INSERT 0 1 | Z I
    "#]]);
}
