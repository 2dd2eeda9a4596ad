//! Ends a batch that has no Sync: a Sync of ours would commit a healthy implicit transaction, so it is made to fail first.
//!
//! The Parse has a name of its own, so that the client's unnamed statement stays, and a text that no grammar accepts.

use super::{BackendTag, Frame, Instant, Session, Step, TransactionStatus, Verdict, originate};

/// What the answers to our Sync tell of a Query that the client sent into its batch without Sync.
///
/// An error that came for it alone may be the batch's, whose server skips the Query, or the Query's own, which earns a
/// ReadyForQuery. That may come late, so a Close after the Sync is asked for as well: of the two, the server answers only
/// one ReadyForQuery before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Awaited {
    /// There is no such Query.
    Ready,
    /// Nothing has come yet.
    Doubtful,
    /// One ReadyForQuery has come, with this status.
    OneReady(TransactionStatus),
    /// Two have come: the Query has failed, and was answered.
    Closed,
}

/// Name of the statement whose Parse fails.
const STATEMENT: &str = "pgidle_rollback";

impl Session {
    /// Makes the batch fail. Every message that was forwarded has been answered.
    pub(super) fn poison(&mut self) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        enforcement.in_batch = true;
        originate::parse(STATEMENT, &enforcement.reason(), self.server.output());
        originate::flush(self.server.output());
        self.set_step(Step::Poison);
    }

    /// Looks at the answer to the Parse.
    pub(super) fn poison_answered(&mut self, tag: BackendTag) -> Verdict {
        if tag == BackendTag::ErrorResponse {
            self.sync();
        } else {
            self.abort_on_unexpected_reply(
                "The server did not refuse a statement that cannot be parsed.",
            );
        }
        Verdict::Drop
    }

    /// Sends a Sync of our own. The server is skipping to it, or was cancelled in a Query after it: nothing can be committed
    /// by it.
    pub(super) fn sync(&mut self) {
        originate::sync(self.server.output());
        let awaited = if self.state.pending.is_doubtful() {
            originate::close_statement(&self.own_name(), self.server.output());
            originate::flush(self.server.output());
            Awaited::Doubtful
        } else {
            Awaited::Ready
        };
        self.set_step(Step::Synced(awaited));
    }

    /// The client's batch has failed: what it says up to its Sync is lost, with what the server was sent of it.
    pub(super) fn batch_failed(&mut self) {
        let enforcement = self.enforcement.as_ref();
        if enforcement.is_some_and(|enforcement| !enforcement.in_batch) {
            self.discard.rest_of_batch();
        }
        self.state.pending.skip();
    }

    /// Whether the transaction had ended by itself: the Sync ends the skipping that a cancel has brought too late.
    fn ended_by_itself(&self) -> bool {
        let enforcement = self.enforcement.as_ref();
        enforcement
            .is_some_and(|enforcement| enforcement.transaction != self.state.transaction.number)
    }

    /// Looks at the answers to our Sync.
    pub(super) fn sync_answered(
        &mut self,
        awaited: Awaited,
        frame: Frame<'_>,
        now: Instant,
    ) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        let status =
            TransactionStatus::read(frame.body).filter(|_| tag == BackendTag::ReadyForQuery);
        match (awaited, status) {
            (Awaited::Ready, Some(status)) => self.batch_ended(status, now),
            (Awaited::Doubtful, Some(status)) => {
                self.set_step(Step::Synced(Awaited::OneReady(status)));
            }
            (Awaited::OneReady(first), Some(second)) if first == second => {
                self.set_step(Step::Synced(Awaited::Closed));
                // They are alike: the Query is answered by either.
                return self.ready_of_request(frame, now);
            }
            (Awaited::OneReady(status), None) if tag == BackendTag::CloseComplete => {
                self.batch_failed();
                self.batch_ended(status, now);
            }
            (Awaited::Closed, None) if tag == BackendTag::CloseComplete => {
                self.cancels.server_is_past();
                self.next_step(now);
            }
            _ => self.abort_on_unexpected_reply(
                "The server answered a Sync with an unexpected message.",
            ),
        }
        Verdict::Drop
    }

    fn batch_ended(&mut self, status: TransactionStatus, now: Instant) {
        if status == TransactionStatus::Idle && !self.ended_by_itself() {
            return self.confirmed(status, now);
        }
        self.state.own_ready(status);
        self.cancels.server_is_past();
        self.next_step(now);
    }
}
