//! The backend: its messages, its transaction block, and what waits for a standby.

mod statements;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{is_exit, savepoints::Savepoints, strings, take_frame};
use crate::session::tests::script::frame;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    No,
    Sleeping { ignored_cancels: u32 },
    Copying { token: u32 },
}

/// What begins the names of the statements and portals of a release.
const RELEASE: &str = "pgidle_release";

/// A commit that waits for its standby.
#[derive(Clone, Debug)]
struct Waiting {
    tokens: Vec<u32>,
    /// The answer that it keeps back.
    answer: Vec<u8>,
    /// Whether it is that of a Sync, or of a Query of which the answers are out.
    at_end: bool,
}

/// A backend: one message or statement at a time, with PostgreSQL's output buffer.
#[derive(Clone, Debug)]
pub(in crate::session::tests) struct Server {
    pub(in crate::session::tests) input: Vec<u8>,
    output: Vec<u8>,
    /// What was flushed.
    pub(in crate::session::tests) wire: Vec<u8>,
    pub(in crate::session::tests) committed: BTreeSet<u32>,
    pub(in crate::session::tests) statements: BTreeMap<String, String>,
    portals: BTreeMap<String, String>,
    /// Portals that were run.
    done: BTreeSet<String>,
    block: Block,
    /// Whether an implicit transaction has begun.
    working: bool,
    tokens: Vec<u32>,
    pub(in crate::session::tests) savepoints: Savepoints,
    /// `ignore_till_sync`.
    skipping: bool,
    /// `doing_extended_query_message`: whether an error makes it skip.
    extended: bool,
    in_query: bool,
    list: VecDeque<String>,
    busy: Busy,
    cancelled: bool,
    gone: bool,
    /// Whether it would close a session without a transaction (`idle_session_timeout`).
    pub(in crate::session::tests) closes_idle: bool,
    /// Whether commits wait for a standby.
    pub(in crate::session::tests) standby: bool,
    /// What has to wait for it.
    unsent: Vec<u32>,
    waiting: Option<Waiting>,
    /// Where in the output the answer begins that has to wait.
    answer_at: usize,
    /// Tokens whose commit a cancel of pgidle's has kept from waiting.
    pub(in crate::session::tests) unreplicated: BTreeSet<u32>,
    /// Whether the implicit transaction has run a statement, or the Query has several.
    ran: bool,
    /// Whether the last thing that it did was an error.
    erred: bool,
    /// Whether a statement was carried out, and nothing else since.
    carried_out: bool,
    /// Questions of releases that it was asked.
    questions: u32,
    /// What a release has taken away from the client.
    taken_by_release: Option<&'static str>,
}

impl Server {
    pub(in crate::session::tests) fn new(closes_idle: bool) -> Self {
        Self {
            input: Vec::new(),
            output: Vec::new(),
            wire: Vec::new(),
            committed: BTreeSet::new(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            done: BTreeSet::new(),
            block: Block::None,
            working: false,
            tokens: Vec::new(),
            savepoints: Savepoints::default(),
            skipping: false,
            extended: false,
            in_query: false,
            list: VecDeque::new(),
            busy: Busy::No,
            cancelled: false,
            gone: false,
            closes_idle,
            standby: false,
            unsent: Vec::new(),
            waiting: None,
            answer_at: 0,
            unreplicated: BTreeSet::new(),
            ran: false,
            erred: false,
            carried_out: false,
            questions: 0,
            taken_by_release: None,
        }
    }

    /// Whether it may hold locks of a transaction.
    pub(in crate::session::tests) fn holds(&self) -> bool {
        match self.block {
            Block::None => self.working,
            Block::Open => true,
            Block::Failed => !self.savepoints.0.is_empty(),
        }
    }

    /// Whether nothing that it was told to write is open or under way.
    pub(in crate::session::tests) fn is_settled(&self) -> bool {
        let written = self.tokens.is_empty() && self.unsent.is_empty() && self.waiting.is_none();
        let told = self.input.is_empty() && self.has_told_all();
        written && told && self.list.is_empty() && self.busy == Busy::No
    }

    /// Counts what is only counted from here on; what is `settled` is forgotten.
    pub(in crate::session::tests) fn count_anew(&mut self, settled: bool) {
        self.questions %= 3;
        if settled {
            self.committed.clear();
            self.unreplicated.clear();
        }
    }

    /// Whether all of its answers are on their way, or have come.
    pub(in crate::session::tests) fn has_told_all(&self) -> bool {
        self.output.is_empty() && self.wire.is_empty()
    }

    /// A statement has come to its end; the last one of a Query commits, unless a block is open.
    fn carry_out(&mut self) {
        self.carried_out = self.busy == Busy::No && !self.erred;
        let last = self.carried_out && self.in_query && self.list.is_empty();
        if last && self.block == Block::None {
            self.end(true);
        }
    }

    /// Keeps an answer back as long as its commit waits for the standby.
    fn wait_for_standby(&mut self, at_end: bool) {
        let tokens = std::mem::take(&mut self.unsent);
        if tokens.is_empty() {
            return;
        }
        let at = self.answer_at.min(self.output.len());
        self.waiting = Some(Waiting {
            tokens,
            answer: self.output.split_off(at),
            at_end,
        });
    }

    /// Whether a commit waits for its standby.
    pub(in crate::session::tests) fn awaits_standby(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether what runs is outside of a transaction block: it commits in the end.
    pub(in crate::session::tests) fn works_without_block(&self) -> bool {
        self.block == Block::None && self.working
    }

    /// Whether a statement runs.
    pub(in crate::session::tests) fn sleeps(&self) -> bool {
        matches!(self.busy, Busy::Sleeping { .. })
    }

    /// The byte that a ReadyForQuery would carry.
    pub(in crate::session::tests) fn status(&self) -> u8 {
        match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        }
    }

    /// Sends something that nobody asked for.
    pub(in crate::session::tests) fn unasked(&mut self, message: &[u8]) {
        self.output.extend_from_slice(message);
        self.flush();
    }

    /// The output buffer is full.
    pub(in crate::session::tests) fn flush(&mut self) {
        self.wire.append(&mut self.output);
        self.answer_at = 0;
    }

    /// The client is gone: what has come is still carried out.
    pub(in crate::session::tests) fn hang_up(&mut self) {
        while self.wake() || self.step() == Ok(true) {}
        self.end(false);
    }

    /// The statement that sleeps comes to its end, or the standby has what waits for it.
    pub(in crate::session::tests) fn wake(&mut self) -> bool {
        if let Some(waiting) = self.waiting.take() {
            self.output.extend(waiting.answer);
            self.carried_out = !waiting.at_end;
            if waiting.at_end {
                self.ready();
            }
            return true;
        }
        let sleeps = self.sleeps();
        if sleeps {
            self.busy = Busy::No;
            self.answer_at = self.output.len();
            self.complete("SELECT 1");
            self.carry_out();
            self.wait_for_standby(false);
        }
        sleeps
    }

    /// Whether a Query waits after a batch without Sync: what an error or the end of a wait is about then, neither side
    /// could say, and what the server skips is never answered, with pgidle or without it. No library mixes the two.
    fn is_ambiguous(&self) -> bool {
        let mut input = self.input.clone();
        let next = std::iter::from_fn(|| take_frame(&mut input))
            .map(|(tag, _)| tag)
            .find(|tag| matches!(tag, b'Q' | b'F' | b'S'));
        !self.in_query && matches!(next, Some(b'Q' | b'F'))
    }

    /// A CancelRequest, or a timeout of the server's own.
    pub(in crate::session::tests) fn cancel(&mut self) {
        if self.waiting.is_some() {
            if !self.is_ambiguous() {
                let body = b"SWARNING\0VWARNING\0C01000\0Mtext\0RSyncRepWaitForLSN\0\0";
                self.unasked(&frame(b'N', body));
            }
            self.wake();
            return;
        }
        match &mut self.busy {
            Busy::Sleeping { ignored_cancels: 0 } => self.error("57014"),
            Busy::Sleeping { ignored_cancels } => *ignored_cancels -= 1,
            Busy::Copying { .. } => self.cancelled = true,
            Busy::No => self.cancelled = !self.list.is_empty(),
        }
    }

    /// A CancelRequest of pgidle's: the server looks for it also where it logs the statement that it has carried out.
    pub(in crate::session::tests) fn cancel_late(&mut self) {
        if let Some(waiting) = &self.waiting {
            if !self.is_ambiguous() {
                self.unreplicated.extend(&waiting.tokens);
            }
            return self.cancel();
        }
        if self.carried_out && !self.is_ambiguous() {
            self.error("57014");
        } else {
            self.cancel();
        }
    }

    /// A cancel or a timeout that it notices after a message of the extended protocol, which it has answered.
    pub(in crate::session::tests) fn interrupt(&mut self) {
        let between = self.busy == Busy::No && self.list.is_empty() && !self.in_query;
        if between && self.extended && !self.skipping && !self.gone {
            self.error("57014");
        }
    }

    /// Does one thing; `false` when there is nothing to do. An error is a breach of the protocol by whoever talks to it.
    pub(in crate::session::tests) fn step(&mut self) -> Result<bool, String> {
        if self.gone || self.sleeps() || self.waiting.is_some() {
            return Ok(false);
        }
        self.carried_out = false;
        self.erred = false;
        if let Busy::Copying { token } = self.busy {
            return self.copy_message(token);
        }
        if let Some(text) = self.list.pop_front() {
            self.answer_at = self.output.len();
            self.run(&text);
            self.carry_out();
            self.wait_for_standby(false);
            if let Some(what) = self.taken_by_release {
                return Err(format!("a release took {what} away"));
            }
        } else if self.in_query {
            self.ready();
        } else {
            return self.message();
        }
        Ok(true)
    }

    fn send(&mut self, tag: u8, body: &[u8]) {
        self.output.extend(frame(tag, body));
    }

    fn complete(&mut self, tag: &str) {
        self.send(b'C', format!("{tag}\0").as_bytes());
    }

    fn ready(&mut self) {
        if self.block == Block::None {
            self.end(true);
            self.answer_at = self.output.len();
            self.wait_for_standby(true);
            if self.waiting.is_some() {
                return;
            }
        }
        self.in_query = false;
        self.cancelled = false;
        self.send(b'Z', &[self.status()]);
        self.flush();
    }

    fn error(&mut self, sqlstate: &str) {
        self.erred = true;
        self.carried_out = false;
        self.list.clear();
        self.busy = Busy::No;
        self.cancelled = false;
        self.portals.clear();
        self.skipping = !self.in_query;
        if self.block == Block::None {
            self.end(false);
        } else {
            self.block = Block::Failed;
            self.tokens.truncate(self.savepoints.last());
        }
        let body = format!("SERROR\0VERROR\0C{sqlstate}\0Mtext\0\0");
        self.send(b'E', body.as_bytes());
        self.flush();
    }

    fn warn(&mut self, sqlstate: &str) {
        let body = format!("SWARNING\0VWARNING\0C{sqlstate}\0Mtext\0\0");
        self.unasked(&frame(b'N', body.as_bytes()));
    }

    fn end(&mut self, commit: bool) {
        let tokens = std::mem::take(&mut self.tokens);
        if commit {
            self.committed.extend(&tokens);
            if self.standby {
                self.unsent.extend(tokens);
            }
        }
        self.savepoints.0.clear();
        self.ran = false;
        self.portals.clear();
        self.block = Block::None;
        self.working = false;
    }

    fn message(&mut self) -> Result<bool, String> {
        let Some((tag, body)) = take_frame(&mut self.input) else {
            return Ok(false);
        };
        if self.skipping && !matches!(tag, b'S' | b'X') {
            return Ok(true);
        }
        let words = strings(&body);
        // Before the first message of a batch there is nothing that a timeout could be of.
        self.extended =
            matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C') || self.extended && tag == b'H';
        match tag {
            b'Q' => {
                self.statements.remove("");
                self.portals.remove("");
                self.in_query = true;
                let parts = words[0].split(';').map(str::trim);
                self.list = parts
                    .filter(|text| !text.is_empty())
                    .map(str::to_owned)
                    .collect();
                self.ran |= self.list.len() > 1;
                if self.list.is_empty() {
                    self.send(b'I', b"");
                }
            }
            b'F' => {
                self.in_query = true;
                if self.block == Block::Failed {
                    self.error("25P02");
                } else {
                    self.send(b'V', b"\0\0\0\0");
                }
            }
            b'P' => self.parse(&words[0], &words[1]),
            b'B' => self.bind(&words[0], &words[1]),
            b'D' => self.describe(&words[0]),
            b'E' => self.execute(&words[0]),
            b'C' => {
                let (kind, name) = words[0].split_at(1);
                if kind == "S" {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.send(b'3', b"");
            }
            b'S' => {
                self.skipping = false;
                self.ready();
            }
            b'H' => self.flush(),
            b'X' => {
                self.end(false);
                self.gone = true;
            }
            b'd' | b'c' | b'f' => {}
            _ => return Err(format!("the server got a message of type {tag}")),
        }
        Ok(true)
    }

    fn parse(&mut self, name: &str, text: &str) {
        if name.is_empty() {
            self.statements.remove(name);
        }
        if text.starts_with("pgidle") {
            self.error("42601");
        } else if self.block == Block::Failed && !is_exit(text) {
            self.error("25P02");
        } else if self.statements.contains_key(name) {
            self.error("42P05");
        } else {
            self.working = true;
            self.statements.insert(name.to_owned(), text.to_owned());
            self.send(b'1', b"");
        }
    }

    fn bind(&mut self, portal: &str, statement: &str) {
        match self.statements.get(statement).cloned() {
            None => self.error("26000"),
            Some(text) if self.block == Block::Failed && !is_exit(&text) => self.error("25P02"),
            Some(text) => {
                self.working = true;
                self.done.remove(portal);
                self.portals.insert(portal.to_owned(), text);
                self.send(b'2', b"");
            }
        }
    }

    fn execute(&mut self, portal: &str) {
        let Some(text) = self.portals.get(portal).cloned() else {
            return self.error("34000");
        };
        self.done.insert(portal.to_owned());
        if portal.starts_with(RELEASE) && text == "ROLLBACK" {
            let waits = self
                .portals
                .keys()
                .any(|portal| !self.done.contains(portal));
            self.taken_by_release = if !self.tokens.is_empty() {
                Some("rows")
            } else if self.savepoints.0.len() > 1 {
                // The last one is that of the question.
                Some("a savepoint")
            } else {
                waits.then_some("a portal")
            };
        }
        self.list.push_back(text);
    }

    fn describe(&mut self, target: &str) {
        let (kind, name) = target.split_at(1);
        let found = if kind == "S" {
            self.statements.get(name)
        } else {
            self.portals.get(name)
        };
        let Some(rows) = found.map(|text| text.starts_with("SELECT")) else {
            return self.error("26000");
        };
        if rows && self.block == Block::Failed {
            return self.error("25P02");
        }
        self.working = true;
        if kind == "S" {
            self.send(b't', b"\0\0");
        }
        self.send(if rows { b'T' } else { b'n' }, b"");
    }

    fn copy_message(&mut self, token: u32) -> Result<bool, String> {
        let Some((tag, _)) = take_frame(&mut self.input) else {
            return Ok(false);
        };
        match tag {
            b'H' | b'S' => {}
            b'f' => self.error("57014"),
            b'd' | b'c' if self.cancelled => self.error("57014"),
            b'd' => {}
            b'c' => {
                self.busy = Busy::No;
                self.tokens.push(token);
                self.answer_at = self.output.len();
                self.complete(&format!("COPY {token}"));
                self.carry_out();
                self.wait_for_standby(false);
            }
            b'X' => {
                self.end(false);
                self.gone = true;
            }
            _ => {
                return Err(format!(
                    "synchronisation lost: {} during COPY",
                    char::from(tag)
                ));
            }
        }
        Ok(true)
    }
}
