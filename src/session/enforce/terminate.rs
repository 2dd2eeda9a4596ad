//! Ends the session: a FATAL error that the client can read, then both connections are closed.
//!
//! What runs is ended first, as everywhere (see [`super`]): a server whose client has gone would go on with it, and keep
//! its locks. There is one way for the limit of a rule, for a command from the console, and for the shutdown of pgidle.

use std::time::Duration;

use super::{
    Action, CloseReason, Hit, Instant, Outcome, Phase, Session, Step, Trigger, diagnostics,
    originate,
};
use crate::{
    policy::{self, StuckKind},
    session::{event, in_force::RuleIndex},
};

impl Session {
    /// Whether no complete request is left that the server could still carry out.
    pub(super) fn nothing_can_run(&self) -> bool {
        let unfinished = usize::from(self.client.missing() > 0);
        self.state.pending.len() <= unfinished
    }

    /// Ends the session, whatever is open in it.
    pub fn handle_shutdown(&mut self, now: Instant) {
        self.operator.insist();
        let step = self.enforcement_step();
        if step.is_some_and(|step| step.is_preliminary() || matches!(step, Step::Ask { .. })) {
            self.postpone();
            self.actions.push_back(Action::OpenGate);
        }
        self.insist(now);
    }

    /// Ends the session when pgidle ends; an enforcement that is under way comes first.
    pub(in crate::session) fn insist(&mut self, now: Instant) {
        if !self.operator.insists() || self.enforcement.is_some() || self.state.phase.is_closing() {
            return;
        }
        let quiet = self.nothing_can_run() && !self.state.pending.copy_in();
        if quiet || !self.state.phase.is_ready() || self.state.replication {
            return self.fatal(&diagnostics::shutdown(0), CloseReason::Drain);
        }
        // It is not reported.
        let cause = event::Cause::Limit {
            rule: self.limits.rule(RuleIndex::CURRENT),
            kind: StuckKind::Age,
            limit: Duration::ZERO,
        };
        let incident = self.incident_of(cause, policy::Action::Terminate, now);
        self.set_enforcement(incident, Trigger::Shutdown, now);
        self.next_step(now);
    }

    /// Closes both sides; `unknown` requests were forwarded and not answered.
    pub(super) fn terminate(&mut self, unknown: usize) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        let doubted = matches!(enforcement.hit, Some(Hit::Unknown | Hit::Wait));
        let unknown = unknown.max(usize::from(doubted));
        if unknown > 0 {
            enforcement.incident.why =
                Some(format!("the outcome of {unknown} request(s) is unknown").into());
        }
        let diagnostic = enforcement.fatal(unknown);
        let reason = enforcement.close_reason();
        self.close(diagnostic, unknown, reason);
        self.finish(Outcome::Terminated);
    }

    /// How many requests were forwarded whose outcome is unknown, now that the session has been ended.
    pub fn unknown_requests(&self) -> usize {
        match self.state.phase {
            Phase::Closing { unknown_requests } => unknown_requests,
            Phase::Authenticating(_) | Phase::Ready => 0,
        }
    }

    /// Sends a FATAL error where the client can read it, and asks for the end of the session.
    pub(in crate::session) fn fatal(
        &mut self,
        diagnostic: &originate::Diagnostic,
        reason: CloseReason,
    ) {
        self.close(diagnostic.clone(), 0, reason);
    }

    /// The same, where the outcome of so many requests is unknown, which the report says already.
    fn close(
        &mut self,
        mut diagnostic: originate::Diagnostic,
        mut unknown: usize,
        reason: CloseReason,
    ) {
        if self.state.phase.is_closing() {
            return;
        }
        let ready = self.state.phase.is_ready();
        if !ready || self.state.replication {
            // Nothing was cancelled: what was sent together with the startup packet may still run.
            let pending = &self.state.pending;
            let waiting = usize::from(!pending.is_empty());
            let sent = pending.ready_owed().max(waiting);
            diagnostics::add_unknown(&mut diagnostic, sent);
            unknown = unknown.max(sent);
        }
        self.state.phase = Phase::Closing {
            unknown_requests: unknown,
        };
        // In the middle of a message a FATAL would be read as a part of it.
        if self.server.missing() == 0 {
            originate::fatal_response(&diagnostic, self.client.output());
        }
        // A server that still waits for a password takes no Terminate.
        if ready && self.state.pending.is_empty() && self.client.missing() == 0 {
            originate::terminate(self.server.output());
        }
        self.actions.push_back(Action::Close(reason));
    }
}
