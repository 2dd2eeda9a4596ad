//! What the backend does at each statement.

use super::{Block, Busy, Server};
use crate::session::tests::model::{is_exit, number};

impl Server {
    pub(super) fn run(&mut self, text: &str) {
        if self.cancelled {
            return self.error("57014");
        }
        if self.block == Block::Failed && !is_exit(text) {
            return self.error("25P02");
        }
        self.working = true;
        if is_exit(text) && !text.starts_with("ROLLBACK TO") {
            return self.run_exit(text);
        }
        let first = !std::mem::replace(&mut self.ran, true);
        let command = text.split_ascii_whitespace().next().unwrap_or_default();
        match command {
            "BEGIN" => {
                self.block = Block::Open;
                self.complete("BEGIN");
            }
            "INSERT" => {
                self.tokens.push(number(text));
                self.complete(&format!("INSERT 0 {}", number(text)));
            }
            "VACUUM" if self.block != Block::None || !first => self.error("25001"),
            "VACUUM" | "CALL" => self.run_alone(text, first),
            "COPY" => {
                self.busy = Busy::Copying {
                    token: number(text),
                };
                self.send(b'G', &[0; 3]);
                self.flush();
            }
            "SLEEP" => self.busy = Busy::Sleeping { ignored_cancels: 0 },
            "DOZE" => self.busy = Busy::Sleeping { ignored_cancels: 2 },
            "WITH" => self.answer_question(),
            "SET" => self.complete("SET"),
            "SELECT" if text.contains("::pg_catalog.int4") => self.error("22P02"),
            "SELECT" => {
                self.send(b'D', b"\0\x01\0\0\0\x011");
                self.complete("SELECT 1");
            }
            "SAVEPOINT" | "RELEASE" | "ROLLBACK" => self.run_savepoint(command, text),
            "FAIL" => self.error("22012"),
            other => panic!("not a statement of the model: {other}"),
        }
    }

    /// The question of a release: nothing but what the wire and the texts say protects the client here, and now and then
    /// a cursor.
    fn answer_question(&mut self) {
        self.questions += 1;
        let rows = match self.questions % 3 {
            0 => 6,
            _ if self.closes_idle => 3,
            _ => 1,
        };
        for _ in 0..rows {
            self.send(b'D', b"\0\0");
        }
        self.complete(&format!("SELECT {rows}"));
    }

    fn run_savepoint(&mut self, command: &str, text: &str) {
        if self.block == Block::None {
            return self.error("25P01");
        }
        let found = match command {
            "SAVEPOINT" => {
                self.savepoints.open(text, self.tokens.len());
                true
            }
            "RELEASE" => self.savepoints.release(text).is_some(),
            _ => self.savepoints.roll_back_to(text).is_some_and(|mark| {
                self.tokens.truncate(mark);
                self.block = Block::Open;
                true
            }),
        };
        if found {
            self.complete(command);
        } else {
            self.error("3B001");
        }
    }

    /// A statement that commits by itself outside of a block.
    fn run_alone(&mut self, text: &str, first: bool) {
        self.tokens.push(number(text));
        if self.block == Block::None && (first || !self.in_query) {
            self.end(true);
            self.answer_at = self.output.len();
        }
        let (command, _) = text.split_once(' ').unwrap_or((text, ""));
        self.complete(command);
    }

    fn run_exit(&mut self, text: &str) {
        let chain = text.ends_with("AND CHAIN");
        if self.block == Block::None {
            if chain {
                return self.error("25P01");
            }
            self.warn("25P01");
        }
        let commit = text.starts_with("COMMIT") && self.block != Block::Failed;
        self.end(commit);
        self.answer_at = self.output.len();
        if chain {
            self.block = Block::Open;
        }
        self.complete(if commit { "COMMIT" } else { "ROLLBACK" });
    }
}
