//! The driver: what it sends, and what it keeps in mind of that.

mod answers;

use std::collections::{BTreeSet, VecDeque};

use super::{Act, Eager, End, NAMED, Statement, exits, number, savepoints::Savepoints, take_frame};
use crate::session::tests::script::frame;

/// Statements that have a token.
const WRITES: [&str; 4] = ["INSERT", "COPY", "VACUUM", "CALL"];

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
#[derive(Clone, Debug, Default)]
pub(in crate::session::tests) struct Client {
    inbox: Vec<u8>,
    /// Bytes that it has not sent yet.
    pub(in crate::session::tests) outbox: Vec<u8>,
    pub(in crate::session::tests) delivered: usize,
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
    pub(in crate::session::tests) ended_at: VecDeque<usize>,
    /// Whether that is the block that it is in.
    ended: bool,
    received: usize,
    pub(in crate::session::tests) closed: bool,
    pub(in crate::session::tests) acknowledged: BTreeSet<u32>,
    pub(in crate::session::tests) refused: BTreeSet<u32>,
    /// The byte of the last ReadyForQuery.
    pub(in crate::session::tests) status: u8,
    /// How many SELECTs came to their end.
    pub(in crate::session::tests) selects: u32,
}

impl Client {
    /// Whether a statement after the end of the block may run by now, for all that anyone but the server can know: it keeps
    /// the answers to a list in its buffer.
    pub(in crate::session::tests) fn may_have_left_block(&self) -> bool {
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

    /// Whether something that it asked, and that was not answered, may end a transaction block.
    pub(in crate::session::tests) fn may_commit(&self) -> bool {
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
    pub(in crate::session::tests) fn is_quiet(&self) -> bool {
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
    #[expect(clippy::too_many_lines, reason = "one arm for each act")]
    pub(in crate::session::tests) fn act(&mut self, act: &Act) {
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
    pub(in crate::session::tests) fn wind_down(&mut self) {
        if self.copy.is_some() {
            self.copy_end(b'f', b"no\0");
        }
        if self.batch || self.skipping {
            self.finish(End::Sync);
        }
    }

    /// How many statements and batches it has sent that are not answered.
    pub(in crate::session::tests) fn outstanding(&self) -> usize {
        let counts = |sent: &&Sent| match &sent.expect {
            Expect::Query(_) | Expect::Execute(_) | Expect::Call { .. } | Expect::Sync => true,
            Expect::Parse | Expect::Bind | Expect::Describe | Expect::CopyEnd => false,
        };
        self.sent.iter().filter(counts).count()
    }

    /// Whether nothing that it wrote is open or under way.
    pub(in crate::session::tests) fn is_settled(&self) -> bool {
        let open = self.open.is_empty() && self.told.is_empty() && self.parsed.is_none();
        self.is_quiet() && open && self.copy.is_none() && self.inbox.is_empty()
    }

    /// Counts what is only counted from here on; what is `settled` is forgotten.
    pub(in crate::session::tests) fn count_anew(&mut self, settled: bool) {
        for sent in &mut self.sent {
            sent.at = (sent.at + 1).saturating_sub(self.delivered);
        }
        self.delivered = 1;
        for at in &mut self.ended_at {
            *at = at.saturating_sub(self.received);
        }
        self.received = 0;
        self.selects = 0;
        if settled {
            self.next_token = 0;
            self.acknowledged.clear();
            self.refused.clear();
        }
    }

    /// How many bytes it has received.
    pub(in crate::session::tests) fn position(&self) -> usize {
        self.received + self.inbox.len()
    }

    /// Reads what came; an error is what no client may see.
    pub(in crate::session::tests) fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
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
            self.message(tag, &body).map_err(|why| {
                let body = String::from_utf8_lossy(&body);
                format!("{letter} {}: {why}", body.trim_end_matches('\0'))
            })?;
            if self.closed && !self.inbox.is_empty() {
                return Err("bytes after a FATAL".to_owned());
            }
            while let Some(Expect::CopyEnd) = self.sent.front().map(|sent| &sent.expect) {
                self.sent.pop_front();
            }
        }
        Ok(())
    }
}
