//! The state machine of one session: bytes, timers and commands in; bytes, actions and events out. No I/O, no clock.
//!
//! The caller hands over what it has read with [`Session::client_bytes`] and [`Session::server_bytes`], passes on the
//! verbatim part and then what [`Session::output`] gives for each side, carries out every [`Action`], records every
//! [`Event`], and sleeps until [`Session::poll_timeout`]. In the common case all of the bytes are
//! verbatim, and nothing is copied or allocated.
#![warn(clippy::indexing_slicing)]

mod blocking;
mod cancel_guard;
pub mod damage;
mod discard;
mod enforce;
pub mod event;
mod imitate;
mod in_flight;
mod in_force;
mod ladders;
mod limits;
mod observed;
mod operator;
mod pending;
mod prepared;
mod report;
mod request;
mod savepoints;
mod silence;
mod startup;
mod state;
mod telling;
mod text;
mod transaction;
pub mod transcript;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use bytes::BytesMut;

use self::{
    cancel_guard::CancelGuard,
    discard::Discard,
    enforce::{Ending, Released},
    event::{Event, TransactionOutcome, TransactionRecord, Who},
    in_force::InForce,
    ladders::Ladders,
    observed::Observed,
    operator::Operator,
    silence::Silence,
    startup::Startup,
    state::{Finished, State, TransactionStatus},
    telling::Telling,
};
pub use self::{event::CloseReason, limits::Look, startup::ChannelBinding, text::MAX_TEXT};
use crate::{
    policy::{Identity, Kind, Limits, Rules, Target},
    sql::Claim,
    wire::{
        self, BackendTag, CancelKey, ErrorFields, Frame, FrameScanner, FrontendTag, InvalidLength,
        Scanned,
    },
};

/// How much of an answer is read to learn whether the server has said everything: more than lies in the sockets' buffers
/// (`tcp(7)`: `tcp_wmem` and `tcp_rmem`) of a server that has.
const UNREAD: usize = 16 << 20;

/// What the caller has to do for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let no CancelRequest of the client's through until [`Action::OpenGate`], wait until those that are on their way
    /// have been closed by the server, then call [`Session::gate_closed`].
    CloseGate,
    /// Let CancelRequests through again.
    OpenGate,
    /// Have it proven that statements only read, and hand in what comes of it with [`Session::handle_proof`].
    ProveReadOnly {
        /// The number of the claim.
        number: u64,
        /// What is to be proven.
        claim: Claim,
    },
    /// Send a CancelRequest for this session, and call [`Session::cancel_closed`] when the server has closed it.
    Cancel,
    /// The application name has changed: call [`Session::match_rules`].
    Identify,
    /// The server has let the client in.
    Authenticated,
    /// Remember what names this session in a CancelRequest.
    SetCancelKey(CancelKey),
    /// Write what is due to both sides, then close them.
    Close(CloseReason),
}

/// A stream of bytes that cannot be followed: whose, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The client's fault.
    #[error("the client sent garbage: {0}")]
    Client(InvalidLength),
    /// The server's fault.
    #[error("the server sent garbage: {0}")]
    Server(InvalidLength),
}

/// What became of a run of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes that are dealt with; the others must be given again, with more behind them.
    pub consumed: usize,
    /// Of those, the bytes at the front that go on as they are, before what [`Session::output`] gives.
    pub verbatim: usize,
}

/// One side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application.
    Client,
    /// PostgreSQL.
    Server,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Drop,
    /// It waits, and everything behind it.
    Hold,
}

/// One direction of the stream.
#[derive(Clone, Debug, Default)]
struct Leg {
    scanner: FrameScanner,
    /// Whether the rest of a frame that was not whole is dropped.
    drop_rest: bool,
}

impl Leg {
    /// Whether a Terminate is among the bytes that wait.
    fn terminates(&self, mut bytes: &[u8]) -> bool {
        let mut scanner = self.scanner.clone();
        while let Ok(scanned) = scanner.scan(bytes, |_| true) {
            let len = match scanned {
                Scanned::Frame { frame, .. }
                    if FrontendTag::from(frame.tag) == FrontendTag::Terminate =>
                {
                    return true;
                }
                Scanned::Frame { len, .. } | Scanned::Rest { len } => len,
                Scanned::Incomplete => break,
            };
            bytes = bytes.get(len..).unwrap_or_default();
        }
        false
    }
}

/// The state machine of one session.
#[derive(Debug)]
pub struct Session {
    who: Who,
    limits: InForce,
    state: State,
    client: Leg,
    server: Leg,
    to_client: BytesMut,
    to_server: BytesMut,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    ladders: Ladders,
    observed: Observed,
    silence: Silence,
    /// Since when the client has not taken a byte of what is due to it.
    client_blocked_since: Option<Instant>,
    /// Whether the server is read on all the same, to learn whether it has said everything.
    reading_ahead: bool,
    /// Whether the server does not take what is due to it.
    server_blocked: bool,
    /// Whether the front of a request has come that is held until it is whole.
    half_sent: bool,
    operator: Operator,
    cancels: CancelGuard,
    /// How often a proof was asked for.
    claims: u64,
    /// Whether a client that is held has said that it sends nothing more.
    client_left: bool,
    /// Requests whose outcome nobody knows, when the session was ended.
    unknown: usize,
    /// See [`Opening::keeps_server`].
    keeps_server: bool,
    /// See [`Opening::nonce`].
    nonce: u64,
    discard: Discard,
    ending: Option<Box<Ending>>,
    /// The transaction that was ended and begins again when the client speaks.
    released: Option<Box<Released>>,
    telling: Option<Box<Telling>>,
}

/// What is known of a session before its first byte.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Who it belongs to.
    pub who: Who,
    /// Whether it asks for replication.
    pub replication: bool,
    /// Whether finished transactions are to be reported as events.
    pub records: bool,
    /// Whether the session is known to have one server process for its life, whatever process id it is told.
    pub keeps_server: bool,
    /// A number that the client cannot guess: it is in the names of our prepared statements.
    pub nonce: u64,
    /// Whether client and server are the ends of one TLS connection, as far as they can tell.
    pub binding: ChannelBinding,
    /// What the server has to be.
    pub target: Target,
    /// Until when the client has to be authenticated.
    pub authenticate_by: Option<Instant>,
}

impl Session {
    /// A session whose startup packet goes to the server at `now`.
    pub fn new(opening: Opening, limits: Arc<Limits>, now: Instant) -> Self {
        let startup = Startup::new(opening.binding, opening.target, opening.authenticate_by);
        Self {
            limits: InForce::new(limits, Arc::clone(&opening.who.application_name)),
            who: opening.who,
            state: State::new(startup, opening.replication, opening.records, now),
            client: Leg::default(),
            server: Leg::default(),
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            ladders: Ladders::default(),
            observed: Observed::default(),
            silence: Silence::begins(now),
            client_blocked_since: None,
            reading_ahead: false,
            server_blocked: false,
            half_sent: false,
            operator: Operator::default(),
            cancels: CancelGuard::default(),
            claims: 0,
            client_left: false,
            unknown: 0,
            keeps_server: opening.keeps_server,
            nonce: opening.nonce,
            discard: Discard::default(),
            ending: None,
            released: None,
            telling: None,
        }
    }

    /// Who the session belongs to.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// Looks at bytes from the client.
    ///
    /// # Errors
    /// A length that no message can have: the session cannot go on.
    pub fn client_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<Step, ProtocolError> {
        if !self.holds_client() {
            self.silence = Silence::begins(now);
            if self.client_blocked_since.is_none() {
                self.restart_stalled();
            }
        }
        let step = self
            .splice(Side::Client, bytes, now)
            .map_err(ProtocolError::Client)?;
        self.half_sent = step.consumed < bytes.len();
        Ok(step)
    }

    /// Looks at bytes from the server.
    ///
    /// # Errors
    /// A length that no message can have: the session cannot go on.
    pub fn server_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<Step, ProtocolError> {
        let step = self.splice(Side::Server, bytes, now);
        self.insist(now);
        step.map_err(ProtocolError::Server)
    }

    /// Whether bytes from the client cannot be dealt with at present, and none should be read.
    pub fn holds_client(&self) -> bool {
        self.ending_holds_client()
            || self.telling_holds_client()
            || self.state.pending.is_full()
            || self.cancels.is_open()
    }

    /// Tells what of a client that is held waits unread, and whether nothing more comes: that it leaves is noticed.
    pub fn client_waits(&mut self, unread: &[u8], ended: bool) {
        self.client_left = ended || self.client.terminates(unread);
    }

    /// How many bytes may lie unsent for the client while the server is read on all the same; `None` for as many as there
    /// are.
    pub fn reads_ahead(&self) -> Option<usize> {
        if self.ending_holds_client() {
            None
        } else if self.reading_ahead {
            Some(UNREAD)
        } else {
            Some(0)
        }
    }

    /// What is due to a side, behind what was passed on verbatim.
    pub fn output(&mut self, side: Side) -> &mut BytesMut {
        match side {
            Side::Client => &mut self.to_client,
            Side::Server => &mut self.to_server,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        next(&mut self.actions)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        next(&mut self.events)
    }

    /// Finds the rule of the session, and those of the names that its transaction has had; their limits hold at once.
    pub fn match_rules(&mut self, rules: &Rules) {
        let Self { who, state, .. } = self;
        self.limits.decide(|first_name, earlier| {
            let identity = who.identity(first_name, state.replication);
            rules.decide(&Identity {
                application_name: earlier.unwrap_or(identity.application_name),
                ..identity
            })
        });
    }

    /// Tells whether bytes for a side lie unsent, and whether some were taken just before `now`.
    pub fn flow(&mut self, side: Side, blocked: bool, progress: bool, now: Instant) {
        match side {
            Side::Server => self.server_blocked = blocked,
            Side::Client if !blocked => {
                self.reading_ahead = false;
                if self.client_blocked_since.take().is_some() && self.state.pending.is_empty() {
                    // Idle counts from when the client took the ReadyForQuery.
                    self.state.turn_since = now;
                }
            }
            Side::Client => {
                if progress || self.client_blocked_since.is_none() {
                    self.reading_ahead = false;
                    self.client_blocked_since = Some(now);
                    self.restart_stalled();
                }
            }
        }
    }

    /// Ends the session as soon as no transaction is open; at once when none is.
    pub fn drain(&mut self) {
        self.operator.drain();
        self.close_if_drained();
    }

    /// Ends a session that is not authenticated, for those who wait for its place.
    pub fn give_way(&mut self) {
        if self.state.phase.is_startup() {
            self.fatal(&report::gives_way(), CloseReason::Authentication);
        }
    }

    /// Whether this is (or has become) a replication connection.
    pub fn is_replication(&self) -> bool {
        self.state.replication
    }

    /// Whether the server has said all that it has to say to the client's requests: a client that leaves misses nothing.
    pub fn is_answered(&self) -> bool {
        let pending = &self.state.pending;
        let quiet = pending.is_empty() && !pending.unsynced() && self.ending.is_none();
        let unsent = !self.to_server.is_empty() || !self.to_client.is_empty();
        quiet && !unsent && self.state.phase.is_ready()
    }

    /// Whether the server still owes an answer to a request of the client's.
    pub fn awaits_server(&self) -> bool {
        !self.state.pending.is_empty()
    }

    /// Why the session ended, for one of whose connections this was the end: after its Terminate a client leaves, whoever
    /// closes first.
    pub fn close_reason(&self, seen: CloseReason) -> CloseReason {
        use CloseReason::{ClientIo, ClientLeft, ServerIo, ServerLeft};
        let closed = matches!(seen, ServerLeft | ServerIo | ClientIo);
        if closed && self.state.terminated {
            ClientLeft
        } else {
            seen
        }
    }

    /// How many requests of the client's the server has answered.
    pub fn requests_answered(&self) -> u64 {
        self.state.answered
    }

    /// How many messages have passed of types that are not known.
    pub fn unknown_messages(&self) -> u64 {
        self.state.unknown
    }

    /// The session is over: what was open in it is reported.
    pub fn closed(&mut self, now: Instant) {
        if let Some(finished) = self.state.end(TransactionOutcome::Disconnect, now) {
            self.record(*finished);
        }
    }

    fn splice(&mut self, side: Side, bytes: &[u8], now: Instant) -> Result<Step, InvalidLength> {
        let mut step = Step::default();
        let mut rewriting = !self.output(side.other()).is_empty();
        while let Some(rest) = bytes.get(step.consumed..).filter(|rest| !rest.is_empty()) {
            if self.state.phase.is_closing() {
                step.consumed = bytes.len();
                break;
            }
            if side == Side::Server && !rewriting {
                let rows = self.rows_at(rest);
                if rows > 0 {
                    step.consumed += rows;
                    step.verbatim = step.consumed;
                    continue;
                }
            }
            let leg = self.leg(side);
            let (verdict, len, queued) = match leg.scanner.scan(rest, |tag| side.holds(tag))? {
                Scanned::Incomplete => break,
                Scanned::Rest { len } => {
                    if side == Side::Client {
                        let whole = leg.scanner.rest() == 0;
                        let more = rest.get(..len).unwrap_or(rest);
                        self.state.sent_more(more, whole);
                    }
                    let leg = self.leg(side);
                    let verdict = if leg.drop_rest {
                        Verdict::Drop
                    } else {
                        Verdict::Pass
                    };
                    (verdict, len, None)
                }
                Scanned::Frame { frame, len } => {
                    let queued = self.output(side.other()).len();
                    let verdict = match side {
                        Side::Client => self.client_frame(frame, now),
                        Side::Server => self.server_frame(frame, now),
                    };
                    self.leg(side).drop_rest = verdict == Verdict::Drop;
                    (verdict, len, Some(queued))
                }
            };
            if verdict == Verdict::Hold {
                self.leg(side).scanner.rewind();
                break;
            }
            let output = self.output(side.other());
            step.consumed += len;
            match verdict {
                Verdict::Pass if !rewriting => step.verbatim = step.consumed,
                Verdict::Pass => {
                    let frame = rest.get(..len).unwrap_or(rest);
                    match queued.filter(|&queued| queued < output.len()) {
                        None => output.extend_from_slice(frame),
                        // What the session itself said because of this frame comes behind it.
                        Some(queued) => {
                            let own = output.split_off(queued);
                            output.extend_from_slice(frame);
                            output.unsplit(own);
                        }
                    }
                }
                Verdict::Drop | Verdict::Hold => rewriting = true,
            }
            rewriting |= !self.output(side.other()).is_empty();
        }
        Ok(step)
    }

    /// How many bytes at the front of the server's are rows and COPY data that go on as they are and tell nothing.
    fn rows_at(&self, bytes: &[u8]) -> usize {
        let tag = bytes.first().copied().unwrap_or_default();
        let flows = !Side::Server.holds(tag) && self.ending.is_none() && self.telling.is_none();
        if flows {
            self.server.scanner.run_of(tag, bytes)
        } else {
            0
        }
    }

    /// The clock of `stalled` begins anew, and so does its ladder.
    fn restart_stalled(&mut self) {
        self.ladders.restart(Kind::Stalled);
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn client_frame(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.abandon_ending();
        let leaves = FrontendTag::from(frame.tag) == FrontendTag::Terminate;
        if self.holds_client() || !leaves && self.begins_again(now) {
            return Verdict::Hold;
        }
        self.client_spoke(now);
        if self.discard.takes(FrontendTag::from(frame.tag)) {
            return Verdict::Drop;
        }
        if self.telling.is_some() {
            return self.sent_after_end(frame, now);
        }
        if self.startup_fails(frame) {
            return Verdict::Drop;
        }
        self.pass_client(frame, now)
    }

    /// Whoever was stuck is not any more, whatever becomes of what was said: our error may be all of the answer.
    fn client_spoke(&mut self, now: Instant) {
        if !self.state.pending.is_empty() {
            return;
        }
        for kind in [Kind::Idle, Kind::Failed, Kind::Stalled, Kind::Blocking] {
            self.ladders.restart(kind);
        }
        self.observed.forget();
        self.state.client_spoke(now);
    }

    fn server_frame(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        if let Some(step) = self.ending_step() {
            return self.ending_received(step, frame, now);
        }
        if self.cancels.sent().is_some() {
            return self.client_request_ends(frame, now);
        }
        if self.startup_answered(frame) {
            return Verdict::Drop;
        }
        self.answer_received(frame, now)
    }

    /// Looks at an answer to the client's own request.
    fn answer_received(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        if self.telling.is_some() {
            return self.received_after_end(frame, now);
        }
        self.pass_server(frame, now)
    }

    fn pass_client(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.state.sent(frame, now);
        Verdict::Pass
    }

    fn pass_server(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        let second = tag == BackendTag::ErrorResponse && self.is_second_error(frame);
        if tag == BackendTag::ReadyForQuery && self.state.phase.is_startup() {
            self.actions.push_back(Action::Authenticated);
        }
        let transaction = self.state.transaction.number;
        if let Some(finished) = self.state.received(frame, now) {
            self.record(*finished);
        }
        if second {
            return Verdict::Drop;
        }
        let idle = tag == BackendTag::ReadyForQuery && self.state.status == TransactionStatus::Idle;
        if idle || self.state.transaction.number != transaction {
            self.transaction_ended();
        }
        if tag == BackendTag::ReadyForQuery {
            if self.state.pending.is_empty() {
                self.cancels.server_is_past();
            }
            self.close_if_drained();
        } else if tag == BackendTag::ParameterStatus {
            self.identify(frame.body);
        } else if tag == BackendTag::BackendKeyData {
            self.set_cancel_key(frame.body);
        }
        Verdict::Pass
    }

    /// A transaction is over, with its clocks and with the limits that held for it alone.
    fn transaction_ended(&mut self) {
        self.ladders.reset();
        self.limits.transaction_ended();
    }

    /// Whether this error comes after the last answer of a batch that the client believes to have failed already.
    fn is_second_error(&self, frame: Frame<'_>) -> bool {
        let failed = self.discard.is_in_batch() && self.state.pending.is_empty();
        failed && !ErrorFields::read(frame.body).is_fatal()
    }

    fn identify(&mut self, body: &[u8]) {
        if let Some((b"application_name", name)) = wire::parameter_status(body)
            && let Ok(name) = str::from_utf8(name)
            && *name != *self.who.application_name
        {
            let before = std::mem::replace(&mut self.who.application_name, name.into());
            if self.state.phase.is_startup() {
                self.limits
                    .set_first_name(Arc::clone(&self.who.application_name));
            } else if self.state.transaction.started.is_some() {
                self.limits.keep(before);
            }
            self.actions.push_back(Action::Identify);
        }
    }

    fn set_cancel_key(&mut self, body: &[u8]) {
        if let Some(key) = CancelKey::read(body) {
            self.who.server_pid = Some(key.pid);
            self.actions.push_back(Action::SetCancelKey(key));
        }
    }

    fn close_if_drained(&mut self) {
        let state = &self.state;
        let quiet = state.pending.is_empty()
            && state.status == TransactionStatus::Idle
            && !state.pending.unsynced();
        if self.operator.drains() && quiet && state.phase.is_ready() && self.ending.is_none() {
            self.fatal(&report::shutdown(0), CloseReason::Drain);
        }
    }

    fn record(&mut self, finished: Finished) {
        let Finished {
            outcome,
            transaction,
        } = finished;
        self.events
            .push_back(Event::Transaction(Box::new(TransactionRecord {
                who: self.who.clone(),
                outcome,
                duration: transaction.busy + transaction.idle,
                busy: transaction.busy,
                idle: transaction.idle,
                longest_idle: transaction.longest_idle,
                statements: transaction.statements(self.state.pending.running()),
                statement_count: transaction.statement_count,
            })));
    }
}

/// Takes from a queue that is nearly always empty, and keeps no memory for it.
fn next<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if first.is_none() && queue.capacity() > 0 {
        *queue = VecDeque::new();
    }
    first
}

impl Side {
    /// The side that bytes from this one go to.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Whether a frame from this side is held until it is whole.
    ///
    /// Every request is, so that a half-sent one does not reach the server. Of the answers, rows and COPY data flow.
    fn holds(self, tag: u8) -> bool {
        match self {
            Self::Client => true,
            Self::Server => !matches!(
                BackendTag::from(tag),
                BackendTag::DataRow | BackendTag::CopyData
            ),
        }
    }
}
