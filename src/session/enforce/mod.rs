//! Ending a transaction without ending its session, step by step, from whatever position it is stuck in.
//!
//! An ending asks one question again and again: *what stands in the way of a ReadyForQuery that says that nothing of
//! the transaction is left?* Each answer is a step with a file of its own, and each step ends with the question.
//!
//! ```text
//!            cancel connections closed
//!   Gate ─────────────────────────────▶ next step?
//!                                         │ the server takes COPY data ........ CopyFail   (copy_fail)
//!                                         │ the server works .................. Cancel     (drain)
//!                                         │ batch without Sync, all answered .. Poison     (poison) ─▶ Synced
//!                                         │ the server skips to Sync .......... Synced     (poison)
//!                                         │ status T or E ..................... Abort      (abort)
//!                                         │ status I, or E after Abort ........ done
//!                                         ▼
//! ```
//! Each step has a deadline, past which something else may be done ([`deadline`]).
//!
//! While a step runs nothing of the client's goes to the server. In Poison, Synced and Abort every reply is an answer to
//! us and is swallowed; in CopyFail and Cancel replies belong to the client's own request and pass.

mod abort;
mod copy_fail;
mod deadline;
mod drain;
mod exchange;
mod poison;
mod question;
mod release;
mod terminate;

use std::time::Instant;

use super::{
    Action, CloseReason, Discarding, Session, Verdict,
    event::{Incident, Outcome, Position},
    limits::Rung,
    report,
    savepoints::Savepoints,
    state::{Phase, TransactionStatus},
    telling::Telling,
};
use crate::{
    policy,
    wire::{BackendTag, ErrorFields, Frame, originate},
};

/// An ending under way.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// What will be reported about it.
    incident: Incident,
    /// The moment that the incident tells of: when the limit was reached, or when the gate was passed.
    acted: Instant,
    step: Step,
    /// The number of the transaction: a later one must not be hit.
    pub(super) transaction: u64,
    /// Whether the client has been sent an ErrorResponse for this transaction, and has not recovered from it.
    told: bool,
    /// Whether the client is in the middle of a batch that has to fail with our error.
    in_batch: bool,
    /// The savepoints that were open when the transaction was rolled back.
    savepoints: Savepoints,
    /// CancelRequests that were sent.
    cancels: u32,
    /// Injections that were sent again because a cancel or a statement timeout of the client's hit them.
    retries: u32,
    /// Since when it is at its step.
    since: Instant,
    /// When it was last looked at because its step has a deadline.
    checked: Instant,
}

/// What an ending waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The client's own cancel connections to be closed by the server.
    Gate,
    /// The answer to our CopyFail, which is the end of the client's request.
    CopyFail,
    /// The end of the statement that was cancelled.
    Cancel(drain::Cancel),
    /// The ErrorResponse to our Parse.
    Poison,
    /// The ReadyForQuery to our Sync.
    Synced,
    /// The answers to our Query.
    Abort(abort::Replies),
    /// The answers to a batch of ours.
    Release(release::Purpose, exchange::Exchange),
}

impl Step {
    /// Whether what the server has to answer is ours, and not the client's.
    fn is_ours(self) -> bool {
        match self {
            Self::Gate | Self::CopyFail | Self::Cancel(_) => false,
            Self::Poison | Self::Synced | Self::Abort(_) | Self::Release(..) => true,
        }
    }
}

pub(super) use release::Released;

impl Session {
    /// Begins to end the transaction: asks for the gate.
    pub(super) fn begin_ending(&mut self, incident: Incident, now: Instant) {
        let failed = self.state.status == TransactionStatus::Failed;
        let began = self.state.transaction.started;
        let since = self.gate_since.filter(|&since| Some(since) >= began);
        let since = since.unwrap_or(now);
        self.gate_since = Some(since);
        self.ending = Some(Box::new(Ending {
            incident,
            acted: now,
            step: Step::Gate,
            transaction: self.state.transaction.number,
            told: failed || self.state.pending.skipping(),
            in_batch: false,
            savepoints: Savepoints::default(),
            cancels: 0,
            retries: 0,
            since,
            checked: now,
        }));
        self.actions.push_back(Action::CloseGate);
    }

    /// Tells that no cancel connection of the client's is open, and none will be before [`Action::OpenGate`].
    pub fn gate_closed(&mut self, now: Instant) {
        if self
            .ending
            .as_ref()
            .is_some_and(|ending| ending.step == Step::Gate)
        {
            self.act(now);
        } else if self.ending.is_none() {
            self.actions.push_back(Action::OpenGate);
        }
    }

    /// Does the first thing: the incident tells of this moment, not of that in which the limit was reached.
    fn act(&mut self, now: Instant) {
        if let Some(ending) = &mut self.ending {
            let waited = now.saturating_duration_since(ending.acted);
            ending.incident.delay(waited);
            ending.acted = now;
        }
        self.gate_since = None;
        self.next_step(now);
        self.step_ended(Some(Step::Gate), now);
    }

    /// The client spoke before anything was done: the rung that was taken may be due again.
    pub(super) fn abandon_ending(&mut self) {
        if self.ending_step() == Some(Step::Gate) {
            self.put_off();
            self.actions.push_back(Action::OpenGate);
        }
    }

    /// Nothing is done now, and the rung that was taken may be due again.
    fn put_off(&mut self) {
        if let Some(Ending { incident, .. }) = self.ending.take().map(|ending| *ending) {
            self.ladders.give_back(incident.kind, incident.action);
        }
    }

    /// Whether bytes from the client have to wait for an ending.
    pub(super) fn ending_holds_client(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.step != Step::Gate)
    }

    /// Looks at a frame from the server while an ending is under way.
    pub(super) fn ending_received(
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
        let verdict = if self.is_unasked(step, frame) {
            self.hold_error(frame, now)
        } else {
            self.client_is_sent(step, frame);
            self.answer_of(step, frame, now)
        };
        self.step_ended(Some(step), now);
        verdict
    }

    fn answer_of(&mut self, step: Step, frame: Frame<'_>, now: Instant) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        match step {
            Step::Gate => self.answer_received(frame, now),
            Step::CopyFail | Step::Cancel(_) => self.client_request_ends(frame, now),
            _ if step.is_ours()
                && tag == BackendTag::NoticeResponse
                && is_about_ours(step, frame) =>
            {
                Verdict::Drop
            }
            _ if step.is_ours() && tag.is_asynchronous() => self.pass_server(frame, now),
            Step::Poison => self.poison_answered(tag),
            Step::Synced => self.sync_answered(frame, now),
            Step::Abort(replies) => self.abort_answered(replies, frame, now),
            Step::Release(purpose, exchange) => self.release_answered(purpose, exchange, frame),
        }
    }

    /// Whether an error, of our cancel most likely, came after everything that the client has asked was answered.
    fn is_unasked(&self, step: Step, frame: Frame<'_>) -> bool {
        let failed = BackendTag::from(frame.tag) == BackendTag::ErrorResponse;
        let answered = self.state.pending.is_empty() && !self.is_over();
        failed && answered && matches!(step, Step::CopyFail | Step::Cancel(_))
    }

    /// Keeps such an error from the client, who waits for nothing, and hears of it in the answer to its next message.
    fn hold_error(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.pass_server(frame, now);
        if let Some(ending) = &mut self.ending {
            ending.in_batch = true;
        }
        self.request_ended(now);
        Verdict::Drop
    }

    /// An ErrorResponse tells the client, until a ReadyForQuery says that it has recovered (ROLLBACK TO).
    fn client_is_sent(&mut self, step: Step, frame: Frame<'_>) {
        let Some(ending) = self.ending.as_mut().filter(|_| !step.is_ours()) else {
            return;
        };
        let tag = BackendTag::from(frame.tag);
        if tag == BackendTag::ErrorResponse {
            ending.told = true;
        } else if tag == BackendTag::ReadyForQuery && frame.body == b"T" {
            ending.told = false;
        }
    }

    /// The step that an ending is at.
    pub(super) fn ending_step(&self) -> Option<Step> {
        self.ending.as_ref().map(|ending| ending.step)
    }

    /// Whether the transaction that is to be ended has ended.
    fn is_over(&self) -> bool {
        let transaction = &self.state.transaction;
        let another = |ending: &Ending| ending.transaction != transaction.number;
        let nothing_open = self.state.pending.is_empty() && !transaction.open;
        nothing_open || self.ending.as_deref().is_some_and(another)
    }

    /// The `terminate` that its ladders have for a session whose transaction is being ended otherwise.
    fn terminate_rung(&self) -> Option<Rung> {
        let ending = self.ending.as_ref()?;
        let incident = &ending.incident;
        if incident.action == policy::Action::Terminate {
            return None;
        }
        // A client whose transaction is begun again has spoken.
        let stuck = incident.outcome != Outcome::Released;
        let since = ending.acted.checked_sub(report::stuck_for(incident));
        self.last_rung(incident.kind, since.filter(|_| stuck))
    }

    /// Asks what stands in the way, and does it.
    fn next_step(&mut self, now: Instant) {
        let Some(ending) = &self.ending else {
            return;
        };
        let pending = &self.state.pending;
        let (quiet, over) = (pending.is_empty(), self.is_over());
        let terminate = ending.incident.action == policy::Action::Terminate;
        if ending.incident.action == policy::Action::Release && !over {
            self.ask();
        } else if over && !ending.told {
            self.finish(Outcome::Moot);
        } else if terminate && (pending.copy_in() || self.nothing_can_run()) {
            self.terminate(0);
        } else if terminate && over {
            self.terminate(pending.ready_owed().max(1));
        } else if over {
            self.finish(Outcome::RolledBack);
        } else if pending.copy_in() {
            self.copy_fail();
        } else if pending.ends_block() && self.position() == Position::Running {
            self.leave_commit();
        } else if pending.skipping() {
            if !ending.in_batch {
                self.discarding = Discarding::Batch;
            }
            self.state.pending.skip();
            self.sync();
        } else if !quiet {
            self.cancel(now);
        } else if pending.unsynced() {
            self.poison();
        } else if self.state.status == TransactionStatus::InBlock
            && self
                .between_batches_until()
                .is_some_and(|until| now < until)
        {
            // The cancel came to nothing, and the client is about to run what it has parsed.
            self.put_off();
            self.actions.push_back(Action::OpenGate);
        } else {
            self.abort(abort::Replies::default());
        }
    }

    /// The client is ending its transaction: a cancel could make a commit that has happened look refused, or keep it from
    /// being replicated (`SyncRepWaitForLSN` in `src/backend/replication/syncrep.c`).
    fn leave_commit(&mut self) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        if ending.incident.action == policy::Action::Terminate {
            self.terminate(self.state.pending.ready_owed().max(1));
        } else {
            ending.incident.why =
                Some("the client is ending it: its COMMIT or ROLLBACK runs".into());
            self.finish(Outcome::NotPossible);
        }
    }

    fn set_step(&mut self, step: Step) {
        if let Some(ending) = &mut self.ending {
            ending.step = step;
        }
    }

    /// The server has confirmed with this ReadyForQuery that nothing of the transaction is left.
    fn confirmed(&mut self, status: &[u8], now: Instant) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        self.released = None;
        ending.savepoints = std::mem::take(&mut self.state.transaction.savepoints);
        let kind = ending.incident.kind;
        if let Some(finished) = self.state.enforced(kind, status, now) {
            self.record(*finished);
        }
        if self.state.status == TransactionStatus::Idle {
            self.ladders.reset();
        }
        self.finish(Outcome::RolledBack);
    }

    /// Reports how the ending came out, and lets the client speak again.
    fn finish(&mut self, outcome: Outcome) {
        let Some(mut ending) = self.ending.take() else {
            return;
        };
        self.actions.push_back(Action::OpenGate);
        let in_block = self.state.transaction.enforced.is_some();
        let answered = self
            .telling
            .as_ref()
            .is_none_or(|telling| !telling.owes_answer());
        if outcome == Outcome::RolledBack
            && answered
            && (in_block || !ending.told || ending.in_batch)
        {
            let report = report::ended(&ending.incident);
            let mut telling = Telling::new(report, ending.told, ending.in_batch);
            telling.set_savepoints(ending.savepoints);
            self.telling = Some(Box::new(telling));
        }
        let lives = self.state.status == TransactionStatus::InBlock;
        if outcome != Outcome::RolledBack && lives && answered {
            self.telling = None;
        }
        ending.incident.outcome = outcome;
        self.report(ending.incident);
    }

    /// A reply that is neither expected nor a known race: nothing is certain any more, so the session ends.
    fn doubt(&mut self, why: &str) {
        if let Some(ending) = &mut self.ending {
            ending.incident.why = Some(why.into());
            let report = report::doubt(&ending.incident, why);
            self.fatal(&report, CloseReason::Policy);
        }
        self.finish(Outcome::Unexpected);
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
