//! Random clients, servers and clocks against the machine: nothing acknowledged is lost, nothing refused is kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};

use super::{
    model::{Act, Client, Eager, End, NAMED, Server, Statement},
    script::{backend, everyone, limits, started, startup_answer},
};
use crate::{
    policy::{Action as PolicyAction, StuckKind},
    session::{
        Action, Session, Side, Wants,
        damage::Damage,
        enforce::Step,
        event::{Event, Outcome, Position},
        state::TransactionStatus,
    },
    sql::{self, Claim, Lexing, Proof, outline},
};

/// Ladders of every kind; all of them are over before [`SILENCE`] is.
const LIMITS: &[&str] = &[
    "",
    "idle: log 1s, rollback 2s; failed: rollback 5s; stalled: rollback 1s; age: rollback 8s",
    "idle: rollback 1s; failed: rollback 1s; stalled: rollback 1s",
    "idle: rollback 1s, terminate 3s; stalled: rollback 2s, terminate 4s; age: rollback 3s",
    "idle: notice 1s, rollback 2s; stalled: notice 1s; age: rollback 1s",
    "implicit:; age: rollback 1s; idle: rollback 3s; stalled: rollback 3s",
    "idle: log 1s; failed: log 1s; stalled: log 1s; age: log 1s",
    "idle: terminate 2s; failed: terminate 2s; stalled: terminate 1s",
    "implicit:; idle: terminate 2s; stalled: terminate 2s; age: terminate 1s",
];

/// Ladders that release.
const RELEASES: &[&str] = &[
    "idle: release 1s",
    "idle: release 500ms, rollback 2s; stalled: rollback 1s; age: rollback 8s",
    "idle: release 1s, terminate 3s; age: rollback 2s",
];

/// How long the client is silent in the end.
const SILENCE: Duration = Duration::from_secs(30);

/// No two reads happen at the same time.
const TICK: Duration = Duration::from_micros(1);

const STATEMENTS: &[Statement] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "INSERT N",
    "INSERT N",
    "INSERT N",
    "COMMIT",
    "COMMIT",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SAVEPOINT b",
    "ROLLBACK TO b",
    "RELEASE b",
    "SELECT 1",
    "FAIL",
    "SLEEP",
    "DOZE",
    "VACUUM N",
    "CALL N",
];

/// Statements of transactions that mostly read.
const READS: &[Statement] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1",
    "INSERT N",
    "SAVEPOINT a",
    "COMMIT",
    "ROLLBACK",
];

/// Messages that come unasked.
const UNASKED: &[&str] = &[
    "N 00000",
    "A",
    "PS standard_conforming_strings=off",
    "PS standard_conforming_strings=on",
    "PS client_encoding=SJIS",
    "PS client_encoding=UTF8",
    "PS application_name=other",
];

/// What the console commands.
const COMMANDS: &[PolicyAction] = &[PolicyAction::Rollback, PolicyAction::Terminate];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Client(Act),
    /// So many of the client's bytes reach the machine.
    Send(usize),
    /// The server does so many things.
    Serve(usize),
    /// So many of the server's bytes reach the machine.
    Deliver(usize),
    /// Everything is sent, done and delivered.
    Exchange,
    Pass(u64),
    Wake,
    /// The client opens a cancel connection.
    CancelRequest,
    /// The cancel connections reach the server and are closed.
    CancelsLand,
    /// A timeout of the server's own hits what runs.
    Timeout,
    /// The server notices one between two messages.
    Interrupt,
    /// The server does nothing more, or goes on.
    Hang(bool),
    Unasked(&'static str),
    /// The server's output buffer is full.
    Spill,
    /// The client reads, or does not.
    Reads(bool),
    /// What the machine asks for is done a little later.
    Lag,
    /// From here on the prover answers late, or at once.
    ProverLags(bool),
    /// The prover answers everything that it was asked, also what is not waited for any more; or it has no room for it.
    Prove(bool),
    /// Other limits come into force.
    Limits(&'static str),
    /// The console has the transaction rolled back, or the session ended.
    Command(PolicyAction),
    /// pgidle ends, and insists.
    Shutdown,
}

fn act(statements: &'static [Statement]) -> impl Strategy<Value = Act> {
    let statement = move || select(statements);
    let end = || select(&[End::Sync, End::Sync, End::Flush, End::Nothing][..]);
    let eager = select(&[Eager::Nothing, Eager::Sync, Eager::Everything][..]);
    prop_oneof![
        8 => prop::collection::vec(statement(), 1..2).prop_map(Act::Query),
        2 => prop::collection::vec(statement(), 0..5).prop_map(Act::Query),
        1 => Just(Act::LargeQuery),
        8 => (statement(), any::<bool>(), end()).prop_map(|(s, d, e)| Act::Batch(s, d, e)),
        2 => (statement(), any::<bool>()).prop_map(|(s, early)| Act::Dialect(s, early)),
        1 => (0..NAMED.len()).prop_map(Act::Prepare),
        2 => (0..NAMED.len(), end()).prop_map(|(index, end)| Act::Run(index, end)),
        3 => Just(Act::Sync),
        1 => Just(Act::Flush),
        1 => Just(Act::Call),
        2 => (any::<bool>(), eager).prop_map(|(execute, eager)| Act::Copy(execute, eager)),
        2 => select(&[1_usize, 100, 60_000][..]).prop_map(Act::Data),
        2 => Just(Act::CopyDone),
        1 => Just(Act::CopyFail),
    ]
}

fn op(
    statements: &'static [Statement],
    limits: &'static [&'static str],
) -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => act(statements).prop_map(Op::Client),
        8 => Just(Op::Exchange),
        4 => select(&[1_usize, 3, 7, 30, 1000, 35_000, 1_000_000][..]).prop_map(Op::Send),
        4 => (1_usize..6).prop_map(Op::Serve),
        4 => select(&[1_usize, 3, 9, 40, 100_000][..]).prop_map(Op::Deliver),
        6 => select(&[1_u64, 100, 150, 500, 950, 1000, 1500, 5000][..]).prop_map(Op::Pass),
        2 => Just(Op::Wake),
        1 => Just(Op::CancelRequest),
        2 => Just(Op::CancelsLand),
        1 => Just(Op::Timeout),
        2 => Just(Op::Interrupt),
        1 => any::<bool>().prop_map(Op::Hang),
        1 => select(UNASKED).prop_map(Op::Unasked),
        1 => Just(Op::Spill),
        1 => any::<bool>().prop_map(Op::Reads),
        1 => Just(Op::Lag),
        1 => any::<bool>().prop_map(Op::ProverLags),
        1 => any::<bool>().prop_map(Op::Prove),
        1 => select(limits).prop_map(Op::Limits),
        1 => select(COMMANDS).prop_map(Op::Command),
        1 => Just(Op::Shutdown),
    ]
}

/// Whether these limits can close a session.
fn may_close(text: &str) -> bool {
    text.contains("terminate")
}

/// Everything around the machine, as the relay is.
struct World {
    session: Session,
    /// Whether the server has yet to answer the startup packet.
    starting: bool,
    limits: &'static str,
    /// Whether limits were ever in force, and whether any of them could close the session.
    limited: bool,
    may_close: bool,
    now: Instant,
    client: Client,
    server: Server,
    /// Whether the client reads.
    reads: bool,
    cancel_requests: usize,
    cancels_wait: bool,
    own_cancels: usize,
    gate_waits: bool,
    gate_closed: bool,
    /// Claims that are not answered.
    claims: Vec<(u64, Claim)>,
    prover_lags: bool,
    lag: bool,
    /// Whether the server does nothing.
    hangs: bool,
    closed: bool,
    /// Commands from the console of which nothing has come yet.
    commands: usize,
    /// Whether pgidle ends.
    insisted: bool,
    /// Whether the server may have read texts in another way than they were meant: a long one may end with COMMIT then.
    texts_doubted: bool,
    /// Whether there is an observer.
    observed: bool,
    /// What each side sent, and what each got.
    streams: [Vec<u8>; 4],
}

impl World {
    /// A session whose startup packet is not yet answered.
    fn new(text: &'static str, closes_idle: bool) -> Self {
        let (session, now) = started(text);
        Self {
            session,
            starting: true,
            limits: text,
            limited: !text.is_empty(),
            may_close: may_close(text),
            now,
            client: Client::default(),
            server: Server::new(closes_idle),
            reads: true,
            cancel_requests: 0,
            cancels_wait: false,
            own_cancels: 0,
            gate_waits: false,
            gate_closed: false,
            claims: Vec::new(),
            prover_lags: false,
            lag: false,
            hangs: false,
            closed: false,
            commands: 0,
            insisted: false,
            texts_doubted: false,
            observed: false,
            streams: Default::default(),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Client(act) if !self.closed => self.client.act(act),
            Op::Client(_) => {}
            Op::Send(len) => self.send(*len)?,
            Op::Serve(steps) => {
                for _ in 0..*steps {
                    self.serve()?;
                }
            }
            Op::Deliver(len) => self.deliver(*len)?,
            Op::Exchange => self.exchange(true)?,
            Op::Pass(millis) => self.pass(Duration::from_millis(*millis))?,
            Op::Wake => drop(self.server.wake()),
            // Before a closed gate cancels wait for a request that waits too; without one they are dropped.
            Op::CancelRequest if !self.gate_closed => self.cancel_requests += 1,
            Op::CancelRequest => self.cancels_wait |= self.waits() && !self.session.awaits_server(),
            Op::CancelsLand => self.land_cancels(),
            Op::Timeout => self.server.cancel(),
            // What an error is about that crosses a request neither side could say.
            Op::Interrupt
                if self.client.is_quiet() && self.session.kept(Side::Client) == 0 && self.reads =>
            {
                self.server.interrupt();
                self.deliver(usize::MAX)?;
            }
            Op::Interrupt => {}
            Op::Hang(hangs) => self.hangs = *hangs,
            Op::Unasked(message) => {
                self.texts_doubted |= message.starts_with("PS ") && !message.contains("name");
                self.server.unasked(&backend(message));
            }
            Op::Spill => self.server.flush(),
            Op::Reads(reads) => self.set_reads(*reads)?,
            Op::Lag => self.lag = true,
            Op::ProverLags(lags) => self.prover_lags = *lags,
            Op::Prove(true) => self.prove(),
            Op::Prove(false) => {
                for (number, _) in std::mem::take(&mut self.claims) {
                    self.session.handle_proof(number, Proof::Missing, self.now);
                }
            }
            Op::Limits(limits) => self.set_limits(limits),
            Op::Command(action) => self.command(*action),
            Op::Shutdown => {
                self.insisted = true;
                self.session.handle_shutdown(self.now);
            }
        }
        self.settle()
    }

    fn command(&mut self, action: PolicyAction) {
        let by = "ops".into();
        let begun = if action == PolicyAction::Terminate {
            self.session.handle_terminate(by, self.now)
        } else {
            self.session.handle_rollback(by, self.now)
        };
        self.commands += usize::from(begun.is_ok());
        self.limited |= begun.is_ok();
        self.may_close |= begun.is_ok() && action == PolicyAction::Terminate;
    }

    fn set_limits(&mut self, text: &'static str) {
        self.limits = text;
        self.limited |= !text.is_empty();
        self.may_close |= may_close(text);
        self.session.handle_rules(&everyone(limits(text)), self.now);
    }

    fn serve(&mut self) -> Result<bool, String> {
        Ok(!self.hangs && self.server.step()?)
    }

    fn send(&mut self, len: usize) -> Result<(), String> {
        let Wants::Bytes(most) = self.session.wants_read(Side::Client) else {
            return Ok(());
        };
        let len = len.min(most).min(self.client.outbox.len());
        if self.closed || len == 0 {
            return Ok(());
        }
        self.now += TICK;
        let bytes: Vec<u8> = self.client.outbox.drain(..len).collect();
        self.client.delivered += len;
        self.streams[0].extend_from_slice(&bytes);
        self.feed(Side::Client, &bytes)
    }

    /// Gives the machine what it has kept of a side, and what was read now.
    fn feed(&mut self, from: Side, read: &[u8]) -> Result<(), String> {
        let bytes = [&*self.session.take_kept(from), read].concat();
        let passed = self.session.handle_read(from, &bytes, self.now);
        let passed = passed.map_err(|error| error.to_string())?;
        match from {
            Side::Client => {
                self.forward(passed);
                self.answer(&[])
            }
            Side::Server => {
                self.answer(passed)?;
                self.forward(&[]);
                Ok(())
            }
        }
    }

    /// Whether a request of the client's waits for the machine, not for the rest of it.
    fn waits(&self) -> bool {
        let holds =
            self.session.holds_client() || self.session.wants_read(Side::Client) == Wants::Kept;
        holds && self.session.kept(Side::Client) > 0
    }

    /// The server answers the startup packet; requests may have come together with it.
    fn start_up(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.starting) && !self.closed {
            let answer = startup_answer();
            let passed = self.session.handle_read(Side::Server, &answer, self.now);
            passed.map_err(|error| error.to_string())?;
            let unsent = self.session.unsent(Side::Client).len();
            self.session.handle_written(Side::Client, unsent, self.now);
        }
        Ok(())
    }

    fn deliver(&mut self, len: usize) -> Result<(), String> {
        self.start_up()?;
        let wants = self.session.wants_read(Side::Server);
        if self.closed || self.server.wire.is_empty() || wants == Wants::Nothing {
            return Ok(());
        }
        self.now += TICK;
        let len = len.min(self.server.wire.len());
        let bytes: Vec<u8> = self.server.wire.drain(..len).collect();
        self.streams[2].extend_from_slice(&bytes);
        self.feed(Side::Server, &bytes)
    }

    /// The server takes what has passed, and what is due to it.
    fn forward(&mut self, passed: &[u8]) {
        let unsent = self.session.unsent(Side::Server);
        for bytes in [passed, unsent] {
            self.server.input.extend_from_slice(bytes);
            self.streams[1].extend_from_slice(bytes);
        }
        let written = unsent.len();
        self.session.handle_written(Side::Server, written, self.now);
    }

    /// The client takes what has passed, and what is due to it, if it reads.
    fn answer(&mut self, passed: &[u8]) -> Result<(), String> {
        if !self.reads {
            self.session
                .handle_unwritten(Side::Client, passed, self.now);
            if !self.session.unsent(Side::Client).is_empty() {
                self.session.handle_written(Side::Client, 0, self.now);
            }
            return Ok(());
        }
        let unsent = self.session.unsent(Side::Client);
        let (bytes, written) = ([passed, unsent].concat(), unsent.len());
        if written > 0 {
            self.session.handle_written(Side::Client, written, self.now);
        }
        self.streams[3].extend_from_slice(&bytes);
        self.client.receive(&bytes)
    }

    fn set_reads(&mut self, reads: bool) -> Result<(), String> {
        self.reads = reads;
        self.answer(&[])
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        while let Some(at) = self.session.poll_timeout().filter(|&at| at <= end) {
            if self.closed {
                break;
            }
            self.now = at.max(self.now);
            self.session.handle_timeout(self.now);
            self.settle()?;
            if let Some(Step::Read { .. }) = self.session.enforcement_step() {
                self.deliver(usize::MAX)?;
                self.settle()?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn land_cancels(&mut self) {
        if self.cancel_requests > 0 {
            self.server.cancel();
        } else if self.own_cancels > 0 {
            self.server.cancel_late();
        }
        self.cancel_requests = 0;
        if std::mem::take(&mut self.gate_waits) {
            self.session.handle_gate_closed(self.now);
        }
        for _ in 0..std::mem::take(&mut self.own_cancels) {
            self.session.handle_cancel_closed(self.now);
        }
    }

    fn prove(&mut self) {
        for (number, claim) in std::mem::take(&mut self.claims) {
            self.session
                .handle_proof(number, sql::prove(&claim), self.now);
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        loop {
            self.forward(&[]);
            self.answer(&[])?;
            if std::mem::take(&mut self.lag) || self.closed {
                return Ok(());
            }
            self.look();
            let Some(action) = self.session.poll_action() else {
                if self.session.wants_read(Side::Client) != Wants::Kept {
                    break;
                }
                self.feed(Side::Client, &[])?;
                if !self.gate_closed && std::mem::take(&mut self.cancels_wait) {
                    self.cancel_requests += 1;
                }
                continue;
            };
            if action == Action::CloseGate {
                self.gate_closed = true;
                self.gate_waits = self.cancel_requests > 0;
                if !self.gate_waits {
                    self.session.handle_gate_closed(self.now);
                }
            } else if action == Action::OpenGate {
                self.gate_closed = false;
            } else if action == Action::Cancel {
                self.own_cancels += 1;
            } else if let Action::ProveReadOnly { number, claim } = action {
                self.claims.push((number, claim));
                if !self.prover_lags {
                    self.prove();
                }
            } else if let Action::Close(_) = action {
                self.close()?;
            }
        }
        while let Some(event) = self.session.poll_event() {
            if let Event::Incident(incident) = event {
                self.commands -= usize::from(incident.by().is_some()).min(self.commands);
                if incident.outcome != Outcome::RolledBack {
                    continue;
                }
                let in_block = self.session.state.status == TransactionStatus::Failed;
                let unread = self.session.unsent(Side::Client).len();
                let at = in_block.then_some(self.streams[3].len() + unread);
                self.client.ended_at.extend(at);
            }
        }
        Ok(())
    }

    /// The observer sees whether a commit waits for its standby.
    fn look(&mut self) {
        if !self.observed || self.session.enforcement.is_none() {
            return;
        }
        let look = self.session.observation_due();
        if look.is_some_and(|look| look.from <= self.now) {
            let seen = Damage {
                at: self.now,
                locks: Vec::new(),
                blocked: None,
                xmin_age: None,
                awaits_standby: Some(self.server.awaits_standby()),
            };
            self.session.handle_observation(Arc::new(seen), self.now);
        }
    }

    fn close(&mut self) -> Result<(), String> {
        self.closed = true;
        self.set_reads(true)?;
        self.land_cancels();
        self.server.hang_up();
        Ok(())
    }

    /// Moves everything that can be moved; a client that is `silent` sends nothing more.
    fn exchange(&mut self, speaks: bool) -> Result<(), String> {
        for _ in 0..1000 {
            let before = (self.now, self.streams.each_ref().map(Vec::len));
            if speaks {
                self.send(usize::MAX)?;
            }
            self.settle()?;
            while self.serve()? {}
            self.deliver(usize::MAX)?;
            self.settle()?;
            if before == (self.now, self.streams.each_ref().map(Vec::len)) {
                return Ok(());
            }
        }
        Err("the exchange does not end".to_owned())
    }

    /// The client says nothing for longer than every limit.
    fn be_silent(&mut self) -> Result<(), String> {
        let end = self.now + SILENCE;
        while self.now < end && !self.closed {
            self.exchange(false)?;
            self.land_cancels();
            self.exchange(false)?;
            self.pass(Duration::from_millis(250))?;
        }
        Ok(())
    }

    fn acts(&self, kind: StuckKind, least: PolicyAction) -> bool {
        let limits = limits(self.limits);
        limits
            .ladder(kind)
            .rungs()
            .iter()
            .any(|&(_, action)| action >= least)
    }

    /// Nothing is stuck that a limit should have ended.
    fn check_free(&self) -> Result<(), String> {
        let position = self.session.position();
        let ends = |kind| self.acts(kind, PolicyAction::Rollback);
        let half_forwarded = self.session.client.missing() > 0 && position != Position::CopyIn;
        let covered = match position {
            _ if half_forwarded => self.acts(StuckKind::Stalled, PolicyAction::Terminate),
            Position::IdleInTransaction
            | Position::HalfSentRequest
            | Position::IdleInTransactionAborted => ends(StuckKind::Idle),
            Position::UnsyncedBatch
            | Position::FailedBatch
            | Position::CopyIn
            | Position::ClientNotReading => ends(StuckKind::Stalled),
            Position::Idle => !self.limits.is_empty(),
            Position::Released => !self.server.closes_idle,
            Position::HalfForwardedMessage
            | Position::Running
            | Position::Startup
            | Position::Replication => false,
        };
        // Before the answer to BEGIN has come it is unknown that there is a block, where a list is not wholly known.
        let aged = ends(StuckKind::Age)
            && self.server.has_told_all()
            && !self.client.may_have_left_block()
            && !half_forwarded
            && (self.server.status() == b'T' || self.limits.contains("implicit"));
        // Without an observer nothing is cancelled that may be a commit.
        let commits =
            self.server.works_without_block() || self.client.may_commit() || self.texts_doubted;
        let left = commits && !self.observed || self.server.awaits_standby();
        if (covered || aged) && !left && !self.closed && self.server.holds() {
            return Err(format!("stuck in {position:?}"));
        }
        if position == Position::IdleInTransaction && !self.closed {
            self.check_savepoints()?;
        }
        Ok(())
    }

    /// The savepoints are those of the server.
    fn check_savepoints(&self) -> Result<(), String> {
        let ours = &self.session.state.transaction.savepoints;
        let theirs = &self.server.savepoints;
        let open = ["a", "b"].map(|name| theirs.is_open(name));
        let followed = ["a", "b"].map(|name| {
            let text = format!("SAVEPOINT {name}");
            let outline = outline(text.as_bytes(), true, Lexing::default());
            ours.is_open(outline.statement(0).1.unwrap())
        });
        if open != followed || ours.may_be_open() != open.contains(&true) {
            return Err(format!("savepoints: {ours:?}, not {theirs:?}"));
        }
        Ok(())
    }

    /// A server that does nothing more keeps no session for ever that is being ended.
    fn check_patience(&mut self) -> Result<(), String> {
        self.land_cancels();
        self.be_silent()?;
        if self.session.enforcement.is_some() && !self.closed {
            let terminates = |kind| self.acts(kind, PolicyAction::Terminate);
            if StuckKind::ALL.into_iter().all(terminates) {
                return Err("not terminated".to_owned());
            }
            self.session.handle_eof(Side::Client, self.now);
            self.pass(Duration::from_secs(5))?;
            if !self.closed {
                return Err("the client has left, and the session has not".to_owned());
            }
        }
        self.hangs = false;
        Ok(())
    }

    /// The client speaks again, and everything works.
    fn check_alive(&mut self) -> Result<(), String> {
        self.set_reads(true)?;
        for round in 0..100 {
            self.exchange(true)?;
            self.land_cancels();
            self.server.wake();
            if self.closed {
                return if self.may_close || self.insisted {
                    Ok(())
                } else {
                    Err("the session was closed".to_owned())
                };
            }
            self.client.wind_down();
            if round > 3 && self.client.is_quiet() {
                break;
            }
            self.pass(Duration::from_millis(100))?;
        }
        if !self.client.is_quiet() {
            return Err(format!("never answered: {:?}", self.client));
        }
        if self.client.status != b'I' {
            self.client.act(&Act::Query(vec!["ROLLBACK"]));
            self.exchange(true)?;
        }
        let selects = self.client.selects;
        self.client.act(&Act::Query(vec!["SELECT 1"]));
        self.exchange(true)?;
        let (state, status) = (&self.session.state, self.server.status());
        let agrees = state.pending.is_empty()
            && !state.pending.unsynced()
            && self.session.position() == Position::Idle
            && self.session.enforcement.is_none()
            && self.session.released.is_none();
        if self.commands > 0 {
            return Err("nothing has come of a command".to_owned());
        }
        if self.client.selects != selects + 1 || status != b'I' || !agrees {
            return Err(format!(
                "does not answer any more: {:?} {:?}",
                self.client, self.session
            ));
        }
        Ok(())
    }

    fn check_books(&self) -> Result<(), String> {
        let committed = &self.server.committed;
        if let Some(token) = self.client.acknowledged.difference(committed).next() {
            return Err(format!("lost: {token} was acknowledged"));
        }
        if let Some(token) = self.client.refused.intersection(committed).next() {
            return Err(format!("ghost: {token} was refused"));
        }
        let unreplicated = &self.server.unreplicated;
        if let Some(token) = self.client.acknowledged.intersection(unreplicated).next() {
            return Err(format!("not replicated: {token} was acknowledged"));
        }
        let ends = self.insisted || self.may_close;
        if let (Some(token), false, false) = (unreplicated.first(), self.observed, ends) {
            return Err(format!("the commit of {token} was kept from waiting"));
        }
        let [sent, forwarded, answered, received] = &self.streams;
        let untouched = !self.limited && !self.insisted;
        if untouched && (sent != forwarded || answered != received) {
            return Err("not transparent".to_owned());
        }
        Ok(())
    }
}

/// What is around a client for one case.
#[derive(Clone, Copy, Debug)]
struct Setting {
    closes_idle: bool,
    standby: bool,
    observed: bool,
    silent: bool,
    /// Whether its first requests come with the startup packet.
    early: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    any::<[bool; 5]>().prop_map(|[closes_idle, standby, observed, silent, early]| Setting {
        closes_idle,
        standby,
        observed,
        silent,
        early,
    })
}

fn run(limits: &'static str, setting: Setting, ops: &[Op]) -> Result<(), String> {
    let mut world = World::new(limits, setting.closes_idle);
    world.server.standby = setting.standby;
    world.observed = setting.observed;
    let interval = setting.observed.then_some(Duration::from_secs(1));
    world.session.handle_observer(interval, world.now);
    if !setting.early {
        world.start_up()?;
        world.settle()?;
    }
    for op in ops {
        world.apply(op)?;
    }
    if world.hangs {
        world.check_patience()?;
    } else if setting.silent || world.insisted {
        world.be_silent()?;
        world.check_free()?;
    }
    if world.insisted && !world.closed {
        return Err("the session outlives pgidle".to_owned());
    }
    if !world.closed {
        world.check_alive()?;
    }
    world.check_books()
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(cases())
    })]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_refused_is_kept(
        limits in select(LIMITS),
        ops in prop::collection::vec(op(STATEMENTS, LIMITS), 0..50),
        setting in setting(),
    ) {
        let setting = Setting { closes_idle: false, ..setting };
        let result: TestCaseResult = run(limits, setting, &ops).map_err(TestCaseError::fail);
        result?;
    }

    #[test]
    fn a_release_takes_nothing_away(
        limits in select(RELEASES),
        setting in setting(),
        ops in prop::collection::vec(op(READS, RELEASES), 0..50),
    ) {
        let setting = Setting { early: false, ..setting };
        let result: TestCaseResult = run(limits, setting, &ops).map_err(TestCaseError::fail);
        result?;
    }
}

/// How many cases are run: few enough for every `cargo test`, unless more are asked for.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

#[test]
fn a_request_sent_with_the_startup_packet_is_not_refused_by_a_shutdown() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: false,
        silent: false,
        early: true,
    };
    let query = Act::Query(vec!["INSERT N"]);
    // It commits by itself, without a Sync.
    let batch = Act::Batch("VACUUM N", false, End::Flush);
    for act in [query, batch] {
        let ops = [Op::Client(act), Op::Send(1000), Op::Shutdown];
        run("", setting, &ops).unwrap();
    }
}

/// The enforcement that was under way comes to nothing by what the observer saw.
#[test]
fn a_shutdown_is_not_forgotten_when_an_observation_ends_what_came_first() {
    let setting = Setting {
        closes_idle: false,
        standby: false,
        observed: true,
        silent: false,
        early: false,
    };
    let ops = [
        Op::Hang(true),
        Op::Reads(false),
        Op::Unasked("N 00000"),
        Op::Client(Act::Call),
        Op::Exchange,
        Op::Pass(1000),
        Op::Shutdown,
    ];
    run("stalled: rollback 1s", setting, &ops).unwrap();
}
