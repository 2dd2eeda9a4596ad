//! Transactions that are too old, whatever they do.

use expect_test::expect;

use crate::session::tests::script::check;

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
