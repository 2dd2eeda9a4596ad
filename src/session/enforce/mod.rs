//! Ending a transaction without ending its session, step by step, from whatever position it is stuck in.
//!
//! An enforcement asks one question again and again: *what stands in the way of a ReadyForQuery that says that nothing of
//! the transaction is left?* Each answer is a step with a file of its own, and each step ends with the question.
//!
//! ```text
//!            cancel connections closed
//!   Gate ─────────────────────────────▶ next step?
//!                                         │ the server takes COPY data ........ CopyFail   (copy_fail)
//!                                         │ what runs was not judged yet ...... Prove      (proof)
//!                                         │ a commit may run, and may wait .... Read, Ask  (standby)
//!                                         │ the server works .................. Cancel     (cancel)
//!                                         │ a cancel may come yet ............. Fence      (cancel)
//!                                         │ batch without Sync, all answered .. Poison     (poison) ─▶ Synced
//!                                         │ the server skips to Sync .......... Synced     (poison)
//!                                         │ status T or E ..................... Abort      (abort)
//!                                         │ status I, or E after Abort ........ done
//!                                         ▼
//! ```
//! Each step has a deadline, past which something else may be done ([`deadline`]).
//!
//! While a step runs nothing of the client's goes to the server, but for Gate, Ask, and a Prove in front of them or of a
//! release, in which nothing is done yet. In Poison, Synced, Fence and Abort every reply is an answer to us and is
//! swallowed, but for the end of a Query that shows only in Synced; in CopyFail and Cancel replies belong to the client's
//! own request and pass.
//!
//! A session is ended in the same way, whether by a limit or because pgidle ends: it closes once nothing that was sent can
//! be carried out any more, or with the word that this is unknown.

mod abort;
mod cancel;
mod copy_fail;
mod deadline;
mod exchange;
mod hit;
mod next;
mod poison;
mod proof;
mod question;
mod release;
mod standby;
mod step;
mod terminate;

use std::time::Instant;

use self::next::Next;
pub(super) use self::{hit::Cancelled, release::Released, step::Step};
use super::{
    Action, CloseReason, Session, Verdict,
    deferred_error::DeferredError,
    diagnostics,
    event::{Cause, Event, Hit, Incident, Outcome},
    limits::Rung,
    savepoints::Savepoints,
    state::{Phase, TransactionStatus},
};
use crate::{
    policy::{self, StuckKind},
    sql::Proof,
    wire::{BackendTag, ErrorFields, Frame, originate},
};

/// An enforcement under way.
#[derive(Clone, Debug)]
pub(super) struct Enforcement {
    /// What will be reported about it.
    incident: Incident,
    /// The moment that the incident tells of: when the limit was reached, or when the gate was passed.
    acted: Instant,
    trigger: Trigger,
    /// Why the session closes at the end, when it does.
    closes: Option<CloseReason>,
    step: Step,
    /// The number of the transaction: a later one must not be hit.
    pub(super) transaction: u64,
    /// Whether the client has been sent an ErrorResponse for this transaction, and has not recovered from it.
    client_notified: bool,
    /// Whether the client is in the middle of a batch that has to fail with our error.
    in_batch: bool,
    /// The savepoints that were open when the transaction was rolled back.
    savepoints: Savepoints,
    /// Whether the client's COPY was made to fail: what runs cannot commit.
    copy_failed: bool,
    /// CancelRequests that were sent.
    cancels: u32,
    /// What they have come to.
    hit: Option<Hit>,
    /// Whether an error of theirs was kept from the client because a FATAL error will follow.
    withheld: bool,
    /// When the observer last saw that no commit waits for its standby.
    cleared: Option<Instant>,
    /// Whether what the server had sent was read.
    read: bool,
    /// Why the observer could not say whether one does, where it was asked.
    unseen: Option<&'static str>,
    /// What runs and was judged.
    judged: proof::Judged,
    /// Injections that were sent again because a cancel or a statement timeout of the client's hit them.
    retries: u32,
    /// Since when it is at its step.
    since: Instant,
    /// When it was last looked at because its step has a deadline.
    checked: Instant,
}

/// Why something is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// A limit, or a command from the console: there is an incident to report.
    Incident,
    /// pgidle ends.
    Shutdown,
}

impl Enforcement {
    /// What the client is told about the end of the session, when the outcome of so many requests is `unknown`.
    fn fatal(&self, unknown: usize) -> originate::Diagnostic {
        match self.trigger {
            Trigger::Incident => diagnostics::terminated(&self.incident, unknown),
            Trigger::Shutdown => diagnostics::shutdown(unknown),
        }
    }

    /// Why the session closes, if it does.
    fn close_reason(&self) -> CloseReason {
        self.closes.unwrap_or_else(|| close_reason(&self.incident))
    }

    /// What the server is told.
    fn reason(&self) -> String {
        match self.trigger {
            Trigger::Incident => diagnostics::sql_reason(&self.incident),
            Trigger::Shutdown => diagnostics::SQL_SHUTDOWN.to_owned(),
        }
    }
}

impl Session {
    /// Begins to end the transaction: asks for a look where a commit may be running, then for the gate.
    pub(super) fn start_enforcement(&mut self, incident: Incident, now: Instant) {
        self.set_enforcement(incident, Trigger::Incident, now);
        self.look_or_close_gate(now);
    }

    fn set_enforcement(&mut self, incident: Incident, trigger: Trigger, now: Instant) {
        let failed = self.state.status == TransactionStatus::Failed;
        let began = self.state.transaction.started;
        let since = self.cancels.await_gate(began, now);
        let closes = match trigger {
            Trigger::Shutdown => Some(CloseReason::Drain),
            Trigger::Incident => {
                let terminates = incident.action == policy::Action::Terminate;
                terminates.then(|| close_reason(&incident))
            }
        };
        self.events.push_back(Event::Step(Step::Gate.name()));
        self.enforcement = Some(Box::new(Enforcement {
            incident,
            acted: now,
            trigger,
            closes,
            step: Step::Gate,
            transaction: self.state.transaction.number,
            client_notified: failed || self.state.pending.skipping(),
            in_batch: false,
            savepoints: Savepoints::default(),
            copy_failed: false,
            cancels: 0,
            hit: None,
            withheld: false,
            cleared: None,
            read: false,
            unseen: None,
            judged: proof::Judged::default(),
            retries: 0,
            since,
            checked: now,
        }));
    }

    /// The observer has looked, or has not: the gate is next, unless it is closed already.
    fn asked(&mut self, now: Instant) {
        if self.enforcement.as_ref().is_some_and(|enforcement| {
            enforcement.cancels > 0 || enforcement.trigger == Trigger::Shutdown
        }) {
            return self.next_step(now);
        }
        self.close_gate();
    }

    fn close_gate(&mut self) {
        self.set_step(Step::Gate);
        self.actions.push_back(Action::CloseGate);
    }

    /// Tells that no cancel connection of the client's is open, and none will be before [`Action::OpenGate`].
    pub fn handle_gate_closed(&mut self, now: Instant) {
        if self
            .enforcement
            .as_ref()
            .is_some_and(|enforcement| enforcement.step == Step::Gate)
        {
            self.act(now);
        } else if self.enforcement.is_none() {
            self.actions.push_back(Action::OpenGate);
        }
        self.insist(now);
    }

    /// When an enforcement that gets no answer goes on.
    pub(super) fn enforcement_due(&self) -> Option<Instant> {
        match self.enforcement_step()? {
            Step::Ask { until, .. }
            | Step::Prove { until, .. }
            | Step::Read { until }
            | Step::CopyFail { until } => Some(until),
            Step::Cancel(_) => self.cancel_due(),
            Step::Gate
            | Step::Fence
            | Step::Poison
            | Step::Synced(_)
            | Step::Abort(_)
            | Step::Release(..) => None,
        }
    }

    /// An enforcement has got no answer in time.
    pub(super) fn enforcement_late(&mut self, now: Instant) {
        if self.enforcement_due().is_none_or(|due| due > now) {
            return;
        }
        match self.enforcement_step() {
            Some(Step::Ask { .. }) => self.look_late(now),
            Some(Step::Prove { then, .. }) => self.claimed(then, Proof::Missing, now),
            Some(Step::Read { .. }) => self.read_enough(now),
            Some(Step::CopyFail { .. }) => self.cancel(now),
            Some(Step::Cancel(_)) => self.next_step(now),
            _ => {}
        }
    }

    /// Does the first thing: the incident tells of this moment, not of that in which the limit was reached.
    fn act(&mut self, now: Instant) {
        if let Some(enforcement) = &mut self.enforcement {
            let waited = now.saturating_duration_since(enforcement.acted);
            enforcement.incident.delay(waited);
            enforcement.acted = now;
        }
        self.cancels.gate_passed();
        self.next_step(now);
        self.step_ended(Some(Step::Gate), now);
    }

    /// The client spoke before anything was done: the rung that was taken may be due again.
    pub(super) fn abandon_enforcement(&mut self) {
        if self.enforcement_step().is_some_and(Step::is_preliminary) {
            self.postpone();
            self.actions.push_back(Action::OpenGate);
        }
    }

    /// Nothing is done now, and the rung that was taken may be due again.
    fn postpone(&mut self) {
        let Some(Enforcement { mut incident, .. }) =
            self.enforcement.take().map(|enforcement| *enforcement)
        else {
            return;
        };
        self.events.push_back(Event::Step("put off"));
        if let Some(kind) = incident.kind() {
            self.ladders.give_back(kind, incident.action);
        } else {
            // A command is carried out at once or not at all.
            incident.outcome = Outcome::Moot;
            self.emit_incident(incident);
        }
    }

    /// Whether bytes from the client have to wait for an enforcement.
    pub(super) fn enforcement_holds_client(&self) -> bool {
        self.enforcement.as_ref().is_some_and(|enforcement| {
            let acts =
                !enforcement.step.is_preliminary() && !matches!(enforcement.step, Step::Ask { .. });
            acts || enforcement.cancels > 0 || enforcement.trigger == Trigger::Shutdown
        })
    }

    /// Looks at a frame from the server while an enforcement is under way.
    pub(super) fn enforcement_received(
        &mut self,
        step: Step,
        frame: Frame<'_>,
        now: Instant,
    ) -> Verdict {
        if BackendTag::from(frame.tag) == BackendTag::ErrorResponse
            && ErrorFields::read(frame.body).is_fatal()
        {
            self.finish(Outcome::ServerClosed);
            return self.pass_server(frame, now);
        }
        let verdict = self.answer_of(step, frame, now);
        self.step_ended(Some(step), now);
        verdict
    }

    fn answer_of(&mut self, step: Step, frame: Frame<'_>, now: Instant) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        match step {
            _ if !step.is_ours() => self.client_request_ends(frame, now),
            _ if tag == BackendTag::NoticeResponse && is_about_ours(step, frame) => Verdict::Drop,
            _ if tag.is_asynchronous() => self.pass_server(frame, now),
            Step::Poison => self.poison_answered(tag),
            Step::Synced(awaited) => self.sync_answered(awaited, frame, now),
            Step::Fence => self.fence_answered(frame, now),
            Step::Abort(replies) => self.abort_answered(replies, frame, now),
            Step::Release(purpose, exchange) => self.release_answered(purpose, exchange, frame),
            Step::Ask { .. }
            | Step::Prove { .. }
            | Step::Gate
            | Step::Read { .. }
            | Step::CopyFail { .. }
            | Step::Cancel(_) => Verdict::Pass,
        }
    }

    /// The step that an enforcement is at.
    pub(super) fn enforcement_step(&self) -> Option<Step> {
        self.enforcement
            .as_ref()
            .map(|enforcement| enforcement.step)
    }

    /// Whether the transaction that is to be ended has ended.
    fn is_over(&self) -> bool {
        let transaction = &self.state.transaction;
        let another = |enforcement: &Enforcement| enforcement.transaction != transaction.number;
        let nothing_open =
            self.state.pending.is_empty() && !transaction.open && transaction.enforced.is_none();
        nothing_open || self.enforcement.as_deref().is_some_and(another)
    }

    /// The `terminate` that its ladders have for a session whose transaction is being ended otherwise.
    fn terminate_rung(&self) -> Option<Rung> {
        let enforcement = self.enforcement.as_ref()?;
        let incident = &enforcement.incident;
        if incident.action == policy::Action::Terminate {
            return None;
        }
        // A client whose transaction is begun again has spoken.
        let stuck = incident.outcome != Outcome::Released;
        let since = enforcement
            .acted
            .checked_sub(diagnostics::stuck_for(incident));
        match incident.kind() {
            Some(kind) => self.last_rung(kind, since.filter(|_| stuck)),
            None => self.last_rung(StuckKind::Age, None),
        }
    }

    /// Asks what stands in the way, and does it.
    fn next_step(&mut self, now: Instant) {
        let Some(enforcement) = &self.enforcement else {
            return;
        };
        match self.next(enforcement, now) {
            Next::AskToRelease => self.ask(now),
            Next::Terminate => self.terminate(0),
            Next::EndSkipping => self.sync(),
            Next::Fence => self.fence(),
            Next::Finish => self.finish_over(),
            Next::FailCopy => self.copy_fail(now),
            Next::EndBatch => {
                if !self.state.pending.is_doubtful() {
                    self.batch_failed();
                }
                self.sync();
            }
            Next::Stop => self.stop(now),
            Next::Poison => self.poison(),
            Next::PutOff => {
                self.postpone();
                self.actions.push_back(Action::OpenGate);
            }
            Next::Abort => self.abort(abort::Replies::default()),
        }
    }

    fn set_step(&mut self, step: Step) {
        if let Some(enforcement) = &mut self.enforcement {
            if enforcement.step.name() != step.name() {
                self.events.push_back(Event::Step(step.name()));
            }
            enforcement.step = step;
        }
    }

    /// The server has confirmed with this ReadyForQuery that nothing of the transaction is left.
    fn confirmed(&mut self, status: TransactionStatus, now: Instant) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        self.released = None;
        enforcement.savepoints = std::mem::take(&mut self.state.transaction.savepoints);
        // A command is for the sake of others, as `blocking` is.
        let kind = enforcement.incident.kind().unwrap_or(StuckKind::Blocking);
        let unknown = self.state.transaction.doubtful || enforcement.hit == Some(Hit::Unknown);
        if let Some(finished) = self.state.enforced(kind, status, now) {
            self.record(*finished);
        }
        self.cancels.server_is_past();
        if self.state.status == TransactionStatus::Idle {
            self.transaction_ended();
        }
        self.finish(if unknown {
            Outcome::Unknown
        } else {
            Outcome::RolledBack
        });
    }

    /// The transaction is over without an end of ours.
    fn finish_over(&mut self) {
        let hit = self
            .enforcement
            .as_ref()
            .and_then(|enforcement| enforcement.hit);
        self.finish(hit.map_or(Outcome::Moot, Hit::outcome));
    }

    /// Reports how the enforcement came out, and lets the client speak again.
    fn finish(&mut self, outcome: Outcome) {
        let Some(mut enforcement) = self.enforcement.take() else {
            return;
        };
        self.actions.push_back(Action::OpenGate);
        let in_block = self.state.transaction.enforced.is_some();
        let answered = self
            .deferred_error
            .as_ref()
            .is_none_or(|deferred_error| !deferred_error.owes_answer());
        let unnotified =
            |hit: &Hit| hit.outcome() == outcome && (*hit != Hit::Next || enforcement.in_batch);
        let hit = [Hit::Meant, Hit::Unknown, Hit::Next]
            .into_iter()
            .find(unnotified);
        if let Some(hit) = hit
            && answered
            && (in_block || !enforcement.client_notified || enforcement.in_batch)
        {
            let diagnostic = hit::diagnostic_of(enforcement.trigger, &enforcement.incident, hit);
            let mut deferred_error = DeferredError::new(
                diagnostic,
                enforcement.client_notified,
                enforcement.in_batch,
            );
            deferred_error.set_savepoints(enforcement.savepoints);
            self.deferred_error = Some(Box::new(deferred_error));
        }
        let lives = self.state.status == TransactionStatus::InBlock;
        if outcome != Outcome::RolledBack && lives && answered {
            self.deferred_error = None;
        }
        if enforcement.trigger == Trigger::Incident {
            enforcement.incident.outcome = outcome;
            self.emit_incident(enforcement.incident);
        }
        // The ReadyForQuery that said that nothing is open may have come while this was under way.
        self.close_if_drained();
    }

    /// A reply that is neither expected nor a known race: nothing is certain any more, so the session ends.
    fn abort_on_unexpected_reply(&mut self, why: &str) {
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.incident.why = Some(why.into());
            let diagnostic = match enforcement.trigger {
                Trigger::Incident => diagnostics::doubt(&enforcement.incident, why),
                Trigger::Shutdown => diagnostics::shutdown(1),
            };
            let reason = enforcement.close_reason();
            self.fatal(&diagnostic, reason);
        }
        self.finish(Outcome::Unexpected);
    }
}

/// Why a session closes because of an incident.
fn close_reason(incident: &Incident) -> CloseReason {
    match incident.cause {
        Cause::Limit { .. } => CloseReason::Policy,
        Cause::Console { .. } => CloseReason::Console,
    }
}

/// Whether a notice is about a statement of ours: with `client_min_messages` at `log` or `debug1` and below the server
/// has something to say about each. A WARNING may be about the session, but for the one that an implicit transaction
/// block answers to our ROLLBACK.
fn is_about_ours(step: Step, frame: Frame<'_>) -> bool {
    let fields = ErrorFields::read(frame.body);
    let warns = fields.severity == b"WARNING";
    !warns || matches!(step, Step::Abort(_)) && fields.sqlstate == b"25P01"
}
