//! How a session ends: terminate, drain, and what passes after a FATAL.

use expect_test::expect;

use super::script::check;

#[test]
fn terminate_says_goodbye_to_both_sides() {
    check(
        "idle: rollback 1s, terminate 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            +1s
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after idle in transaction for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * idle rollback rolled_back at 1s in "idle in transaction" after 1s
            +1s
              ! close: policy
              * idle terminate terminated at 2s in "idle in transaction (aborted)" after 2s
              > X
              < E FATAL 25P03 (ours)
        "#]],
    );
}

#[test]
fn drain_ends_a_session_when_its_transaction_is_over() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            drain
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
fn nothing_passes_behind_a_fatal() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            drain
            C: Q COMMIT
              > Q COMMIT
            S: C COMMIT | Z I | N 00000
              < C COMMIT | Z I | E FATAL 57P01 (ours)
              > X
              ! close: drain
              * transaction commit of 1 statement(s)
            C: Q SELECT 1
            S: N 00000
        "#]],
    );
}

#[test]
fn terminate_waits_for_what_was_pipelined_behind_the_statement_that_it_cancels() {
    let mut player = super::script::Player::new("age: terminate 1s; implicit:");
    player.play("C: Q SELECT pg_sleep(60)\nC: Q INSERT INTO t VALUES (1)\n+1s\ncancelled");
    player.transcript.clear();
    player.play("S: E 57014 | Z I\n+500ms\ncancelled\nS: C INSERT 0 1 | Z I");
    expect![[r#"
        S: E 57014 | Z I
          < E 25P04 (ours) | Z I
        +500ms
          ! Cancel
        cancelled
        S: C INSERT 0 1 | Z I
          < C INSERT 0 1 | Z I | E FATAL 25P04 (ours)
          > X
          ! close: policy
          * age terminate terminated at 1s in "active" after 0ns
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn terminate_says_that_what_does_not_end_may_be_carried_out() {
    let mut player = super::script::Player::new("age: terminate 1s; implicit:");
    player.play("C: Q SELECT pg_sleep(60)\nC: Q INSERT INTO t SELECT stubborn()\n+1s\ncancelled");
    player.play("S: E 57014 | Z I");
    for _ in 0..9 {
        player.play("+500ms\ncancelled");
    }
    let end = player.now + std::time::Duration::from_millis(500);
    player.session.handle_timeout(end);
    let told = player.session.unsent(crate::session::Side::Client);
    let told = String::from_utf8_lossy(told).into_owned();
    assert!(told.contains("SFATAL"), "{told}");
    assert!(told.contains("outcome of 1 request(s)"), "{told}");
}

#[test]
fn a_rollback_that_waits_for_the_end_of_a_message_keeps_no_terminate_waiting() {
    let mut player = super::script::Player::new("stalled: rollback 1s, terminate 2s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nclient blocks");
    let message = super::script::frame(b'Q', &vec![b' '; 50_000]);
    player.client_raw(&message[..40_000]);
    player.transcript.clear();
    player.play("+2s");
    expect![[r#"
        +2s
          ! close: policy
          * stalled terminate terminated at 2s in "client not reading" after 2s
          < E FATAL 25P03 (ours)
    "#]]
    .assert_eq(&player.transcript);
}
