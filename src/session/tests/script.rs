//! What the tests of the session share: sessions that have begun, and transcripts that are compared.

use std::time::Instant;

use expect_test::Expect;
use tokio::time::Instant as Clock;

pub(super) use crate::session::transcript::{
    backend, frame, frontend,
    player::{Player, everyone, limits, list, seen, show_backend, show_frontend, steps},
};
use crate::session::{Session, Side, transcript::player};

/// A session whose startup packet was sent just now.
pub(super) fn started(text: &str) -> (Session, Instant) {
    player::started(text, Clock::now().into_std())
}

/// What a server answers to a startup packet.
pub(super) fn startup_answer() -> Vec<u8> {
    let messages = ["R ok", "K 7", "Z I"].into_iter();
    messages.flat_map(backend).collect()
}

/// A session that has just become ready, and when.
pub(super) fn opened(text: &str) -> (Session, Instant) {
    let (mut session, now) = started(text);
    let answer = startup_answer();
    session.handle_read(Side::Server, &answer, now).unwrap();
    while session.poll_action().is_some() {}
    (session, now)
}

impl Player {
    /// One whose session has just become ready.
    pub(super) fn new(text: &str) -> Self {
        Self::of(opened(text))
    }

    /// One whose server has yet to answer the startup packet.
    pub(super) fn starting(text: &str) -> Self {
        Self::of(started(text))
    }

    /// Plays the steps of a transcript, and compares what comes of them with the whole of it.
    pub(super) fn check(&mut self, transcript: Expect) {
        self.play(&steps(transcript.data()));
        transcript.assert_eq(&self.transcript);
    }
}

/// Plays the steps of a recording that begins now.
pub(super) fn replay_now(recording: &str) -> String {
    player::replay(recording, Clock::now().into_std())
}

/// Plays the steps of a transcript, and compares what comes of them with the whole of it.
pub(super) fn check(limits: &str, transcript: Expect) {
    Player::new(limits).check(transcript);
}
