//! A session that drains ends as soon as nothing is open, also when that shows while an enforcement is under way.

use expect_test::expect;

use super::script::check;

#[test]
fn a_session_that_drains_closes_when_an_enforcement_ends_that_came_to_nothing() {
    check(
        "age: rollback 2s; implicit:",
        expect![[r#"
            C: Q SELECT 1 FROM t
              > Q SELECT 1 FROM t
            +2s
              ! Cancel
            drain
            S: T | C SELECT 1 | Z I
              < T | C SELECT 1 | Z I
            cancelled
              > X
              < E FATAL 57P01 (ours)
              ! close: drain
              * age rollback moot at 2s in "active" after 0ns
            +60s
        "#]],
    );
}

#[test]
fn a_session_that_drains_closes_when_a_proof_comes_too_late() {
    check(
        "age: rollback 2s; implicit:",
        expect![[r#"
            an observer
            the prover is slow
            C: Q SELECT 1 FROM t
              > Q SELECT 1 FROM t
            +2s
              ! prove 1
            drain
            S: T | C SELECT 1 | Z I
              < T | C SELECT 1 | Z I
            proven
              ! close: drain
              * age rollback moot at 2s in "active" after 0ns
              > X
              < E FATAL 57P01 (ours)
            +60s
        "#]],
    );
}

#[test]
fn a_session_that_drains_closes_after_its_batch_was_made_to_fail() {
    check(
        "stalled: rollback 2s",
        expect![[r#"
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            drain
            +2s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 2 s | H
            S: E 42601
              > S
            S: Z I
              < E FATAL 57P01 (ours)
              > X
              ! close: drain
              * stalled rollback rolled_back at 2s in "batch without sync" after 2s
            +60s
        "#]],
    );
}

#[test]
fn a_client_that_has_just_logged_in_may_do_what_it_came_for() {
    check(
        "idle: rollback 5s",
        expect![[r#"
            +1s
            drain
            +500ms
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q COMMIT
              > Q COMMIT
            S: C COMMIT | Z I
              < C COMMIT | Z I | E FATAL 57P01 (ours)
              > X
              ! close: drain
              * transaction commit of 1 statement(s)
        "#]],
    );
}

#[test]
fn a_client_that_has_just_logged_in_is_waited_for_only_so_long() {
    check(
        "idle: rollback 5s",
        expect![[r#"
            +1s
            drain
            +500ms
            +500ms
              > X
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
    check(
        "idle: rollback 5s",
        expect![[r#"
            +2s
            drain
              > X
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
    check(
        "idle: rollback 5s",
        expect![[r#"
            C: Q SELECT 1
              > Q SELECT 1
            S: T | C SELECT 1 | Z I
              < T | C SELECT 1 | Z I
            drain
              > X
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
}
