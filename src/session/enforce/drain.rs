//! Ends a statement that runs: CancelRequest, while what it has already sent is read.
//!
//! Nothing of the client's is forwarded before the cancel connection is closed by the server and the outcome is known,
//! so that a late cancel never hits a later statement. What pgidle itself has to say waits for it too, but not for long:
//! an injection that is hit is sent again.

use std::time::Duration;

use super::{Action, ErrorFields, Frame, Instant, Outcome, Session, Step, policy};
use crate::{session::pending::Owed, sql};

/// How often a cancel is sent; a function can catch it.
const MAX_CANCELS: u32 = 10;

/// The time between two cancels.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long all of them take, when the server closes each at once.
pub(super) const SERIES: Duration = INTERVAL.saturating_mul(MAX_CANCELS);

/// Why a session cannot be cancelled whose server, or a pooler before it, sent no BackendKeyData.
const NO_KEY: &str = "the server gave no key to cancel with";

/// A CancelRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct Cancel {
    /// Whether its connection is still open.
    in_flight: bool,
    /// When the next one is due.
    repeat_at: Instant,
}

impl Session {
    /// Sends a CancelRequest, or gives up when many did not help.
    pub(super) fn cancel(&mut self, now: Instant) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        if ending.cancels < MAX_CANCELS && self.who.server_pid.is_some() {
            ending.cancels += 1;
            ending.step = Step::Cancel(Cancel {
                in_flight: true,
                repeat_at: now + INTERVAL,
            });
            self.cancelled = true;
            self.send_cancel();
            // A server that waits ignores the cancel: it may have answers that were never asked for.
            self.flush_batch();
        } else if ending.incident.action == policy::Action::Terminate {
            self.terminate(self.state.pending.ready_owed().max(1));
        } else {
            ending.incident.why = Some(match ending.cancels {
                0 => NO_KEY.into(),
                sent => format!("the statement did not end after {sent} cancel requests").into(),
            });
            self.finish(Outcome::NotPossible);
        }
    }

    /// Asks for a CancelRequest. As long as its connection is open it may hit whatever runs, so the client is held.
    pub(super) fn send_cancel(&mut self) {
        self.cancels_open += 1;
        self.actions.push_back(Action::Cancel);
    }

    /// Tells that the server has closed the connection of a CancelRequest, or that it has been waited for long enough.
    pub fn cancel_closed(&mut self, now: Instant) {
        self.cancels_open = self.cancels_open.saturating_sub(1);
        let step = self.ending_step();
        if let Some(Step::Cancel(cancel)) = step {
            self.set_step(Step::Cancel(Cancel {
                in_flight: self.cancels_open > 0,
                ..cancel
            }));
            self.request_ended(now);
            self.step_ended(step, now);
        }
    }

    /// Goes on when the client's request has ended and no cancel can hit anything any more.
    pub(super) fn request_ended(&mut self, now: Instant) {
        let Some(ending) = &self.ending else {
            return;
        };
        let in_flight = matches!(
            ending.step,
            Step::Cancel(Cancel {
                in_flight: true,
                ..
            })
        );
        let over = ending.transaction != self.state.transaction.number;
        if !in_flight && (over || self.state.pending.is_empty()) {
            self.next_step(now);
        }
    }

    /// Whether the command that was just completed leaves nothing that a cancel of ours could still end.
    ///
    /// `before` is the number of the transaction that was open in front of it.
    pub(in crate::session) fn outruns_cancel(&self, before: u64) -> bool {
        let transaction = &self.state.transaction;
        let ended = transaction.number != before;
        self.cancelled && (ended || !transaction.explicit && self.is_carried_out())
    }

    /// Whether this error is that of a cancel which came too late: the server commits, and answers the command, before
    /// it looks for cancels again (`exec_simple_query` and `errfinish`: where it logs the statement, it does look).
    ///
    /// The client would take a commit for refused. It gets the rest of its answer.
    pub(in crate::session) fn is_spent_cancel(&mut self, frame: Frame<'_>) -> bool {
        let settled = std::mem::take(&mut self.settled);
        let cancelled = ErrorFields::read(frame.body).sqlstate == b"57014";
        let front = self.state.pending.front();
        let in_batch = front.is_some_and(|request| request.owed == Owed::Sync);
        let nothing_open = !self.state.transaction.explicit;
        settled && cancelled && nothing_open && (in_batch || self.is_carried_out())
    }

    /// Whether the server has carried out all statements of the client's simple Query.
    fn is_carried_out(&self) -> bool {
        let front = self.state.pending.front();
        let query = front.filter(|request| request.owed == Owed::Query && request.text.certain);
        let text = query.and_then(|request| request.text.sql.as_deref());
        text.and_then(sql::statements) == Some(self.state.completed)
    }

    /// When the next cancel is due.
    pub(in crate::session) fn cancel_timeout(&self) -> Option<Instant> {
        match self.ending_step() {
            Some(Step::Cancel(Cancel {
                in_flight: false,
                repeat_at,
            })) => Some(repeat_at),
            _ => None,
        }
    }

    /// Sends the next cancel.
    pub(in crate::session) fn cancel_again(&mut self, now: Instant) {
        if self.cancel_timeout().is_some_and(|at| at <= now) {
            self.next_step(now);
        }
    }

    /// Tells that more of the server's answer has been read ahead of the client than memory is given for.
    pub fn drain_overflowed(&mut self) {
        if self.ending.is_some() {
            self.terminate(self.state.pending.ready_owed().max(1));
        }
    }
}
