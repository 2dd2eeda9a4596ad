//! What becomes of each frame, of either side: whether it goes on, and what it tells.

use std::{sync::Arc, time::Instant};

use super::{
    Action, CloseReason, Session, diagnostics,
    event::{Event, TransactionRecord},
    in_force::RuleIndex,
    state::{Finished, TransactionStatus},
    transfer::Verdict,
};
use crate::{
    policy::StuckKind,
    wire::{self, BackendTag, CancelKey, ErrorFields, Frame, FrontendTag},
};

impl Session {
    /// The clock of `stalled` begins anew, and so does its ladder.
    pub(super) fn restart_stalled(&mut self) {
        self.ladders.restart(StuckKind::Stalled);
    }

    pub(super) fn client_frame(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.abandon_enforcement();
        let leaves = FrontendTag::from(frame.tag) == FrontendTag::Terminate;
        let held = self.holds_client() || self.deferred_error_holds_message();
        if held || !leaves && self.begins_again(now) {
            return Verdict::Hold;
        }
        self.client_spoke(now);
        if self.discard.takes(FrontendTag::from(frame.tag)) {
            return Verdict::Drop;
        }
        if self.deferred_error.is_some() {
            return self.sent_after_end(frame, now);
        }
        if self.startup_fails(frame) {
            return Verdict::Drop;
        }
        self.pass_client(frame, now)
    }

    /// A client that was stuck is not any more, whatever becomes of what it said: our error may be all of the answer.
    fn client_spoke(&mut self, now: Instant) {
        if !self.state.pending.is_empty() {
            return;
        }
        for kind in [
            StuckKind::Idle,
            StuckKind::Failed,
            StuckKind::Stalled,
            StuckKind::Blocking,
        ] {
            self.ladders.restart(kind);
        }
        self.observed.forget();
        self.operator.spoke();
        self.state.client_spoke(now);
    }

    pub(super) fn server_frame(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        if let Some(step) = self.enforcement_step() {
            return self.enforcement_received(step, frame, now);
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
    pub(super) fn answer_received(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        if self.deferred_error.is_some() {
            return self.received_after_end(frame, now);
        }
        self.pass_server(frame, now)
    }

    pub(super) fn pass_client(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.state.sent(frame, now);
        Verdict::Pass
    }

    pub(super) fn pass_server(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        let second = tag == BackendTag::ErrorResponse && self.is_second_error(frame);
        if tag == BackendTag::ReadyForQuery && self.state.phase.is_startup() {
            self.actions.push_back(Action::Authenticated);
            self.operator.logged_in(now);
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
    pub(super) fn transaction_ended(&mut self) {
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
            self.actions.push_back(Action::MatchRules);
        }
    }

    fn set_cancel_key(&mut self, body: &[u8]) {
        if let Some(key) = CancelKey::read(body) {
            self.who.server_pid = Some(key.pid);
            self.actions.push_back(Action::SetCancelKey(key));
        }
    }

    pub(super) fn close_if_drained(&mut self) {
        let state = &self.state;
        let quiet = state.pending.is_empty()
            && state.status == TransactionStatus::Idle
            && !state.pending.unsynced();
        if self.operator.drains() && quiet && state.phase.is_ready() && self.enforcement.is_none() {
            self.fatal(&diagnostics::shutdown(0), CloseReason::Drain);
        }
    }

    pub(super) fn record(&mut self, finished: Finished) {
        let Finished {
            outcome,
            transaction,
        } = finished;
        self.events
            .push_back(Event::Transaction(Box::new(TransactionRecord {
                who: self.who.clone(),
                rule: self.limits.rule(RuleIndex::CURRENT),
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
