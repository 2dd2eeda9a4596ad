//! The life of a session in the language of the transcripts: what goes in and what comes out, as it is.

use std::fmt::Write as _;

use super::World;
use crate::session::{
    Action, Side,
    event::Event,
    tests::{
        model::take_frame,
        script::{list, show_backend, show_frontend},
    },
    transcript,
};

/// The lines so far, and what has come and gone of a message that is not whole.
#[derive(Clone, Debug, Default)]
pub(in crate::session::tests) struct Script {
    pub(in crate::session::tests) text: String,
    read: [Vec<u8>; 2],
    rests: [usize; 2],
}

impl World {
    pub(in crate::session::tests) fn note(&mut self, line: &str) {
        if let Some(script) = &mut self.script {
            writeln!(script.text, "{line}").unwrap();
        }
    }

    /// Bytes go into the machine.
    pub(super) fn note_read(&mut self, from: Side, bytes: &[u8]) {
        let Some(script) = self.script.as_mut().filter(|_| !bytes.is_empty()) else {
            return;
        };
        let read = &mut script.read[usize::from(from == Side::Server)];
        read.extend_from_slice(bytes);
        let plain = |sql: &[u8]| String::from_utf8_lossy(sql).into_owned();
        let words: Vec<String> = std::iter::from_fn(|| take_frame(read))
            .map(|(tag, body)| {
                let words = match from {
                    Side::Client => transcript::of_client(tag, &body, plain),
                    Side::Server => transcript::of_server(tag, &body),
                };
                words.unwrap_or_else(|| char::from(tag).to_string())
            })
            .collect();
        let side = if from == Side::Client { "C" } else { "S" };
        let half = !read.is_empty();
        if !words.is_empty() {
            self.note(&format!("{side}: {}", transcript::line(&words)));
        }
        if half {
            self.note(&format!("{side} half"));
        }
    }

    /// Bytes come out of the machine.
    pub(super) fn note_written(&mut self, to: Side, bytes: &[u8]) {
        let Some(script) = self.script.as_mut().filter(|_| !bytes.is_empty()) else {
            return;
        };
        let rest = &mut script.rests[usize::from(to == Side::Client)];
        let (mark, words) = match to {
            Side::Server => ('>', list(bytes, rest, show_frontend)),
            Side::Client => ('<', list(bytes, rest, show_backend)),
        };
        self.note(&format!("  {mark} {words}"));
    }

    pub(super) fn note_action(&mut self, action: &Action) {
        match action {
            Action::Cancel | Action::MatchRules => self.note(&format!("  ! {action:?}")),
            Action::Close(reason) => self.note(&format!("  ! close: {}", reason.name())),
            Action::ProveReadOnly { number, .. } if self.prover_lags => {
                self.note(&format!("  ! prove {number}"));
            }
            Action::ProveReadOnly { .. }
            | Action::CloseGate
            | Action::OpenGate
            | Action::Authenticated
            | Action::SetCancelKey(_) => {}
        }
    }

    pub(super) fn note_event(&mut self, event: &Event) {
        if let Some(words) = transcript::event(event).filter(|_| self.script.is_some()) {
            self.note(&format!("  * {words}"));
        }
    }
}
