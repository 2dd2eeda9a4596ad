//! The requests that were sent to the server and not yet answered, in order, and what the answers say about them.
//!
//! Counting ReadyForQuery alone goes wrong in pipelines, in COPY and after errors; the rules here are those of
//! `PostgresMain` and `SocketBackend` in `src/backend/tcop/postgres.c` and of `CopyGetData` in
//! `src/backend/commands/copyfromparse.c`.
//!
//! An error need not be about the oldest request: where the server logs a message that it has answered, it looks for
//! cancels and timeouts once more (`check_log_duration` in `src/backend/tcop/postgres.c`, `errfinish`). Such an error is
//! about nothing that is owed, and makes the server skip to Sync like every error of the extended protocol.

use std::{collections::VecDeque, time::Instant};

use super::{in_flight::InFlight, text::Text};
use crate::{
    sql::{self, Commits, Control, Outline},
    wire::BackendTag,
};

/// Requests that may wait for their answers before no more is read from the client. A server keeps the answers to a batch
/// without Sync until its buffer of 8 KiB is full, which is far fewer than these.
const MAX_REQUESTS: usize = 8192;

/// Bytes of text that those requests may keep, likewise: 2,000 texts of full length are more than such a buffer answers.
const MAX_WAITING_TEXT: usize = 8 << 20;

/// Requests that an empty queue keeps memory for.
const KEPT_CAPACITY: usize = 32;

/// A kind of request, by what answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Answered by one ReadyForQuery.
    Query,
    /// Answered by one ReadyForQuery.
    FunctionCall,
    /// Answered by ParseComplete.
    Parse,
    /// Answered by BindComplete.
    Bind,
    /// Answered by RowDescription or NoData.
    Describe,
    /// Answered by CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Answered by CloseComplete.
    Close,
    /// Answered by one ReadyForQuery.
    Sync,
    /// CopyDone or CopyFail sent before the server said that it wants data: answered by nothing.
    CopyEnd,
}

impl RequestKind {
    /// Whether its answer ends with ReadyForQuery.
    pub(super) fn expects_ready_for_query(self) -> bool {
        matches!(self, Self::Query | Self::FunctionCall | Self::Sync)
    }

    /// Whether it runs a statement.
    pub(super) fn runs(self) -> bool {
        matches!(self, Self::Query | Self::FunctionCall | Self::Execute)
    }
}

/// One request that was sent.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// What answers it.
    pub(super) kind: RequestKind,
    /// When it was sent.
    pub(super) at: Instant,
    /// The statement that it parses, binds or runs.
    pub(super) text: Text,
    /// The name of the statement (Parse) or portal (Bind) that it makes; empty for the unnamed one.
    pub(super) name: Box<[u8]>,
    /// How many statements it runs, as far as that is known.
    pub(super) statements: Option<usize>,
    /// Whether it is a Query or FunctionCall that was sent into a batch without Sync.
    pub(super) in_batch: bool,
    /// Whether it drew an error before the server had found what its names stand for.
    pub(super) refused: bool,
}

impl Request {
    /// Bytes of text that it keeps and others do not.
    fn text_bytes(&self) -> usize {
        let own = matches!(self.kind, RequestKind::Query | RequestKind::Parse);
        let sql = self.text.sql.as_deref().filter(|_| own);
        sql.map_or(0, str::len)
    }
}

impl Request {
    /// Whether it may end the transaction block that it runs in.
    fn may_end_block(&self) -> bool {
        if self.text.outline == Outline::Unknown {
            // A portal whose statement was never seen is a cursor of SQL's.
            return self.kind == RequestKind::Query;
        }
        let ends = |control: Control| control.ends_block();
        match self.statements {
            Some(1) => ends(self.text.control()) || self.text.control() == Control::Doubtful,
            Some(_) => {
                let mut controls = self.text.outline.controls(0);
                controls.any(|(control, _)| ends(control))
            }
            None => true,
        }
    }
}

/// The queue of requests that are not yet answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    queue: VecDeque<Request>,
    /// Requests in the queue that earn a ReadyForQuery.
    ready_owed: usize,
    /// What the Parse and Bind messages in the queue make.
    statements: InFlight,
    portals: InFlight,
    /// Bytes of text that the requests in the queue keep.
    text_bytes: usize,
    /// The server ignores everything up to a Sync that has not been sent yet.
    skipping: bool,
    /// The server takes COPY data, and the client has not ended it.
    copy_in: bool,
    /// Messages of the extended protocol were sent after the last request that earns a ReadyForQuery.
    unsynced: bool,
    /// The error that came for the Query at the front may be about the batch that it was sent into: the server skips the
    /// Query then, and its ReadyForQuery never comes.
    doubtful: bool,
    /// The last ReadyForQuery may have been for a Query or for the Sync after it: one more may come.
    one_more: bool,
}

impl Pending {
    /// Notes a request that goes to the server; returns whether the server will look at it.
    pub(super) fn sent(&mut self, mut request: Request) -> bool {
        let kind = request.kind;
        match kind {
            RequestKind::CopyEnd => {
                if !self.copy_in && !self.queue.is_empty() {
                    self.queue.push_back(request);
                }
                self.copy_in = false;
                return false;
            }
            // CopyGetData ignores Sync and Flush while it waits for data.
            RequestKind::Sync if self.copy_in => return false,
            RequestKind::Sync => {
                if self.doubtful {
                    // Had the Query failed, its ReadyForQuery would have come by the time that the client gave up.
                    self.skip();
                }
                self.skipping = false;
            }
            _ if self.skipping => return false,
            RequestKind::Query
            | RequestKind::FunctionCall
            | RequestKind::Parse
            | RequestKind::Bind
            | RequestKind::Describe
            | RequestKind::Execute
            | RequestKind::Close => {}
        }
        request.in_batch =
            self.unsynced && kind.expects_ready_for_query() && kind != RequestKind::Sync;
        self.unsynced = !kind.expects_ready_for_query();
        self.ready_owed += usize::from(kind.expects_ready_for_query());
        self.text_bytes += request.text_bytes();
        if let Some(names) = self.made_by(kind) {
            names.sent(&request.name, &request.text);
        }
        self.queue.push_back(request);
        true
    }

    /// Notes that the request that is being answered drew an error with this SQLSTATE.
    pub(super) fn drew_error(&mut self, sqlstate: &[u8]) {
        if let Some(request) = self.queue.front_mut() {
            request.refused |= !sql::found_names(sqlstate);
        }
    }

    /// Notes a message from the server; returns the request whose answer it completes.
    ///
    /// An error in the extended protocol drops the requests up to the next Sync, which the server ignores: it
    /// completes the one that failed.
    pub(super) fn answered(&mut self, tag: BackendTag) -> Option<Request> {
        if tag == BackendTag::ReadyForQuery {
            return self.ready();
        }
        if !tag.is_asynchronous() {
            self.one_more = false;
        }
        if tag == BackendTag::ErrorResponse {
            return self.failed();
        }
        if tag == BackendTag::CopyInResponse {
            self.copy_begins();
        }
        let front = self.queue.front_mut()?;
        // What has begun to answer was reached: an error from here on is not about the batch before it.
        front.in_batch &= tag.is_asynchronous();
        let done = matches!(
            (front.kind, tag),
            (RequestKind::Parse, BackendTag::ParseComplete)
                | (RequestKind::Bind, BackendTag::BindComplete)
                | (RequestKind::Close, BackendTag::CloseComplete)
                | (
                    RequestKind::Describe,
                    BackendTag::RowDescription | BackendTag::NoData
                )
                | (
                    RequestKind::Execute,
                    BackendTag::CommandComplete
                        | BackendTag::EmptyQueryResponse
                        | BackendTag::PortalSuspended,
                )
        );
        let done = if done { self.pop() } else { None };
        self.drop_copy_ends();
        done
    }

    /// The oldest request that is not answered.
    pub(super) fn front(&self) -> Option<&Request> {
        self.queue.front()
    }

    /// Whether every request is answered as far as it can be before the client says more.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many requests are not answered.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether so much waits for an answer that no more is to be read from the client.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_REQUESTS || self.text_bytes >= MAX_WAITING_TEXT
    }

    /// How many ReadyForQuery are owed.
    pub(super) fn ready_owed(&self) -> usize {
        self.ready_owed
    }

    /// Whether the server skips to a Sync that has not been sent.
    pub(super) fn skipping(&self) -> bool {
        self.skipping || self.is_doubtful()
    }

    /// Whether the last request is a Query in a batch without Sync, of which an error has not told whether it failed or is
    /// skipped.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful && self.queue.len() == 1
    }

    /// Notes that the server skips to a Sync, and with it whatever it was sent meanwhile.
    pub(super) fn skip(&mut self) {
        while self.pop().is_some() {}
        self.skipping = true;
        self.unsynced = false;
        self.doubtful = false;
    }

    /// Whether the server waits for COPY data.
    pub(super) fn copy_in(&self) -> bool {
        self.copy_in
    }

    /// Whether the server is in the middle of a batch that has no Sync yet.
    pub(super) fn unsynced(&self) -> bool {
        self.unsynced || self.skipping()
    }

    /// Whether the COPY that takes data was begun by Execute: its error is followed by no ReadyForQuery.
    pub(super) fn front_is_execute(&self) -> bool {
        self.front()
            .is_some_and(|request| request.kind == RequestKind::Execute)
    }

    /// The statement of this name that a Parse still to be answered makes.
    pub(super) fn statement(&self, name: &[u8]) -> Option<&Text> {
        self.statements.newest(name)
    }

    /// The statement behind the portal of this name that a Bind still to be answered makes.
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Text> {
        self.portals.newest(name)
    }

    fn made_by(&mut self, kind: RequestKind) -> Option<&mut InFlight> {
        match kind {
            RequestKind::Parse => Some(&mut self.statements),
            RequestKind::Bind => Some(&mut self.portals),
            RequestKind::Query
            | RequestKind::FunctionCall
            | RequestKind::Describe
            | RequestKind::Execute
            | RequestKind::Close
            | RequestKind::Sync
            | RequestKind::CopyEnd => None,
        }
    }

    /// Notes that the server was sent a CopyFail of our own.
    pub(super) fn copy_failed(&mut self) {
        self.copy_in = false;
    }

    /// Every request that runs or will run, oldest first.
    pub(super) fn running(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter().filter(|request| request.kind.runs())
    }

    /// The requests one of which runs: up to the first that earns a ReadyForQuery, which the server does not keep back.
    pub(super) fn may_run(&self) -> impl Iterator<Item = &Request> {
        let mut over = false;
        let front = self.queue.iter().take_while(move |request| {
            !std::mem::replace(&mut over, request.kind.expects_ready_for_query())
        });
        front.filter(|request| request.kind.runs())
    }

    /// Whether what runs ends the transaction block, or a prepared transaction, and nothing else.
    pub(super) fn ends_block(&self) -> bool {
        let mut running = self.running();
        running.next().is_some_and(|request| {
            request.statements == Some(1)
                && request.may_end_block()
                && request.text.control() != Control::Doubtful
        })
    }

    /// Whether anything that was sent may be a commit that runs, or that runs before the client says more.
    ///
    /// `in_block` tells whether a transaction block is open in front of it, `open` whether a transaction without one is,
    /// and `reads` of a text whether it writes nothing.
    pub(super) fn may_commit(
        &self,
        mut in_block: bool,
        mut open: bool,
        mut reads: impl FnMut(&Text) -> bool,
    ) -> bool {
        for request in &self.queue {
            let text = &request.text;
            match request.kind {
                RequestKind::Query if text.control() == Control::RollbackThen => {
                    if !reads(text) {
                        return true;
                    }
                    (in_block, open) = (false, false);
                }
                RequestKind::Query | RequestKind::Execute if request.may_end_block() => {
                    return true;
                }
                RequestKind::Query | RequestKind::Execute if in_block || text.begins_block() => {
                    in_block = true
                }
                RequestKind::Query if open || !reads(text) => return true,
                RequestKind::Execute if text.commits() != Commits::Last => return true,
                RequestKind::Execute => open |= !reads(text),
                RequestKind::FunctionCall if !in_block => return true,
                RequestKind::Sync if !in_block && open => return true,
                RequestKind::Query
                | RequestKind::FunctionCall
                | RequestKind::Parse
                | RequestKind::Bind
                | RequestKind::Describe
                | RequestKind::Close
                | RequestKind::Sync
                | RequestKind::CopyEnd => {}
            }
        }
        false
    }

    /// Whether an error that comes now answers everything that was sent.
    pub(super) fn error_answers_all(&self) -> bool {
        let mut queue = self.queue.iter();
        match queue.next() {
            Some(front) if front.kind.expects_ready_for_query() => queue.next().is_none(),
            _ => queue
                .position(|request| request.kind == RequestKind::Sync)
                .is_none_or(|_| queue.next().is_none()),
        }
    }

    /// The Query that was sent last has come to its end, and has but one statement.
    pub(super) fn is_one_statement(&mut self) {
        if let Some(request) = self.queue.back_mut() {
            request.statements = Some(1);
        }
    }

    /// The server may have read the texts that it was sent in another way than we did.
    pub(super) fn doubt_texts(&mut self) {
        for request in &mut self.queue {
            request.text.doubt();
            if request.kind == RequestKind::Query {
                request.statements = request.text.outline.count();
            }
        }
        self.statements.doubt_texts();
        self.portals.doubt_texts();
    }

    /// Forgets a batch that was ended with a Sync of our own.
    pub(super) fn batch_ended(&mut self) {
        self.skipping = false;
        self.unsynced = false;
    }

    /// Requests that memory is kept for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Gives the memory of an empty queue back, if it is more than a few requests take.
    pub(super) fn shrink_if_large(&mut self) {
        if self.queue.capacity() > KEPT_CAPACITY {
            self.shrink();
        }
    }

    /// Gives the memory of an empty queue back.
    pub(super) fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    fn ready(&mut self) -> Option<Request> {
        self.copy_in = false;
        let doubtful = std::mem::take(&mut self.doubtful);
        // A Sync may be what it is for; to everything else there would have been an answer first.
        let awaited = self
            .front()
            .is_some_and(|request| request.kind == RequestKind::Sync);
        if self.one_more && !awaited {
            self.one_more = false;
            return None;
        }
        loop {
            let Some(request) = self.pop() else {
                // A Sync that counted as eaten by COPY came after the COPY had failed: it earned this one.
                self.batch_ended();
                return None;
            };
            if request.kind.expects_ready_for_query() {
                self.drop_copy_ends();
                if doubtful
                    && self
                        .front()
                        .is_some_and(|next| next.kind == RequestKind::Sync)
                {
                    self.pop();
                    self.one_more = true;
                }
                return Some(request);
            }
        }
    }

    fn failed(&mut self) -> Option<Request> {
        self.copy_in = false;
        let Some(front) = self.front() else {
            // It comes after the last answer of a batch: where the server logs it, for one.
            self.skipping |= self.unsynced;
            return None;
        };
        if front.kind.expects_ready_for_query() {
            self.doubtful = front.in_batch;
            return None;
        }
        let failed = self.pop();
        while self
            .front()
            .is_some_and(|request| request.kind != RequestKind::Sync)
        {
            self.pop();
        }
        self.skipping = self.queue.is_empty();
        failed
    }

    fn copy_begins(&mut self) {
        let end = self
            .queue
            .iter()
            .position(|request| request.kind == RequestKind::CopyEnd);
        let syncs = self.queue.iter().take(end.unwrap_or(usize::MAX)).skip(1);
        self.ready_owed -= syncs
            .filter(|request| request.kind == RequestKind::Sync)
            .count();
        let mut index = 0;
        self.queue.retain(|request| {
            let eaten =
                index > 0 && end.is_none_or(|end| index < end) && request.kind == RequestKind::Sync;
            let keep = !eaten && Some(index) != end;
            index += 1;
            keep
        });
        self.copy_in = end.is_none();
        if self.copy_in && self.front_is_execute() {
            self.unsynced = true;
        }
    }

    /// The server ignores CopyDone and CopyFail outside of COPY.
    fn drop_copy_ends(&mut self) {
        while self
            .front()
            .is_some_and(|request| request.kind == RequestKind::CopyEnd)
        {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Request> {
        let request = self.queue.pop_front()?;
        self.ready_owed -= usize::from(request.kind.expects_ready_for_query());
        self.text_bytes -= request.text_bytes();
        if let Some(names) = self.made_by(request.kind) {
            names.done(&request.name);
        }
        Some(request)
    }
}
