//! Batches whose Sync does not come.

use expect_test::expect;

use super::STALLED;
use crate::session::tests::script::check;

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
