//! The one loop: bytes from each side pass the session machine and go on to the other.
//!
//! One task for each session, polled by hand. Reads land in the thread's scratch buffer and are written at once; what a
//! socket does not take waits in the session's output, and while anything waits there nothing more is read for it. What
//! cannot be dealt with yet (a part of a request, or a client that has to wait) is kept in an input of its own. Both
//! are empty, and hold no memory, in a session that is idle.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant as StdInstant},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Worker, cancel,
    stream::{LINGER, Stream},
};
use crate::{
    events::LOG_TARGET,
    observer::Watch,
    registry::{Command, Entry},
    session::{
        Action, CloseReason, ProtocolError, Session, Side,
        event::{self, Event, Position},
    },
};

/// How much of an answer is read ahead of a client that does not take it, while its statement is being cancelled.
const READ_AHEAD: usize = 64 << 20;

/// How much is read of a client that is held.
const HELD: usize = super::SCRATCH;

/// Whole buffers of this many bytes are what a server sends of a long answer (`PQ_SEND_BUFFER_SIZE` in
/// `src/backend/libpq/pqcomm.c`) and libpq of a long request (`pqPutMsgEnd` in `src/interfaces/libpq/fe-misc.c`).
const SENT_AT_ONCE: usize = 8192;

/// How long a session may keep its thread from the others, once it has moved what one read gave.
const TURN: Duration = Duration::from_micros(500);

/// How long after a request that was held its CancelRequest follows. They take two ways, and a server that has not begun
/// with the request ignores it; so it comes as much later as a client's own could.
const AFTER_REQUEST: Duration = Duration::from_millis(100);

/// How long its server may take for its last message: next to no time, where it takes any.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a session ended, with the error if one was seen.
#[derive(Debug)]
struct Closed {
    reason: CloseReason,
    error: Option<String>,
}

impl From<CloseReason> for Closed {
    fn from(reason: CloseReason) -> Self {
        Self {
            reason,
            error: None,
        }
    }
}

impl From<ProtocolError> for Closed {
    fn from(error: ProtocolError) -> Self {
        Self {
            reason: CloseReason::Protocol,
            error: Some(error.to_string()),
        }
    }
}

/// A session with its two sockets.
pub(super) struct Relay {
    session: Session,
    entry: Arc<Entry>,
    client: Leg,
    server: Leg,
    /// Armed only while a limit is waited for, and never moved to a later time: it may ring for nothing.
    timer: Option<Pin<Box<Sleep>>>,
    identified: bool,
    /// The CancelRequests of the client's that stand before the gate.
    cancels: Cancels,
    /// The wish to be looked at, while the session is stuck.
    watch: Option<Box<Watch>>,
    /// Where the session stood when that was last logged; `None` where it is not.
    logged: Option<Position>,
}

/// CancelRequests of the client's that came while the gate was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cancels {
    /// None.
    #[default]
    Absent,
    /// They wait for a request of the client's that waits too.
    Held,
    /// That request has gone to the server, which had answered so many requests by then; they follow it at that time.
    Due { at: StdInstant, answered: u64 },
}

/// One side's socket.
struct Leg {
    stream: Stream,
    /// Bytes from it that are not dealt with.
    input: Vec<u8>,
    /// Whether the input waits for the session, not for more bytes.
    held: bool,
    /// Whether it has said that it sends nothing more.
    ended: bool,
    /// Whether that was read while the session held it, and is still to be acted on.
    end_held: bool,
    /// Whether output for it lies unsent.
    blocked: bool,
    /// Whether it has yet to be told that nothing more comes.
    leaving: bool,
}

impl Leg {
    fn new(stream: Stream, input: Vec<u8>) -> Self {
        Self {
            stream,
            held: !input.is_empty(),
            input,
            ended: false,
            end_held: false,
            blocked: false,
            leaving: false,
        }
    }

    /// Sends what TLS has taken and, when there is no more, the end.
    fn settle(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.stream.send_taken(cx)?;
        if self.leaving && !self.blocked {
            // What does not go now goes when the socket takes it.
            if let Poll::Ready(told) = Pin::new(&mut self.stream).poll_shutdown(cx) {
                self.leaving = false;
                return told;
            }
        }
        Ok(())
    }
}

/// Runs a session to its end, and says why it ended.
pub(super) async fn run(mut relay: Box<Relay>, worker: Arc<Worker>) {
    let closed = poll_fn(|cx| relay.poll(cx, &worker)).await;
    // What remains is large and short-lived: it lives in a box of its own.
    Box::pin(end(relay, closed, worker)).await;
}

async fn end(mut relay: Box<Relay>, closed: Closed, worker: Arc<Worker>) {
    relay.watch = None;
    relay.session.closed(Instant::now().into_std());
    relay.publish(&worker);
    let ended = Event::Closed(Box::new(event::Closed {
        reason: relay.session.close_reason(closed.reason),
        error: closed.error,
        unknown_requests: relay.session.unknown_requests(),
        unknown_messages: relay.session.unknown_messages(),
    }));
    worker.shared.events.emit(relay.session.who(), ended);
    let entry = Arc::clone(&relay.entry);
    let client = relay.close().await;
    worker.shared.registry.leave(&entry);
    // Its place is free: the server's connection is closed.
    drop(entry);
    if let Some(client) = client {
        client.linger().await;
    }
}

impl Relay {
    /// `early` is what was already read from the client and from the server.
    pub(super) fn new(
        session: Session,
        client: Stream,
        server: Stream,
        early: (Vec<u8>, Vec<u8>),
        entry: Arc<Entry>,
    ) -> Self {
        Self {
            session,
            entry,
            client: Leg::new(client, early.0),
            server: Leg::new(server, early.1),
            timer: None,
            identified: false,
            cancels: Cancels::default(),
            watch: None,
            logged: tracing::enabled!(target: LOG_TARGET, tracing::Level::DEBUG)
                .then_some(Position::Startup),
        }
    }

    /// Moves what can be moved; ready when the session is over.
    ///
    /// A side that gives or takes nothing more wakes the task when that changes: `pump` goes on until it does.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Arc<Worker>) -> Poll<Closed> {
        if !self.identified {
            self.entry.set_waker(cx.waker());
            self.identified = true;
        }
        let mut scratch = worker
            .scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut began = None;
        loop {
            let now = Instant::now().into_std();
            if now.saturating_duration_since(*began.get_or_insert(now)) >= TURN {
                // It is woken when the others' sockets have been asked; waking itself, it would come before them.
                let yielded = pin!(tokio::task::yield_now()).poll(cx);
                if yielded.is_pending() {
                    return Poll::Pending;
                }
            }
            match self.turn(cx, worker, &mut scratch, now) {
                Ok(true) => {}
                Ok(false) => match self.sleep(cx, worker, now) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {}
                },
                Err(closed) => return Poll::Ready(closed),
            }
        }
    }

    /// Does what can be done at once; true when that has opened the way for more.
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        scratch: &mut [u8],
        now: StdInstant,
    ) -> Result<bool, Closed> {
        self.obey(worker, now);
        let mut more = self.pump(Side::Client, cx, scratch, now)?;
        let held = self.session.holds_client();
        more |= self.pump(Side::Server, cx, scratch, now)?;
        let waiting = self.cancels != Cancels::Absent;
        let was_open = waiting && self.entry.gate_is_open();
        let acted = self.act(worker, now)?;
        if waiting {
            self.decide_cancels(was_open, now);
        }
        self.publish(worker);
        // A client that was held was not read, and wakes nobody.
        let resumed = held && !self.session.holds_client();
        let unsent = !self.server.blocked && !self.session.output(Side::Server).is_empty();
        Ok(acted || resumed || unsent || more)
    }

    /// Moves bytes from one side to the other until the one has none or the other takes none; true when the time of the
    /// turn that began at `now` was over before.
    fn pump(
        &mut self,
        from: Side,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        now: StdInstant,
    ) -> Result<bool, Closed> {
        self.flush(from.other(), cx, now)?;
        for read in 0.. {
            if read > 1 && Instant::now().into_std().saturating_duration_since(now) >= TURN {
                return Ok(true);
            }
            let waiting = self.session.output(from.other()).len();
            if waiting > READ_AHEAD {
                self.session.drain_overflowed(now);
                return Ok(false);
            }
            if from == Side::Client && self.session.holds_client() {
                self.watch_held(cx, scratch);
                return Ok(false);
            }
            let allowed = match from {
                Side::Server => self.session.reads_ahead(),
                Side::Client => Some(0),
            };
            if waiting > 0 && allowed.is_some_and(|allowed| waiting >= allowed) {
                return Ok(false);
            }
            let leg = self.leg(from);
            if leg.held {
                leg.held = false;
                let input = std::mem::take(&mut leg.input);
                self.splice(from, &input, cx, now)?;
            } else if std::mem::take(&mut leg.end_held) {
                return self.ended(from, cx).map(|()| false);
            } else if self.read(from, cx, scratch, now)?.is_pending() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Reads on from a client that is held, within bounds, so that its end is noticed.
    fn watch_held(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) {
        let leg = &mut self.client;
        let mut left = leg.ended;
        while !left {
            let free = HELD.saturating_sub(leg.input.len());
            if free == 0 {
                left = leg.stream.is_read_closed();
                break;
            }
            let mut buf = ReadBuf::new(scratch.get_mut(..free).unwrap_or_default());
            let Poll::Ready(read) = Pin::new(&mut leg.stream).poll_read(cx, &mut buf) else {
                break;
            };
            left = read.is_err() || buf.filled().is_empty();
            (leg.ended, leg.end_held) = (left, left);
            leg.held |= !left;
            leg.input.extend_from_slice(buf.filled());
        }
        self.session.client_waits(&leg.input, left);
    }

    fn read(
        &mut self,
        from: Side,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        now: StdInstant,
    ) -> Result<Poll<()>, Closed> {
        let leg = self.leg(from);
        if leg.ended {
            return Ok(Poll::Pending);
        }
        let kept = leg.input.len();
        let (front, back) = scratch.split_at_mut(kept);
        let mut buf = ReadBuf::new(back);
        match Pin::new(&mut leg.stream).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(result) => result.map_err(|error| failed(from, &error))?,
        }
        let len = buf.filled().len();
        if len == 0 {
            return self.ended(from, cx).map(Poll::Ready);
        }
        front.copy_from_slice(&leg.input);
        leg.input = Vec::new();
        let bytes = scratch.get(..kept + len).unwrap_or_default();
        self.splice(from, bytes, cx, now)?;
        if len.is_multiple_of(SENT_AT_ONCE) {
            // More is on its way: where the processors are busy, the sender gets the time to send it all.
            std::thread::yield_now();
        }
        Ok(Poll::Ready(()))
    }

    /// Passes bytes through the session machine and writes what may go on.
    fn splice(
        &mut self,
        from: Side,
        bytes: &[u8],
        cx: &mut Context<'_>,
        now: StdInstant,
    ) -> Result<(), Closed> {
        let step = match from {
            Side::Client => self.session.client_bytes(bytes, now)?,
            Side::Server => self.session.server_bytes(bytes, now)?,
        };
        let to = from.other();
        let verbatim = bytes.get(..step.verbatim).unwrap_or_default();
        let mut sent = 0;
        while let Some(rest) = verbatim.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.leg(to).stream).poll_write(cx, rest) {
                Poll::Pending => break,
                Poll::Ready(result) => sent += result.map_err(|error| failed(to, &error))?,
            }
        }
        if let Some(unsent) = verbatim.get(sent..).filter(|rest| !rest.is_empty()) {
            let output = self.session.output(to);
            let own = std::mem::replace(output, BytesMut::from(unsent));
            output.unsplit(own);
            self.leg(to).blocked = true;
            self.session.flow(to, true, sent > 0, now);
        }
        if let Some(rest) = bytes.get(step.consumed..).filter(|rest| !rest.is_empty()) {
            let held = from == Side::Client && self.session.holds_client();
            let leg = self.leg(from);
            leg.input = rest.to_vec();
            leg.held = held;
        }
        self.flush(to, cx, now)
    }

    /// Writes what waits for a side.
    fn flush(&mut self, to: Side, cx: &mut Context<'_>, now: StdInstant) -> Result<(), Closed> {
        let leg = match to {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        let output = self.session.output(to);
        if output.is_empty() && !leg.blocked {
            return leg.settle(cx).map_err(|error| failed(to, &error));
        }
        let mut sent = 0;
        while !output.is_empty() {
            match Pin::new(&mut leg.stream).poll_write(cx, output) {
                Poll::Pending => break,
                Poll::Ready(result) => {
                    let written = result.map_err(|error| failed(to, &error))?;
                    output.advance(written);
                    sent += written;
                }
            }
        }
        if output.is_empty() {
            *output = BytesMut::new();
        }
        leg.blocked = !output.is_empty();
        let blocked = leg.blocked;
        leg.settle(cx).map_err(|error| failed(to, &error))?;
        self.session.flow(to, blocked, sent > 0, now);
        Ok(())
    }

    /// A side sends nothing more.
    fn ended(&mut self, from: Side, cx: &mut Context<'_>) -> Result<(), Closed> {
        self.leg(from).ended = true;
        if from == Side::Server {
            let left = if self.client.ended {
                CloseReason::ClientLeft
            } else {
                CloseReason::ServerLeft
            };
            return Err(left.into());
        }
        // TLS has a farewell of its own.
        if self.session.is_answered() && !self.server.stream.is_tls() {
            return Err(CloseReason::ClientLeft.into());
        }
        // The server answers what it has been sent, then leaves too.
        self.server.leaving = true;
        self.server
            .settle(cx)
            .map_err(|error| failed(Side::Server, &error))
    }

    /// Carries out what others have asked for.
    fn obey(&mut self, worker: &Worker, now: StdInstant) {
        for command in self.entry.take_commands() {
            match command {
                Command::Drain => self.session.drain(),
                Command::Shutdown => self.session.shut_down(now),
                Command::GiveWay => self.session.give_way(),
                Command::Reload => self.identify(worker),
                // It may have been opened since.
                Command::GateClosed if self.entry.gate_is_closed() => self.session.gate_closed(now),
                Command::GateClosed => {}
                Command::CancelClosed => self.session.cancel_closed(now),
                Command::CancelWaits => self.cancels = Cancels::Held,
                Command::Proven { number, proof } => self.session.handle_proof(number, proof, now),
            }
        }
        if let Some(damage) = self.watch.as_ref().and_then(|watch| watch.take()) {
            self.session.handle_observation(damage, now);
        }
    }

    /// Carries out what the session asks for.
    fn act(&mut self, worker: &Worker, now: StdInstant) -> Result<bool, Closed> {
        let mut acted = false;
        while let Some(action) = self.session.poll_action() {
            acted = true;
            match action {
                Action::CloseGate => {
                    if self.entry.close_gate() {
                        self.session.gate_closed(now);
                    }
                }
                Action::OpenGate => self.entry.open_gate(),
                Action::Cancel => self.cancel(),
                Action::ProveReadOnly { number, claim } => {
                    let entry = Arc::clone(&self.entry);
                    let answer = move |proof| entry.tell(Command::Proven { number, proof });
                    worker.shared.prover.prove(claim, answer);
                }
                Action::Identify => self.identify(worker),
                Action::Authenticated => self.entry.authenticated(),
                Action::SetCancelKey(key) => self.entry.set_key(key),
                Action::Close(reason) => return Err(reason.into()),
            }
        }
        Ok(acted)
    }

    /// Decides about CancelRequests of the client's that came while the gate was closed. They are about a request that
    /// waits here, and follow it as long as it is not answered; where none waits, or the server works at one already,
    /// they have nothing of their own to cancel.
    fn decide_cancels(&mut self, was_open: bool, now: StdInstant) {
        let (open, running) = (self.entry.gate_is_open(), self.session.awaits_server());
        let answered = self.session.requests_answered();
        let waits = match self.cancels {
            Cancels::Absent => false,
            Cancels::Held if !open => !self.client.input.is_empty() && !running,
            Cancels::Held => {
                // The gate was open when the client's bytes were last looked at: they have gone.
                if was_open && self.session.output(Side::Server).is_empty() {
                    let at = now + AFTER_REQUEST;
                    self.cancels = Cancels::Due { at, answered };
                }
                true
            }
            Cancels::Due { at, answered: then } => {
                let same = open && running && answered == then;
                if same && at <= now {
                    self.entry.let_pass();
                }
                same && at > now
            }
        };
        if !waits {
            self.cancels = Cancels::Absent;
            self.entry.turn_away();
        }
    }

    fn cancel(&self) {
        let sent = CancelSent(Arc::clone(&self.entry));
        tokio::spawn(async move {
            if let Some(key) = sent.0.key() {
                cancel::send_for(&sent.0, key).await;
            }
        });
    }

    fn identify(&mut self, worker: &Worker) {
        let config = worker.config();
        self.session.match_rules(&config.rules);
    }

    fn publish(&mut self, worker: &Worker) {
        if self.logged.is_some() {
            self.log_position();
        }
        while let Some(event) = self.session.poll_event() {
            worker.shared.events.emit(self.session.who(), event);
        }
    }

    fn log_position(&mut self) {
        let position = self.session.position();
        if let Some(before) = self.logged.replace(position).filter(|&was| was != position) {
            let session = self.session.who().session;
            let (from, to) = (before.name(), position.name());
            tracing::debug!(target: LOG_TARGET, session, from, to, "the position changes");
        }
    }

    /// Has the session looked at while it wants to be; returns when it will next want to.
    fn be_watched(
        &mut self,
        cx: &Context<'_>,
        worker: &Worker,
        now: StdInstant,
    ) -> Option<StdInstant> {
        let observer = &worker.shared.observer;
        self.session.set_observer(observer.interval());
        let wanted = self.session.look_wanted();
        let Some(look) = wanted.filter(|look| look.from <= now) else {
            self.watch = None;
            return wanted.map(|look| look.from);
        };
        if self.watch.as_ref().is_none_or(|watch| watch.look() != look) {
            self.watch = None;
            let watch = observer.watch(self.session.who(), look, cx.waker());
            self.watch = watch.map(Box::new);
        }
        None
    }

    /// Arms the timer; ready when a limit is reached.
    fn sleep(&mut self, cx: &mut Context<'_>, worker: &Worker, now: StdInstant) -> Poll<()> {
        let look = self.be_watched(cx, worker, now);
        let cancel = match self.cancels {
            Cancels::Due { at, .. } => Some(at),
            Cancels::Absent | Cancels::Held => None,
        };
        let Some(at) = [self.session.poll_timeout(), look, cancel]
            .into_iter()
            .flatten()
            .min()
        else {
            return Poll::Pending;
        };
        if at <= now {
            self.session.handle_timeout(now);
            return Poll::Ready(());
        }
        let at = Instant::from_std(at);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(())
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Writes what is due to both sides, as far as they take it within a while; returns a client that took it all.
    async fn close(self: Box<Self>) -> Option<Stream> {
        let Self {
            mut session,
            client,
            server,
            ..
        } = *self;
        if client.ended
            && session.output(Side::Client).is_empty()
            && session.output(Side::Server).is_empty()
        {
            return None;
        }
        let (blocked, mut client, mut server) = (server.blocked, client.stream, server.stream);
        let to_server = session.output(Side::Server).split();
        let farewell = async {
            // A server that is gone takes nothing, and that is known already.
            drop(server.write_all(&to_server).await);
            drop(server.shutdown().await);
        };
        // What a server did not take before is not for it any more, and would keep the client from its last message.
        if !blocked {
            drop(tokio::time::timeout(FAREWELL, farewell).await);
        }
        drop(server);
        let last = client.write_all(session.output(Side::Client));
        let taken = tokio::time::timeout(LINGER, last).await;
        matches!(taken, Ok(Ok(()))).then_some(client)
    }
}

/// A CancelRequest of ours on its way: the session is told when this is dropped, whatever becomes of the task.
struct CancelSent(Arc<Entry>);

impl Drop for CancelSent {
    fn drop(&mut self) {
        self.0.tell(Command::CancelClosed);
    }
}

fn failed(side: Side, error: &io::Error) -> Closed {
    Closed {
        reason: match side {
            Side::Client => CloseReason::ClientIo,
            Side::Server => CloseReason::ServerIo,
        },
        error: Some(error.to_string()),
    }
}
