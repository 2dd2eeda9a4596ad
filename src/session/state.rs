//! What the server is doing for a session, learned from the frames of both directions: every fact and every transition.
//!
//! ```text
//!              first ReadyForQuery         FATAL
//!  Authenticating ───────────────▶ Ready ─────────▶ Closing
//!
//!  Ready: the transaction status is the byte of the last ReadyForQuery (one writer: `ready`); what came after it is
//!  in the queue of requests that are not answered (`pending`).
//!
//!                      request sent                          queue empty
//!   ┌──────────────┐ ─────────────▶ ┌──────────────────┐ ─────────────────▶ ┌──────────────────────────┐
//!   │ client's turn│                │ server's turn    │                    │ client's turn            │
//!   │ status I     │ ◀───────────── │ (active)         │ ◀───────────────── │ status T, E: idle in     │
//!   └──────────────┘   Z I          └──────────────────┘    request sent    │   transaction (aborted)  │
//!                                     │ G: COPY wants data                  │ no Sync yet: batch       │
//!                                     ▼                                     │   without sync           │
//!                                   copy in (client's turn)                 │ E and no Sync yet: server│
//!                                                                           │   skips to Sync          │
//!                                                                           └──────────────────────────┘
//! ```
//! Sources: "Message Flow" in the documentation; `PostgresMain` in `src/backend/tcop/postgres.c`.

use std::time::Instant;

use super::{
    event::TransactionOutcome,
    pending::{Pending, Request, RequestKind},
    prepared::Prepared,
    startup::Startup,
    tally::Tally,
    text::Text,
    transaction::{Ended, Transaction},
};
use crate::{
    policy::StuckKind,
    sql::{self, Commits, Control, Identifier, Inert, Lexing, Outline, Semicolons},
    wire::{self, BackendTag, CommandTag, Frame, FrontendTag},
};

/// Where the connection is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// The server has not yet said that it is ready for a first request.
    Authenticating(Startup),
    /// Requests and answers.
    Ready,
    /// A FATAL error was the last word: nothing passes any more, in either direction.
    Closing {
        /// Requests that were forwarded, and whose outcome is unknown.
        unknown_requests: usize,
    },
}

impl Phase {
    /// Whether the server has not yet said that it is ready for a first request.
    pub(super) fn is_startup(&self) -> bool {
        matches!(self, Self::Authenticating(_))
    }

    /// What counts until it has said so.
    pub(super) fn startup(&self) -> Option<&Startup> {
        match self {
            Self::Authenticating(startup) => Some(startup),
            Self::Ready | Self::Closing { .. } => None,
        }
    }

    /// The same, to take note of more.
    pub(super) fn startup_mut(&mut self) -> Option<&mut Startup> {
        match self {
            Self::Authenticating(startup) => Some(startup),
            Self::Ready | Self::Closing { .. } => None,
        }
    }

    /// Whether requests and answers pass.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether nothing passes any more.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Self::Closing { .. })
    }
}

/// The byte of a ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransactionStatus {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    InBlock,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a ReadyForQuery.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::InBlock),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// A transaction block that ended, for the records.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    /// How it ended.
    pub(super) outcome: TransactionOutcome,
    /// What is known of it.
    pub(super) transaction: Transaction,
}

/// Everything that the frames have told.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Where the connection is.
    pub(super) phase: Phase,
    /// The byte of the last ReadyForQuery.
    pub(super) status: TransactionStatus,
    /// What the server owes.
    pub(super) pending: Pending,
    /// The transaction that is open.
    pub(super) transaction: Transaction,
    /// Texts behind names.
    pub(super) prepared: Prepared,
    /// What a text means depends on these.
    pub(super) lexing: Lexing,
    /// Since when it is the client's or the server's turn.
    pub(super) turn_since: Instant,
    /// Whether this is (or has become) a replication connection.
    pub(super) replication: bool,
    /// Whether finished transaction blocks are reported.
    pub(super) records: bool,
    /// What was done since the driver last asked.
    pub(super) tally: Tally,
    /// Whether the server has carried out or refused anything in the transaction.
    worked: bool,
    /// Messages of types that are not known.
    pub(super) unknown: u64,
    /// Whether the client has sent Terminate.
    pub(super) terminated: bool,
    /// Statements of the simple Query that runs which the server has completed.
    pub(super) completed: usize,
    /// How many requests that run a statement were answered, and how many errors came.
    pub(super) ended: u64,
    /// Whether what the server has answered last in a batch can still be undone.
    pub(super) work_committed: WorkCommitted,
    /// Reads the text of a Query that is too large to be held, as it passes.
    passing: Option<Semicolons>,
}

/// Whether a statement that was answered is done with, or a part of a transaction that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkCommitted {
    /// It is a part of one, or nothing was answered.
    No,
    /// It may have committed by itself.
    Perhaps,
    /// It has ended its transaction, or has committed by itself.
    Yes,
}

impl State {
    /// A session whose startup packet was sent at `now`.
    pub(super) fn new(startup: Startup, replication: bool, records: bool, now: Instant) -> Self {
        Self {
            phase: Phase::Authenticating(startup),
            status: TransactionStatus::Idle,
            pending: Pending::default(),
            transaction: Transaction::default(),
            prepared: Prepared::default(),
            lexing: Lexing {
                standard_conforming_strings: true,
                client_only_encoding: false,
            },
            turn_since: now,
            replication,
            records,
            tally: Tally::default(),
            worked: false,
            unknown: 0,
            terminated: false,
            completed: 0,
            ended: 0,
            work_committed: WorkCommitted::No,
            passing: None,
        }
    }

    /// Notes a frame that goes to the server.
    pub(super) fn sent(&mut self, frame: Frame<'_>, now: Instant) {
        let tag = FrontendTag::from(frame.tag);
        if let FrontendTag::Unknown(_) = tag {
            self.unknown += 1;
        }
        self.terminated |= tag == FrontendTag::Terminate;
        let Some(request) = self.request(frame, now) else {
            return;
        };
        if let RequestKind::Query | RequestKind::FunctionCall = request.kind {
            self.prepared.replaced();
        }
        let goes_on = request.kind == RequestKind::Query && !frame.whole;
        if self.pending.sent(request) {
            self.passing = goes_on.then(|| {
                let mut passing = Semicolons::default();
                passing.read(frame.body);
                passing
            });
            self.transaction.started.get_or_insert(now);
        }
    }

    /// Notes that the client, whose turn it was, has sent something.
    pub(super) fn client_spoke(&mut self, now: Instant) {
        if self.transaction.open {
            let waited = now.saturating_duration_since(self.turn_since);
            self.transaction.waited_for_client(waited);
        }
        self.turn_since = now;
    }

    /// Notes that the client has taken what was due to it: idle counts from when it took the ReadyForQuery.
    pub(super) fn client_took_all(&mut self, now: Instant) {
        if self.pending.is_empty() {
            self.turn_since = now;
        }
    }

    /// Notes more of a message of which the front was [`sent`](Self::sent), and whether it is whole now.
    pub(super) fn sent_more(&mut self, bytes: &[u8], whole: bool) {
        let Some(passing) = &mut self.passing else {
            return;
        };
        passing.read(bytes);
        if let Some(passed) = self.passing.take_if(|_| whole)
            && !passed.several()
        {
            self.pending.is_one_statement();
        }
    }

    /// Notes a frame from the server; a transaction block that it ended is returned when records are kept.
    pub(super) fn received(&mut self, frame: Frame<'_>, now: Instant) -> Option<Box<Finished>> {
        let tag = BackendTag::from(frame.tag);
        if let BackendTag::DataRow | BackendTag::CopyData = tag {
            return None;
        } else if tag == BackendTag::ReadyForQuery {
            return self.ready(frame.body, now);
        } else if tag == BackendTag::ParameterStatus {
            self.parameter(frame.body);
        } else if tag == BackendTag::CopyBothResponse {
            self.replication = true;
        } else if tag == BackendTag::CopyInResponse {
            self.turn_since = now;
        } else if let BackendTag::Unknown(_) = tag {
            self.unknown += 1;
        }
        if tag == BackendTag::ErrorResponse {
            let error = wire::ErrorFields::read(frame.body);
            self.pending.drew_error(error.sqlstate);
            self.ended += 1;
        }
        let ends = matches!(
            tag,
            BackendTag::CommandComplete
                | BackendTag::EmptyQueryResponse
                | BackendTag::PortalSuspended
                | BackendTag::ErrorResponse
        );
        self.worked |= ends && !self.pending.is_empty();
        let front = match (tag, self.pending.front()) {
            (BackendTag::CommandComplete, Some(front)) => {
                let command = CommandTag::read(frame.body);
                if command == CommandTag::Deallocate
                    && let Some(name) = self.deallocated(&front.text)
                {
                    self.prepared.statement_closed(name.as_bytes());
                }
                Some((command, front.kind, front.text.clone()))
            }
            (_, _) => None,
        };
        if let Some(request) = self.pending.answered(tag) {
            self.answered(request, tag, now);
            if self.pending.is_empty() {
                self.server_answered(now);
            }
        } else if tag == BackendTag::ErrorResponse && self.pending.skipping() {
            self.skips_unasked(now);
        }
        let (command, kind, text) = front?;
        let statement = text.outline.statement(self.completed);
        self.completed += usize::from(kind == RequestKind::Query);
        let finished = self.command(command, statement, now);
        if kind == RequestKind::Execute && command == CommandTag::Other {
            self.may_have_committed(text.commits(), now);
        }
        finished
    }

    /// The statement that the next command of a text deallocates, where that is known.
    fn deallocated(&self, text: &Text) -> Option<Identifier> {
        let sql = text.sql.as_deref().filter(|_| text.certain)?;
        let (list, _) = sql::inert(sql.as_bytes(), self.lexing);
        match list.into_iter().nth(self.completed)? {
            Inert::Deallocate(name) => Some(name),
            Inert::Savepoint(_)
            | Inert::Release(_)
            | Inert::RollbackTo(_)
            | Inert::CloseCursor(_)
            | Inert::Unlisten => None,
        }
    }

    /// Since when the transaction block is open that the server works in, or may work in: it keeps the answers to BEGIN and
    /// COMMIT in its buffer until it has answered what follows them. Where one block may have followed another, the last
    /// counts; where a statement outside of a block may have, none.
    pub(super) fn block_since(&self) -> Option<Instant> {
        let mut since = self.transaction.started?;
        let mut block = self.transaction.explicit.then_some(since);
        let mut ended = false;
        let mut answered = self.completed;
        for request in self.pending.may_run() {
            block = block.filter(|_| !ended);
            ended = false;
            // Nearly every text is such a one.
            let ordinary = request.text.outline == Outline::One(Control::Other);
            let controls = (!ordinary).then(|| request.text.outline.controls(answered));
            for (control, last) in controls.into_iter().flatten() {
                if control.ends_block() {
                    since = request.at;
                    block = block.filter(|_| last);
                    ended = last;
                }
                if control.begins_block() {
                    block = Some(since);
                    ended = false;
                }
            }
            answered = 0;
        }
        block
    }

    /// Notes that pgidle has ended the transaction and the server has confirmed it with a ReadyForQuery.
    pub(super) fn enforced(
        &mut self,
        kind: StuckKind,
        status: TransactionStatus,
        now: Instant,
    ) -> Option<Box<Finished>> {
        self.own_ready(status);
        self.prepared.transaction_ended();
        let finished = self.end(TransactionOutcome::Enforced, now);
        if self.status == TransactionStatus::Failed {
            self.transaction.enforced = Some(kind);
            // A simple Query of ours replaced it (exec_simple_query drops the unnamed statement).
            self.prepared.statement_closed(b"");
        }
        finished
    }

    /// Notes a ReadyForQuery that answers a Sync or Query of our own.
    pub(super) fn own_ready(&mut self, status: TransactionStatus) {
        self.pending.batch_ended();
        self.status = status;
    }

    /// Ends the transaction in the books; `None` for one that needs no record.
    pub(super) fn end(
        &mut self,
        outcome: TransactionOutcome,
        now: Instant,
    ) -> Option<Box<Finished>> {
        let servers_turn = !self.pending.is_empty();
        if servers_turn {
            self.transaction.busy += now.saturating_duration_since(self.turn_since);
            self.turn_since = now;
        } else if outcome == TransactionOutcome::Enforced
            || outcome == TransactionOutcome::Disconnect
        {
            self.transaction
                .waited_for_client(now.saturating_duration_since(self.turn_since));
        }
        // What is left of a block that pgidle has ended is no transaction of its own.
        let worked = std::mem::take(&mut self.worked);
        if worked && self.transaction.enforced.is_none() {
            self.tally
                .count(self.transaction.busy, self.transaction.idle);
        }
        let recorded =
            self.records && self.transaction.explicit && self.transaction.enforced.is_none();
        let finished = recorded.then(|| {
            Box::new(Finished {
                outcome,
                transaction: self.transaction.clone(),
            })
        });
        self.transaction.clear();
        if servers_turn {
            self.transaction.started = Some(now);
        }
        finished
    }

    fn answered(&mut self, request: Request, tag: BackendTag, now: Instant) {
        let succeeded = tag != BackendTag::ErrorResponse;
        match request.kind {
            RequestKind::Parse if succeeded => {
                self.transaction.traces.analysed(&request.text);
                self.prepared.parsed(request.name, request.text);
            }
            RequestKind::Describe if succeeded => self.transaction.traces.analysed(&request.text),
            RequestKind::Bind if succeeded => {
                self.transaction.traces.bound(&request.name, &request.text);
                self.prepared.bound(request.name, request.text);
            }
            RequestKind::Close => {
                match request.name.split_first() {
                    Some((b'S', name)) => self.prepared.statement_closed(name),
                    Some((_, name)) => self.prepared.portal_closed(name),
                    None => {}
                }
                // Close opens no transaction: exec_simple_query and the exec_ functions do, Close does not.
                return;
            }
            RequestKind::Execute => {
                let suspended = tag == BackendTag::PortalSuspended;
                self.transaction.traces.executed(&request.text, suspended);
                self.transaction.ran(request, now);
                self.tally.queries += 1;
                self.ended += 1;
            }
            RequestKind::Parse
            | RequestKind::Bind
            | RequestKind::Describe
            | RequestKind::Query
            | RequestKind::FunctionCall
            | RequestKind::Sync
            | RequestKind::CopyEnd => {}
        }
        self.work_committed = WorkCommitted::No;
        self.transaction.open = true;
    }

    /// A statement of a batch outside of a transaction block was carried out that may have committed by itself.
    fn may_have_committed(&mut self, commits: Commits, now: Instant) {
        if self.transaction.explicit {
            return;
        }
        match commits {
            Commits::Last => {}
            Commits::Perhaps => {
                self.work_committed = WorkCommitted::Perhaps;
                self.transaction.doubtful = true;
            }
            Commits::Itself => {
                self.work_committed = WorkCommitted::Yes;
                // It was no transaction block, so that there is nothing to record.
                self.end(TransactionOutcome::Commit, now);
            }
        }
    }

    fn command(
        &mut self,
        tag: CommandTag,
        statement: (Control, Option<&Identifier>),
        now: Instant,
    ) -> Option<Box<Finished>> {
        if tag == CommandTag::ForgetAll {
            self.prepared.forget_all();
        }
        let Ended { outcome, begun } = self.transaction.command(tag, statement)?;
        let finished = self.end(outcome, now);
        self.work_committed = WorkCommitted::Yes;
        if begun {
            self.transaction.started = Some(now);
            self.transaction.open = true;
            self.transaction.explicit = true;
        }
        finished
    }

    fn ready(&mut self, body: &[u8], now: Instant) -> Option<Box<Finished>> {
        if self.phase.is_startup() {
            self.started_up(body, now);
            return None;
        }
        self.completed = 0;
        self.work_committed = WorkCommitted::No;
        let answered = self.pending.answered(BackendTag::ReadyForQuery);
        if let Some(request) = answered.filter(|request| request.kind.runs()) {
            self.transaction.traces.queried();
            self.transaction.ran(request, now);
            self.tally.queries += 1;
            self.ended += 1;
        }
        if self.pending.is_empty() {
            self.server_answered(now);
        }
        self.set_status(body);
        if self.status == TransactionStatus::Idle {
            self.prepared.transaction_ended();
            self.pending.shrink_if_large();
            // A block that ends without a tag ended with an error: a COMMIT that failed.
            return self.end(TransactionOutcome::Rollback, now);
        }
        self.transaction.explicit = true;
        self.transaction.open = true;
        self.transaction.started.get_or_insert(now);
        // This may be for long.
        self.pending.shrink();
        None
    }

    /// The first ReadyForQuery answers the startup packet, and none of the requests that were sent together with it.
    fn started_up(&mut self, body: &[u8], now: Instant) {
        self.phase = Phase::Ready;
        self.set_status(body);
        self.turn_since = now;
        self.transaction.started = (!self.pending.is_empty()).then_some(now);
    }

    fn server_answered(&mut self, now: Instant) {
        self.transaction.busy += now.saturating_duration_since(self.turn_since);
        self.turn_since = now;
    }

    /// The server skips to Sync after an error that is about nothing that was owed.
    fn skips_unasked(&mut self, now: Instant) {
        if self.pending.is_empty() {
            self.turn_since = now;
        } else {
            self.server_answered(now);
        }
    }

    /// Notes the transaction status that a ReadyForQuery tells.
    fn set_status(&mut self, body: &[u8]) {
        if let Some(status) = TransactionStatus::read(body) {
            self.status = status;
        }
    }

    fn parameter(&mut self, body: &[u8]) {
        let before = self.lexing;
        match wire::parameter_status(body) {
            Some((b"standard_conforming_strings", value)) => {
                self.lexing.standard_conforming_strings = value == b"on";
            }
            Some((b"client_encoding", value)) => {
                self.lexing.client_only_encoding = sql::is_client_only_encoding(value);
            }
            _ => {}
        }
        // It is told at the end of a batch: what the batch prepared may have been read in either way.
        if self.lexing != before {
            self.prepared.doubt_texts();
            self.pending.doubt_texts();
        }
    }
}
