//! Commands from the console: the same steps as those of a limit, and a word where there is nothing to do.

use expect_test::{Expect, expect};

use super::script::{Player, check, opened};
use crate::{
    policy::Action,
    session::{
        diagnostics,
        event::{Cause, Hit},
    },
};

/// Checks that a command does what a limit does at the same time: every message is the same but for its words.
fn as_by_limit(limit: &str, before: &str, command: &str, after: &str) {
    let played = |limits: &str, step: &str| {
        let mut player = Player::new(limits);
        player.play(before).play(step).play(after);
        let lines = player.transcript.lines().map(without_words);
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let by_limit = played(limit, "+10s");
    let by_command = played("", &format!("+10s\n{command}"));
    assert_eq!(by_command, by_limit);
}

/// A line of a transcript without what says why.
fn without_words(line: &str) -> String {
    let words = line.starts_with("  *") || line.starts_with("console") || line.starts_with('+');
    if words {
        return String::new();
    }
    let codes = ["25P04", "57014", "57P01"].into_iter();
    let line = codes.fold(line.to_owned(), |line, code| line.replace(code, "25P03"));
    let line = line.replace("close: console", "close: policy");
    let end = line.find("pgidle: rolled back").unwrap_or(line.len());
    line[..end].to_owned()
}

#[test]
fn a_rollback_goes_the_way_of_a_limit() {
    let limit = "idle: rollback 10s; stalled: rollback 10s; age: rollback 10s";
    let begun = "C: Q BEGIN\nS: C BEGIN | Z T";
    let aborted = "S: C ROLLBACK | C BEGIN | E 22P02 | Z E\nC: Q COMMIT\nS: C ROLLBACK | Z I";
    let cancelled = format!("S: E 57014 | Z E\ncancelled\n{aborted}");
    as_by_limit(limit, begun, "console: rollback", aborted);
    let running = format!("{begun}\nC: Q UPDATE t SET a = 1");
    as_by_limit(limit, &running, "console: rollback", &cancelled);
    let copying = format!("{begun}\nC: Q COPY t FROM STDIN\nS: G");
    as_by_limit(limit, &copying, "console: rollback", &cancelled);
    let batch =
        format!("{begun}\nC: P \"\" SELECT 1 | B \"\" \"\" | E \"\" | H\nS: 1 | 2 | C SELECT 1");
    let poisoned = format!("S: E 42601\nS: Z E\n{aborted}");
    as_by_limit(limit, &batch, "console: rollback", &poisoned);
    let terminates = limit.replace("rollback", "terminate");
    as_by_limit(&terminates, begun, "console: terminate", "");
    as_by_limit(
        &terminates,
        &running,
        "console: terminate",
        "S: E 57014 | Z E\ncancelled",
    );
}

#[test]
fn an_idle_transaction_is_rolled_back() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            console: rollback
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back by a command'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn what_runs_is_cancelled_and_rolled_back() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q UPDATE t SET a = 1
              > Q UPDATE t SET a = 1
            console: rollback
              ! Cancel
            S: E 57014 | Z E
              < E 57014 (ours) | Z E
            cancelled
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back by a command'::pg_catalog.int4
        "#]],
    );
}

#[test]
fn a_batch_without_sync_is_asked_for_its_answers() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: P "" UPDATE t SET a = 1 | B "" "" | E ""
              > P ""- UPDATE t SET a = 1 | B | E
            console: rollback
              > H
              ! Cancel
        "#]],
    );
}

#[test]
fn where_there_is_nothing_to_roll_back_that_is_said() {
    check(
        "",
        expect![[r#"
            console: rollback
              ! no transaction is open
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            C: Q SELECT 1/0
              > Q SELECT 1/0
            S: E 22012 | Z E
              < E 22012 | Z E
            console: rollback
              ! the transaction has failed already, and holds nothing
            C: Q ROLLBACK
              > Q ROLLBACK
            S: C ROLLBACK | Z I
              < C ROLLBACK | Z I
              * transaction rollback of 2 statement(s)
            console: rollback
              ! no transaction is open
        "#]],
    );
}

#[test]
fn a_transaction_is_rolled_back_once() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            console: rollback
              > Q ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 'pgidle: rolled back by a command'::pg_catalog.int4
            console: rollback
              ! the transaction is being ended
            console: terminate
              ! the transaction is being ended
            S: C ROLLBACK | C BEGIN | E 22P02 | Z E
              * transaction enforced of 1 statement(s)
              * command rollback rolled_back at 0ns in "idle in transaction" after 0ns
            console: rollback
              ! the transaction is rolled back already
            C: Q COMMIT
              > Q COMMIT
            S: C ROLLBACK | Z I
              < E 57014 (ours) | Z I
            console: rollback
              ! no transaction is open
        "#]],
    );
}

#[test]
fn a_command_takes_over_where_a_limit_has_not_acted() {
    check(
        "idle: rollback 2s",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            cancel opens
            +2s
            console: terminate
            cancel closes
              > X
              < E FATAL 57P01 (ours)
              ! close: console
              * command terminate terminated at 0ns in "idle in transaction" after 2s
        "#]],
    );
}

#[test]
fn a_command_whose_client_speaks_first_is_moot() {
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            cancel opens
            console: rollback
            C: Q COMMIT
              > Q COMMIT
              * command rollback moot at 0ns in "idle in transaction" after 0ns
            S: C COMMIT | Z I
              < C COMMIT | Z I
              * transaction commit of 1 statement(s)
            cancel closes
        "#]],
    );
}

#[test]
fn a_session_is_ended_whether_a_transaction_is_open_or_not() {
    check(
        "",
        expect![[r#"
            console: terminate
              ! close: console
              * command terminate terminated at 0ns in "idle" after 0ns
              > X
              < E FATAL 57P01 (ours)
            console: terminate
              ! the session has ended
        "#]],
    );
    check(
        "",
        expect![[r#"
            C: Q BEGIN
              > Q BEGIN
            S: C BEGIN | Z T
              < C BEGIN | Z T
            console: terminate
              ! close: console
              * command terminate terminated at 0ns in "idle in transaction" after 0ns
              > X
              < E FATAL 57P01 (ours)
        "#]],
    );
    check(
        "",
        expect![[r#"
            C: Q SELECT pg_sleep(60)
              > Q SELECT pg_sleep(60)
            console: terminate
              ! Cancel
            S: E 57014 | Z I
            cancelled
              > X
              < E FATAL 57P01 (ours)
              ! close: console
              * command terminate terminated at 0ns in "active" after 0ns
        "#]],
    );
}

#[test]
fn a_session_that_is_not_ready_is_ended() {
    starting(expect![[r#"
        console: rollback
          ! no transaction is open
        console: terminate
          < E FATAL 57P01 (ours)
          ! close: console
          * command terminate terminated at 0ns in "startup" after 0ns
    "#]]);
}

fn starting(transcript: Expect) {
    Player::starting("").check(transcript);
}

#[test]
fn a_message_that_is_half_forwarded_is_left_alone() {
    let mut player = Player::new("");
    player.play("C: Q BEGIN\nS: C BEGIN | Z T");
    let mut large = vec![b'Q'];
    large.extend(100_000_u32.to_be_bytes());
    large.extend([b' '; 50_000]);
    player.client_raw(&large);
    player.transcript.clear();
    player.check(expect![[r#"
        console: rollback
          * command rollback not_possible at 0ns in "half-forwarded message" after 0ns
    "#]]);
}

#[test]
fn the_client_is_told_who_said_so() {
    let (session, now) = opened("");
    let cause = Cause::Console { by: "ops".into() };
    let told = |action| {
        let incident = session.incident_of(cause.clone(), action, now);
        if action == Action::Terminate {
            diagnostics::terminated(&incident, 1)
        } else {
            diagnostics::hit(&incident, Hit::Meant)
        }
    };
    let said = [Action::Rollback, Action::Terminate].map(|action| {
        let report = told(action);
        let texts = [report.message, report.detail, report.hint].join("\n");
        format!("{} {texts}\n", report.sqlstate)
    });
    expect![[r#"
        57014 pgidle rolled back the transaction that was open: administrator command
        Command of "ops" on the console of pgidle: rollback.
        Roll back and run the transaction again: the session, its prepared statements, temporary tables and settings are kept.
        57P01 terminating connection: administrator command
        Command of "ops" on the console of pgidle: terminate. The outcome of 1 request(s) that were sent before is unknown.
        Connect again.
    "#]].assert_eq(&said.concat());
}
