//! A naive PostgreSQL backend and a naive driver: what the machine in between is judged by.
//!
//! Statements are words: `INSERT 7` and `COPY 7 FROM STDIN` write the token 7, `VACUUM 7` and `CALL 7` do and commit it
//! by themselves outside of a block, `FAIL` fails, `SLEEP` runs until it is woken or cancelled, `DOZE` ignores two cancels
//! first. Where there is a standby, a commit waits for it until it is woken, or cancelled. A release of what cannot be
//! given back is a breach.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::script::frame;

/// Takes the first whole message off a stream.
fn take_frame(stream: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&[tag, a, b, c, d], _) = stream.split_first_chunk()?;
    let end = 1 + usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
    if stream.len() < end {
        return None;
    }
    let body = stream[5..end].to_vec();
    stream.drain(..end);
    Some((tag, body))
}

fn strings(body: &[u8]) -> Vec<String> {
    let parts = body.split(|&byte| byte == 0);
    parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

fn number(text: &str) -> u32 {
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Whether a statement ends the block.
fn exits(text: &str) -> bool {
    is_exit(text) && !text.starts_with("ROLLBACK TO")
}

fn is_exit(text: &str) -> bool {
    text.starts_with("COMMIT") || text.starts_with("ROLLBACK")
}

/// Savepoints by name, each with what had been written when it was opened; a name means the newest one.
#[derive(Debug, Default)]
pub(super) struct Savepoints(Vec<(String, usize)>);

impl Savepoints {
    fn name(text: &str) -> &str {
        text.rsplit(' ').next().unwrap()
    }

    fn open(&mut self, text: &str, mark: usize) {
        self.0.push((Self::name(text).to_owned(), mark));
    }

    fn find(&self, text: &str) -> Option<(usize, usize)> {
        let index = self
            .0
            .iter()
            .rposition(|(name, _)| name == Self::name(text))?;
        Some((index, self.0[index].1))
    }

    fn release(&mut self, text: &str) -> Option<usize> {
        let (index, mark) = self.find(text)?;
        self.0.truncate(index);
        Some(mark)
    }

    fn roll_back_to(&mut self, text: &str) -> Option<usize> {
        let (index, mark) = self.find(text)?;
        self.0.truncate(index + 1);
        Some(mark)
    }

    /// What had been written when the newest one was opened.
    fn last(&self) -> usize {
        self.0.last().map_or(0, |(_, mark)| *mark)
    }

    /// Whether one of this name is open.
    pub(super) fn is_open(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

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
#[derive(Debug)]
struct Waiting {
    tokens: Vec<u32>,
    /// The answer that it keeps back.
    answer: Vec<u8>,
    /// Whether it is that of a Sync, or of a Query of which the answers are out.
    at_end: bool,
}

/// A backend: one message or statement at a time, with PostgreSQL's output buffer.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
    /// What was flushed.
    pub(super) wire: Vec<u8>,
    pub(super) committed: BTreeSet<u32>,
    pub(super) statements: BTreeMap<String, String>,
    portals: BTreeMap<String, String>,
    /// Portals that were run.
    done: BTreeSet<String>,
    block: Block,
    /// Whether an implicit transaction has begun.
    working: bool,
    tokens: Vec<u32>,
    pub(super) savepoints: Savepoints,
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
    pub(super) closes_idle: bool,
    /// Whether commits wait for a standby.
    pub(super) standby: bool,
    /// What has to wait for it.
    unsent: Vec<u32>,
    waiting: Option<Waiting>,
    /// Where in the output the answer begins that has to wait.
    answer_at: usize,
    /// Tokens whose commit a cancel of pgidle's has kept from waiting.
    pub(super) unreplicated: BTreeSet<u32>,
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
    pub(super) fn new(closes_idle: bool) -> Self {
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
    pub(super) fn holds(&self) -> bool {
        match self.block {
            Block::None => self.working,
            Block::Open => true,
            Block::Failed => !self.savepoints.0.is_empty(),
        }
    }

    /// Whether all of its answers are on their way, or have come.
    pub(super) fn has_told_all(&self) -> bool {
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
    pub(super) fn awaits_standby(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether what runs is outside of a transaction block: it commits in the end.
    pub(super) fn works_without_block(&self) -> bool {
        self.block == Block::None && self.working
    }

    /// Whether a statement runs.
    pub(super) fn sleeps(&self) -> bool {
        matches!(self.busy, Busy::Sleeping { .. })
    }

    /// The byte that a ReadyForQuery would carry.
    pub(super) fn status(&self) -> u8 {
        match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        }
    }

    /// Sends something that nobody asked for.
    pub(super) fn unasked(&mut self, message: &[u8]) {
        self.output.extend_from_slice(message);
        self.flush();
    }

    /// The output buffer is full.
    pub(super) fn flush(&mut self) {
        self.wire.append(&mut self.output);
        self.answer_at = 0;
    }

    /// The client is gone: what has come is still carried out.
    pub(super) fn hang_up(&mut self) {
        while self.wake() || self.step() == Ok(true) {}
        self.end(false);
    }

    /// The statement that sleeps comes to its end, or the standby has what waits for it.
    pub(super) fn wake(&mut self) -> bool {
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
        let next = std::iter::from_fn(|| take_frame(&mut input)).find(|(tag, _)| *tag != b'H');
        !self.in_query && matches!(next, Some((b'Q' | b'F', _)))
    }

    /// A CancelRequest, or a timeout of the server's own.
    pub(super) fn cancel(&mut self) {
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
    pub(super) fn cancel_late(&mut self) {
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
    pub(super) fn interrupt(&mut self) {
        let between = self.busy == Busy::No && self.list.is_empty() && !self.in_query;
        if between && self.extended && !self.skipping && !self.gone {
            self.error("57014");
        }
    }

    /// Does one thing; `false` when there is nothing to do. An error is a breach of the protocol by whoever talks to it.
    pub(super) fn step(&mut self) -> Result<bool, String> {
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

    fn run(&mut self, text: &str) {
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

/// What a client does next; whatever the protocol does not allow at that moment is not done.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// A simple Query of these statements.
    Query(Vec<Statement>),
    /// A simple Query too large to be held back.
    LargeQuery,
    /// Parse, Bind, Describe perhaps, Execute.
    Batch(Statement, bool, End),
    /// Parse, Bind and Execute in two batches: the Bind in the second, or in the first.
    Dialect(Statement, bool),
    /// Prepares one of the named statements.
    Prepare(usize),
    /// Runs one of the named statements.
    Run(usize, End),
    Sync,
    Flush,
    Call,
    /// COPY FROM STDIN: by Execute or not, and how the data goes.
    Copy(bool, Eager),
    Data(usize),
    CopyDone,
    CopyFail,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Nothing,
    Flush,
    Sync,
}

/// What is sent before the server has asked for COPY data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eager {
    Nothing,
    Sync,
    Everything,
}

/// A statement without its token.
pub(super) type Statement = &'static str;

/// Statements that have a token.
const WRITES: [&str; 4] = ["INSERT", "COPY", "VACUUM", "CALL"];

/// The named statements.
pub(super) const NAMED: [Statement; 5] = ["COMMIT", "ROLLBACK", "BEGIN", "SELECT 1", "SAVEPOINT a"];

#[derive(Clone, Debug)]
enum Expect {
    /// The statements that are not answered.
    Query(VecDeque<String>),
    Call {
        answered: bool,
    },
    Parse,
    Bind,
    Describe,
    Execute(String),
    Sync,
    CopyEnd,
}

#[derive(Clone, Debug)]
struct Sent {
    expect: Expect,
    /// Where in the stream its first byte lies.
    at: usize,
}

/// A driver that believes what it is told.
#[derive(Debug, Default)]
pub(super) struct Client {
    inbox: Vec<u8>,
    /// Bytes that it has not sent yet.
    pub(super) outbox: Vec<u8>,
    pub(super) delivered: usize,
    sent: VecDeque<Sent>,
    /// The request at the front has met an error.
    failed: bool,
    /// It knows that the server ignores everything up to Sync.
    skipping: bool,
    batch: bool,
    copy: Option<bool>,
    /// Syncs that earn a ReadyForQuery only if they came after a COPY that failed.
    doubtful: usize,
    /// The statement that was parsed, and perhaps bound, and is to be run next.
    parsed: Option<(String, bool)>,
    next_token: u32,
    prepared: [bool; NAMED.len()],
    /// Tokens that it wrote in the transaction that it believes to be open.
    open: Vec<u32>,
    /// Tokens of a commit that was told in an answer which is not complete: an error after it makes it refused.
    told: Vec<u32>,
    /// Whether it was told that it cannot be known what became of what it asked.
    in_doubt: bool,
    savepoints: Savepoints,
    in_block: bool,
    error_seen: bool,
    /// Where in the stream that it receives the machine had ended a block of its.
    pub(super) ended_at: VecDeque<usize>,
    /// Whether that is the block that it is in.
    ended: bool,
    received: usize,
    pub(super) closed: bool,
    pub(super) acknowledged: BTreeSet<u32>,
    pub(super) refused: BTreeSet<u32>,
    /// The byte of the last ReadyForQuery.
    pub(super) status: u8,
    /// How many SELECTs came to their end.
    pub(super) selects: u32,
}

impl Client {
    /// Whether something that it asked, and that was not answered, may end a transaction block.
    /// Whether a statement after the end of the block may run by now, for all that anyone but the server can know: it keeps
    /// the answers to a list in its buffer.
    pub(super) fn may_have_left_block(&self) -> bool {
        self.sent.iter().any(|sent| match &sent.expect {
            Expect::Query(list) => {
                let after = list.iter().skip_while(|text| !exits(text)).skip(1);
                let mut outside = after.skip_while(|text| exits(text));
                outside.next().is_some_and(|text| text != "BEGIN")
            }
            Expect::Execute(_)
            | Expect::Call { .. }
            | Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Sync
            | Expect::CopyEnd => false,
        })
    }

    pub(super) fn may_commit(&self) -> bool {
        self.sent.iter().any(|sent| match &sent.expect {
            Expect::Query(list) => list.iter().any(|text| exits(text)),
            Expect::Execute(text) => exits(text),
            Expect::Call { .. }
            | Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Sync
            | Expect::CopyEnd => false,
        })
    }

    /// Whether everything that it asked has been answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.sent.is_empty() && self.outbox.is_empty()
    }

    fn queue(&mut self, tag: u8, body: &[u8], expect: Option<Expect>) {
        let at = self.delivered + self.outbox.len();
        self.outbox.extend(frame(tag, body));
        let Some(expect) = expect else {
            return;
        };
        if self.skipping && !matches!(expect, Expect::Sync) {
            self.lost(&expect);
            return;
        }
        self.skipping = false;
        self.sent.push_back(Sent { expect, at });
    }

    /// What was asked in vain.
    fn lost(&mut self, expect: &Expect) {
        if self.in_doubt {
            return;
        }
        let texts = match expect {
            Expect::Query(list) => list.clone(),
            Expect::Execute(text) => VecDeque::from([text.clone()]),
            Expect::Call { .. }
            | Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Sync
            | Expect::CopyEnd => VecDeque::new(),
        };
        let writes = texts.iter().filter(|text| {
            text.split(' ')
                .next()
                .is_some_and(|word| WRITES.contains(&word))
        });
        self.refused.extend(writes.map(|text| number(text)));
    }

    fn text(&mut self, statement: Statement) -> String {
        let (command, rest) = statement.split_once(" N").unwrap_or((statement, ""));
        if !statement.contains(" N") {
            return statement.to_owned();
        }
        self.next_token += 1;
        format!("{command} {}{rest}", self.next_token)
    }

    /// Writes the messages of an act.
    pub(super) fn act(&mut self, act: &Act) {
        let copying = self.sent.iter().any(|sent| match &sent.expect {
            Expect::Query(list) => list.iter().any(|text| text.starts_with("COPY")),
            Expect::Execute(text) => text.starts_with("COPY"),
            Expect::Call { .. }
            | Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Sync
            | Expect::CopyEnd => false,
        });
        match act {
            Act::Data(len) if self.copy.is_some() => self.queue(b'd', &vec![b'x'; *len], None),
            Act::CopyDone if self.copy.is_some() => self.copy_end(b'c', b""),
            Act::CopyFail if self.copy.is_some() => self.copy_end(b'f', b"no\0"),
            _ if copying || self.sent.len() > 12 => {}
            Act::Query(list) => self.query(list),
            Act::LargeQuery => {
                let padded = format!("SELECT 1{}\0", " ".repeat(40_000));
                let list = VecDeque::from(["SELECT 1".to_owned()]);
                self.queue(b'Q', padded.as_bytes(), Some(Expect::Query(list)));
                self.batch = false;
            }
            Act::Batch(statement, describe, end) => {
                let text = self.text(statement);
                self.parse(&text);
                self.bind("", *describe);
                self.execute(&text);
                self.finish(*end);
            }
            Act::Dialect(..) if !self.is_quiet() || self.batch || self.skipping => {}
            Act::Dialect(statement, early) => {
                if let Some((text, bound)) = self.parsed.take() {
                    if !bound {
                        self.bind("", false);
                    }
                    self.execute(&text);
                } else {
                    let text = self.text(statement);
                    self.parse(&text);
                    // Outside of a transaction block a portal ends with its batch.
                    let bound = *early && self.status == b'T';
                    if bound {
                        self.bind("", false);
                    }
                    self.parsed = Some((text, bound));
                }
                self.finish(End::Sync);
            }
            Act::Prepare(index) if !self.prepared[*index] && !self.skipping => {
                self.prepared[*index] = true;
                let body = format!("s{index}\0{}\0\0\0", NAMED[*index]);
                self.queue(b'P', body.as_bytes(), Some(Expect::Parse));
                self.finish(End::Sync);
            }
            Act::Run(index, end) if self.prepared[*index] => {
                self.bind(&format!("s{index}"), false);
                self.execute(NAMED[*index]);
                self.finish(*end);
            }
            Act::Sync => self.finish(End::Sync),
            Act::Flush => self.finish(End::Flush),
            Act::Call => {
                self.queue(b'F', &[0; 10], Some(Expect::Call { answered: false }));
                self.batch = false;
            }
            Act::Copy(execute, eager) => self.begin_copy(*execute, *eager),
            Act::Data(_) | Act::CopyDone | Act::CopyFail | Act::Prepare(_) | Act::Run(_, _) => {}
        }
    }

    fn query(&mut self, list: &[Statement]) {
        let several = list.len() > 1;
        // What they commit in a list is the model's alone to know.
        let list = list.iter().map(|statement| match *statement {
            "VACUUM N" | "CALL N" if several => "SELECT 1",
            other => other,
        });
        let list: VecDeque<String> = list.map(|statement| self.text(statement)).collect();
        let text = Vec::from(list.clone()).join("; ");
        self.queue(
            b'Q',
            format!("{text}\0").as_bytes(),
            Some(Expect::Query(list)),
        );
        self.batch = false;
    }

    fn parse(&mut self, text: &str) {
        self.parsed = None;
        let body = format!("\0{text}\0\0\0");
        self.queue(b'P', body.as_bytes(), Some(Expect::Parse));
    }

    fn bind(&mut self, statement: &str, describe: bool) {
        let body = format!("\0{statement}\0\0\0\0\0\0\0");
        self.queue(b'B', body.as_bytes(), Some(Expect::Bind));
        if describe {
            self.queue(b'D', b"P\0", Some(Expect::Describe));
        }
        self.batch = true;
    }

    fn execute(&mut self, text: &str) {
        self.queue(b'E', &[0; 5], Some(Expect::Execute(text.to_owned())));
        self.batch = true;
    }

    fn finish(&mut self, end: End) {
        match end {
            End::Nothing => {}
            End::Flush => self.queue(b'H', b"", None),
            End::Sync => {
                self.queue(b'S', b"", Some(Expect::Sync));
                self.batch = false;
            }
        }
    }

    fn begin_copy(&mut self, execute: bool, eager: Eager) {
        let text = self.text("COPY N FROM STDIN");
        if execute {
            self.parse(&text);
            self.bind("", false);
            self.execute(&text);
        } else {
            let list = VecDeque::from([text.clone()]);
            self.queue(
                b'Q',
                format!("{text}\0").as_bytes(),
                Some(Expect::Query(list)),
            );
            self.batch = false;
        }
        match eager {
            Eager::Nothing if execute => self.finish(End::Flush),
            Eager::Nothing => {}
            Eager::Sync if execute => self.finish(End::Sync),
            Eager::Sync => {}
            Eager::Everything => {
                self.queue(b'd', b"x", None);
                self.queue(b'c', b"", Some(Expect::CopyEnd));
                if execute {
                    self.finish(End::Sync);
                }
            }
        }
    }

    fn copy_end(&mut self, tag: u8, body: &[u8]) {
        self.queue(tag, body, None);
        if self.copy.take() == Some(true) {
            self.finish(End::Sync);
        }
    }

    /// Says what brings it to a quiet point.
    pub(super) fn wind_down(&mut self) {
        if self.copy.is_some() {
            self.copy_end(b'f', b"no\0");
        }
        if self.batch || self.skipping {
            self.finish(End::Sync);
        }
    }

    /// Reads what came; an error is what no client may see.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.closed && !bytes.is_empty() {
            return Err("bytes after a FATAL".to_owned());
        }
        self.inbox.extend_from_slice(bytes);
        while let Some((tag, body)) = take_frame(&mut self.inbox) {
            self.ended |= self
                .ended_at
                .pop_front_if(|at| *at <= self.received)
                .is_some();
            self.received += 5 + body.len();
            let letter = char::from(tag);
            self.message(tag, &body)
                .map_err(|why| format!("{letter} {}: {why}", String::from_utf8_lossy(&body)))?;
            if self.closed && !self.inbox.is_empty() {
                return Err("bytes after a FATAL".to_owned());
            }
            while let Some(Expect::CopyEnd) = self.sent.front().map(|sent| &sent.expect) {
                self.sent.pop_front();
            }
        }
        Ok(())
    }

    fn message(&mut self, tag: u8, body: &[u8]) -> Result<(), String> {
        if let b'N' | b'A' | b'S' = tag {
            return Ok(());
        }
        if tag == b'E' && body.starts_with(b"SFATAL") {
            self.closed = true;
            if !String::from_utf8_lossy(body).contains("unknown") {
                for sent in std::mem::take(&mut self.sent) {
                    self.lost(&sent.expect);
                }
                self.refused.extend(self.open.drain(..));
            }
            return Ok(());
        }
        let over = self.sent.front().is_some_and(|sent| self.is_over(sent));
        if tag == b'Z' && !over && self.doubtful > 0 {
            self.doubtful -= 1;
            let expect = Expect::Sync;
            self.sent.push_front(Sent { expect, at: 0 });
        }
        let Some(front) = self.sent.front_mut().filter(|s| s.at < self.delivered) else {
            return self.unasked(tag, body);
        };
        match (tag, &mut front.expect) {
            (b'E', _) => {
                self.in_doubt = body.windows(6).any(|field| field == b"C40003");
                return self.error();
            }
            (b'Z', _) => return self.ready(body[0]),
            (b'1', Expect::Parse) | (b'2', Expect::Bind) | (b'n' | b'T', Expect::Describe) => {
                self.sent.pop_front();
            }
            (b't', Expect::Describe) | (b'D', Expect::Query(_) | Expect::Execute(_)) => {}
            (b'I', Expect::Query(list)) if list.is_empty() => {}
            (b'V', Expect::Call { answered }) if !*answered => *answered = true,
            (b'G', Expect::Query(_)) => self.copy_begins(false),
            (b'G', Expect::Execute(_)) => self.copy_begins(true),
            (b'C', Expect::Query(list)) if !self.failed => {
                let text = list.pop_front().ok_or("more answers than statements")?;
                return self.complete(&text, body);
            }
            (b'C', Expect::Execute(text)) => {
                let text = text.clone();
                self.sent.pop_front();
                return self.complete(&text, body);
            }
            (_, expect) => return Err(format!("not the answer to {expect:?}")),
        }
        Ok(())
    }

    /// An error in the middle of a batch may be about what was answered, and then is about nothing.
    fn unasked(&mut self, tag: u8, body: &[u8]) -> Result<(), String> {
        let interrupted = tag == b'E' && String::from_utf8_lossy(body).contains("C57014");
        if !interrupted || !self.batch || self.skipping || !self.is_quiet() {
            return Err("nothing was asked".to_owned());
        }
        self.acknowledged.extend(self.told.drain(..));
        self.error_seen = true;
        self.parsed = None;
        self.skipping = true;
        Ok(())
    }

    fn copy_begins(&mut self, execute: bool) {
        let end = self
            .sent
            .iter()
            .position(|s| matches!(s.expect, Expect::CopyEnd));
        if let Some(end) = end {
            self.sent.remove(end);
        } else {
            self.copy = Some(execute);
            // Sync in COPY IN earns nothing; whether it met one that had failed by then nobody can tell.
            self.doubtful += self.sent.len() - 1;
            self.sent.truncate(1);
            self.batch |= execute;
        }
    }

    fn error(&mut self) -> Result<(), String> {
        if self.failed {
            return Err("a second error".to_owned());
        }
        self.error_seen = true;
        // Where nothing is left to fail, it can only be about what was told.
        let told = std::mem::take(&mut self.told);
        if self.in_doubt {
            self.open.clear();
        } else if self.is_over(&self.sent[0]) {
            self.refused.extend(told);
        } else {
            self.told = told;
        }
        self.parsed = None;
        self.copy = None;
        match &mut self.sent[0].expect {
            Expect::Query(list) => {
                let lost = Expect::Query(std::mem::take(list));
                self.lost(&lost);
                self.failed = true;
            }
            Expect::Call { .. } | Expect::Sync => self.failed = true,
            Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Execute(_)
            | Expect::CopyEnd => {
                while let Some(sent) = self
                    .sent
                    .pop_front_if(|s| !matches!(s.expect, Expect::Sync))
                {
                    self.lost(&sent.expect);
                }
                self.skipping = self.sent.is_empty();
            }
        }
        Ok(())
    }

    /// Whether only the ReadyForQuery of the request at the front is missing.
    fn is_over(&self, front: &Sent) -> bool {
        match &front.expect {
            Expect::Sync => true,
            Expect::Query(list) => self.failed || list.is_empty(),
            Expect::Call { answered } => self.failed || *answered,
            Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Execute(_)
            | Expect::CopyEnd => false,
        }
    }

    fn ready(&mut self, status: u8) -> Result<(), String> {
        let sent = self.sent.pop_front().ok_or("nothing was asked")?;
        if !self.is_over(&sent) {
            return Err(format!("the answer to {:?} is not complete", sent.expect));
        }
        self.failed = false;
        self.in_doubt = false;
        self.status = status;
        self.acknowledged.extend(self.told.drain(..));
        if status == b'I' {
            if self.in_block && !self.error_seen {
                return Err("the transaction vanished".to_owned());
            }
            let tokens = self.open.drain(..);
            if self.error_seen {
                self.refused.extend(tokens);
            } else {
                self.acknowledged.extend(tokens);
            }
            self.savepoints.0.clear();
            self.ended = false;
        }
        self.in_block = status != b'I';
        if status != b'E' {
            self.error_seen = false;
        }
        Ok(())
    }

    fn complete(&mut self, text: &str, body: &[u8]) -> Result<(), String> {
        let tag = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap()).into_owned();
        // An error from here on is about this statement.
        self.acknowledged.extend(self.told.drain(..));
        if text.starts_with("ROLLBACK TO") && tag == "ROLLBACK" {
            let mark = self.savepoints.roll_back_to(text).unwrap_or(0);
            self.refused
                .extend(self.open.drain(mark.min(self.open.len())..));
            self.error_seen = false;
            return Ok(());
        }
        if is_exit(text) {
            return self.ended(text, &tag);
        }
        let (command, _) = text.split_once(' ').unwrap_or((text, ""));
        let expected = match command {
            "INSERT" => format!("INSERT 0 {}", number(text)),
            "COPY" => format!("COPY {}", number(text)),
            "SLEEP" | "DOZE" | "SELECT" => "SELECT 1".to_owned(),
            other => other.to_owned(),
        };
        if tag != expected {
            return Err(format!("not the answer to {text}"));
        }
        match command {
            "INSERT" => self.open.push(number(text)),
            "VACUUM" | "CALL" if !self.in_block => {
                // What the batch has done before may be committed with it.
                self.open.clear();
                self.told.push(number(text));
            }
            "VACUUM" | "CALL" => self.open.push(number(text)),
            "COPY" => {
                self.open.push(number(text));
                self.doubtful = 0;
            }
            "BEGIN" => self.in_block = true,
            "SAVEPOINT" => self.savepoints.open(text, self.open.len()),
            "RELEASE" => drop(self.savepoints.release(text)),
            "SELECT" => self.selects += 1,
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, text: &str, tag: &str) -> Result<(), String> {
        let committed = tag == "COMMIT";
        let tokens = self.open.drain(..);
        if committed && text.ends_with("AND CHAIN") {
            self.acknowledged.extend(tokens);
        } else if committed {
            self.told.extend(tokens);
        } else {
            self.refused.extend(tokens);
        }
        if text.starts_with("COMMIT") && !committed && (self.ended || !self.error_seen) {
            return Err("a lie: rolled back, and no error told".to_owned());
        }
        self.ended = false;
        if committed && !text.starts_with("COMMIT") {
            return Err(format!("not the answer to {text}"));
        }
        self.savepoints.0.clear();
        self.error_seen = false;
        self.in_block = text.ends_with("AND CHAIN");
        Ok(())
    }
}
