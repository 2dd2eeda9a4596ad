//! Idle in transaction: ladders, the full abort, its races, and what counts as idle.

use expect_test::expect;

use super::script::check;

#[test]
fn an_idle_transaction_is_rolled_back_and_a_late_rollback_sees_nothing() {
    check(
        "idle: log 1s, rollback 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q INSERT INTO t VALUES (1)
              > Q INSERT INTO t VALUES (1)
            S: C INSERT 0 1 | Z T
              < C INSERT 0 1 | Z T
            +1999ms
              * idle log logged at 1s in "idle in transaction" after 1s
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * idle rollback rolled_back at 2s in "idle in transaction" after 2s
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
            +1h
        "#]],
    );
}

#[test]
fn a_cancel_before_the_rollback_sends_all_again() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: E 57014 | Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_cancel_behind_the_rollback_sends_begin_again() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C ROLLBACK | E 57014 | Z I
              > Q BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_cancel_that_hits_the_failing_select_changes_nothing() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 57014 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            C: Q SELECT 1
              < E 25P03 (ours) | Z E
        "#]],
    );
}

#[test]
fn the_injection_waits_for_open_cancel_connections_and_gives_way_to_the_client() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            cancel opens
            +1s
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            cancel closes
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn requests_wait_while_the_injection_runs() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            C: Q COMMIT | Q SELECT 1
            S: C ROLLBACK
            S: C BEGIN | E 22P02
            S: Z E
              > Q COMMIT
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

#[test]
fn asynchronous_messages_pass_during_the_injection_and_its_own_warning_does_not() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: N 25P01 | N 01000 | A | PS TimeZone=UTC | C ROLLBACK | C BEGIN | E 22P02 | Z E
              < N 01000 | A | S
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn an_unexpected_reply_ends_the_session() {
    for reply in ["C COMMIT", "1", "T", "D", "E 42601", "Z T", "Z I", "G", "I"] {
        let mut player = super::script::Player::new("idle: rollback 1s");
        player.play(&format!("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nS: {reply}"));
        assert!(
            player.transcript.contains("< E FATAL 25P03 (ours)"),
            "{reply}: {}",
            player.transcript
        );
        assert!(player.transcript.contains("! close: policy"), "{reply}");
        assert!(player.transcript.contains("unexpected_reply"), "{reply}");
    }
}

#[test]
fn a_fatal_error_of_the_server_reaches_the_client() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: FATAL 57P01
              < E FATAL 57P01
              * idle rollback server_closed at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_late_reply_is_not_an_unexpected_one() {
    check(
        "idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            +1h
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_busy_transaction_is_never_idle() {
    check(
        "idle: rollback 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            +60s
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            +1s
            C: Q COMMIT
              > Q COMMIT
            S: C COMMIT | Z I
              < C COMMIT | Z I
              * transaction commit of 2 statement(s)
            +1h
        "#]],
    );
}

#[test]
fn idle_counts_from_when_the_client_took_the_answer() {
    check(
        "idle: rollback 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            client blocks
            +1999ms
            client reads
            +1999ms
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 2 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_failed_transaction_that_holds_nothing_has_a_ladder_of_its_own() {
    check(
        "idle: rollback 1s; failed: log 5s",
        expect![[r#"
            C: Q BEGIN; SELECT 1/0
              > Q BEGIN; SELECT 1/0
            S: C BEGIN | E 22012 | Z E
              < C BEGIN | E 22012 | Z E
            +10s
              * failed log logged at 5s in "idle in transaction (aborted)" after 5s
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
              * transaction rollback of 1 statement(s)
        "#]],
    );
}

#[test]
fn a_failed_transaction_inside_a_savepoint_holds_locks_and_is_rolled_back() {
    check(
        "idle: rollback 1s; failed: log 5s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SAVEPOINT a
              > Q SAVEPOINT a
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q SELECT 1/0
              > Q SELECT 1/0
            S: E 22012 | Z E
              < E 22012 | Z E
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction aborted for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 3 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction (aborted)" after 1s
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
fn a_released_savepoint_leaves_nothing_behind() {
    check(
        "idle: rollback 1s; failed: log 5s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SAVEPOINT a
              > Q SAVEPOINT a
            S: C SAVEPOINT | Z T
              < C SAVEPOINT | Z T
            C: Q RELEASE a
              > Q RELEASE a
            S: C RELEASE | Z T
              < C RELEASE | Z T
            C: Q SELECT 1/0
              > Q SELECT 1/0
            S: E 22012 | Z E
              < E 22012 | Z E
            +3s
        "#]],
    );
}

#[test]
fn a_half_sent_request_is_the_next_one_after_the_abort() {
    let mut player = super::script::Player::new("idle: rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T");
    let request = super::script::frontend("Q COMMIT");
    player.client_raw(&request[..4]);
    player.play("+1s\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.client_raw(&request[4..]);
    player.play("S: C ROLLBACK | Z I");
    expect![[r#"
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        +1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 1 statement(s)
          * idle rollback rolled_back at 1s in "half-sent request" after 1s
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]].assert_eq(&player.transcript);
}

#[test]
fn notice_warns_the_client() {
    check(
        "idle: notice 1s",
        expect![[r#"
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
        +3s
          < N 25P03 (ours)
          * idle notice noticed at 1s in "idle in transaction" after 1s
    "#]],
    );
}

#[test]
fn autocommit_is_never_touched() {
    check(
        "idle: rollback 1s; stalled: rollback 1s; failed: rollback 1s; age: rollback 1s",
        expect![[r#"
            C: Q SELECT 1
              > Q SELECT 1
            +10s
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
            +10s
            C: P - SELECT 1 | B - - | E - | S
              > P - SELECT 1 | B | E | S
            +10s
            S: 1 | 2 | C SELECT 1 | Z I
              < 1 | 2 | C SELECT 1 | Z I
            +10s
        "#]],
    );
}

#[test]
fn a_rung_is_taken_again_when_the_client_spoke_while_the_gate_closed() {
    check(
        "age: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            cancel opens
            +1s
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z T
              < C SELECT 1 | Z T
            cancel closes
            +1ms
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_chained_transaction_begins_its_ladders_anew() {
    check(
        "age: log 1s, rollback 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1500ms
              * age log logged at 1s in "idle in transaction" after 1s
            C: Q COMMIT AND CHAIN
              > Q COMMIT AND CHAIN
            +1ms
            S: C COMMIT | Z T
              < C COMMIT | Z T
              * transaction commit of 1 statement(s)
            +1s
              * age log logged at 1s in "idle in transaction" after 1s
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 2 s'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn an_age_that_is_reached_before_a_batch_was_flushed_asks_for_its_answers() {
    check(
        "age: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +950ms
            C: P - INSERT INTO t VALUES (1) | B - - | E -
              > P - INSERT INTO t VALUES (1) | B | E
            +50ms
              ! Cancel
              > H
            cancelled
            S: 1 | 2 | C INSERT 0 1
              < 1 | 2 | C INSERT 0 1
              > P pgidle_rollback- pgidle: rolled back after not ended for 1 s | H
        "#]],
    );
}

#[test]
fn an_age_that_is_reached_in_the_middle_of_a_large_message_waits_for_its_end() {
    let mut player = super::script::Player::new("age: rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T");
    let text = format!("SELECT 1{}", " ".repeat(50_000));
    let message = super::script::frame(b'Q', text.as_bytes());
    player.client_raw(&message[..40_000]);
    player.play("+1s");
    player.client_raw(&message[40_000..]);
    player.play("+1ms\nS: C SELECT 1\nS: Z T\ncancelled");
    expect![[r#"
        C: Q BEGIN
          > Q BEGIN
        S: C BEGIN | Z T
          < C BEGIN | Z T
          > Q SELECT 1
        +1s
          > … 10013 bytes
        +1ms
          ! Cancel
        S: C SELECT 1
          < C SELECT 1
        S: Z T
          < Z T
        cancelled
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 1 s'::pg_catalog.int4
    "#]]
    .assert_eq(&player.transcript);
}
