//! *Untold*: pgidle has ended the client's transaction, and the client does not know it yet.
//!
//! It is a state and not a moment: it ends when the client has been sent an ErrorResponse, or when the server has
//! answered a ROLLBACK that the client asked for. While it lasts one request at a time goes to the server, because the
//! answer to each decides what may happen to the next. The server itself is in a failed transaction and refuses
//! everything but the end of it; the one answer of its that would be a lie is the tag `ROLLBACK`, without an error, for
//! a COMMIT.

use std::time::Instant;

use super::{Discarding, Session, Verdict, pending::Owed, state::TransactionStatus};
use crate::{
    sql::Control,
    wire::{self, BackendTag, CommandTag, ErrorFields, Frame, FrontendTag, originate},
};

/// What the client still has to be told.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    report: originate::Report,
    /// The client is in the middle of a batch: the next message of it meets the error.
    in_batch: bool,
}

/// The errors that a failed transaction and its lost portals and unnamed statement earn: `in_failed_sql_transaction`,
/// `invalid_sql_statement_name`, `invalid_cursor_name`. They say less than ours.
const CAUSED: [&[u8]; 3] = [b"25P02", b"26000", b"34000"];

/// What a client's message that arrives while it is untold comes to.
enum Reaction {
    /// Goes to the server as it is.
    Forward,
    /// Goes to the server, which has to answer before the next one may go.
    ForwardAndFlush,
    /// Is answered with our error.
    Refuse,
    /// Has no effect and gets no answer.
    Ignore,
}

impl Telling {
    pub(super) fn new(report: originate::Report, in_batch: bool) -> Self {
        Self { report, in_batch }
    }
}

impl Session {
    /// Whether bytes from the client have to wait for an answer of the server.
    pub(super) fn telling_holds_client(&self) -> bool {
        self.telling.is_some() && !self.state.pending.is_empty()
    }

    /// Looks at a frame from a client that is untold.
    pub(super) fn untold_sent(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        match self.reaction(frame) {
            Reaction::Forward => self.pass_client(frame, now),
            Reaction::ForwardAndFlush => {
                originate::flush(&mut self.to_server);
                self.pass_client(frame, now)
            }
            Reaction::Refuse => self.refuse(frame, now),
            Reaction::Ignore => Verdict::Drop,
        }
    }

    /// Looks at a frame for a client that is untold.
    pub(super) fn untold_received(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let asked = self
            .state
            .pending
            .front()
            .map(|request| (request.owed, request.text.control));
        let mut verdict = self.pass_server(frame, now);
        let tag = BackendTag::from(frame.tag);
        let rolled_back = tag == BackendTag::CommandComplete
            && CommandTag::read(frame.body) == CommandTag::Rollback;
        if let (true, Some((owed, Control::Commit | Control::PrepareTransaction))) =
            (rolled_back, asked)
        {
            verdict = Verdict::Drop;
            self.tell();
            if owed == Owed::Execute {
                self.discarding = Discarding::Batch;
            }
        } else if tag == BackendTag::ErrorResponse
            && CAUSED.contains(&ErrorFields::read(frame.body).sqlstate)
        {
            verdict = Verdict::Drop;
            self.tell();
        } else if rolled_back || tag == BackendTag::ErrorResponse {
            self.telling = None;
        }
        verdict
    }

    fn reaction(&self, frame: Frame<'_>) -> Reaction {
        let tag = FrontendTag::from(frame.tag);
        if let FrontendTag::Terminate
        | FrontendTag::Flush
        | FrontendTag::Password
        | FrontendTag::Unknown(_) = tag
        {
            return Reaction::Forward;
        }
        if !frame.whole
            || self
                .telling
                .as_ref()
                .is_some_and(|telling| telling.in_batch)
        {
            return Reaction::Refuse;
        }
        match tag {
            FrontendTag::Sync => Reaction::Forward,
            FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail => {
                Reaction::Ignore
            }
            FrontendTag::Query => {
                let control = self.query_control(frame);
                if control == Control::RollbackThen || ends_transaction(control) {
                    Reaction::Forward
                } else {
                    Reaction::Refuse
                }
            }
            FrontendTag::Parse | FrontendTag::Close => Reaction::ForwardAndFlush,
            FrontendTag::Describe => match wire::describe_target(frame.body) {
                Some((b'P', portal)) if !ends_transaction(self.state.portal(portal).control) => {
                    Reaction::Refuse
                }
                _ => Reaction::ForwardAndFlush,
            },
            FrontendTag::Bind => match wire::Bind::read(frame.body) {
                Some(bind) if ends_transaction(self.state.statement(bind.statement).control) => {
                    Reaction::ForwardAndFlush
                }
                _ => Reaction::Refuse,
            },
            FrontendTag::Execute => {
                let portal = wire::execute_portal(frame.body).unwrap_or_default();
                if ends_transaction(self.state.portal(portal).control) {
                    Reaction::ForwardAndFlush
                } else {
                    Reaction::Refuse
                }
            }
            FrontendTag::FunctionCall
            | FrontendTag::Terminate
            | FrontendTag::Flush
            | FrontendTag::Password
            | FrontendTag::Unknown(_) => Reaction::Refuse,
        }
    }

    fn query_control(&self, frame: Frame<'_>) -> Control {
        let sql = wire::cstr(frame.body).map_or(frame.body, |(sql, _)| sql);
        self.state.classify(frame, sql)
    }

    /// Answers a request with our error; a batch has failed with it and is discarded up to its Sync.
    fn refuse(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.tell();
        let tag = FrontendTag::from(frame.tag);
        if tag == FrontendTag::Sync {
            return self.pass_client(frame, now);
        }
        if matches!(tag, FrontendTag::Query | FrontendTag::FunctionCall) {
            // It ends the batch that it may be in: the error is its own.
            let in_block = self.state.status != TransactionStatus::Idle;
            originate::ready_after_error(in_block, &mut self.to_client);
        } else {
            self.discarding = Discarding::Batch;
        }
        Verdict::Drop
    }

    fn tell(&mut self) {
        if let Some(telling) = self.telling.take() {
            originate::error_response(&telling.report, &mut self.to_client);
        }
    }
}

/// The statements that a failed transaction lets through to their end (`IsTransactionExitStmt`).
fn ends_transaction(control: Control) -> bool {
    matches!(
        control,
        Control::Rollback | Control::Commit | Control::PrepareTransaction
    )
}
