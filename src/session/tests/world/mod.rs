//! What is around the machine in the property test and in the exploration: client, server, relay, prover, observer and
//! clock.

mod checks;
mod op;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::op::Op;
use crate::{
    policy::Action as PolicyAction,
    session::{
        Action, Session, Side, Wants,
        damage::Damage,
        enforce::Step,
        event::{Event, Outcome},
        state::TransactionStatus,
        tests::{
            model::{Client, Server},
            script::{backend, everyone, limits, started, startup_answer},
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
#[derive(Clone)]
pub(in crate::session::tests) struct World {
    pub(in crate::session::tests) session: Session,
    /// Whether the server has yet to answer the startup packet.
    starting: bool,
    limits: &'static str,
    /// Whether limits were ever in force, and whether any of them could close the session.
    limited: bool,
    may_close: bool,
    pub(in crate::session::tests) now: Instant,
    client: Client,
    pub(in crate::session::tests) server: Server,
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
    /// What each side sent, and what each got.
    streams: [Vec<u8>; 4],
}

impl World {
    /// A session whose startup packet is not yet answered.
    pub(in crate::session::tests) fn new(text: &'static str, closes_idle: bool) -> Self {
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

    pub(in crate::session::tests) fn apply(&mut self, op: &Op) -> Result<(), String> {
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
    pub(in crate::session::tests) fn start_up(&mut self) -> Result<(), String> {
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

    pub(in crate::session::tests) fn settle(&mut self) -> Result<(), String> {
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
