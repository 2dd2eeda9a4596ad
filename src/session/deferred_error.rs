//! What a client meets whose transaction pgidle has ended, until it has left the transaction block.
//!
//! Two facts count. The client is *told* when it has been sent an ErrorResponse; libraries send requests of their own and
//! throw the answer away, so that being told is not the end of it. The block is *over* when the server has answered a
//! ROLLBACK that the client asked for, or when COMMIT has drawn our error. Until then one request at a time goes to the
//! server, because the answer to each decides what may happen to the next. The server itself is in a failed transaction
//! and refuses everything but the end of it; the one answer of its that would be a lie is the tag `ROLLBACK`, without an
//! error, for a COMMIT.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Session, Verdict, pending::RequestKind, savepoints::Savepoints, state::TransactionStatus,
};
use crate::{
    sql::Control,
    wire::{
        self, BackendTag, CommandTag, ErrorFields, Frame, FrontendTag,
        originate::{self, ReadyStatus},
    },
};

/// What the client still has to be told.
#[derive(Clone, Debug)]
pub(super) struct DeferredError {
    diagnostic: originate::Diagnostic,
    /// Whether the client has been sent an error, after which it has not gone back to a savepoint.
    client_notified: bool,
    due: Due,
    /// The savepoints that the client believes to be open.
    savepoints: Savepoints,
    /// Answers to messages of our own that are still to come.
    own_answers: usize,
}

/// What the error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The first request that cannot be carried out, and every COMMIT.
    Request,
    /// The next message of the batch that the client is in the middle of.
    Batch,
    /// An Execute of COMMIT, which has ended the block. A server would send the error at once; it waits here for the next
    /// message, since a proxy in front of us may take an error before its Sync for the end of the connection.
    Commit,
}

/// The errors that a failed transaction and its lost portals and unnamed statement earn: `in_failed_sql_transaction`,
/// `invalid_sql_statement_name`, `invalid_cursor_name`. They say less than ours.
const CAUSED: [&[u8]; 3] = [b"25P02", b"26000", b"34000"];

/// `S_E_INVALID_SPECIFICATION`: a savepoint was lost with the transaction. Said to a client that was told already, it
/// would hide what happened: libraries answer our error by ROLLBACK TO, and show the error of that.
const LOST_SAVEPOINT: &[u8] = b"3B001";

/// What a client's message that arrives before the block is over comes to.
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

impl DeferredError {
    /// `told`: whether the client has been sent an error about the transaction. `in_batch`: whether it is in the middle of
    /// a batch that has to fail.
    pub(super) fn new(
        diagnostic: originate::Diagnostic,
        client_notified: bool,
        in_batch: bool,
    ) -> Self {
        let due = if in_batch { Due::Batch } else { Due::Request };
        Self {
            diagnostic,
            client_notified,
            due,
            savepoints: Savepoints::default(),
            own_answers: 0,
        }
    }

    /// Whether the next request that cannot be carried out draws the error.
    pub(super) fn waits_for_request(&self) -> bool {
        self.due == Due::Request
    }

    /// Whether the client has been sent an error, after which it has not gone back to a savepoint.
    pub(super) fn client_notified(&self) -> bool {
        self.client_notified
    }

    /// The savepoints that the client believes to be open.
    pub(super) fn savepoints(&self) -> &Savepoints {
        &self.savepoints
    }

    /// Notes the savepoints that the client believes to be open.
    pub(super) fn set_savepoints(&mut self, savepoints: Savepoints) {
        self.savepoints = savepoints;
    }

    /// Notes that the client believes its block to be whole, with these savepoints open.
    pub(super) fn carried_out(&mut self, savepoints: Savepoints) {
        self.savepoints = savepoints;
        self.client_notified = false;
    }

    /// Notes that so many answers of the server will be for us.
    pub(super) fn await_own(&mut self, answers: usize) {
        self.own_answers += answers;
    }

    /// Whether the client has a request outstanding that nothing but our error answers.
    pub(super) fn owes_answer(&self) -> bool {
        self.due == Due::Commit
    }

    /// Sends the error.
    pub(super) fn send(&mut self, to_client: &mut BytesMut) {
        originate::error_response(&self.diagnostic, to_client);
        self.client_notified = true;
        self.due = Due::Request;
    }
}

impl Session {
    /// Whether bytes from the client have to wait for an answer of the server. The rest of a message does not: the server
    /// waits for it.
    pub(super) fn deferred_error_holds_client(&self) -> bool {
        self.deferred_error_holds_message() && self.client.missing() == 0
    }

    /// Whether a message that the client begins, be it a large one, has to wait for an answer of the server.
    pub(super) fn deferred_error_holds_message(&self) -> bool {
        self.deferred_error.is_some() && !self.state.pending.is_empty()
    }

    /// Looks at a frame from a client whose transaction was ended.
    pub(super) fn sent_after_end(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let due = self
            .deferred_error
            .as_ref()
            .map(|deferred_error| deferred_error.due);
        let tag = FrontendTag::from(frame.tag);
        if due == Some(Due::Commit) && tag != FrontendTag::Terminate {
            self.notify_client();
            self.discard.rest_of_batch();
            return if self.discard.takes(tag) {
                Verdict::Drop
            } else {
                self.pass_client(frame, now)
            };
        }
        if due == Some(Due::Batch)
            && tag == FrontendTag::Close
            && self.state.status == TransactionStatus::Failed
            && let Some(deferred_error) = &mut self.deferred_error
        {
            // The batch would have gone on; libraries close a cursor so and read no answer.
            deferred_error.due = Due::Request;
        }
        if let Some(verdict) = self.imitate(frame, now) {
            return verdict;
        }
        match self.reaction(frame) {
            Reaction::Forward => self.pass_client(frame, now),
            Reaction::ForwardAndFlush => {
                originate::flush(self.server.output());
                self.silence.flush();
                self.pass_client(frame, now)
            }
            Reaction::Refuse => self.refuse(frame, now),
            Reaction::Ignore => Verdict::Drop,
        }
    }

    /// Looks at a frame for a client whose transaction was ended.
    pub(super) fn received_after_end(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let asked = self
            .state
            .pending
            .front()
            .map(|request| (request.kind, request.text.control()));
        let verdict = self.pass_server(frame, now);
        let tag = BackendTag::from(frame.tag);
        if self.is_own_answer(tag) {
            return Verdict::Drop;
        }
        if tag == BackendTag::CommandComplete
            && CommandTag::read(frame.body) == CommandTag::Rollback
        {
            return match asked {
                Some((kind, control)) if self.rolled_back(kind, control) => Verdict::Drop,
                Some(_) | None => verdict,
            };
        }
        let Some(deferred_error) = &mut self.deferred_error else {
            return verdict;
        };
        if tag == BackendTag::ErrorResponse {
            let sqlstate = ErrorFields::read(frame.body).sqlstate;
            let caused = if deferred_error.client_notified {
                sqlstate == LOST_SAVEPOINT
            } else {
                CAUSED.contains(&sqlstate) || sqlstate == LOST_SAVEPOINT
            };
            deferred_error.client_notified = true;
            if self.state.pending.skipping() {
                // One request at a time goes to the server: what it would ignore does not.
                self.discard.rest_of_batch();
            }
            if caused {
                self.notify_client();
                return Verdict::Drop;
            }
        } else if tag == BackendTag::ReadyForQuery {
            // In a block that is not failed, the client has gone back to a savepoint before anything was ended.
            let lives =
                self.state.status == TransactionStatus::InBlock && self.enforcement.is_none();
            let over = lives || self.state.status == TransactionStatus::Idle;
            if over && deferred_error.client_notified && !deferred_error.owes_answer() {
                self.deferred_error = None;
            } else if self.state.status == TransactionStatus::Failed
                && !deferred_error.client_notified
            {
                // Drivers look at the byte: some answer a failed one by ROLLBACK, and never show why.
                originate::ready_for_query(ReadyStatus::Transaction, self.client.output());
                return Verdict::Drop;
            }
        }
        verdict
    }

    /// Whether this answers a Close and Sync of ours; nothing else is asked meanwhile.
    fn is_own_answer(&mut self, tag: BackendTag) -> bool {
        let answers = self
            .deferred_error
            .as_mut()
            .map(|deferred_error| &mut deferred_error.own_answers);
        let Some(answers) = answers.filter(|answers| **answers > 0) else {
            return false;
        };
        if tag == BackendTag::CloseComplete {
            *answers -= 1;
        } else if tag == BackendTag::ReadyForQuery {
            *answers = 0;
        } else {
            return tag == BackendTag::ErrorResponse;
        }
        true
    }

    /// The server has answered this with the tag `ROLLBACK`; true when the client gets our error in its place.
    fn rolled_back(&mut self, kind: RequestKind, control: Control) -> bool {
        match control {
            Control::Rollback | Control::RollbackThen | Control::RollbackAndChain => {
                self.deferred_error = None;
                return false;
            }
            Control::Commit | Control::PrepareTransaction | Control::CommitAndChain => {}
            // A list that was under way when its transaction was cancelled: what it goes on to do cannot be refused.
            Control::Begin
            | Control::BeginThen
            | Control::RollbackTo
            | Control::Savepoint
            | Control::Release
            | Control::Doubtful
            | Control::Other => return false,
        }
        let next = self.state.pending.front().map(|request| request.kind);
        match (kind, next) {
            (RequestKind::Execute, None) => {
                if let Some(deferred_error) = &mut self.deferred_error {
                    deferred_error.due = Due::Commit;
                }
                return true;
            }
            // The rest of the batch is under way, and is carried out: an error would say that it is not.
            (RequestKind::Execute, Some(next)) if next != RequestKind::Sync => return false,
            (_, _) => self.notify_client(),
        }
        match &mut self.enforcement {
            // What AND CHAIN has begun is no transaction that the client knows of.
            Some(enforcement) if control == Control::CommitAndChain => {
                enforcement.transaction = self.state.transaction.number;
            }
            Some(_) | None => self.deferred_error = None,
        }
        true
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one decision for each message, which must be read together"
    )]
    fn reaction(&self, frame: Frame<'_>) -> Reaction {
        let tag = FrontendTag::from(frame.tag);
        let Some(deferred_error) = &self.deferred_error else {
            return Reaction::Forward;
        };
        if let FrontendTag::Terminate
        | FrontendTag::Flush
        | FrontendTag::Password
        | FrontendTag::Unknown(_) = tag
        {
            return Reaction::Forward;
        }
        if deferred_error.due == Due::Batch {
            return Reaction::Refuse;
        }
        let client_notified = deferred_error.client_notified;
        match tag {
            FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail => {
                Reaction::Ignore
            }
            _ if !frame.whole => Reaction::Refuse,
            FrontendTag::Sync => Reaction::Forward,
            FrontendTag::Query => {
                let control = self.query_control(frame);
                if control == Control::RollbackThen || may_pass(control, client_notified) {
                    Reaction::Forward
                } else {
                    Reaction::Refuse
                }
            }
            FrontendTag::Parse | FrontendTag::Close => Reaction::ForwardAndFlush,
            FrontendTag::Describe => match wire::describe_target(frame.body) {
                Some((b'P', portal))
                    if !may_pass(self.state.portal(portal).control(), client_notified) =>
                {
                    Reaction::Refuse
                }
                _ => Reaction::ForwardAndFlush,
            },
            FrontendTag::Bind => match wire::Bind::read(frame.body) {
                Some(bind)
                    if may_pass(
                        self.state.statement(bind.statement).control(),
                        client_notified,
                    ) =>
                {
                    Reaction::ForwardAndFlush
                }
                _ => Reaction::Refuse,
            },
            FrontendTag::Execute => {
                let portal = wire::execute_portal(frame.body).unwrap_or_default();
                if may_pass(self.state.portal(portal).control(), client_notified) {
                    Reaction::ForwardAndFlush
                } else {
                    Reaction::Refuse
                }
            }
            FrontendTag::FunctionCall if client_notified => Reaction::Forward,
            FrontendTag::FunctionCall
            | FrontendTag::Terminate
            | FrontendTag::Flush
            | FrontendTag::Password
            | FrontendTag::Unknown(_) => Reaction::Refuse,
        }
    }

    fn query_control(&self, frame: Frame<'_>) -> Control {
        let sql = wire::cstr(frame.body).map_or(frame.body, |(sql, _)| sql);
        let outline = self.state.outline(frame, sql);
        let commits = |(control, _)| {
            matches!(
                control,
                Control::Commit | Control::CommitAndChain | Control::PrepareTransaction
            )
        };
        let control = outline.control();
        if control == Control::Other && outline.controls(0).any(commits) {
            // The server would refuse the list for its first statement, and say nothing of what became of the COMMIT.
            return Control::Doubtful;
        }
        control
    }

    /// Answers a request with our error; a batch has failed with it and is discarded up to its Sync.
    pub(super) fn refuse(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        self.notify_client();
        let tag = FrontendTag::from(frame.tag);
        if tag == FrontendTag::Sync {
            return self.pass_client(frame, now);
        }
        if matches!(tag, FrontendTag::Query | FrontendTag::FunctionCall) {
            // It ends the batch that it may be in: the error is its own.
            let status = match self.state.status {
                TransactionStatus::Idle => ReadyStatus::Idle,
                TransactionStatus::InBlock | TransactionStatus::Failed => ReadyStatus::Error,
            };
            originate::ready_for_query(status, self.client.output());
        } else {
            self.discard.rest_of_batch();
        }
        Verdict::Drop
    }

    /// Sends the error; where no block is open, that is the end of it.
    fn notify_client(&mut self) {
        let Some(deferred_error) = &mut self.deferred_error else {
            return;
        };
        let over =
            deferred_error.due == Due::Commit || self.state.status == TransactionStatus::Idle;
        deferred_error.send(self.client.output());
        if over {
            self.deferred_error = None;
        }
    }
}

/// Whether a statement may go to the server: those that end a failed transaction may (`IsTransactionExitStmt` in
/// `src/backend/tcop/postgres.c`), and what the server refuses by itself where the client has been told.
///
/// AND CHAIN would begin a transaction with the modes of our own BEGIN.
fn may_pass(control: Control, client_notified: bool) -> bool {
    match control {
        Control::Rollback | Control::Commit | Control::PrepareTransaction => true,
        Control::Begin
        | Control::BeginThen
        | Control::RollbackTo
        | Control::Savepoint
        | Control::Release
        | Control::Other => client_notified,
        Control::CommitAndChain
        | Control::RollbackThen
        | Control::RollbackAndChain
        | Control::Doubtful => false,
    }
}
