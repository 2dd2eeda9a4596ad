//! What a cancel of ours comes to: too late, beside what it was meant for, or at a commit that waits for its standby.

use expect_test::expect;

use super::script::check;

const AGE: &str = "age: rollback 3s";
const IMPLICIT: &str = "age: rollback 3s; implicit:";

/// The server skips to a Sync because of an error that is about nothing: one of ours brings it back.
#[test]
fn an_error_behind_the_commit_of_a_batch_without_sync_is_not_told() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT pg_sleep(60) | B - - | E - | P - COMMIT | B - - | E - | H
              > P - SELECT pg_sleep(60) | B | E | P - COMMIT | B | E | H
            +3s
              > H
            seen: nobody
              ! Cancel
            S: 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT | E 57014
              < 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT
              * transaction commit of 3 statement(s)
            cancelled
              > S
            S: Z I
              * age rollback moot at 3s in "active" after 0ns
            C: P - SELECT 1 | B - - | E - | S
              > P - SELECT 1 | B | E | S
            S: 1 | 2 | C SELECT 1 | Z I
              < 1 | 2 | C SELECT 1 | Z I
        "#]],
    );
}

/// Without an error the server is asked for a sign that it is past everything.
#[test]
fn a_batch_without_sync_is_fenced_off_from_a_late_cancel() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT pg_sleep(60) | B - - | E - | P - COMMIT | B - - | E - | H
              > P - SELECT pg_sleep(60) | B | E | P - COMMIT | B | E | H
            +3s
              > H
            seen: nobody
              ! Cancel
            S: 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT
              < 1 | 2 | C SELECT 1 | 1 | 2 | C COMMIT
              * transaction commit of 3 statement(s)
            cancelled
              > C | H
            C: P - INSERT INTO t VALUES (1) | B - - | E - | S
            S: 3
              > P - INSERT INTO t VALUES (1) | B | E | S
              * age rollback moot at 3s in "active" after 0ns
            S: 1 | 2 | C INSERT 0 1 | Z I
              < 1 | 2 | C INSERT 0 1 | Z I
        "#]],
    );
}

#[test]
fn a_command_that_commits_by_itself_is_not_told_as_refused() {
    check(
        IMPLICIT,
        expect![[r#"
            an observer
            C: P - CREATE DATABASE d | B - - | E - | S
              > P - CREATE DATABASE d | B | E | S
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: 1 | 2 | C CREATE DATABASE | E 57014 | Z I
              < 1 | 2 | C CREATE DATABASE | Z I
              * age rollback moot at 3s in "active" after 0ns
        "#]],
    );
}

#[test]
fn of_a_command_that_may_commit_by_itself_the_outcome_is_unknown() {
    check(
        IMPLICIT,
        expect![[r#"
            an observer
            C: P - CALL p() | B - - | E - | S
              > P - CALL p() | B | E | S
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: 1 | 2 | C CALL | E 57014 | Z I
              < 1 | 2 | C CALL | E 40003 (ours) | Z I
              * age rollback unknown at 3s in "active" after 0ns
        "#]],
    );
}

/// Told by the number of statements alone.
#[test]
fn a_list_that_was_cut_short_is_told_as_rolled_back_and_one_that_was_not_is_not() {
    check(
        IMPLICIT,
        expect![[r#"
            an observer
            C: Q INSERT INTO t VALUES (';'); SELECT pg_sleep(60)
              > Q INSERT INTO t VALUES (';'); SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: C INSERT 0 1 | E 57014 | Z I
              < C INSERT 0 1 | E 25P04 (ours) | Z I
              * age rollback rolled_back at 3s in "active" after 0ns
            C: Q INSERT INTO t VALUES (';'); SELECT pg_sleep(60)
              > Q INSERT INTO t VALUES (';'); SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: C INSERT 0 1 | C SELECT 1 | E 57014 | Z I
              < C INSERT 0 1 | C SELECT 1 | Z I
              * age rollback moot at 3s in "active" after 0ns
        "#]],
    );
}

#[test]
fn what_is_hit_in_the_place_of_a_transaction_that_has_committed_is_told_so() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(60) | Q COMMIT | Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60) | Q COMMIT | Q SELECT pg_sleep(60)
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: C SELECT 1 | Z T | C COMMIT | Z I | E 57014 | Z I
              < C SELECT 1 | Z T | C COMMIT | Z I | E 57014 (ours) | Z I
              * transaction commit of 2 statement(s)
              * age rollback next_cancelled at 3s in "active" after 0ns
        "#]],
    );
}

/// The commit was one AND CHAIN, which only the last byte tells.
#[test]
fn a_chained_transaction_that_is_hit_is_not_taken_for_a_commit_that_was_not() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(60); COMMIT AND CHAIN
              > Q SELECT pg_sleep(60); COMMIT AND CHAIN
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: C SELECT 1 | C COMMIT | E 57014 | Z E
              < C SELECT 1 | C COMMIT | E 57014 (ours) | Z E
              * transaction commit of 1 statement(s)
              * age rollback next_cancelled at 3s in "active" after 0ns
        "#]],
    );
}

#[test]
fn a_commit_that_was_kept_from_waiting_is_told_as_unknown() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1); COMMIT
              > Q INSERT INTO t VALUES (1); COMMIT
            +3s
            seen: nobody
              ! Cancel
            cancelled
            S: C INSERT 0 1 | SYNCREP | C COMMIT | Z I
              < C INSERT 0 1 | N 01000 | E 40003 (ours) | Z I
              * transaction commit of 1 statement(s)
              * age rollback commit_not_awaited at 3s in "active" after 0ns
        "#]],
    );
}

#[test]
fn a_commit_that_is_seen_to_wait_is_left_alone_and_so_is_one_that_nobody_sees() {
    check(
        AGE,
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1); COMMIT
              > Q INSERT INTO t VALUES (1); COMMIT
            +3s
            seen: a commit that awaits a standby
              * age rollback not_possible at 3s in "active" after 0ns
            S: C INSERT 0 1 | C COMMIT | Z I
              < C INSERT 0 1 | C COMMIT | Z I
              * transaction commit of 1 statement(s)
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1); COMMIT
              > Q INSERT INTO t VALUES (1); COMMIT
            +3s
            seen: nothing
              * age rollback not_possible at 3s in "active" after 0ns
            S: C INSERT 0 1 | C COMMIT | Z I
              < C INSERT 0 1 | C COMMIT | Z I
              * transaction commit of 1 statement(s)
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1); COMMIT
              > Q INSERT INTO t VALUES (1); COMMIT
            +3s
            +1h
              * age rollback not_possible at 3s in "active" after 0ns
            S: C INSERT 0 1 | C COMMIT | Z I
              < C INSERT 0 1 | C COMMIT | Z I
              * transaction commit of 1 statement(s)
        "#]],
    );
}

#[test]
fn a_shutdown_cancels_what_runs_and_its_fatal_is_the_answer() {
    check(
        "",
        expect![[r#"
            C: Q INSERT INTO t SELECT pg_sleep(60)
              > Q INSERT INTO t SELECT pg_sleep(60)
            shutdown
              ! Cancel
            cancelled
            S: E 57014 | Z I
              < E FATAL 57P01 (ours)
              > X
              ! close: drain
        "#]],
    );
    check(
        "",
        expect![[r#"
            C: Q COMMIT
              > Q COMMIT
            shutdown
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
    check(
        "",
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            C: d 1
              > d 1
            shutdown
              > f pgidle: shutting down
            +500ms
              ! Cancel
            cancelled
            S: E 57014 | Z I
              < E FATAL 57P01 (ours)
              > X
              ! close: drain
        "#]],
    );
}

#[test]
fn a_look_after_which_nothing_can_be_done_does_not_keep_a_session_from_ending_with_pgidle() {
    check(
        IMPLICIT,
        expect![[r#"
            an observer
            C: Q INSERT INTO t VALUES (1)
              > Q INSERT INTO t VALUES (1)
            +3s
            seen: nobody
              ! Cancel
            shutdown
            cancelled
            +500ms
            seen: nobody
              ! Cancel
            cancelled
            +500ms
            seen: nobody
              ! Cancel
            cancelled
            +500ms
            seen: nobody
              ! Cancel
            cancelled
            +500ms
            seen: nobody
              * age rollback not_possible at 3s in "active" after 0ns
            cancelled
            +2s
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
}

#[test]
fn an_error_after_the_answer_to_a_query_is_not_about_the_batch_before_it() {
    check(
        "",
        expect![[r#"
            C: P - SELECT 1 | B - - | E - | H | Q COPY t FROM STDIN | d 1 | c
              > P - SELECT 1 | B | E | H | Q COPY t FROM STDIN | d 1 | c
            S: 1 | 2 | D | C SELECT 1 | G
              < 1 | 2 | D | C SELECT 1 | G
            shutdown
              ! Cancel
            S: C COPY 1
              < C COPY 1
            S: E 57014
            +500ms
            cancelled
            +2s
              ! Cancel
              < E FATAL 57P01 (ours)
              ! close: drain
        "#]],
    );
}

#[test]
fn what_was_told_to_be_unknown_is_not_answered_after_another_cancel() {
    check(
        IMPLICIT,
        expect![[r#"
            an observer
            C: Q INSERT INTO t VALUES (1) | P - CALL p() | B - - | E - | S
              > Q INSERT INTO t VALUES (1) | P - CALL p() | B | E | S
            +3s
            seen: nobody
              ! Cancel
            S: C INSERT 0 1 | Z I
              < C INSERT 0 1 | Z I
            S: 1 | 2 | SYNCREP
              < 1 | 2 | N 01000 | E 40003 (ours)
            cancelled
            +500ms
              * age rollback commit_not_awaited at 3s in "active" after 0ns
            +3s
            seen: nobody
              ! Cancel
            S: C CALL | Z I
              < Z I
            cancelled
              * age rollback moot at 3s in "active" after 0ns
            +1s
            C: Q SELECT 1
              > Q SELECT 1
        "#]],
    );
}

/// The server keeps its answer to the Parse back until it is asked for it, and the client, who is held until then, cannot ask.
#[test]
fn a_batch_without_sync_that_was_sent_before_a_late_cancel_shows_is_answered() {
    check(
        "idle: rollback 1h",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT hard_to_cancel() | P - COMMIT
              > Q SELECT hard_to_cancel() | P - COMMIT
            console: rollback
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              ! Cancel
            cancelled
            +500ms
              * command rollback not_possible at 0ns in "active" after 0ns
            S: E 57014 | Z E
              < E 57014 (ours) | Z E
              * command rollback rolled_back at 0ns in "active" after 0ns
            C: B - - | E - | S
            +0ms
              > H
            S: 1
              < 1
              > B | H
            S: 2
              < 2
              > E | H
            S: C ROLLBACK
              > S
              < E 57014 (ours)
              * transaction rollback of 3 statement(s)
        "#]],
    );
}
