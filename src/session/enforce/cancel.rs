//! Ends a statement that runs: CancelRequest, while what it has already sent is read.
//!
//! Nothing of the client's is forwarded before the cancel connection is closed by the server and the outcome is known,
//! so that a late cancel never hits a later statement. What pgidle itself has to say waits for it too, but not for long:
//! an injection that is hit is sent again.

use std::time::Duration;

use super::{Action, Cancelled, Instant, Outcome, Session, Step, standby::UNOBSERVED};

/// How often a cancel is sent; a function can catch it.
const MAX_CANCELS: u32 = 10;

/// How often when pgidle itself is about to end.
const MAX_CANCELS_IN_HASTE: u32 = 4;

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
        let most = if self.operator.insists() {
            MAX_CANCELS_IN_HASTE
        } else {
            MAX_CANCELS
        };
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        if enforcement.cancels < most && self.who.server_pid.is_some() {
            enforcement.cancels += 1;
            enforcement.cleared = None;
            let cancelled = Cancelled::new(
                enforcement.trigger,
                &enforcement.incident,
                enforcement.transaction,
            );
            self.set_step(Step::Cancel(Cancel {
                in_flight: true,
                repeat_at: now + INTERVAL,
            }));
            self.cancels.aim(cancelled);
            self.send_cancel();
            // A server that waits ignores the cancel: it may have answers that were never asked for.
            self.flush_batch();
        } else if enforcement.closes.is_some() {
            // A COPY that was made to fail is carried out in no case.
            let unknown = if enforcement.copy_failed {
                0
            } else {
                self.state.pending.ready_owed().max(1)
            };
            self.terminate(unknown);
        } else {
            enforcement.incident.why = Some(match enforcement.cancels {
                0 => NO_KEY.into(),
                sent => format!("the statement did not end after {sent} cancel requests").into(),
            });
            self.finish(Outcome::NotPossible);
        }
    }

    /// Asks for a CancelRequest. As long as its connection is open it may hit whatever runs, so the client is held.
    pub(super) fn send_cancel(&mut self) {
        self.cancels.opened();
        self.actions.push_back(Action::Cancel);
    }

    /// Tells that the server has closed the connection of a CancelRequest, or that it has been waited for long enough.
    pub fn handle_cancel_closed(&mut self, now: Instant) {
        self.cancels.closed();
        let step = self.enforcement_step();
        if let Some(Step::Cancel(cancel)) = step {
            self.set_step(Step::Cancel(Cancel {
                in_flight: self.cancels.is_open(),
                ..cancel
            }));
            self.request_ended(now);
            self.step_ended(step, now);
        }
        if self.state.pending.is_empty() && !self.state.pending.unsynced() {
            self.cancels.server_is_past();
        }
        self.insist(now);
    }

    /// Waits until the server has closed the connections of the cancels, or the next one would be due.
    pub(super) fn await_cancels(&mut self, now: Instant) {
        self.set_step(Step::Cancel(Cancel {
            in_flight: self.cancels.is_open(),
            repeat_at: now + INTERVAL,
        }));
    }

    /// Goes on when the client's requests are answered and no cancel can hit anything any more.
    ///
    /// Where the transaction is over and more was sent after it, that is only known when the next cancel would be due.
    pub(super) fn request_ended(&mut self, now: Instant) {
        let in_flight = matches!(
            self.enforcement_step(),
            Some(Step::Cancel(Cancel {
                in_flight: true,
                ..
            }))
        );
        if self.enforcement.is_some() && !in_flight && self.state.pending.is_empty() {
            self.next_step(now);
        }
    }

    /// When the next cancel is due.
    pub(super) fn cancel_due(&self) -> Option<Instant> {
        match self.enforcement_step() {
            Some(Step::Cancel(Cancel {
                in_flight: false,
                repeat_at,
            })) => Some(repeat_at),
            _ => None,
        }
    }

    /// Tells that more of the server's answer has been read ahead of the client than memory is given for.
    pub(in crate::session) fn read_ahead_exceeded(&mut self, now: Instant) {
        let ends = self
            .enforcement
            .as_ref()
            .is_some_and(|enforcement| enforcement.closes.is_some());
        if let (Some(Step::Read { .. } | Step::Prove { .. }), false) =
            (self.enforcement_step(), ends)
        {
            self.skip_running_commit(UNOBSERVED);
        } else if self.enforcement.is_some() {
            self.terminate(self.state.pending.ready_owed().max(1));
        }
        self.insist(now);
    }
}
