//! The state machine of one session: bytes, timers and commands in; bytes, actions and events out. No I/O, no clock.
//!
//! How it is driven stands at [`Session`].
#![warn(clippy::indexing_slicing)]

mod blocking;
mod cancel_guard;
mod command;
pub mod damage;
mod deferred_error;
mod diagnostics;
mod discard;
mod enforce;
pub mod event;
mod frames;
mod imitate;
mod in_flight;
mod in_force;
mod ladders;
mod limits;
mod names;
mod observed;
mod operator;
mod pending;
mod prepared;
mod request;
mod savepoints;
mod silence;
pub mod snapshot;
mod startup;
mod state;
mod tally;
mod text;
mod transaction;
pub mod transcript;
mod transfer;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use self::{
    cancel_guard::CancelGuard,
    deferred_error::DeferredError,
    discard::Discard,
    enforce::{Enforcement, Released},
    event::{Event, TransactionOutcome, Who},
    in_force::InForce,
    ladders::Ladders,
    observed::Observed,
    operator::Operator,
    silence::Silence,
    startup::Startup,
    state::State,
    transfer::{Peer, Verdict},
};
pub use self::{
    command::Refused,
    event::CloseReason,
    limits::ObservationRequest,
    snapshot::Snapshot,
    startup::ChannelBinding,
    tally::Tally,
    text::MAX_TEXT,
    transfer::{BUFFER, Eof, Wants},
};
use crate::{
    policy::{Identity, Limits, Rules, Target},
    sql::Claim,
    wire::{CancelKey, InvalidLength},
};

/// What the caller has to do for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let no CancelRequest of the client's through until [`Action::OpenGate`], wait until those that are on their way
    /// have been closed by the server, then call [`Session::handle_gate_closed`].
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
    /// Send a CancelRequest for this session, and call [`Session::handle_cancel_closed`] when the server has closed it.
    Cancel,
    /// The application name has changed: call [`Session::handle_rules`].
    MatchRules,
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

/// One side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application.
    Client,
    /// PostgreSQL.
    Server,
}

/// The state machine of one session.
///
/// # How it is driven
/// Methods named `handle_*` are its inputs, and take the time; those named `wants_*` and `poll_*` say what to do next. A
/// driver owns both sockets, a buffer of [`BUFFER`] bytes at least, and this loop:
///
/// 1. For each side: write what is [`unsent`](Self::unsent) to the other one, then read while
///    [`wants_read`](Self::wants_read) allows it. What [`handle_read`](Self::handle_read) returns is written from where it
///    was read; in the common case that is all, and nothing is copied or allocated.
/// 2. Carry out every [`Action`] and record every [`Event`], until there is none.
/// 3. Where that has led to something that [`wants_write`](Self::wants_write), or to a client that is not
///    [held](Self::holds_client) any more, begin again at once.
/// 4. Sleep until a socket is ready or [`poll_timeout`](Self::poll_timeout) has come, and then call
///    [`handle_timeout`](Self::handle_timeout).
///
/// At the end [`handle_closed`](Self::handle_closed) gives the last events. The sockets' part of it, for sockets that do
/// not block:
///
/// ```
/// use std::io::{self, ErrorKind, Read, Write};
/// use std::time::Instant;
/// use pgidle::session::{BUFFER, CloseReason, Eof, Session, Side, Wants};
///
/// /// Reads or writes what can be read or written at once; `None` where that is nothing.
/// fn at_once(result: io::Result<usize>) -> io::Result<Option<usize>> {
///     match result {
///         Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
///         result => result.map(Some),
///     }
/// }
///
/// /// Moves bytes from one side to the other until the one has none or the other takes none; why the session is over,
/// /// once it is.
/// fn pump(
///     session: &mut Session,
///     from: Side,
///     mut source: impl Read,
///     mut sink: impl Write,
///     buffer: &mut [u8; BUFFER],
///     now: Instant,
/// ) -> io::Result<Option<CloseReason>> {
///     let to = from.other();
///     loop {
///         if !session.unsent(to).is_empty() {
///             let written = at_once(sink.write(session.unsent(to)))?;
///             session.handle_written(to, written.unwrap_or(0), now);
///         }
///         let kept;
///         let bytes = match session.wants_read(from) {
///             Wants::Nothing | Wants::Bytes(0) => return Ok(None),
///             Wants::Kept => {
///                 kept = session.take_kept(from);
///                 &kept[..]
///             }
///             Wants::Bytes(most) => {
///                 let first = session.kept(from);
///                 let room = BUFFER.min(first.saturating_add(most));
///                 match at_once(source.read(&mut buffer[first..room]))? {
///                     None => return Ok(None),
///                     Some(0) => return Ok(ended(session, from, now)),
///                     Some(read) => {
///                         buffer[..first].copy_from_slice(&session.take_kept(from));
///                         &buffer[..first + read]
///                     }
///                 }
///             }
///             Wants::End => return Ok(ended(session, from, now)),
///         };
///         let passed = session.handle_read(from, bytes, now).map_err(io::Error::other)?;
///         let written = if passed.is_empty() {
///             0
///         } else {
///             at_once(sink.write(passed))?.unwrap_or(0)
///         };
///         session.handle_unwritten(to, &passed[written..], now);
///     }
/// }
///
/// fn ended(session: &mut Session, from: Side, now: Instant) -> Option<CloseReason> {
///     match session.handle_eof(from, now) {
///         Eof::Close(reason) => Some(reason),
///         // Here the driver shuts the server's socket down for writing, once everything is written.
///         Eof::PassOn => None,
///         Eof::Later => None,
///     }
/// }
/// # use std::sync::Arc;
/// # use pgidle::{policy::Limits, session::SessionParams};
/// # let now = Instant::now();
/// # let mut session = Session::new(SessionParams::default(), Arc::new(Limits::default()), now);
/// # let mut buffer = [0; BUFFER];
/// # let answer = b"Z\0\0\0\x05I";
/// # let mut written = Vec::new();
/// # let over = pump(&mut session, Side::Server, &answer[..], &mut written, &mut buffer, now).unwrap();
/// # assert_eq!((&*written, over), (&answer[..], Some(CloseReason::ServerLeft)));
/// ```
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Session {
    who: Who,
    limits: InForce,
    state: State,
    client: Peer,
    server: Peer,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    ladders: Ladders,
    observed: Observed,
    silence: Silence,
    operator: Operator,
    cancels: CancelGuard,
    /// How often a proof was asked for.
    claims: u64,
    /// See [`SessionParams::keeps_server`].
    keeps_server: bool,
    /// See [`SessionParams::nonce`].
    nonce: u64,
    discard: Discard,
    enforcement: Option<Box<Enforcement>>,
    /// The transaction that was ended and begins again when the client speaks.
    released: Option<Box<Released>>,
    deferred_error: Option<Box<DeferredError>>,
}

/// What is known of a session before its first byte.
#[derive(Clone, Debug, Default)]
pub struct SessionParams {
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
    pub fn new(opening: SessionParams, limits: Arc<Limits>, now: Instant) -> Self {
        let startup = Startup::new(opening.binding, opening.target, opening.authenticate_by);
        Self {
            limits: InForce::new(limits, Arc::clone(&opening.who.application_name)),
            who: opening.who,
            state: State::new(startup, opening.replication, opening.records, now),
            client: Peer::default(),
            server: Peer::default(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            ladders: Ladders::default(),
            observed: Observed::default(),
            silence: Silence::begins(now),
            operator: Operator::default(),
            cancels: CancelGuard::default(),
            claims: 0,
            keeps_server: opening.keeps_server,
            nonce: opening.nonce,
            discard: Discard::default(),
            enforcement: None,
            released: None,
            deferred_error: None,
        }
    }

    /// Who the session belongs to.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// Whether bytes from the client cannot be dealt with at present, and none should be read.
    pub fn holds_client(&self) -> bool {
        self.enforcement_holds_client()
            || self.deferred_error_holds_client()
            || self.state.pending.is_full()
            || self.cancels.is_open()
    }

    /// The limits of the rule that it matches.
    pub fn limits(&self) -> &Limits {
        self.limits.current()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        next(&mut self.actions)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        next(&mut self.events)
    }

    /// The rules that are in force: the session finds its own, and those of the names that its transaction has had; their
    /// limits hold at once.
    pub fn handle_rules(&mut self, rules: &Rules, _now: Instant) {
        let Self { who, state, .. } = self;
        self.limits.decide(|first_name, earlier| {
            let identity = who.identity(first_name, state.replication);
            rules.decide(&Identity {
                application_name: earlier.unwrap_or(identity.application_name),
                ..identity
            })
        });
    }

    /// Ends the session as soon as no transaction is open; at once when none is, but for a client that has just logged in:
    /// it has two seconds for its first request.
    pub fn handle_drain(&mut self, now: Instant) {
        self.operator.drain(now);
        self.close_if_drained();
    }

    /// Ends a session that is not authenticated, for those who wait for its place.
    pub fn handle_give_way(&mut self, _now: Instant) {
        if self.state.phase.is_startup() {
            self.fatal(&diagnostics::gives_way(), CloseReason::Authentication);
        }
    }

    /// Whether this is (or has become) a replication connection.
    pub fn is_replication(&self) -> bool {
        self.state.replication
    }

    /// Whether the server has said all that it has to say to the client's requests: a client that leaves misses nothing.
    pub fn is_answered(&self) -> bool {
        let pending = &self.state.pending;
        let quiet = pending.is_empty() && !pending.unsynced() && self.enforcement.is_none();
        let written = self.client.has_taken_all() && self.server.has_taken_all();
        quiet && written && self.state.phase.is_ready()
    }

    /// Whether the server still owes an answer to a request of the client's.
    pub fn awaits_server(&self) -> bool {
        !self.state.pending.is_empty()
    }

    /// Why the session ended, when this is how the first of its connections did: after its Terminate it is the client that
    /// left, whichever side closes first.
    pub fn close_reason(&self, seen: CloseReason) -> CloseReason {
        use CloseReason::{ClientIo, ClientLeft, ServerIo, ServerLeft};
        let closed = matches!(seen, ServerLeft | ServerIo | ClientIo);
        if closed && self.state.terminated {
            ClientLeft
        } else {
            seen
        }
    }

    /// Whether the server still owes what comes of a statement of the client's.
    pub fn awaits_statement(&self) -> bool {
        self.state.pending.running().next().is_some()
    }

    /// How many times the server has said what came of a statement of the client's: it was run, or there was an error.
    pub fn statements_ended(&self) -> u64 {
        self.state.ended
    }

    /// What was done since this was last asked, if anything was.
    pub fn poll_tally(&mut self) -> Option<Tally> {
        self.state.tally.take()
    }

    /// How many messages have passed of types that are not known.
    pub fn unknown_messages(&self) -> u64 {
        self.state.unknown
    }

    /// The session is over: what was open in it is reported.
    pub fn handle_closed(&mut self, now: Instant) {
        if let Some(finished) = self.state.end(TransactionOutcome::Disconnect, now) {
            self.record(*finished);
        }
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
