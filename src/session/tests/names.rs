//! A client that changes its application_name, and with it the rule, while its transaction is open.

use expect_test::expect;

use super::script::check;

#[test]
fn a_transaction_stays_under_the_limits_that_it_has_had() {
    check(
        "",
        expect![[r#"
            rules: lax = idle: rollback 9s | * = idle: rollback 3s; age: rollback 5s
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SET application_name = 'lax'
              > Q SET application_name = 'lax'
            S: C SET | PS application_name=lax | Z T
              < C SET | S | Z T
              ! MatchRules
            +2s
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D 1 | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            +4s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn the_next_transaction_is_under_the_new_limits() {
    check(
        "",
        expect![[r#"
            rules: lax = idle: rollback 9s | * = idle: rollback 3s
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SET application_name = 'lax'
              > Q SET application_name = 'lax'
            S: C SET | PS application_name=lax | Z T
              < C SET | S | Z T
              ! MatchRules
            C: Q COMMIT
              > Q COMMIT
            S: C COMMIT | Z I
              < C COMMIT | Z I
              * transaction commit of 2 statement(s)
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +8s
            +2s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 9 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_name_that_leads_to_severer_limits_holds_at_once() {
    check(
        "",
        expect![[r#"
            rules: lax = idle: rollback 9s | * = idle: rollback 3s
            C: Q SET application_name = 'lax'
              > Q SET application_name = 'lax'
            S: C SET | PS application_name=lax | Z I
              < C SET | S | Z I
              ! MatchRules
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +4s
            C: Q SET application_name = 'other'
              > Q SET application_name = 'other'
            S: C SET | PS application_name=other | Z T
              < C SET | S | Z T
              ! MatchRules
            +3s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_reload_holds_at_once_in_both_directions() {
    check(
        "",
        expect![[r#"
            rules: lax = idle: rollback 9s | * = idle: rollback 3s
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SET application_name = 'lax'
              > Q SET application_name = 'lax'
            S: C SET | PS application_name=lax | Z T
              < C SET | S | Z T
              ! MatchRules
            +1s
            rules: lax = idle: rollback 9s | * = idle: rollback 6s
            +4s
            rules: * = idle: rollback 8s
            +2s
            rules: * = idle: rollback 7s
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 7 s'::pg_catalog.int4
        "#]],
    );
}
