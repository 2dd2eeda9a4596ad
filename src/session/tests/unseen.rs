//! What the server does not show at once: a BEGIN in a pipeline, the end of an answer that is not read, which answer is
//! that to the startup packet, and whether a batch that is not flushed runs.

use expect_test::expect;

use super::script::{Player, check};

/// Plays a script, and says at which age the transaction that runs was found too old.
fn aged(script: &str) -> String {
    let mut player = Player::new("age: log 1s");
    player.play(script);
    player.transcript.clear();
    player.play("+999ms\n+1ms\n+1s");
    let found = |line: &&str| line.contains("age log");
    let step = player
        .transcript
        .split("\n+")
        .position(|step| step.lines().any(|line| found(&line)));
    match step {
        None => "never".to_owned(),
        Some(0) => "before".to_owned(),
        Some(1) => "in time".to_owned(),
        Some(_) => "later".to_owned(),
    }
}

#[test]
fn a_block_has_an_age_wherever_it_begins() {
    for text in [
        "Q BEGIN; SELECT 1; COMMIT",
        "Q SET a.b = 1; BEGIN; SELECT 1",
        "Q BEGIN; DO $$ begin perform pg_sleep(4); end $$",
        "Q BEGIN; SELECT E'\\'; COMMIT; --'",
        "Q COMMIT; START TRANSACTION; SELECT 1; COMMIT;",
        "P - BEGIN | B - - | E - | P - SELECT 1 | B - - | E - | S",
        "P - BEGIN | B - - | E - | P - SELECT 1 | B - - | E - | P - COMMIT | B - - | E - | S",
        "P - SELECT 1 | B - - | E - | P - BEGIN | B - - | E - | P - SELECT 2 | B - - | E - | S",
        "P - BEGIN | B - - | E - | P - SELECT 1 | B - - | E -",
        "P - SELECT 1 | B - - | E - | Q BEGIN; SELECT 1",
    ] {
        assert_eq!(aged(&format!("C: {text}")), "in time", "{text}");
    }
    for text in [
        "Q SELECT 1",
        "Q SELECT 1; SELECT 2",
        "Q BEGIN; SELECT 1; COMMIT; SELECT 2",
        "P - BEGIN | B - - | E - | P - COMMIT | B - - | E - | P - SELECT 1 | B - - | E - | S",
        "P - SELECT 1 | B - - | E - | S",
        "Q SELECT 'BEGIN'; -- ; BEGIN",
    ] {
        assert_eq!(aged(&format!("C: {text}")), "never", "{text}");
    }
    // The answer to a Sync is not kept back: what stands after it does not run yet.
    for text in [
        "Q SELECT 1 | Q BEGIN; SELECT 1",
        "P - SELECT 1 | B - - | E - | S | Q BEGIN",
    ] {
        assert_eq!(aged(&format!("C: {text}")), "never", "{text}");
        assert_eq!(aged(&format!("C: {text}\nS: Z I")), "in time", "{text}");
    }
}

#[test]
fn a_large_query_that_begins_a_block_has_an_age() {
    let mut player = Player::new("age: log 1s");
    let large = format!("Q BEGIN; SELECT '{}'", "x".repeat(100_000));
    player.client_raw(&super::script::frontend(&large));
    player.transcript.clear();
    player.play("+1s");
    assert!(
        player.transcript.contains("age log"),
        "{}",
        player.transcript
    );
}

#[test]
fn where_one_block_may_have_followed_another_the_last_counts() {
    for text in [
        "Q COMMIT; BEGIN; SELECT 1",
        "Q SELECT 1; ROLLBACK; BEGIN; SELECT 2",
        "Q COMMIT AND CHAIN",
        "P - COMMIT | B - - | E - | P - BEGIN | B - - | E - | P - SELECT 1 | B - - | E - | S",
        "P - ABORT AND CHAIN | B - - | E - | P - SELECT 1 | B - - | E - | S",
    ] {
        let begun = "C: Q BEGIN\nS: C BEGIN | Z T\n+900ms\n";
        assert_eq!(aged(&format!("{begun}C: {text}")), "in time", "{text}");
    }
    for text in [
        "Q COMMIT",
        "Q SELECT 1; COMMIT",
        "Q ROLLBACK TO a; SELECT 1",
    ] {
        let begun = "C: Q BEGIN\nS: C BEGIN | Z T\n+900ms\n";
        assert_eq!(aged(&format!("{begun}C: {text}")), "before", "{text}");
    }
}

#[test]
fn the_answer_to_the_startup_packet_answers_no_request_that_came_with_it() {
    let mut player = Player::starting("idle: rollback 1s; age: rollback 3s");
    player.play(
        "C: Q BEGIN | Q SELECT pg_sleep(2)
         +5s
         S: R ok | K 7 | Z I
         +1s
         S: C BEGIN | Z T
         +1500ms
         S: C SELECT 1 | Z T
         +400ms
         +100ms
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E
         C: Q ROLLBACK
         S: C ROLLBACK | Z I",
    );
    expect![[r#"
        C: Q BEGIN | Q SELECT pg_sleep(2)
          > Q BEGIN | Q SELECT pg_sleep(2)
        +5s
        S: R ok | K 7 | Z I
          < R | K | Z I
        +1s
        S: C BEGIN | Z T
          < C BEGIN | Z T
        +1500ms
        S: C SELECT 1 | Z T
          < C SELECT 1 | Z T
        +400ms
        +100ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after not ended for 3 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * age rollback rolled_back at 3s in "idle in transaction" after 500ms
        C: Q ROLLBACK
          > Q ROLLBACK
        S: C ROLLBACK | Z I
          < C ROLLBACK | Z I
    "#]].assert_eq(&player.transcript);
}

#[test]
fn a_batch_that_nobody_flushes_can_keep_others_waiting() {
    check(
        "blocking: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P - LOCK TABLE t | B - - | E -
              > P - LOCK TABLE t | B | E
            +100ms
              > H
            S: 1 | 2 | C LOCK TABLE
              < 1 | 2 | C LOCK TABLE
            +1s
            seen: 1s for AccessShareLock
              > P pgidle_rollback- pgidle: rolled back after keeping others waiting for 1 s | H
            S: E 42601
              > S
            S: Z E
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after keeping others waiting for 1 s'::pg_catalog.int4
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 2 statement(s)
              * blocking rollback rolled_back at 1s in "batch without sync" after 1s
        "#]],
    );
}

#[test]
fn the_server_is_read_on_to_learn_whether_it_is_idle() {
    let mut player = Player::new("idle: log 500ms, rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\nS: T | D\nclient blocks");
    player.transcript.clear();
    player.play("+999ms");
    assert_eq!(player.session.reads_ahead(), Some(0));
    player.play("+1ms");
    assert!(
        player
            .session
            .reads_ahead()
            .is_some_and(|bytes| bytes > 10_000_000)
    );
    player.play("S: D | D | C SELECT 3 | Z T\n+0ms\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.play("client reads\nC: Q COMMIT\nS: C ROLLBACK | Z I");
    expect![[r#"
        +999ms
        +1ms
        S: D | D | C SELECT 3 | Z T
          < D | D | C SELECT 3 | Z T
        +0ms
          * idle log logged at 500ms in "client not reading" after 1s
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
        S: C ROLLBACK | C BEGIN | E 22P02 | Z E
          * transaction enforced of 2 statement(s)
          * idle rollback rolled_back at 1s in "client not reading" after 1s
        client reads
        C: Q COMMIT
          > Q COMMIT
        S: C ROLLBACK | Z I
          < E 25P03 (ours) | Z I
    "#]].assert_eq(&player.transcript);
}

#[test]
fn a_client_that_takes_something_is_not_idle() {
    let mut player = Player::new("idle: rollback 1s");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\nS: T | D\nclient blocks");
    player.play("+1s");
    assert_ne!(player.session.reads_ahead(), Some(0));
    player.play("client takes some");
    assert_eq!(player.session.reads_ahead(), Some(0));
    player.play("S: D | C SELECT 2 | Z T\n+999ms\nclient takes some");
    player.transcript.clear();
    player.play("+999ms\n+1ms");
    expect![[r#"
        +999ms
        +1ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
    "#]].assert_eq(&player.transcript);
}

#[test]
fn nothing_is_read_ahead_where_no_transaction_can_be_idle() {
    for (limits, script) in [
        (
            "idle: log 1s; stalled: log 1s",
            "C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\nS: T | D\nclient blocks",
        ),
        (
            "idle: rollback 1s",
            "C: Q SELECT 1\nS: T | D\nclient blocks",
        ),
        (
            "stalled: log 1s; age: log 1s",
            "C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\nS: T | D\nclient blocks",
        ),
    ] {
        let mut player = Player::new(limits);
        player.play(script);
        player.play("+10s");
        assert_eq!(player.session.reads_ahead(), Some(0), "{limits}");
    }
}

#[test]
fn a_failed_transaction_whose_error_is_not_read_is_found() {
    check(
        "failed: log 1s; idle: rollback 1s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1
              > Q SELECT 1
            S: T | D | E 22012 | Z E
              < T | D | E 22012 | Z E
            client blocks
            +1s
              * failed log logged at 1s in "client not reading" after 1s
        "#]],
    );
}

/// Nothing could be done without a key while the server worked; only the end of its answer shows that it waits.
#[test]
fn what_was_not_possible_is_done_when_an_unread_answer_has_ended() {
    let mut player = Player::new("stalled: rollback 1s");
    player.session.who.server_pid = None;
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT 1\nS: T | D\nclient blocks\n+1s");
    player.transcript.clear();
    player.play("+0ms");
    assert_ne!(player.session.reads_ahead(), Some(0));
    player.play("S: D | C SELECT 2 | Z T\n+0ms");
    expect![[r#"
        +0ms
        S: D | C SELECT 2 | Z T
          < D | C SELECT 2 | Z T
        +0ms
          > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back after client not reading for 1 s'::pg_catalog.int4
    "#]].assert_eq(&player.transcript);
}
