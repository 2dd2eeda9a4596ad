//! Full abort: one simple Query at a quiet point rolls everything back and leaves the session in a failed transaction.
//!
//! The server itself then keeps the "current transaction is aborted" state, and no lock, xid or snapshot is held.
//! READ COMMITTED keeps BEGIN from waiting (SERIALIZABLE READ ONLY DEFERRABLE would); the cast needs nothing that can be
//! dropped, and puts the reason into the server's log.

use super::{
    BackendTag, ErrorFields, Frame, Instant, Session, Step, TransactionStatus, Verdict, originate,
};
use crate::wire::CommandTag;

/// How often the Query is sent again before pgidle gives up.
const MAX_RETRIES: u32 = 50;

/// Which answers to the Query have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Replies {
    /// CommandComplete `ROLLBACK`.
    rolled_back: bool,
    /// CommandComplete `BEGIN`.
    begun: bool,
    /// The ErrorResponse.
    failed: bool,
}

impl Session {
    /// Sends the Query, or the part of it that has not been carried out.
    pub(super) fn abort(&mut self, done: Replies) {
        let Some(enforcement) = &self.enforcement else {
            return;
        };
        let reason = enforcement.reason();
        let rollback = if done.rolled_back { "" } else { "ROLLBACK; " };
        let sql = format!(
            "{rollback}BEGIN ISOLATION LEVEL READ COMMITTED; SELECT '{reason}'::pg_catalog.int4"
        );
        originate::query(&sql, self.server.output());
        self.set_step(Step::Abort(done));
    }

    /// Looks at an answer to the Query.
    pub(super) fn abort_answered(
        &mut self,
        replies: Replies,
        frame: Frame<'_>,
        now: Instant,
    ) -> Verdict {
        let tag = BackendTag::from(frame.tag);
        if tag == BackendTag::ReadyForQuery {
            self.abort_ready(replies, frame.body, now);
            return Verdict::Drop;
        }
        let next = if tag == BackendTag::CommandComplete {
            replies.completed(CommandTag::read(frame.body))
        } else if tag == BackendTag::ErrorResponse {
            replies.failed(ErrorFields::read(frame.body).sqlstate)
        } else {
            None
        };
        match next {
            Some(replies) => self.set_step(Step::Abort(replies)),
            None => self.abort_on_unexpected_reply(
                "The server answered a ROLLBACK with an unexpected message.",
            ),
        }
        Verdict::Drop
    }

    fn abort_ready(&mut self, replies: Replies, status: &[u8], now: Instant) {
        let failed_block = TransactionStatus::read(status) == Some(TransactionStatus::Failed);
        let Replies {
            rolled_back,
            begun,
            failed,
        } = replies;
        if begun && failed && failed_block {
            return self.confirmed(TransactionStatus::Failed, now);
        }
        let retries = self.enforcement.as_mut().map_or(0, |enforcement| {
            enforcement.retries += 1;
            enforcement.retries
        });
        // A cancel (or statement_timeout) of the client's hit the Query: in front of ROLLBACK the old transaction has
        // failed, after it there is none.
        let hit = failed && !begun && (!rolled_back || !failed_block);
        if hit && retries <= MAX_RETRIES {
            self.abort(Replies {
                rolled_back,
                ..Replies::default()
            });
        } else {
            self.abort_on_unexpected_reply(
                "The server answered a ROLLBACK with an unexpected transaction status.",
            );
        }
    }
}

impl Replies {
    fn completed(self, tag: CommandTag) -> Option<Self> {
        match (tag, self) {
            (
                CommandTag::Rollback,
                Self {
                    rolled_back: false,
                    failed: false,
                    ..
                },
            ) => Some(Self {
                rolled_back: true,
                ..self
            }),
            (
                CommandTag::Begin,
                Self {
                    rolled_back: true,
                    begun: false,
                    failed: false,
                },
            ) => Some(Self {
                begun: true,
                ..self
            }),
            _ => None,
        }
    }

    /// 22P02 is the cast's error; 57014 a cancel's, which may hit any of the three statements.
    fn failed(self, sqlstate: &[u8]) -> Option<Self> {
        let expected = self.begun && sqlstate == b"22P02" || sqlstate == b"57014";
        (expected && !self.failed).then_some(Self {
            failed: true,
            ..self
        })
    }
}
