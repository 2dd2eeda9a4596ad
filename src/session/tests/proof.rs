//! What an enforcement does while the proof is still to come that statements only read.

use expect_test::expect;

use super::script::{Player, check};

#[test]
fn a_client_that_speaks_before_the_proof_is_not_held_and_the_proof_comes_too_late() {
    check(
        "idle: release 1s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            C: Q DELETE FROM t
              > Q DELETE FROM t
            proven
            S: C DELETE 1 | Z T
              < C DELETE 1 | Z T
            proven
            +1s
              ! prove 2
            proven
              * idle release not_releasable at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_late_proof_is_not_taken_for_that_of_a_later_transaction() {
    check(
        "idle: release 1s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            C: Q COMMIT
              > Q COMMIT
            S: C COMMIT | Z I
              < C COMMIT | Z I
              * transaction commit of 2 statement(s)
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q DELETE FROM t
              > Q DELETE FROM t
            S: C DELETE 1 | Z T
              < C DELETE 1 | Z T
            +1s
              ! prove 2
            proven 1
            proven 2
              * idle release not_releasable at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_release_waits_in_the_queue_of_claims_for_its_proof() {
    check(
        "idle: release 1s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            +9s
            proven
              > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
        "#]],
    );
}

#[test]
fn what_is_not_proven_in_time_is_not_released_and_a_rollback_comes_at_its_time() {
    check(
        "idle: release 1s, rollback 30s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            +9999ms
            +1ms
              * idle release not_releasable at 1s in "idle in transaction" after 1s
            proven
            +19s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 30 s'::pg_catalog.int4
        "#]],
    );
    check(
        "idle: release 1s, rollback 1500ms",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            +499ms
            +1ms
              * idle release not_releasable at 1s in "idle in transaction" after 1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            proven
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * idle rollback rolled_back at 1.5s in "idle in transaction" after 1.5s
        "#]],
    );
}

#[test]
fn what_the_server_says_meanwhile_may_speak_against_a_release() {
    check(
        "idle: release 1s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            S: PS standard_conforming_strings=off
              < S
            proven
              * idle release not_releasable at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn pgidle_ends_without_waiting_for_a_proof() {
    check(
        "idle: release 1s",
        expect![[r#"
            the prover is slow
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z T
              < T | C SELECT 1 | Z T
            +1s
              ! prove 1
            shutdown
              > X
              < E FATAL 57P01 (ours)
              ! close: drain
            proven
        "#]],
    );
}

/// Without an observer, and without a proof, what runs may be a commit.
#[test]
fn what_runs_is_left_alone_where_it_is_not_proven_in_time_to_only_read() {
    let limits = "age: rollback 3s, terminate 5s; implicit:";
    check(
        limits,
        expect![[r#"
            the prover is slow
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
              ! prove 1
            C: Q SELECT 2
            proven
              ! Cancel
            S: E 57014 | Z I
              < E 25P04 (ours) | Z I
        "#]],
    );
    check(
        limits,
        expect![[r#"
            the prover is slow
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
              ! prove 1
            +1s
              * age rollback not_possible at 3s in "active" after 0ns
            proven
            +1s
              ! prove 2
            proven
              ! Cancel
            S: E 57014 | Z I
        "#]],
    );
}

#[test]
fn an_observer_looks_where_it_is_not_proven_that_what_runs_only_reads() {
    check(
        "age: rollback 3s; implicit:",
        expect![[r#"
            an observer
            the prover is slow
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
              ! prove 1
            proven
              ! Cancel
            S: E 57014 | Z I
              < E 25P04 (ours) | Z I
            cancelled
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q UPDATE t SET a = 1
              > Q UPDATE t SET a = 1
            +3s
              ! prove 2
            proven
            seen: nobody
              ! Cancel
            S: E 57014 | Z I
              < E 25P04 (ours) | Z I
            cancelled
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +4s
              ! prove 3
            seen: nobody
              ! Cancel
            S: E 57014 | Z I
              < E 25P04 (ours) | Z I
        "#]],
    );
}

#[test]
fn an_answer_that_comes_before_the_proof_ends_the_matter() {
    let limits = "age: rollback 3s; implicit:";
    check(
        limits,
        expect![[r#"
            the prover is slow
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
              ! prove 1
            S: T | C SELECT 1 | Z I
              < T | C SELECT 1 | Z I
              * age rollback moot at 3s in "active" after 0ns
            proven
            C: Q SELECT 2
              > Q SELECT 2
            S: T | C SELECT 1 | Z I
              < T | C SELECT 1 | Z I
        "#]],
    );
}

/// However many texts are unknown, each is asked about once, and there is an end to it.
#[test]
fn a_pipeline_of_many_texts_is_judged_by_those_that_there_is_room_for() {
    for (texts, came) in [(512, "! Cancel"), (513, "not_possible")] {
        let mut player = Player::new("age: rollback 3s; implicit:");
        let texts: Vec<_> = (0..texts).map(|n| format!("Q SELECT {n}")).collect();
        player.play(&format!("C: {}", texts.join(" | ")));
        player.transcript.clear();
        player.play("+3s");
        assert!(player.transcript.contains(came), "{}", player.transcript);
    }
}

/// Since the gate was first waited for, more time has passed than a step is given.
#[test]
fn a_proof_for_a_client_that_has_left_is_waited_for_until_its_time_is_over() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            the prover is slow
            cancel opens
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
            C: Q ROLLBACK; SELECT f()
              > Q ROLLBACK; SELECT f()
            waits 3s
            client leaves
            shutdown
              ! prove 1
            +999ms
            +1ms
              ! Cancel
            cancelled
            S: E 57014 | Z I
              < E FATAL 57P01 (ours)
              > X
              ! close: drain
              * transaction rollback of 2 statement(s)
        "#]],
    );
}
