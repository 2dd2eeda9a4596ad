//! Ends a batch that has no Sync: a Sync of ours would commit a healthy implicit transaction, so it is made to fail first.
//!
//! The Parse has a name of its own, so that the client's unnamed statement stays, and a text that no grammar accepts.

use super::{BackendTag, Frame, Instant, Session, Step, TransactionStatus, Verdict, originate};

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

    /// Sends a Sync of our own. The server is skipping to it: nothing can be committed by it.
    pub(super) fn sync(&mut self) {
        originate::sync(self.server.output());
        self.set_step(Step::Synced);
    }

    /// Whether the transaction had ended by itself: the Sync ends the skipping that a cancel has brought too late.
    fn ended_by_itself(&self) -> bool {
        let enforcement = self.enforcement.as_ref();
        enforcement
            .is_some_and(|enforcement| enforcement.transaction != self.state.transaction.number)
    }

    /// Looks at the answer to our Sync.
    pub(super) fn sync_answered(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let status = TransactionStatus::read(frame.body);
        match (BackendTag::from(frame.tag), status) {
            (BackendTag::ReadyForQuery, Some(TransactionStatus::Idle))
                if !self.ended_by_itself() =>
            {
                self.confirmed(frame.body, now)
            }
            (BackendTag::ReadyForQuery, Some(_)) => {
                self.state.own_ready(frame.body);
                self.cancels.server_is_past();
                self.next_step(now);
            }
            _ => self.abort_on_unexpected_reply(
                "The server answered a Sync with an unexpected message.",
            ),
        }
        Verdict::Drop
    }
}
