//! Every position in which a transaction gets stuck besides idle, and the queue's hard cases.

use expect_test::expect;

use super::script::{Player, check, frontend};

const STALLED: &str = "stalled: rollback 1s";

#[test]
fn a_batch_without_sync_in_a_block_is_poisoned() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - INSERT INTO t VALUES (1) | B - - | E -
              > P - INSERT INTO t VALUES (1) | B | E
            +100ms
              > H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
            S: E 42601
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "batch without sync" after 1s
            C: H
              > H
            C: P - INSERT INTO t VALUES (2) | B - - | E - | S
              > S
              < E 25P03 (ours)
            S: Z E
              < Z E
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_batch_without_sync_and_without_a_block_is_poisoned() {
    check(
        STALLED,
        expect![[r#"
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
            S: E 42601
              > S
            S: Z I
              * stalled rollback rolled_back at 1s in "batch without sync" after 1s
            C: S
              > S
              < E 25P03 (ours)
            S: Z I
              < Z I
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

#[test]
fn a_batch_that_goes_on_with_commit_afterwards_is_refused() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
            S: E 42601
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "batch without sync" after 1s
            C: P - COMMIT | B - - | E - | S
              > S
              < E 25P03 (ours)
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
fn a_batch_whose_commit_had_already_run_is_left_alone() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COMMIT | B - - | E - | H
              > P - COMMIT | B | E | H
            S: 1 | 2 | C COMMIT
              < 1 | 2 | C COMMIT
              * transaction commit of 2 statement(s)
            +1h
            C: S
              > S
            S: Z I
              < Z I
        "#]],
    );
}

#[test]
fn a_running_statement_without_flush_is_not_stalled() {
    check(
        STALLED,
        expect![[r#"
            C: P - SELECT pg_sleep(60) | B - - | E -
              > P - SELECT pg_sleep(60) | B | E
            +60s
              > H
            S: 1 | 2 | D | C SELECT 1
              < 1 | 2 | D | C SELECT 1
            +999ms
            C: S
              > S
            S: Z I
              < Z I
        "#]],
    );
}

#[test]
fn a_batch_that_failed_is_synced_and_aborted() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SAVEPOINT a
              > Q SAVEPOINT a
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: P - SELECT 1/0 | B - - | E - | H
              > P - SELECT 1/0 | B | E | H
            S: 1 | 2 | E 22012
              < 1 | 2 | E 22012
            +1s
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after failed batch without sync for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 3 statement(s)
              * stalled rollback rolled_back at 1s in "failed batch without sync" after 1s
            C: P - SELECT 1 | B - - | E - | S
              > S
            S: Z E
              < Z E
            C: Q ROLLBACK TO a
              < C ROLLBACK | Z T
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_copy_without_data_fails_and_the_client_is_told_as_its_answer() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            C: d 1
              > d 1
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014
              < E 25P03 (ours)
            S: Z E
              < Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after copy in for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_copy_without_a_block_fails_too() {
    check(
        STALLED,
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014 | Z I
              < E 25P03 (ours) | Z I
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

#[test]
fn a_copy_by_execute_fails_and_its_batch_is_discarded() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY t FROM STDIN | B - - | E - | S
              > P - COPY t FROM STDIN | B | E | S
            S: 1 | 2 | G
              < 1 | 2 | G
            C: d 1
              > d 1
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014
              < E 25P03 (ours)
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after copy in for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c | S
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
fn copy_data_that_keeps_coming_is_not_stalled() {
    check(
        STALLED,
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            +900ms
            C: d 1
              > d 1
            +900ms
            C: d 2
              > d 1
            +900ms
            C: c
              > c
            +1h
            S: C COPY 2 | Z I
              < C COPY 2 | Z I
        "#]],
    );
}

#[test]
fn half_of_a_large_copy_message_is_filled_up() {
    let mut player = Player::new(STALLED);
    player.play("C: Q COPY t FROM STDIN\nS: G");
    let mut message = vec![b'd'];
    message.extend_from_slice(&100_004u32.to_be_bytes());
    message.extend_from_slice(&[b'x'; 50_000]);
    player.client_raw(&message);
    player.play("+1s");
    player.play("S: E 57014 | Z I");
    player.client_raw(&[b'x'; 50_000]);
    player.play("C: c\nC: Q SELECT 1");
    expect![[r#"
        C: Q COPY t FROM STDIN
          > Q COPY t FROM STDIN
        S: G
          < G
          > d 50000
        +1s
          > … 50000 bytes | f pgidle: rolled back after copy in for 1 s
        S: E 57014 | Z I
          < E 25P03 (ours) | Z I
          * stalled rollback rolled_back at 1s in "copy in" after 1s
        C: c
        C: Q SELECT 1
          > Q SELECT 1
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn half_of_another_large_message_can_only_be_terminated() {
    let mut player = Player::new("stalled: rollback 1s, terminate 2s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T");
    let mut message = vec![b'Q'];
    message.extend_from_slice(&25_000_000u32.to_be_bytes());
    message.extend_from_slice(&[b' '; 50_000]);
    player.client_raw(&message);
    player.play("+1s\n+1s");
    expect![[r#"
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
          > Q 
        +1s
          * stalled rollback not_possible at 1s in "half-forwarded message" after 1s
        +1s
          ! close: policy
          * stalled terminate terminated at 2s in "half-forwarded message" after 2s
          < E FATAL 25P03 (ours)
    "#]]
    .assert_eq(&player.transcript);
}

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
fn a_statement_past_the_age_of_its_transaction_is_cancelled() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +2s
              ! Cancel
            C: Q COMMIT
            S: E 57014 | Z E
              < E 25P04 (ours) | Z E
            cancelled
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              > Q COMMIT
              * transaction enforced of 2 statement(s)
              * age rollback rolled_back at 3s in "active" after 0ns
            S: C ROLLBACK | Z I
              < E 25P04 (ours) | Z I
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
fn age_of_an_idle_transaction_is_a_full_abort_with_25p04() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * age rollback rolled_back at 3s in "idle in transaction" after 1s
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P04 (ours) | Z I
        "#]],
    );
}

#[test]
fn age_leaves_a_failed_transaction_that_holds_nothing_to_its_rollback() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1/0
              > Q SELECT 1/0
            S: E 22012 | Z E
              < E 22012 | Z E
            C: P - ROLLBACK | S
              > P - ROLLBACK | S
            S: 1 | Z E
              < 1 | Z E
            +10s
            C: B - - | E - | S
              > B | E | S
            S: 2 | C ROLLBACK | Z I
              < 2 | C ROLLBACK | Z I
              * transaction rollback of 3 statement(s)
        "#]],
    );
}

#[test]
fn age_does_not_come_between_the_batches_of_one_statement() {
    check(
        "age: rollback 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2990ms
            C: P - SELECT 1 | S
              > P - SELECT 1 | S
            S: 1 | Z T
              < 1 | Z T
            +20ms
            C: B - - | E - | S
              > B | E | S
            S: 2 | C SELECT 1 | Z T
              < 2 | C SELECT 1 | Z T
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_statement_in_one_batch_is_waited_for_no_longer() {
    check(
        "idle: rollback 100ms",
        expect![[r#"
            C: P - BEGIN | B - - | E - | S
              > P - BEGIN | B | E | S
            S: 1 | 2 | C BEGIN | Z T
              < 1 | 2 | C BEGIN | Z T
            +100ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 0 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn age_never_cancels_a_later_transaction() {
    check(
        "age: rollback 3s",
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(3) | Q COMMIT | Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(3) | Q COMMIT | Q SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            S: C SELECT 1 | Z T | C COMMIT | Z I
              < C SELECT 1 | Z T | C COMMIT | Z I
              * transaction commit of 2 statement(s)
            cancelled
            +1h
              * age rollback moot at 3s in "active" after 0ns
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

#[test]
fn age_leaves_implicit_transactions_alone_unless_told() {
    check(
        "age: rollback 3s",
        expect![[r#"
        C: Q CREATE INDEX CONCURRENTLY
          > Q CREATE INDEX CONCURRENTLY
        +1h
        S: C CREATE INDEX | Z I
          < C CREATE INDEX | Z I
    "#]],
    );
    check(
        "age: rollback 3s; implicit:",
        expect![[r#"
            an observer
            C: Q VACUUM
              > Q VACUUM
            +3s
            seen: nobody
              ! Cancel
            S: E 57014 | Z I
              < E 25P04 (ours) | Z I
            cancelled
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q SELECT 1
              > Q SELECT 1
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
fn a_chained_commit_begins_a_new_age() {
    check(
        "age: log 3s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
            C: Q COMMIT AND CHAIN
              > Q COMMIT AND CHAIN
            S: C COMMIT | Z T
              < C COMMIT | Z T
              * transaction commit of 1 statement(s)
            +2s
            +1s
              * age log logged at 3s in "idle in transaction" after 3s
        "#]],
    );
}

#[test]
fn two_syncs_of_a_copy_by_execute_earn_one_ready() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY t FROM STDIN | B - - | E - | S | d x | c | S
              > P - COPY t FROM STDIN | B | E | S | d 1 | c | S
            S: 1 | 2 | G | C COPY 1 | Z T
              < 1 | 2 | G | C COPY 1 | Z T
            +1s
              * idle log logged at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_copy_by_execute_that_fails_leaves_its_early_sync_its_due() {
    check(
        "idle: log 1s; failed: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY nothing FROM STDIN | B - - | E - | S | d x | c | S
              > P - COPY nothing FROM STDIN | B | E | S | d 1 | c | S
            S: E 42P01 | Z E
              < E 42P01 | Z E
            +10s
            S: Z E
              < Z E
            +1s
              * failed log logged at 1s in "idle in transaction (aborted)" after 1s
        "#]],
    );
}

#[test]
fn requests_while_the_server_skips_to_sync_earn_nothing() {
    check(
        "failed: log 1s; idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - nonsense | Q SELECT 1 | F | S
              > P - nonsense | Q SELECT 1 | F | S
            S: E 42601 | Z E
              < E 42601 | Z E
            +1s
              * failed log logged at 1s in "idle in transaction (aborted)" after 1s
        "#]],
    );
}

#[test]
fn pipelined_queries_are_counted() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN | Q SELECT 1 | Q SELECT 2
              > Q BEGIN | Q SELECT 1 | Q SELECT 2
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +10s
            S: C SELECT 1 | Z T | C SELECT 1 | Z T
              < C SELECT 1 | Z T | C SELECT 1 | Z T
            +1s
              * idle log logged at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_query_behind_a_batch_without_sync_may_leave_a_block_and_gets_a_full_abort() {
    check(
        "idle: rollback 1s; stalled: rollback 1s",
        expect![[r#"
            C: P - INSERT INTO t VALUES (1) | B - - | E - | Q SELECT 1
              > P - INSERT INTO t VALUES (1) | B | E | Q SELECT 1
            S: 1 | 2 | C INSERT 0 1 | C SELECT 1 | Z T
              < 1 | 2 | C INSERT 0 1 | C SELECT 1 | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: N 25P01 | C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn replication_connections_are_watched_by_nobody() {
    check(
        "idle: rollback 1s; stalled: rollback 1s; age: rollback 1s",
        expect![[r#"
            C: Q START_REPLICATION
              > Q START_REPLICATION
            S: W
              < W
            +1h
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

#[test]
fn a_frame_that_trickles_in_is_seen_once() {
    let mut player = Player::new("idle: log 1s");
    for byte in frontend("Q BEGIN") {
        player.client_raw(&[byte]);
    }
    player.play("S: C BEGIN | Z T\n+1s");
    expect![[r#"
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        +1s
          * idle log logged at 1s in "idle in transaction" after 1s
    "#]]
    .assert_eq(&player.transcript);
}
