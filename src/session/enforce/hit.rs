//! What a cancel of ours has come to.
//!
//! It can come too late for what it was meant for. The server commits, and answers the command, before it looks for
//! cancels again where it logs the statement (`exec_simple_query`, `exec_execute_message` and `errfinish`); of what was
//! sent after that, any part may be hit; and where it meets a commit that waits for its standby, it ends the wait
//! (`SyncRepWaitForLSN` in `src/backend/replication/syncrep.c`). So each error of a cancel is [judged](Session::judge) by
//! what was answered before it. What shows when the enforcement is over already is reported once more.

use super::{
    BackendTag, DeferredError, ErrorFields, Frame, Hit, Incident, Instant, Session, Step, Trigger,
    Verdict, diagnostics, originate,
};
use crate::{
    session::{
        pending::{Request, RequestKind},
        state::{TransactionStatus, WorkCommitted},
    },
    sql::Commits,
    wire::originate::{Diagnostic, ReadyStatus},
};

/// A cancel of ours that was sent, as long as it may show.
#[derive(Clone, Debug)]
pub(in crate::session) struct Cancelled {
    trigger: Trigger,
    incident: Incident,
    /// The number of the transaction that is meant.
    transaction: u64,
    /// Whether its error was kept from the client because it was about nothing.
    spent: bool,
    /// Whether answers are kept from the client up to ReadyForQuery: it was told that their outcome is unknown.
    takes_back: bool,
}

impl Cancelled {
    /// One that is sent while an earlier one may still show: what that has begun with the answers goes on.
    pub(in crate::session) fn after(self, earlier: &Self) -> Self {
        Self {
            spent: earlier.spent,
            takes_back: earlier.takes_back,
            ..self
        }
    }

    pub(super) fn new(trigger: Trigger, incident: &Incident, transaction: u64) -> Self {
        Self {
            trigger,
            incident: incident.clone(),
            transaction,
            spent: false,
            takes_back: false,
        }
    }
}

/// What a client is told about something that was ended.
pub(super) fn diagnostic_of(trigger: Trigger, incident: &Incident, hit: Hit) -> Diagnostic {
    match trigger {
        Trigger::Incident => diagnostics::hit(incident, hit),
        Trigger::Shutdown => diagnostics::hit_by_shutdown(hit),
    }
}

impl Session {
    /// Looks at an answer to the client's own request, which CopyFail or a cancel is meant to end, or may end yet.
    pub(in crate::session) fn client_request_ends(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
    ) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        let verdict = if tag == BackendTag::ReadyForQuery {
            self.ready_of_request(frame, now)
        } else if tag == BackendTag::NoticeResponse && self.is_wait_that_ended(frame) {
            self.wait_ended();
            self.answer_received(frame, now)
        } else if self.takes_back() && !tag.is_asynchronous() {
            self.answer_received(frame, now);
            Verdict::Drop
        } else if tag == BackendTag::ErrorResponse {
            self.error_of_request(frame, now)
        } else {
            self.answer_received(frame, now)
        };
        if self.enforcement_holds_client() {
            self.request_ended(now);
        }
        verdict
    }

    /// An error of a CopyFail or cancel is told in our words; one of the request's own says more than those.
    fn error_of_request(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let canceled = ErrorFields::read(frame.body).sqlstate == CANCELED;
        let enforcement = self.enforcement.as_ref();
        let copy_failed = enforcement.is_some_and(|enforcement| enforcement.copy_failed);
        // What was filled up may draw an error of any kind.
        let padded = self.client.drops_rest() && copy_failed;
        let ours = padded || canceled && (self.cancels.sent().is_some() || copy_failed);
        let hit = if copy_failed {
            Some(Hit::Meant)
        } else {
            self.judge()
        };
        // The FATAL error that follows is the answer, when nothing else is asked.
        let closes = enforcement.is_some_and(|enforcement| enforcement.closes.is_some());
        let withheld = closes && self.state.pending.error_answers_all();
        let unasked = self.state.pending.is_empty();
        let verdict = self.answer_received(frame, now);
        if !ours {
            let held = unasked && self.enforcement_holds_client();
            if let Some(enforcement) = &mut self.enforcement {
                enforcement.client_notified |= !held;
                enforcement.in_batch |= held;
            }
            return if held { Verdict::Drop } else { verdict };
        }
        let Some(hit) = hit.or_else(|| self.cannot_be_dropped(unasked).then_some(Hit::Next)) else {
            if let Some(cancelled) = self.cancels.sent_mut() {
                cancelled.spent = true;
            }
            return Verdict::Drop;
        };
        let diagnostic = self.has_hit(hit);
        match &mut self.enforcement {
            Some(enforcement) if withheld => {
                enforcement.withheld = true;
                // A cancel of an earlier enforcement has hit what this one means: the FATAL error has to come all the same.
                enforcement.hit.get_or_insert(hit);
            }
            // It waits for the client's next message.
            Some(enforcement) if unasked => enforcement.in_batch = true,
            enforcement => {
                if let Some(enforcement) = enforcement {
                    enforcement.client_notified = true;
                }
                if let Some(diagnostic) = diagnostic {
                    // A COMMIT may be under way already, sent before the client could know.
                    let mut deferred_error = DeferredError::new(diagnostic, true, false);
                    deferred_error.send(self.client.output());
                    self.deferred_error = Some(Box::new(deferred_error));
                }
            }
        }
        Verdict::Drop
    }

    /// Whether the server skips to a Sync because of the error, and no enforcement goes on that would send one.
    fn cannot_be_dropped(&self, unasked: bool) -> bool {
        unasked && self.enforcement.is_none()
    }

    /// Notes what a cancel has come to, also when the enforcement is over by now. Returns what the client is told.
    fn has_hit(&mut self, hit: Hit) -> Option<Diagnostic> {
        let number = self.cancels.sent().map(|cancelled| cancelled.transaction);
        if let Some(enforcement) = &mut self.enforcement
            && (enforcement.copy_failed
                || number.is_none_or(|number| number == enforcement.transaction))
        {
            enforcement.hit = Some(hit);
            return Some(diagnostic_of(
                enforcement.trigger,
                &enforcement.incident,
                hit,
            ));
        }
        let cancelled = self.cancels.sent()?;
        let diagnostic = diagnostic_of(cancelled.trigger, &cancelled.incident, hit);
        if cancelled.trigger == Trigger::Incident {
            let why = "the cancel request showed late".into();
            self.emit_incident(Incident {
                outcome: hit.outcome(),
                why: Some(why),
                ..cancelled.incident.clone()
            });
        }
        Some(diagnostic)
    }

    /// What an error of a cancel of ours is about that comes now; `None` when there was nothing left that it could end.
    fn judge(&self) -> Option<Hit> {
        let transaction = &self.state.transaction;
        let cancelled = self.cancels.sent();
        let meant = cancelled.is_some_and(|cancelled| cancelled.transaction == transaction.number);
        let open = if meant { Hit::Meant } else { Hit::Next };
        if transaction.explicit {
            return Some(open);
        }
        let front = self.state.pending.front();
        let work_committed = match front {
            Some(request) if request.kind == RequestKind::Query => self.query_committed(request),
            _ => self.state.work_committed,
        };
        let last = front
            .is_none_or(|request| matches!(request.kind, RequestKind::Query | RequestKind::Sync));
        match work_committed {
            WorkCommitted::No => Some(open),
            WorkCommitted::Perhaps => Some(Hit::Unknown),
            WorkCommitted::Yes if last => None,
            WorkCommitted::Yes => Some(Hit::Next),
        }
    }

    /// Whether all statements of the client's simple Query were carried out: it has committed then.
    fn query_committed(&self, query: &Request) -> WorkCommitted {
        let completed = self.state.completed;
        match query.statements {
            // An empty one that has not begun to answer has not committed the batch that it was sent into.
            Some(statements) if statements == completed && !query.in_batch => WorkCommitted::Yes,
            // A CALL commits as it goes.
            Some(1) if query.text.commits() == Commits::Perhaps => WorkCommitted::Perhaps,
            None if completed > 0 => WorkCommitted::Perhaps,
            Some(_) | None => WorkCommitted::No,
        }
    }

    pub(super) fn ready_of_request(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let spent = self.cancels.sent_mut().is_some_and(|cancelled| {
            cancelled.takes_back = false;
            std::mem::take(&mut cancelled.spent)
        });
        let failed = TransactionStatus::read(frame.body) == Some(TransactionStatus::Failed);
        // The commit was one AND CHAIN in a list: the cancel ended what that had begun.
        let chained = (spent && failed).then(|| self.has_hit(Hit::Next)).flatten();
        let verdict = self.answer_received(frame, now);
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.client_notified |= chained.is_some();
            if frame.body == b"T" {
                // A block that is open has recovered, by ROLLBACK TO.
                enforcement.client_notified = false;
                if enforcement.hit.take_if(|hit| *hit == Hit::Meant).is_some() {
                    let why = "its statement was cancelled, and it went on from a savepoint";
                    enforcement.incident.why = Some(why.into());
                }
            }
            if enforcement.withheld {
                return Verdict::Drop;
            }
        }
        match chained {
            Some(diagnostic) => {
                originate::error_response(&diagnostic, self.client.output());
                originate::ready_for_query(ReadyStatus::Error, self.client.output());
                Verdict::Drop
            }
            None => verdict,
        }
    }

    /// Whether a notice says that a cancel of ours has ended a commit's wait for its standby. The text is in the server's
    /// language; the name of the function is not.
    fn is_wait_that_ended(&self, frame: Frame<'_>) -> bool {
        self.cancels.sent().is_some()
            && ErrorFields::read(frame.body).routine == b"SyncRepWaitForLSN"
    }

    /// A commit returns before its standby has it. Its client is not told that it has committed, and not of what follows
    /// in the same Query or batch.
    fn wait_ended(&mut self) {
        let diagnostic = self.has_hit(Hit::Wait);
        let closes = self
            .enforcement
            .as_ref()
            .is_some_and(|enforcement| enforcement.closes.is_some());
        if closes {
            return self.terminate(self.state.pending.ready_owed().max(1));
        }
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.client_notified = true;
        }
        if let Some(cancelled) = self.cancels.sent_mut() {
            cancelled.takes_back = true;
        }
        if let Some(diagnostic) = diagnostic {
            originate::error_response(&diagnostic, self.client.output());
        }
        if self.state.pending.ready_owed() == 0 {
            self.discard.rest_of_batch();
        }
    }

    fn takes_back(&self) -> bool {
        let cancelled = self.cancels.sent();
        cancelled.is_some_and(|cancelled| cancelled.takes_back)
    }

    /// Whether an error of a cancel was kept from the client in a batch that has no Sync yet.
    pub(super) fn is_spent(&self) -> bool {
        let cancelled = self.cancels.sent();
        cancelled.is_some_and(|cancelled| cancelled.spent)
    }

    /// Whether a cancel of ours may still hit what the client runs next, in a batch whose end no ReadyForQuery tells.
    pub(super) fn may_be_hit(&self) -> bool {
        let pending = &self.state.pending;
        self.cancels.sent().is_some() && pending.unsynced() && !pending.skipping()
    }

    /// Asks the server for a sign that it is past everything that it was sent: a cancel that has not shown by then hits
    /// nothing any more. The server forgets cancels when it reads a message (`PostgresMain`), and Close touches neither
    /// the transaction nor, under a name of our own, the client's statements.
    pub(super) fn fence(&mut self) {
        originate::close_statement(&self.own_name(), self.server.output());
        originate::flush(self.server.output());
        self.set_step(Step::Fence);
    }

    /// Looks at what comes before the answer to the fence.
    pub(super) fn fence_answered(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        if tag == BackendTag::CloseComplete {
            self.cancels.server_is_past();
            if self.may_be_hit() {
                // One is on its way still: to ask again at once would be to ask without end.
                self.await_cancels(now);
            } else {
                self.next_step(now);
            }
            Verdict::Drop
        } else if tag == BackendTag::ErrorResponse {
            let verdict = self.error_of_request(frame, now);
            self.next_step(now);
            verdict
        } else {
            self.abort_on_unexpected_reply(
                "The server answered a Close with an unexpected message.",
            );
            Verdict::Drop
        }
    }
}

/// `query_canceled`
const CANCELED: &[u8] = b"57014";
