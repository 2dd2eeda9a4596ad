//! Everything that a client can say after its transaction was ended, until it has left the transaction block.

use expect_test::{Expect, expect};

use super::script::Player;

/// A session whose idle transaction was rolled back, with `prepared` sent before.
fn untold(prepared: &str) -> Player {
    let mut player = Player::new("idle: rollback 1s");
    player.play(prepared);
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.transcript.clear();
    player
}

fn check(transcript: Expect) {
    untold("").check(transcript);
}

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
fn prepare_transaction_is_an_error() {
    check(expect![[r#"
        C: Q PREPARE TRANSACTION 'x'
          > Q PREPARE TRANSACTION 'x'
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]]);
}

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

/// A session with a savepoint, whose idle transaction was rolled back.
fn untold_in_savepoint() -> Player {
    let mut player = Player::new("idle: rollback 1s");
    player.play(
        "C: Q BEGIN; SAVEPOINT a
         S: C BEGIN | C SAVEPOINT | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    );
    player.transcript.clear();
    player
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
