//! What a client can make a session keep has bounds.

use super::script::{Player, backend, frame, frontend, opened};
use crate::session::{Side, Wants};

/// More requests than a session lets wait.
const MANY: usize = 20_000;

#[test]
fn a_client_that_sends_without_end_is_held_until_the_server_has_answered() {
    let (mut session, now) = opened("");
    let sync = frontend("S");
    let stream = sync.repeat(MANY);
    let passed = session.handle_read(Side::Client, &stream, now).unwrap();
    let sent = passed.len() / sync.len();
    assert!(session.holds_client() && sent < MANY, "{sent}");
    let answers = backend("Z I").repeat(sent);
    session.handle_read(Side::Server, &answers, now).unwrap();
    assert_eq!(session.wants_read(Side::Client), Wants::Kept);
    let rest = session.take_kept(Side::Client);
    let passed = session.handle_read(Side::Client, &rest, now).unwrap();
    assert_eq!(passed.len() + session.kept(Side::Client), rest.len());
    let answers = backend("Z I").repeat(MANY);
    session.handle_read(Side::Server, &answers, now).unwrap();
    assert!(session.unsent(Side::Client).is_empty());
    assert!(session.state.pending.capacity() < 100, "memory is kept");
}

#[test]
fn texts_that_wait_have_a_bound_of_their_own() {
    let (mut session, now) = opened("");
    let query = frontend(&format!("Q SELECT '{}'", "x".repeat(4000)));
    let sent = query.repeat(5000);
    let passed = session.handle_read(Side::Client, &sent, now).unwrap();
    assert!(session.holds_client());
    let kept = passed.len() / query.len() * 4000;
    assert!((4 << 20..16 << 20).contains(&kept), "{kept}");
}

#[test]
fn statements_that_sql_deallocates_are_forgotten() {
    let (mut session, now) = opened("");
    for number in 0..MANY {
        let name = format!("_pg3_{number}");
        let sent = [
            frontend(&format!("P {name} SELECT {number}")),
            frontend("S"),
            frontend(&format!("Q DEALLOCATE {name}")),
        ];
        let sent = sent.concat();
        session.handle_read(Side::Client, &sent, now).unwrap();
        let answers = ["1", "Z I", "C DEALLOCATE", "Z I"].map(backend).concat();
        session.handle_read(Side::Server, &answers, now).unwrap();
    }
    assert_eq!(session.state.prepared.name_bytes(), 0);
}

#[test]
fn names_and_texts_of_statements_have_bounds() {
    let (mut session, now) = opened("");
    for number in 0..MANY {
        let text = "x".repeat(500);
        let parse = frontend(&format!("P s{number} SELECT 1 -- {text}"));
        session.handle_read(Side::Client, &parse, now).unwrap();
        let answer = backend("1");
        session.handle_read(Side::Server, &answer, now).unwrap();
    }
    let prepared = &session.state.prepared;
    assert!(prepared.name_bytes() <= 1 << 20);
    let known = |number: usize| prepared.statement(format!("s{number}").as_bytes());
    assert!(known(0).is_some_and(|text| text.sql.is_some()));
    assert!(known(5000).is_some_and(|text| text.sql.is_none()));
    assert!(known(MANY - 1).is_none());
}

/// How many bytes are read of rows without end, for a client that has not taken the first of them for a second.
fn read_ahead(player: &mut Player) -> usize {
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\nC: Q SELECT big\nS: T | D\nclient blocks");
    let row = frame(b'D', &vec![b'x'; 1 << 20]);
    player.server_raw(&row[..5]);
    assert_eq!(player.session.wants_read(Side::Server), Wants::Nothing);
    player.server_raw(&row[5..]);
    player.play("+1s");
    player.transcript.clear();
    let before = player.session.unsent(Side::Client).len();
    while player.session.wants_read(Side::Server) != Wants::Nothing {
        player.server_raw(&row);
    }
    player.session.unsent(Side::Client).len() - before
}

#[test]
fn what_is_read_to_learn_whether_the_server_is_idle_has_a_bound() {
    let mut player = Player::new("idle: rollback 1s");
    let read = read_ahead(&mut player);
    assert!((14 << 20..=17 << 20).contains(&read), "{read}");
    assert!(!player.transcript.contains("close"));
}

#[test]
fn what_is_read_while_a_statement_is_cancelled_has_a_bound_that_ends_the_session() {
    let mut player = Player::new("stalled: rollback 1s");
    let read = read_ahead(&mut player);
    assert!((62 << 20..=65 << 20).contains(&read), "{read}");
    assert!(player.transcript.contains("! close: policy"));
}
