//! Endings that wait for what does not come: each step has a deadline, past which something else may be done.

use expect_test::expect;

use super::script::check;

/// Limits under which everything is ended, and what does not end is terminated.
const BOTH: &str =
    "idle: rollback 1s, terminate 3s; stalled: rollback 1s, terminate 3s; age: rollback 5s";

/// Limits under which nothing is terminated.
const ROLLBACK: &str = "idle: rollback 1s; stalled: rollback 1s; age: rollback 5s";

#[test]
fn a_rollback_that_is_not_answered_is_terminated() {
    check(
        BOTH,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            C: Q COMMIT
            +1999ms
            +1ms
              > X
              < E FATAL 25P03 (ours)
              ! Cancel
              ! close: policy
              * idle rollback not_possible at 1s in "idle in transaction" after 1s
              * idle terminate terminated at 3s in "idle in transaction" after 3s
        "#]],
    );
}

#[test]
fn a_rollback_that_takes_longer_than_a_deadline_is_waited_for() {
    check(
        ROLLBACK,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            C: Q COMMIT
            +1h
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              > Q COMMIT
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_terminate_that_is_due_soon_after_gives_the_server_time() {
    check(
        "idle: rollback 1s, terminate 1100ms",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            +1999ms
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            +1h
              ! close: policy
              * idle terminate terminated at 1.1s in "idle in transaction (aborted)" after 2.999s
              > X
              < E FATAL 25P03 (ours)
        "#]],
    );
}

#[test]
fn a_client_that_leaves_while_a_rollback_is_not_answered_takes_its_session_with_it() {
    check(
        ROLLBACK,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            client leaves
            +1999ms
            +1ms
              ! Cancel
              ! close: client_left
              * idle rollback not_possible at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_client_that_leaves_later_is_noticed_at_once() {
    check(
        ROLLBACK,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1h
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            client leaves
            +0ms
              ! Cancel
              ! close: client_left
              * idle rollback not_possible at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_terminate_among_what_waits_is_noticed() {
    check(
        ROLLBACK,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            C: P - SELECT 1 | B - - | E - | S
            +1h
            C: X
            +0ms
              ! Cancel
              ! close: client_left
              * idle rollback not_possible at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_client_that_leaves_while_a_rollback_is_on_its_way_is_forwarded_when_it_has_come() {
    check(
        ROLLBACK,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            C: Q INSERT INTO t VALUES (1) | X
            +1s
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              > X
              < E 25P03 (ours) | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_poison_and_a_sync_that_are_not_answered_are_terminated() {
    check(
        BOTH,
        expect![[r#"
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
            +2s
              > X
              < E FATAL 25P03 (ours)
              ! Cancel
              ! close: policy
              * stalled rollback not_possible at 1s in "batch without sync" after 1s
              * stalled terminate terminated at 3s in "batch without sync" after 3s
        "#]],
    );
    check(
        BOTH,
        expect![[r#"
            C: P - INSERT INTO t VALUES (1) | B - - | E - | H
              > P - INSERT INTO t VALUES (1) | B | E | H
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
            S: E 42601
              > S
            +1999ms
            +1ms
              > X
              < E FATAL 25P03 (ours)
              ! Cancel
              ! close: policy
              * stalled rollback not_possible at 1s in "batch without sync" after 1s
              * stalled terminate terminated at 3s in "batch without sync" after 3s
        "#]],
    );
}

#[test]
fn a_copy_fail_that_is_not_read_is_followed_by_a_cancel() {
    check(
        BOTH,
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            +1s
              > f pgidle: rolled back after copy in for 1 s
            +2s
              ! Cancel
            cancelled
            S: E 57014 | Z I
              < E 25P03 (ours) | Z I
              * stalled rollback rolled_back at 1s in "copy in" after 1s
        "#]],
    );
}

/// The gate does not close: a cancel of the client's that hits what is injected has it sent again.
#[test]
fn a_cancel_connection_that_stays_open_makes_a_limit_act_a_little_late() {
    check(
        ROLLBACK,
        expect![[r#"
            cancel opens
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2999ms
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3 s'::pg_catalog.int4
            S: E 57014 | Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3 s'::pg_catalog.int4
            S: C ROLLBACK | E 57014 | Z I
              > Q BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 3 s'::pg_catalog.int4
            S: C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 3s
            cancel closes
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_cancel_connection_that_stays_open_keeps_from_a_release() {
    check(
        "idle: release 1s, rollback 4s",
        expect![[r#"
            cancel opens
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            +3s
              * idle release not_releasable at 1s in "idle in transaction" after 1s
            cancel closes
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 4 s'::pg_catalog.int4
        "#]],
    );
}

/// Our cancel may hit anything as long as its connection is open; the transaction is ended meanwhile.
#[test]
fn a_cancel_of_ours_that_stays_open_holds_the_client_and_not_the_locks() {
    check(
        "age: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(1.2)
              > Q SELECT pg_sleep(1.2)
            +1200ms
              ! Cancel
            S: T | D | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            C: Q ROLLBACK
            +1799ms
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * age rollback rolled_back at 1s in "active" after 0ns
            +10s
            cancelled
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
        "#]],
    );
}

#[test]
fn a_statement_whose_cancel_stays_open_is_terminated_when_that_is_due() {
    check(
        "age: rollback 1s, terminate 5s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +1s
              ! Cancel
            +4s
              ! Cancel
              * age rollback not_possible at 1s in "active" after 0ns
            +1h
              < E FATAL 25P04 (ours)
              ! close: policy
              * age terminate terminated at 5s in "active" after 0ns
        "#]],
    );
}

#[test]
fn a_transaction_that_does_not_begin_again_is_terminated_by_its_age_alone() {
    check(
        "idle: release 1s, terminate 3s; age: terminate 9s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            +1s
              > own SAVEPOINT pgidle_release | own SET LOCAL statement_timeout = 250 | own SET LOCAL jit = off | own SELECT | own WITH held AS ( | closed | S
            S: answer 1 | closed | Z T
              > own ROLLBACK | closed | S
            S: own ROLLBACK | closed | Z I
              * idle release released at 1s in "idle in transaction" after 1s
            C: Q SELECT 1
              > own BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE | own SELECT 1 | closed | S
            +7s
            +1s
              > X
              < E FATAL 25P04 (ours)
              ! Cancel
              ! close: policy
              * idle release not_possible at 1s in "idle in transaction" after 1s
              * age terminate terminated at 9s in "half-sent request" after 9s
        "#]],
    );
}

/// A client that speaks all the time does not keep the limit away: the time in which the gate was waited for counts.
#[test]
fn a_cancel_connection_that_stays_open_does_not_let_a_busy_client_go_on() {
    check(
        "age: rollback 1s",
        expect![[r#"
            cancel opens
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +2s
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            +900ms
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D | C SELECT 1 | Z T
              < T | D | C SELECT 1 | Z T
            +100ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 3 statement(s)
              * age rollback rolled_back at 1s in "idle in transaction" after 0ns
        "#]],
    );
}

#[test]
fn a_terminate_that_an_earlier_cancel_makes_easy_still_answers_the_client() {
    check(
        "age: terminate 1s; implicit:",
        expect![[r#"
            C: Q SELECT 1 | Q COPY t FROM STDIN
              > Q SELECT 1 | Q COPY t FROM STDIN
            +1s
              ! Cancel
            S: E 25P01 | Z I | G
              < E 25P01 | Z I | G
            +950ms
            cancelled
            +50ms
              * age terminate moot at 1s in "active" after 0ns
              > f pgidle: rolled back after not ended for 1 s
            S: E 57014 | Z I
              < E FATAL 25P04 (ours)
              > X
              ! close: policy
              * age terminate terminated at 1s in "copy in" after 1s
            +1s
        "#]],
    );
}

#[test]
fn a_ready_for_query_of_a_doubtful_query_is_not_taken_for_that_of_the_next_batch() {
    check(
        "stalled: rollback 1s",
        expect![[r#"
            C: P - SELECT 1 | B - - | E - | H | Q SAVEPOINT a | S | S | P - BEGIN | B - - | E - | H
              > P - SELECT 1 | B | E | H | Q SAVEPOINT a | S | S | P - BEGIN | B | E | H
            S: 1 | 2 | C SELECT 1 | E 25P01 | Z I | Z I | Z I | 1 | 2 | C BEGIN
              < 1 | 2 | C SELECT 1 | E 25P01 | Z I | Z I | Z I | 1 | 2 | C BEGIN
            +1s
              > P pgidle_rollback- pgidle: rolled back after batch without sync for 1 s | H
        "#]],
    );
}

/// The transaction that was meant has ended, and the next request works, while the server keeps the cancel's connection.
#[test]
fn a_client_that_has_left_has_one_more_cancel_and_not_all_of_them_at_once() {
    check(
        "",
        expect![[r#"
            C: Q SELECT pg_sleep(60) | Q SELECT pg_sleep(61)
              > Q SELECT pg_sleep(60) | Q SELECT pg_sleep(61)
            console: terminate
              ! Cancel
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
            client leaves
            +1999ms
            +1ms
              ! Cancel
              ! close: client_left
              * command terminate not_possible at 0ns in "active" after 0ns
            +0ms
        "#]],
    );
}

#[test]
fn what_comes_after_the_statement_that_was_meant_is_cancelled_once_a_deadline() {
    check(
        "",
        expect![[r#"
            C: Q SELECT pg_sleep(60) | Q SELECT pg_sleep(61)
              > Q SELECT pg_sleep(60) | Q SELECT pg_sleep(61)
            console: terminate
              ! Cancel
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
            +1999ms
            +1ms
              ! Cancel
            +1999ms
            +1ms
              ! Cancel
            S: E 57014 | Z I
            cancelled
            cancelled
            cancelled
              > X
              < E FATAL 57P01 (ours)
              ! close: console
              * command terminate terminated at 0ns in "active" after 0ns
        "#]],
    );
}

/// Whatever the step before it has waited for.
#[test]
fn a_step_has_a_deadline_of_its_own() {
    check(
        "age: rollback 1s, terminate 3100ms",
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - SELECT pg_sleep(60) | B - - | E - | H
              > P - SELECT pg_sleep(60) | B | E | H
            +1s
              > H
              ! Cancel
            seen: nobody
            S: 1 | 2 | C SELECT 1
              < 1 | 2 | C SELECT 1
            +2s
              > P pgidle_rollback- pgidle: rolled back after not ended for 1 s | H
            +100ms
            +1899ms
            +1ms
              > X
              < E FATAL 25P04 (ours)
              ! Cancel
              ! close: policy
              * age rollback not_possible at 1s in "active" after 0ns
              * age terminate terminated at 3.1s in "active" after 0ns
        "#]],
    );
}

/// A `terminate` that takes over has as much time for its cancels as one that has begun by itself.
#[test]
fn a_terminate_that_takes_over_cancels_as_long_as_another() {
    check(
        "age: rollback 1s, terminate 9s",
        expect![[r#"
            an observer
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +1s
              ! Cancel
            seen: nobody
            +8s
              ! Cancel
              * age rollback not_possible at 1s in "active" after 0ns
            +7999ms
            +1ms
              < E FATAL 25P04 (ours)
              ! close: policy
              * age terminate terminated at 9s in "active" after 0ns
        "#]],
    );
}
