//! What is around the machine in the property test and in the exploration: client, server, relay, prover, observer and
//! clock.

mod checks;
mod conserved;
mod op;
mod script;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::{op::Op, script::Script};
use crate::{
    policy::Action as PolicyAction,
    session::{
        Action, Eof, Session, Side, Wants,
        damage::Damage,
        enforce::Step,
        event::{Event, Outcome},
        state::TransactionStatus,
        tests::{
            model::{Client, Server},
            script::{backend, everyone, limits, seen, started, startup_answer},
        },
    },
    sql::{self, Claim, Proof},
};

/// How long the client is silent in the end.
const SILENCE: Duration = Duration::from_secs(30);

/// No two reads happen at the same time.
const TICK: Duration = Duration::from_micros(1);

/// Whether these limits can close a session.
fn may_close(text: &str) -> bool {
    text.contains("terminate")
}

/// Everything around the machine, as the relay is.
#[derive(Clone, Debug)]
pub(in crate::session::tests) struct World {
    pub(in crate::session::tests) session: Session,
    /// Whether the server has yet to answer the startup packet.
    starting: bool,
    limits: &'static str,
    /// Whether something could have closed the session: limits that were ever in force, or one of the sides.
    may_close: bool,
    pub(in crate::session::tests) now: Instant,
    pub(in crate::session::tests) client: Client,
    pub(in crate::session::tests) server: Server,
    /// Whether the client reads, and the server.
    reads: bool,
    server_reads: bool,
    /// Whether the client has closed its end, and the server has been told.
    pub(in crate::session::tests) left: bool,
    passed_on: bool,
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
    pub(in crate::session::tests) hangs: bool,
    pub(in crate::session::tests) closed: bool,
    /// Commands from the console of which nothing has come yet.
    commands: usize,
    /// Whether pgidle ends.
    pub(in crate::session::tests) insisted: bool,
    /// Whether the server may have read texts in another way than they were meant: a long one may end with COMMIT then.
    texts_doubted: bool,
    /// Whether there is an observer.
    pub(in crate::session::tests) observed: bool,
    /// How many bytes have moved.
    moved: usize,
    /// By how much each read is later than what came before it.
    pub(in crate::session::tests) tick: Duration,
    /// What a machine that is broken on purpose does wrong after each of its inputs.
    pub(in crate::session::tests) fault: Option<fn(&mut Session, Instant)>,
    /// What goes into the machine and comes out of it, where that is to be read.
    pub(in crate::session::tests) script: Option<Script>,
}

impl World {
    /// A session whose startup packet is not yet answered.
    pub(in crate::session::tests) fn new(text: &'static str, closes_idle: bool) -> Self {
        let (session, now) = started(text);
        Self {
            session,
            starting: true,
            limits: text,
            may_close: may_close(text),
            now,
            client: Client::default(),
            server: Server::new(closes_idle),
            reads: true,
            server_reads: true,
            left: false,
            passed_on: false,
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
            moved: 0,
            tick: TICK,
            fault: None,
            script: None,
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each thing that can happen"
    )]
    pub(in crate::session::tests) fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Client(act) if !self.closed && !self.left => self.client.act(act),
            Op::Client(_) => {}
            Op::Send(len) => self.send(*len)?,
            Op::SendHalf => self.send(self.client.outbox.len().saturating_sub(1))?,
            Op::Serve(steps) => {
                for _ in 0..*steps {
                    self.serve()?;
                }
            }
            Op::Deliver(len) => self.deliver(*len)?,
            Op::Exchange => self.exchange(true)?,
            Op::Pass(millis) => self.pass(Duration::from_millis(*millis))?,
            Op::Ring => self.ring()?,
            Op::Leave(side) => self.leave(*side)?,
            Op::Wake => drop(self.server.wake()),
            // Before a closed gate cancels wait for a request that waits too; without one they are dropped.
            Op::CancelRequest if !self.gate_closed => {
                self.note("cancel opens");
                self.cancel_requests += 1;
            }
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
            Op::TakesSome => self.take_some()?,
            Op::ServerReads(reads) => {
                self.server_reads = *reads;
                self.forward(&[]);
            }
            Op::Seen(waits) => {
                self.note(&format!("seen: {waits}"));
                self.session
                    .handle_observation(seen(waits, self.now), self.now);
            }
            // It is for what happens next.
            Op::Lag => {
                self.lag = true;
                return Ok(());
            }
            Op::ProverLags(lags) => self.prover_lags = *lags,
            Op::Prove(true) => self.prove(),
            Op::Prove(false) => {
                for (number, _) in std::mem::take(&mut self.claims) {
                    self.note(&format!("# not proven: {number}"));
                    self.session.handle_proof(number, Proof::Missing, self.now);
                }
            }
            Op::Limits(limits) => self.set_limits(limits),
            Op::Command(action) => self.command(*action),
            Op::Shutdown => {
                self.insisted = true;
                self.note("shutdown");
                self.session.handle_shutdown(self.now);
            }
        }
        self.settle()
    }

    fn command(&mut self, action: PolicyAction) {
        let by = "ops".into();
        self.note(&format!("console: {action}"));
        let begun = if action == PolicyAction::Terminate {
            self.session.handle_terminate(by, self.now)
        } else {
            self.session.handle_rollback(by, self.now)
        };
        self.commands += usize::from(begun.is_ok());
        self.may_close |= begun.is_ok() && action == PolicyAction::Terminate;
    }

    fn set_limits(&mut self, text: &'static str) {
        self.limits = text;
        self.note(&format!("limits: {text}"));
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
        self.now += self.tick;
        let bytes: Vec<u8> = self.client.outbox.drain(..len).collect();
        self.client.delivered += len;
        self.feed(Side::Client, &bytes)
    }

    /// Gives the machine what it has kept of a side, and what was read now.
    fn feed(&mut self, from: Side, read: &[u8]) -> Result<(), String> {
        self.note_read(from, read);
        self.moved += read.len();
        let bytes = [&*self.session.take_kept(from), read].concat();
        let before = self.conserves(from);
        let passed = self.session.handle_read(from, &bytes, self.now);
        let passed = passed.map_err(|error| error.to_string())?;
        self.check_conserved(&before, &bytes, passed)?;
        self.break_machine();
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

    fn break_machine(&mut self) {
        if let Some(fault) = self.fault {
            fault(&mut self.session, self.now);
        }
    }

    /// Whether a request of the client's waits for the machine, not for the rest of it.
    fn waits(&self) -> bool {
        let holds =
            self.session.holds_client() || self.session.wants_read(Side::Client) == Wants::Kept;
        holds && self.session.kept(Side::Client) > 0
    }

    /// The server answers the startup packet; requests may have come together with it.
    pub(in crate::session::tests) fn start_up(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.starting) && !self.closed {
            let answer = startup_answer();
            self.note_read(Side::Server, &answer);
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
        self.now += self.tick;
        let len = len.min(self.server.wire.len());
        let bytes: Vec<u8> = self.server.wire.drain(..len).collect();
        self.feed(Side::Server, &bytes)
    }

    /// The server takes what has passed, and what is due to it, if it reads.
    fn forward(&mut self, passed: &[u8]) {
        if !self.server_reads {
            return self
                .session
                .handle_unwritten(Side::Server, passed, self.now);
        }
        let unsent = self.session.unsent(Side::Server);
        let (bytes, written) = ([passed, unsent].concat(), unsent.len());
        self.note_written(Side::Server, &bytes);
        self.server.input.extend_from_slice(&bytes);
        self.moved += bytes.len();
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
        self.note_written(Side::Client, &bytes);
        self.moved += bytes.len();
        self.client.receive(&bytes)
    }

    fn set_reads(&mut self, reads: bool) -> Result<(), String> {
        if reads != self.reads {
            self.note(if reads {
                "client reads"
            } else {
                "client blocks"
            });
        }
        self.reads = reads;
        self.answer(&[])
    }

    /// A client that does not read takes a byte all the same.
    fn take_some(&mut self) -> Result<(), String> {
        let unsent = self.session.unsent(Side::Client);
        if self.reads || unsent.len() < 2 {
            return Ok(());
        }
        let byte = unsent[..1].to_vec();
        self.note("client takes some");
        self.session.handle_written(Side::Client, 1, self.now);
        self.client.receive(&byte)
    }

    /// A side closes its connection.
    fn leave(&mut self, side: Side) -> Result<(), String> {
        if self.closed || self.left {
            return Ok(());
        }
        self.may_close = true;
        if side == Side::Server {
            self.set_reads(true)?;
            self.server.hang_up();
            self.deliver(usize::MAX)?;
            self.note("server leaves");
            self.closed = true;
            return Ok(());
        }
        self.note("client leaves");
        self.left = true;
        self.client.outbox.clear();
        self.end_client();
        Ok(())
    }

    /// What comes of the end of the client's stream.
    fn end_client(&mut self) {
        match self.session.handle_eof(Side::Client, self.now) {
            Eof::Close(_) => self.closed = true,
            Eof::PassOn => self.passed_on = true,
            Eof::Later => {}
        }
    }

    /// A server that has learned of the client's end, and has done everything, leaves too.
    fn follow_client(&mut self) {
        let told = self.passed_on && self.server_reads && !self.closed && !self.hangs;
        if told && self.session.kept(Side::Client) == 0 && self.server.has_told_all() {
            self.server.hang_up();
            self.closed = true;
        }
    }

    /// Time passes until the next timer rings.
    fn ring(&mut self) -> Result<(), String> {
        match self.session.poll_timeout() {
            Some(at) if !self.closed => self.pass(at.saturating_duration_since(self.now)),
            _ => Ok(()),
        }
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        self.note(&format!("+{}us", time.as_micros()));
        let (mut rings, mut last) = (0, self.now);
        while let Some(at) = self.session.poll_timeout().filter(|&at| at <= end) {
            if self.closed {
                break;
            }
            self.now = at.max(self.now);
            self.session.handle_timeout(self.now);
            self.break_machine();
            self.settle()?;
            rings = if self.now > last { 1 } else { rings + 1 };
            last = self.now;
            self.check_timer(rings)?;
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
        if std::mem::take(&mut self.cancel_requests) > 0 {
            self.note("cancel closes");
        }
        if std::mem::take(&mut self.gate_waits) {
            self.session.handle_gate_closed(self.now);
        }
        for _ in 0..std::mem::take(&mut self.own_cancels) {
            self.note("cancelled");
            self.session.handle_cancel_closed(self.now);
        }
    }

    fn prove(&mut self) {
        for (number, claim) in std::mem::take(&mut self.claims) {
            if self.prover_lags {
                self.note(&format!("proven {number}"));
            }
            self.session
                .handle_proof(number, sql::prove(&claim), self.now);
        }
    }

    pub(in crate::session::tests) fn settle(&mut self) -> Result<(), String> {
        self.break_machine();
        loop {
            self.forward(&[]);
            self.answer(&[])?;
            if std::mem::take(&mut self.lag) || self.closed {
                return Ok(());
            }
            self.look();
            let Some(action) = self.session.poll_action() else {
                match self.session.wants_read(Side::Client) {
                    Wants::Kept => {}
                    Wants::End => {
                        self.end_client();
                        break;
                    }
                    Wants::Nothing | Wants::Bytes(_) => break,
                }
                self.feed(Side::Client, &[])?;
                if !self.gate_closed && std::mem::take(&mut self.cancels_wait) {
                    self.cancel_requests += 1;
                }
                continue;
            };
            self.note_action(&action);
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
        self.follow_client();
        while let Some(event) = self.session.poll_event() {
            self.note_event(&event);
            if let Event::Incident(incident) = event {
                self.commands -= usize::from(incident.by().is_some()).min(self.commands);
                if incident.outcome != Outcome::RolledBack {
                    continue;
                }
                let in_block = self.session.state.status == TransactionStatus::Failed;
                let unread = self.session.unsent(Side::Client).len();
                let at = in_block.then_some(self.client.position() + unread);
                self.client.ended_at.extend(at);
            }
        }
        self.check_snapshot()
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
            let before = self.moved;
            if speaks {
                self.send(usize::MAX)?;
            }
            self.settle()?;
            while self.serve()? {}
            self.deliver(usize::MAX)?;
            self.settle()?;
            if before == self.moved {
                return Ok(());
            }
        }
        Err("the exchange does not end".to_owned())
    }

    /// The client says nothing for longer than every limit.
    pub(in crate::session::tests) fn be_silent(&mut self) -> Result<(), String> {
        let end = self.now + SILENCE;
        while self.now < end && !self.closed {
            self.exchange(false)?;
            self.land_cancels();
            self.exchange(false)?;
            self.pass(Duration::from_millis(250))?;
        }
        Ok(())
    }
}
