//! Errors that answer nothing that was asked: the server looks for cancels and timeouts also between two messages.

use expect_test::expect;

use super::script::check;

const LIMITS: &str = "stalled: rollback 1s, terminate 3s; age: rollback 4s, terminate 5s";

/// Of an error for a Query in a batch without Sync nobody can tell at first whether it is the batch's.
const QUERY_IN_BATCH: &str = "age: rollback 3s; implicit:";

/// An `INSERT` and a `COMMIT AND CHAIN`, flushed; a cancel is noticed where the server logs the COMMIT.
#[test]
fn an_error_after_the_last_answer_of_a_batch_makes_the_server_skip_to_sync() {
    check(
        LIMITS,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - INSERT INTO t VALUES (1) | B - - | E - | P - COMMIT AND CHAIN | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | P - COMMIT AND CHAIN | B | E | H
            S: 1 | 2 | C INSERT 0 1 | 1 | 2 | C COMMIT | E 57014
              < 1 | 2 | C INSERT 0 1 | 1 | 2 | C COMMIT | E 57014
              * transaction commit of 3 statement(s)
            +1s
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after failed batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 0 statement(s)
              * stalled rollback rolled_back at 1s in "failed batch without sync" after 1s
            C: S
              > S
            S: Z E
              < Z E
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
        "#]],
    );
}

#[test]
fn a_statement_timeout_that_a_flush_meets_makes_the_server_skip_to_sync() {
    check(
        LIMITS,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT 1 | B - - | E - | H
              > P - SELECT 1 | B | E | H
            S: 1 | 2 | D | s
              < 1 | 2 | D | s
            +500ms
            C: H
              > H
            S: E 57014
              < E 57014
            C: E - | H
              > E | H
            +999ms
            +1ms
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after failed batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "failed batch without sync" after 1s
            C: S
              > S
            S: Z E
              < Z E
        "#]],
    );
}

/// What follows an error is ignored, so the Sync earns the one ReadyForQuery that comes.
#[test]
fn a_query_after_a_batch_that_fails_late_is_skipped_with_it() {
    check(
        LIMITS,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COMMIT AND CHAIN | B - - | E - | Q SELECT 7
              > P - COMMIT AND CHAIN | B | E | Q SELECT 7
            S: 1 | 2 | C COMMIT | E 57014
              < 1 | 2 | C COMMIT | E 57014
              * transaction commit of 2 statement(s)
            C: S
              > S
            S: Z E
              < Z E
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
              * transaction rollback of 0 statement(s)
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +4s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 4 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * age rollback rolled_back at 4s in "idle in transaction" after 4s
        "#]],
    );
}

#[test]
fn a_query_after_a_batch_that_fails_late_is_skipped_with_it_and_the_client_silent() {
    check(
        LIMITS,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COMMIT AND CHAIN | B - - | E - | Q SELECT 7
              > P - COMMIT AND CHAIN | B | E | Q SELECT 7
            +500ms
            S: 1 | 2 | C COMMIT | E 57014
              < 1 | 2 | C COMMIT | E 57014
              * transaction commit of 2 statement(s)
            +999ms
            +1ms
              > S | C | H
            S: Z E | 3
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after failed batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 0 statement(s)
              * stalled rollback rolled_back at 1s in "failed batch without sync" after 1s
            C: S
              > S
            S: Z E
              < Z E
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
        "#]],
    );
}

/// `SELECT 1/0` failed, or was skipped after an error of the batch: the same bytes, but for one ReadyForQuery.
#[test]
fn a_query_and_a_sync_after_a_batch_that_fails_earn_one_ready_or_two() {
    for second in ["", "\nS: Z E"] {
        let script = format!(
            "C: Q BEGIN
             S: C BEGIN | Z T
             C: P - COMMIT AND CHAIN | B - - | E - | Q SELECT 1/0 | S
             S: 1 | 2 | C COMMIT | E 22012 | Z E{second}
             C: Q ROLLBACK
             S: C ROLLBACK | Z I
             C: Q BEGIN
             S: C BEGIN | Z T"
        );
        let mut player = super::script::Player::new("idle: log 1s");
        player.play(&script);
        let before = player.transcript.len();
        player.play("+1s");
        assert!(player.transcript[before..].contains("idle log logged"));
    }
}

/// The next Query runs while the ReadyForQuery of the Sync is still on its way.
#[test]
fn a_ready_that_was_not_counted_is_not_taken_for_the_answer_to_a_query() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT 1 | B - - | E - | Q SELECT 1/0 | S
              > P - SELECT 1 | B | E | Q SELECT 1/0 | S
            S: 1 | 2 | C SELECT 1 | E 22012 | Z E
              < 1 | 2 | C SELECT 1 | E 22012 | Z E
            C: Q ROLLBACK TO a
              > Q ROLLBACK TO a
            S: Z E
              < Z E
            +2s
            S: C ROLLBACK | Z T
              < C ROLLBACK | Z T
            +1s
              * idle log logged at 1s in "idle in transaction" after 1s
        "#]],
    );
}

/// Our own cancel is noticed after the last answer: the client, who waits for nothing, is not sent an error.
#[test]
fn a_cancel_of_ours_that_comes_after_the_last_answer_of_a_batch_is_told_later() {
    check(
        "age: rollback 1s",
        expect![[r#"
            C: P - BEGIN | B - - | E -
              > P - BEGIN | B | E
            +1s
              > H
              ! Cancel
            S: 1 | 2 | C BEGIN | E 57014
              < 1 | 2 | C BEGIN
            cancelled
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * age rollback rolled_back at 1s in "active" after 0ns
            C: P - INSERT INTO t VALUES (1) | B - - | E - | S
              > S
              < E 25P04 (ours)
            S: Z E
              < Z E
        "#]],
    );
}

/// A Query in a batch without Sync is hit, and its ReadyForQuery comes late: it has its answer, and no Sync is awaited.
#[test]
fn a_query_in_a_batch_without_sync_that_is_cancelled_gets_its_ready_for_query() {
    check(
        QUERY_IN_BATCH,
        expect![[r#"
            an observer
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: E 57014
              < E 25P04 (ours)
            +500ms
              > S | C | H
            S: Z I
            S: Z I | 3
              < Z I
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

/// In a block it is the same, and the block is rolled back.
#[test]
fn a_query_in_a_batch_without_sync_that_is_cancelled_in_a_block_gets_its_ready_for_query() {
    check(
        QUERY_IN_BATCH,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
              ! Cancel
            cancelled
            S: E 57014
              < E 25P04 (ours)
            +500ms
              > S | C | H
            S: Z E | Z E | 3
              < Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 3 statement(s)
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P04 (ours) | Z I
        "#]],
    );
}

/// The batch before it is hit, where the server logs it: the server skips the Query, and the client is in a failed batch.
#[test]
fn a_query_in_a_batch_without_sync_that_the_server_skips_is_not_answered() {
    check(
        QUERY_IN_BATCH,
        expect![[r#"
            an observer
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: E 57014
              < E 25P04 (ours)
            +500ms
              > S | C | H
            S: Z I
            S: 3
              * age rollback rolled_back at 3s in "active" after 0ns
            C: S
              > S
            S: Z I
              < Z I
        "#]],
    );
}

/// Even where nothing of the Query could be refused, the batch is lost.
#[test]
fn an_empty_query_in_a_batch_without_sync_does_not_hide_that_the_batch_is_lost() {
    check(
        QUERY_IN_BATCH,
        expect![[r#"
            an observer
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            C: Q ;
              > Q ;
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: E 57014
              < E 25P04 (ours)
            +500ms
              > S | C | H
            S: Z I | 3
              * age rollback rolled_back at 3s in "active" after 0ns
            C: S
              > S
            S: Z I
              < Z I
        "#]],
    );
}
