//! Statements that run or whose result is not read, and the cancel that ends them.

use expect_test::expect;

use super::STALLED;
use crate::session::tests::script::{Player, check};

#[test]
fn a_result_that_is_not_read_is_cancelled_and_drained() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT big
              > Q SELECT big
            S: T | D | D
              < T | D | D
            client blocks
            +1s
              ! Cancel
            S: D | D
              < D | D
            cancelled
            S: E 57014 | Z E
              < E 25P03 (ours) | Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "client not reading" after 1s
            client reads
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_cancel_is_waited_for_before_the_abort() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT big
              > Q SELECT big
            S: T | D
              < T | D
            client blocks
            +1s
              ! Cancel
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            cancelled
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "client not reading" after 1s
            client reads
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn an_answer_in_our_buffer_is_aborted_at_once() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            client blocks
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * stalled rollback rolled_back at 1s in "client not reading" after 1s
        "#]],
    );
}

#[test]
fn a_commit_that_runs_is_left_alone() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
            C: Q COMMIT
              > Q COMMIT
            +1s
              * age rollback not_possible at 3s in "active" after 0ns
            S: C COMMIT | Z I
              < C COMMIT | Z I
              * transaction commit of 1 statement(s)
        "#]],
    );
}

/// The server looks for cancels again where it logs the COMMIT that it has carried out.
#[test]
fn the_error_of_a_cancel_behind_a_commit_is_not_told() {
    check(
        "age: rollback 3s",
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT pg_sleep(60) | B - - | E - | P - COMMIT | B - - | E - | S
              > P - SELECT pg_sleep(60) | B | E | P - COMMIT | B | E | S
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT | E 57014 | Z I
              < 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT | Z I
              * transaction commit of 3 statement(s)
              * age rollback moot at 3s in "active" after 0ns
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

/// Both end at the same instant, as far as the clock can tell.
#[test]
fn the_error_of_a_cancel_behind_the_second_of_two_commits_is_not_told() {
    check(
        "age: rollback 3s",
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT pg_sleep(60) | B - - | E - | P - COMMIT | B - - | E -
              > P - SELECT pg_sleep(60) | B | E | P - COMMIT | B | E
            C: P - BEGIN | B - - | E - | P - COMMIT | B - - | E - | S
              > P - BEGIN | B | E | P - COMMIT | B | E | S
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT | 1 | 2 | C BEGIN | 1 | 2 | C COMMIT | E 57014 | Z I
              < 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT | 1 | 2 | C BEGIN | 1 | 2 | C COMMIT | Z I
              * transaction commit of 3 statement(s)
              * transaction commit of 2 statement(s)
              * age rollback moot at 3s in "active" after 0ns
        "#]],
    );
}

#[test]
fn a_statement_that_was_parsed_meanwhile_is_waited_for() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2900ms
            C: P - SELECT 1 | S
              > P - SELECT 1 | S
            +100ms
              ! Cancel
            S: 1 | Z T
              < 1 | Z T
            cancelled
            C: B - - | E - | S
              > B | E | S
            S: 2 | C SELECT 1 | Z T
              < 2 | C SELECT 1 | Z T
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * age rollback rolled_back at 3s in "idle in transaction" after 0ns
        "#]],
    );
}

#[test]
fn a_statement_that_catches_cancels_is_cancelled_again_and_then_left() {
    check(
        "age: rollback 1s, terminate 1min",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT stubborn()
              > Q SELECT stubborn()
            +1s
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            S: E 57014 | Z E
              < E 25P04 (ours) | Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * age rollback rolled_back at 1s in "active" after 0ns
        "#]],
    );
}

#[test]
fn terminate_of_a_running_statement_cancels_first_and_says_what_is_unknown() {
    check(
        "age: terminate 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +1s
              ! Cancel
            cancelled
            S: E 57014 | Z E
              < E FATAL 25P04 (ours)
              > X
              ! close: policy
              * age terminate terminated at 1s in "active" after 0ns
        "#]],
    );
    let mut player = Player::new("age: terminate 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT stubborn()\n+1s");
    for _ in 0..10 {
        player.play("cancelled\n+500ms");
    }
    assert!(player.transcript.ends_with("  < E FATAL 25P04 (ours)\n  ! close: policy\n  * age terminate terminated at 1s in \"active\" after 0ns\n"), "{}", player.transcript);
}
