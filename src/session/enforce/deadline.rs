//! The deadlines of an enforcement: each step may wait for so long, then something else may be done about it.
//!
//! A server that works is not at fault: a large rollback takes its time, and a late answer is not an unexpected one. So
//! a deadline by itself ends no session. What may be done past it depends on the step:
//!
//! | step | past its deadline |
//! |---|---|
//! | Gate | the enforcement goes on: a cancel of the client's that hits what is injected has it sent again |
//! | Prove | the enforcement goes on: what is not proven by then is not proven |
//! | Cancel, and the statement has ended | the enforcement goes on, with one more cancel at most; the client waits until none can hit anything more |
//! | Cancel, for `terminate` | both connections are closed |
//! | any, when pgidle ends | both connections are closed |
//! | any | `terminate` acts when it is due, and a client that has left takes its session with it |

use std::{mem::discriminant, sync::Arc, time::Duration};

use super::{
    Action, CloseReason, Incident, Instant, Outcome, Phase, Rung, Session, Step, cancel,
    diagnostics, next::Next, policy,
};
use crate::{
    session::{event::Cause, transaction::Refusal},
    sql::Proof,
};

/// How long a step may wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a statement is cancelled for the sake of `terminate`: as often as it may be, and one step's patience.
const CANCELLING: Duration = cancel::SERIES.saturating_add(PATIENCE);

impl Session {
    /// Notes that the enforcement has come from this step to another, if it has.
    pub(in crate::session) fn step_ended(&mut self, step: Option<Step>, now: Instant) {
        if let Some(enforcement) = &mut self.enforcement
            && step.as_ref().map(discriminant) != Some(discriminant(&enforcement.step))
        {
            enforcement.since = now;
            enforcement.checked = now;
        }
    }

    /// When the deadline of the step is, or when to look again at an enforcement that has passed it.
    pub(in crate::session) fn deadline(&self) -> Option<Instant> {
        let enforcement = self.enforcement.as_ref()?;
        if let Step::Prove { until, .. } = enforcement.step {
            // Nothing is done about it before, even where the client has left: this would be due again and again.
            return Some(until);
        }
        let deadline = enforcement.since + PATIENCE;
        let looked_at = enforcement.step != Step::Gate && enforcement.checked >= deadline;
        if self.client_left() || !looked_at {
            return Some(deadline);
        }
        let terminates = self.terminate_rung().map(|rung| rung.at);
        let due = terminates.filter(|&at| at > enforcement.checked);
        let again = enforcement.checked + PATIENCE;
        Some(due.map_or(again, |at| at.min(again)))
    }

    /// Does what may be done about an enforcement that has passed the deadline of its step.
    pub(in crate::session) fn overdue(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let terminates = self.terminate_rung().filter(|rung| rung.at <= now);
        let client_left = self.client_left();
        let next = self.enforcement.as_ref().map(|it| self.next(it, now));
        // Who has left waits for no answer to another cancel.
        let goes_on = (self.is_over() || self.state.pending.is_empty())
            && !(client_left && next == Some(Next::Stop));
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        enforcement.checked = now;
        let action = enforcement.incident.action;
        let step = enforcement.step;
        match step {
            Step::Gate if action == policy::Action::Release => {
                self.not_releasable(Refusal::for_now(
                    "a cancel request of the client's is on its way",
                ));
            }
            Step::Gate => self.act(now),
            Step::Prove { then, .. } => self.claimed(then, Proof::Missing, now),
            Step::Cancel(_) if goes_on => {
                enforcement.since = now;
                self.next_step(now);
            }
            _ if client_left => self.leave_with_client(),
            _ if self.operator.insists() => {
                enforcement.closes = Some(CloseReason::Drain);
                if step.is_ours() {
                    self.send_cancel();
                    self.terminate(0);
                } else {
                    self.terminate(self.state.pending.ready_owed().max(1));
                }
            }
            Step::Cancel(_) if enforcement.closes.is_some() => {
                if now >= enforcement.since + CANCELLING {
                    self.terminate(self.state.pending.ready_owed().max(1));
                }
            }
            Step::Ask { .. }
            | Step::Read { .. }
            | Step::CopyFail { .. }
            | Step::Fence
            | Step::Cancel(_)
            | Step::Poison
            | Step::Synced(_)
            | Step::Abort(_)
            | Step::Release(..) => {
                if let Some(rung) = terminates {
                    self.escalate(rung, now);
                }
            }
        }
        self.step_ended(Some(step), now);
    }

    /// Goes on to end the session: the enforcement that is stuck has come to nothing, and its incident says so.
    fn escalate(&mut self, rung: Rung, now: Instant) {
        let mut terminate = self.taken(rung, now);
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        let mut stuck = enforcement.incident.clone();
        if let Cause::Limit { rule, kind, .. } = &stuck.cause
            && rung.kind == *kind
        {
            // Where it was stuck, it is: what goes on now is pgidle's.
            let cause = Cause::Limit {
                rule: Arc::clone(rule),
                kind: *kind,
                limit: rung.limit,
            };
            terminate = Incident {
                cause,
                action: rung.action,
                ..stuck.clone()
            };
            terminate.delay(now.saturating_duration_since(enforcement.acted));
        }
        let waited = diagnostics::seconds(now.saturating_duration_since(enforcement.since));
        stuck.why = Some(format!("the server has not answered for {waited}").into());
        stuck.outcome = Outcome::NotPossible;
        enforcement.incident = terminate;
        enforcement.closes = Some(CloseReason::Policy);
        enforcement.acted = now;
        enforcement.since = now;
        enforcement.cancels = 0;
        let ours = enforcement.step.is_ours();
        self.emit_incident(stuck);
        if ours {
            self.send_cancel();
            self.terminate(0);
        } else {
            self.next_step(now);
        }
    }

    /// Ends the session of a client that has left while it was held; what runs is cancelled, so that the server sees
    /// the end of the connection.
    fn leave_with_client(&mut self) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        enforcement.incident.why = Some("the client left while the server did not answer".into());
        if enforcement.step.is_ours() || !self.may_be_commit() {
            self.send_cancel();
        }
        // Before the enforcement is over, which a drain may wait for: it has nothing to close then.
        self.state.phase = Phase::Closing {
            unknown_requests: 0,
        };
        self.finish(Outcome::NotPossible);
        self.actions
            .push_back(Action::Close(CloseReason::ClientLeft));
    }
}
