//! What the queue of unanswered requests counts, and what is not watched at all.

use expect_test::expect;

use crate::session::tests::script::{Player, check, frontend};

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
