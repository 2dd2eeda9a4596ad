//! COPY FROM STDIN whose data does not come, and the Syncs around it.

use expect_test::expect;

use super::STALLED;
use crate::session::tests::script::{Player, check};

#[test]
fn a_copy_without_data_fails_and_the_client_is_told_as_its_answer() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            C: d 1
              > d 1
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014
              < E 25P03 (ours)
            S: Z E
              < Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after copy in for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 25P03 (ours) | Z I
        "#]],
    );
}

#[test]
fn a_copy_without_a_block_fails_too() {
    check(
        STALLED,
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014 | Z I
              < E 25P03 (ours) | Z I
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c
            C: Q SELECT 1
              > Q SELECT 1
            S: C SELECT 1 | Z I
              < C SELECT 1 | Z I
        "#]],
    );
}

#[test]
fn a_copy_by_execute_fails_and_its_batch_is_discarded() {
    check(
        STALLED,
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY t FROM STDIN | B - - | E - | S
              > P - COPY t FROM STDIN | B | E | S
            S: 1 | 2 | G
              < 1 | 2 | G
            C: d 1
              > d 1
            +1s
              > f pgidle: rolled back after copy in for 1 s
            S: E 57014
              < E 25P03 (ours)
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after copy in for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * stalled rollback rolled_back at 1s in "copy in" after 1s
            C: d 2 | c | S
              > S
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
fn copy_data_that_keeps_coming_is_not_stalled() {
    check(
        STALLED,
        expect![[r#"
            C: Q COPY t FROM STDIN
              > Q COPY t FROM STDIN
            S: G
              < G
            +900ms
            C: d 1
              > d 1
            +900ms
            C: d 2
              > d 1
            +900ms
            C: c
              > c
            +1h
            S: C COPY 2 | Z I
              < C COPY 2 | Z I
        "#]],
    );
}

#[test]
fn half_of_a_large_copy_message_is_filled_up() {
    let mut player = Player::new(STALLED);
    player.play("C: Q COPY t FROM STDIN\nS: G");
    let mut message = vec![b'd'];
    message.extend_from_slice(&100_004u32.to_be_bytes());
    message.extend_from_slice(&[b'x'; 50_000]);
    player.client_raw(&message);
    player.play("+1s");
    player.play("S: E 57014 | Z I");
    player.client_raw(&[b'x'; 50_000]);
    player.play("C: c\nC: Q SELECT 1");
    expect![[r#"
        C: Q COPY t FROM STDIN
          > Q COPY t FROM STDIN
        S: G
          < G
          > d 50000
        +1s
          > … 50000 bytes | f pgidle: rolled back after copy in for 1 s
        S: E 57014 | Z I
          < E 25P03 (ours) | Z I
          * stalled rollback rolled_back at 1s in "copy in" after 1s
        C: c
        C: Q SELECT 1
          > Q SELECT 1
    "#]]
    .assert_eq(&player.transcript);
}

#[test]
fn two_syncs_of_a_copy_by_execute_earn_one_ready() {
    check(
        "idle: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY t FROM STDIN | B - - | E - | S | d x | c | S
              > P - COPY t FROM STDIN | B | E | S | d 1 | c | S
            S: 1 | 2 | G | C COPY 1 | Z T
              < 1 | 2 | G | C COPY 1 | Z T
            +1s
              * idle log logged at 1s in "idle in transaction" after 1s
        "#]],
    );
}

#[test]
fn a_copy_by_execute_that_fails_leaves_its_early_sync_its_due() {
    check(
        "idle: log 1s; failed: log 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - COPY nothing FROM STDIN | B - - | E - | S | d x | c | S
              > P - COPY nothing FROM STDIN | B | E | S | d 1 | c | S
            S: E 42P01 | Z E
              < E 42P01 | Z E
            +10s
            S: Z E
              < Z E
            +1s
              * failed log logged at 1s in "idle in transaction (aborted)" after 1s
        "#]],
    );
}
