//! The one loop: bytes from each side pass the session machine and go on to the other.
//!
//! One task for each session, polled by hand, as [`Session`](crate::session::Session) wants to be driven. What it reads and writes is in `sockets`.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant as StdInstant},
};

use tokio::time::{Instant, Sleep};

use super::{
    Worker, cancel,
    recorded::Recorded,
    sockets::{Closed, Sockets, TURN},
    stream::Stream,
};
use crate::{
    events::LOG_TARGET,
    metrics::Traffic,
    observer::Subscription,
    registry::{Asked, Command, Entry, Order, Reply},
    session::{
        Action, Refused, Side,
        event::{self, Event, Incident, Position},
    },
};

/// How long after a request that was held its CancelRequest follows. They take two ways, and a server that has not begun
/// with the request ignores it, and on a busy machine it may take a while to begin.
const AFTER_REQUEST: Duration = Duration::from_millis(250);

/// How long its CancelRequest waits for the statement that comes next, where that request runs none: libraries that prepare a
/// statement run it as soon as they have the answer.
const UNTIL_STATEMENT: Duration = Duration::from_secs(1);

/// A session with its two sockets.
pub(super) struct Relay {
    session: Recorded,
    entry: Arc<Entry>,
    sockets: Sockets,
    /// Where it is counted, once the server has let the client in.
    traffic: Option<Arc<Traffic>>,
    /// Armed only while a limit is waited for, and never moved to a later time: it may ring for nothing.
    timer: Option<Pin<Box<Sleep>>>,
    waker_set: bool,
    /// The CancelRequests of the client's that stand before the gate.
    cancels: Cancels,
    /// When what was held of the client's last went on to the server.
    resumed: Option<StdInstant>,
    /// The wish to be looked at, while the session is stuck.
    watch: Option<Box<Subscription>>,
    /// The commands from the console that are being carried out: the name that each incident has, and whom to tell.
    orders: Vec<(Arc<str>, Reply)>,
    /// Where the session stood when that was last logged; `None` where it is not.
    logged: Option<Position>,
}

/// CancelRequests of the client's that came while the gate was closed, or soon after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cancels {
    /// None.
    #[default]
    Absent,
    /// They wait for a request of the client's that waits too.
    Held,
    /// That request has gone to the server, which had dealt with so many statements by then. They follow the statement that
    /// it runs at that time, or wait until then for one.
    Due {
        at: StdInstant,
        runs: bool,
        ended: u64,
    },
}

impl Cancels {
    fn due(runs: bool, ended: u64, now: StdInstant) -> Self {
        let wait = if runs { AFTER_REQUEST } else { UNTIL_STATEMENT };
        let at = now + wait;
        Self::Due { at, runs, ended }
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
    relay.publish(&worker);
    relay.session.handle_closed(Instant::now().into_std());
    relay.publish(&worker);
    let ended = Event::Closed(Box::new(event::Closed {
        reason: relay.session.close_reason(closed.reason),
        error: closed.error.map(|error| error.to_string()),
        unknown_requests: relay.session.unknown_requests(),
        unknown_messages: relay.session.unknown_messages(),
    }));
    worker.shared.events.emit(relay.session.who(), ended);
    relay.orders.clear();
    relay.entry.shut_mailbox();
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
        mut session: Recorded,
        client: Stream,
        server: Stream,
        early: (Vec<u8>, Vec<u8>),
        entry: Arc<Entry>,
    ) -> Self {
        let now = Instant::now().into_std();
        session.handle_early(Side::Client, early.0, now);
        session.handle_early(Side::Server, early.1, now);
        Self {
            session,
            entry,
            sockets: Sockets::new(client, server),
            traffic: None,
            timer: None,
            waker_set: false,
            cancels: Cancels::default(),
            resumed: None,
            watch: None,
            orders: Vec::new(),
            logged: tracing::enabled!(target: LOG_TARGET, tracing::Level::DEBUG)
                .then_some(Position::Startup),
        }
    }

    /// Moves what can be moved; ready when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Arc<Worker>) -> Poll<Closed> {
        if !self.waker_set {
            self.entry.set_waker(cx.waker());
            self.waker_set = true;
        }
        let mut scratch = worker
            .scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now().into_std();
        let mut now = began;
        loop {
            match self.turn(cx, worker, &mut scratch, now) {
                Ok(true) => {}
                Ok(false) => match self.sleep(cx, worker, now) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {}
                },
                Err(closed) => return Poll::Ready(closed),
            }
            now = Instant::now().into_std();
            if now.saturating_duration_since(began) >= TURN {
                // It is woken when the others' sockets have been asked; waking itself, it would come before them.
                let yielded = pin!(tokio::task::yield_now()).poll(cx);
                if yielded.is_pending() {
                    return Poll::Pending;
                }
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
        self.entry.goes_on();
        let asked = self.handle_commands(worker, now);
        let (session, sockets) = (&mut self.session, &mut self.sockets);
        let traffic = self.traffic.as_ref().unwrap_or(&worker.traffic);
        let mut more = sockets.pump(session, Side::Client, cx, (scratch, traffic), now)?;
        let held = session.holds_client();
        more |= sockets.pump(session, Side::Server, cx, (scratch, traffic), now)?;
        let waiting = self.cancels != Cancels::Absent;
        let was_open = waiting && self.entry.gate_is_open();
        let acted = self.act(worker, now)?;
        if waiting {
            self.decide_cancels(was_open, now);
        }
        self.publish(worker);
        if !asked.is_empty() {
            self.say_how_things_stand(asked, now);
        }
        // A client that was held was not read, and wakes no task.
        let resumed = held && !self.session.holds_client();
        let unsent = self.session.wants_write(Side::Server);
        Ok(acted || resumed || unsent || more)
    }

    /// Carries out what others have asked for, and returns those who want to know how things stand: they are answered when
    /// everything else is done, so that the answer holds until the next turn.
    fn handle_commands(&mut self, worker: &Worker, now: StdInstant) -> Vec<Asked> {
        let mut asked = Vec::new();
        for command in self.entry.take_commands() {
            match command {
                Command::Drain => self.session.handle_drain(now),
                Command::Shutdown => self.session.handle_shutdown(now),
                Command::GiveWay => self.session.handle_give_way(now),
                Command::Reload => self.match_rules(worker, now),
                // It may have been opened since.
                Command::GateClosed if self.entry.gate_is_closed() => {
                    self.session.handle_gate_closed(now)
                }
                Command::GateClosed => {}
                Command::CancelClosed => self.session.handle_cancel_closed(now),
                Command::CancelWaits => self.cancel_waits(now),
                Command::Proven { number, proof } => self.session.handle_proof(number, proof, now),
                Command::Rollback(order) => {
                    self.carry_out(order, |session, by| session.handle_rollback(by, now));
                }
                Command::Terminate(order) => {
                    self.carry_out(order, |session, by| session.handle_terminate(by, now));
                }
                Command::Snapshot(reply) => asked.push(reply),
            }
        }
        if let Some(damage) = self.watch.as_ref().and_then(|watch| watch.take()) {
            self.session.handle_observation(damage, now);
        }
        asked
    }

    fn say_how_things_stand(&self, asked: Vec<Asked>, now: StdInstant) {
        let snapshot = self.session.snapshot(now);
        for reply in asked {
            // Who asked may not wait any more.
            drop(reply.send(snapshot.clone()));
        }
        self.entry.keep(snapshot, Instant::from_std(now));
    }

    /// Begins to carry out a command from the console: its reply waits for the incident that tells what has come of it.
    fn carry_out(
        &mut self,
        order: Order,
        begin: impl FnOnce(&mut Recorded, Arc<str>) -> Result<(), Refused>,
    ) {
        // A name of its own, by which the incident is known.
        let by: Arc<str> = Arc::from(&*order.by);
        match begin(&mut self.session, Arc::clone(&by)) {
            Ok(()) => self.orders.push((by, order.reply)),
            Err(refused) => drop(order.reply.send(Err(refused))),
        }
    }

    /// Replies to the command that an incident is about.
    fn reply(&mut self, incident: &Incident) {
        let is_it = |(by, _): &(Arc<str>, _)| incident.by().is_some_and(|of| Arc::ptr_eq(of, by));
        if let Some(index) = self.orders.iter().position(is_it) {
            let (_, reply) = self.orders.swap_remove(index);
            // The one who gave it may not wait any more.
            reply.send(Ok(incident.outcome)).ok();
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
                        self.session.handle_gate_closed(now);
                    } else {
                        self.session.note_gate_waits();
                    }
                }
                Action::OpenGate => self.open_gate(now),
                Action::Cancel => self.cancel(),
                Action::ProveReadOnly { number, claim } => {
                    // A session that is over does not keep its place for the sake of a claim that waits.
                    let entry = Arc::downgrade(&self.entry);
                    let answer = move |proof| {
                        if let Some(entry) = entry.upgrade() {
                            entry.tell(Command::Proven { number, proof });
                        }
                    };
                    worker.shared.prover.prove(claim, answer);
                }
                Action::MatchRules => self.match_rules(worker, now),
                Action::Authenticated => {
                    self.entry.authenticated();
                    self.traffic = worker.traffic_of(&self.session.who().database);
                }
                Action::SetCancelKey(key) => self.entry.set_key(key),
                Action::Close(reason) => return Err(reason.into()),
            }
        }
        Ok(acted)
    }

    /// Opens the gate. What was held goes on now, and a CancelRequest that is about it must not be faster.
    fn open_gate(&mut self, now: StdInstant) {
        let held = self.session.kept(Side::Client) > 0;
        self.resumed = held.then_some(now);
        self.entry.open_gate(held);
    }

    /// A CancelRequest of the client's waits for a decision.
    fn cancel_waits(&mut self, now: StdInstant) {
        let session = &self.session;
        let at = self.resumed.map(|resumed| resumed + AFTER_REQUEST);
        self.cancels = match at {
            _ if !self.entry.gate_is_open() || session.kept(Side::Client) > 0 => Cancels::Held,
            Some(at) if at > now && session.awaits_statement() => Cancels::Due {
                at,
                runs: true,
                ended: session.statements_ended(),
            },
            Some(_) | None => {
                self.entry.open_gate(false);
                self.entry.let_pass();
                Cancels::Absent
            }
        };
    }

    /// Decides about CancelRequests of the client's that came while the gate was closed. They are about a request that
    /// waits here, and follow it, or the statement that it only prepares, as long as that is not dealt with; where none
    /// waits, or the server works at one already, they have nothing of their own to cancel.
    fn decide_cancels(&mut self, was_open: bool, now: StdInstant) {
        let session = &self.session;
        let (open, awaited) = (self.entry.gate_is_open(), session.awaits_server());
        let (runs_now, ended_now) = (session.awaits_statement(), session.statements_ended());
        let waits = match self.cancels {
            Cancels::Absent => false,
            Cancels::Held if !open => session.kept(Side::Client) > 0 && !awaited,
            // The gate was open when the client's bytes were last looked at: they have gone.
            Cancels::Held if was_open && session.unsent(Side::Server).is_empty() => {
                self.cancels = Cancels::due(runs_now, ended_now, now);
                awaited
            }
            Cancels::Held => true,
            Cancels::Due { ended, .. } if !open || ended != ended_now => false,
            Cancels::Due { runs: false, .. } if runs_now => {
                self.cancels = Cancels::due(true, ended_now, now);
                true
            }
            Cancels::Due { at, .. } if at > now => true,
            Cancels::Due { runs, .. } => {
                if runs {
                    self.entry.let_pass();
                }
                false
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

    fn match_rules(&mut self, worker: &Worker, now: StdInstant) {
        let config = worker.config();
        self.session.handle_rules(&config.rules, now);
    }

    fn publish(&mut self, worker: &Worker) {
        if let Some(tally) = self.session.poll_tally() {
            let traffic = self.traffic.as_ref().unwrap_or(&worker.traffic);
            traffic.count(&tally);
        }
        if self.logged.is_some() {
            self.log_position();
        }
        while let Some(event) = self.session.poll_event() {
            if let Event::Incident(incident) = &event {
                self.reply(incident);
            }
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
    fn subscribe(
        &mut self,
        cx: &Context<'_>,
        worker: &Worker,
        now: StdInstant,
    ) -> Option<StdInstant> {
        let observer = &worker.shared.observer;
        self.session.handle_observer(observer.interval(), now);
        let wanted = self.session.observation_due();
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
        let look = self.subscribe(cx, worker, now);
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

    /// Closes both sockets; returns a client that took all that was due to it.
    async fn close(self: Box<Self>) -> Option<Stream> {
        let Self {
            session, sockets, ..
        } = *self;
        sockets.close(session).await
    }
}

/// A CancelRequest of ours on its way: the session is told when this is dropped, whatever becomes of the task.
struct CancelSent(Arc<Entry>);

impl Drop for CancelSent {
    fn drop(&mut self) {
        self.0.tell(Command::CancelClosed);
    }
}
