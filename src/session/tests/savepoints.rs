//! Savepoints are followed by name, and lists of statements one by one.

use expect_test::expect;

use super::script::check;

const FAILED: &str = "idle: rollback 1s; failed: log 1s";

#[test]
fn releasing_a_savepoint_releases_those_opened_after_it() {
    check(
        FAILED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SAVEPOINT a
              > Q SAVEPOINT a
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q SAVEPOINT b
              > Q SAVEPOINT b
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q RELEASE a
              > Q RELEASE a
            S: C RELEASE | Z T
              < C RELEASE | Z T
            C: Q FAIL
              > Q FAIL
            S: E 22012 | Z E
              < E 22012 | Z E
            +1s
              * failed log logged at 1s in "idle in transaction (aborted)" after 1s
        "#]],
    );
}

#[test]
fn a_savepoint_that_is_rolled_back_to_stays_open() {
    check(
        FAILED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SAVEPOINT a
              > Q SAVEPOINT a
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q SAVEPOINT b
              > Q SAVEPOINT b
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q ROLLBACK TO A
              > Q ROLLBACK TO A
            S: C ROLLBACK | Z T
              < C ROLLBACK | Z T
            C: Q FAIL
              > Q FAIL
            S: E 22012 | Z E
              < E 22012 | Z E
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction aborted for 1 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn the_names_of_prepared_statements_and_of_lists_are_followed() {
    check(
        FAILED,
        expect![[r#"
            C: Q BEGIN; SAVEPOINT a; SAVEPOINT "B"
              > Q BEGIN; SAVEPOINT a; SAVEPOINT "B"
            S: C BEGIN | C SAVEPOINT | C SAVEPOINT | Z T
              < C BEGIN | C SAVEPOINT | C SAVEPOINT | Z T
            C: P s RELEASE SAVEPOINT a | B - s | E - | S
              > P s- RELEASE SAVEPOINT a | B | E | S
            S: 1 | 2 | C RELEASE | Z T
              < 1 | 2 | C RELEASE | Z T
            C: Q FAIL
              > Q FAIL
            S: E 22012 | Z E
              < E 22012 | Z E
            +1s
              * failed log logged at 1s in "idle in transaction (aborted)" after 1s
        "#]],
    );
}

#[test]
fn a_list_that_rolls_back_and_begins_again_is_a_new_transaction() {
    check(
        "age: log 1500ms",
        expect![[r#"
            C: Q BEGIN; SAVEPOINT a
              > Q BEGIN; SAVEPOINT a
            S: C BEGIN | C SAVEPOINT | Z T
              < C BEGIN | C SAVEPOINT | Z T
            +1200ms
            C: Q SELECT 1; ROLLBACK; BEGIN
              > Q SELECT 1; ROLLBACK; BEGIN
            S: C SELECT 1 | C ROLLBACK | C BEGIN | Z T
              < C SELECT 1 | C ROLLBACK | C BEGIN | Z T
              * transaction rollback of 1 statement(s)
            +1400ms
            +100ms
              * age log logged at 1.5s in "idle in transaction" after 1.5s
        "#]],
    );
}

#[test]
fn a_list_that_commits_and_chains_is_a_new_transaction() {
    check(
        "age: log 1500ms",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1200ms
            C: Q SELECT 1; COMMIT AND CHAIN
              > Q SELECT 1; COMMIT AND CHAIN
            S: C SELECT 1 | C COMMIT | Z T
              < C SELECT 1 | C COMMIT | Z T
              * transaction commit of 1 statement(s)
            +1400ms
            +100ms
              * age log logged at 1.5s in "idle in transaction" after 1.5s
        "#]],
    );
}

#[test]
fn a_list_that_rolls_back_to_a_savepoint_goes_on_with_its_transaction() {
    check(
        "age: log 1500ms",
        expect![[r#"
            C: Q BEGIN; SAVEPOINT a
              > Q BEGIN; SAVEPOINT a
            S: C BEGIN | C SAVEPOINT | Z T
              < C BEGIN | C SAVEPOINT | Z T
            +1200ms
            C: Q SELECT 1; ROLLBACK TO a; SELECT 2
              > Q SELECT 1; ROLLBACK TO a; SELECT 2
            S: C SELECT 1 | C ROLLBACK | C SELECT 1 | Z T
              < C SELECT 1 | C ROLLBACK | C SELECT 1 | Z T
            +300ms
              * age log logged at 1.5s in "idle in transaction" after 300ms
        "#]],
    );
}

#[test]
fn a_text_that_is_not_known_may_be_either() {
    check(
        "age: log 1500ms",
        expect![[r#"
            C: Q BEGIN; SAVEPOINT a
              > Q BEGIN; SAVEPOINT a
            S: C BEGIN | C SAVEPOINT | Z T
              < C BEGIN | C SAVEPOINT | Z T
            S: PS client_encoding=SJIS
              < S
            +1200ms
            C: Q SELECT 'é'; ROLLBACK
              > Q SELECT 'é'; ROLLBACK
            S: C SELECT 1 | C ROLLBACK | Z T
              < C SELECT 1 | C ROLLBACK | Z T
            +300ms
              * age log logged at 1.5s in "idle in transaction" after 300ms
            C: Q SELECT 'é'; ROLLBACK; BEGIN
              > Q SELECT 'é'; ROLLBACK; BEGIN
            S: C SELECT 1 | C ROLLBACK | C BEGIN | Z T
              < C SELECT 1 | C ROLLBACK | C BEGIN | Z T
              * transaction rollback of 2 statement(s)
            +1400ms
            +100ms
              * age log logged at 1.5s in "idle in transaction" after 1.5s
        "#]],
    );
}
