//! What happened in a session, as data: the audit, the log, the metrics and the console all read these records.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::damage::Damage;
use crate::policy::{Action, Identity, StuckKind};

/// Something that happened in a session, for the log, the audit and the recorder.
#[derive(Clone, Debug)]
pub enum Event {
    /// A limit was reached.
    Incident(Box<Incident>),
    /// A transaction block ended.
    Transaction(Box<TransactionRecord>),
    /// The session has its server, which has been sent the startup packet.
    Opened,
    /// The session is over.
    Closed(Box<Closed>),
    /// The enforcement of a transaction has come to this step.
    Step(&'static str),
}

/// Who a session belongs to, as far as the wire has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// pgidle's number for the session, counted from 1.
    pub session: u64,
    /// The client's address; `None` for a Unix socket.
    pub client_addr: Option<SocketAddr>,
    /// The client's process id; known of a client on the same host that came over a Unix socket.
    pub client_pid: Option<i32>,
    /// The role asked for at startup, as the server calls it.
    pub user: Arc<str>,
    /// The database asked for at startup, as the server calls it.
    pub database: Arc<str>,
    /// The application name as the server last reported it.
    pub application_name: Arc<str>,
    /// The server's process id from BackendKeyData; `None` when it sent none.
    pub server_pid: Option<i32>,
    /// Whether the client's leg is encrypted.
    pub tls: bool,
}

impl Who {
    /// What the rules match on; `first_name` is the application name as it was at the start.
    pub fn identity<'a>(&'a self, first_name: &'a str, replication: bool) -> Identity<'a> {
        Identity {
            user: &self.user,
            database: &self.database,
            application_name: &self.application_name,
            first_name,
            client: self.client_addr.map(|address| address.ip()),
            replication,
        }
    }
}

/// Where a client connects from, in words; `None` for a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub Option<SocketAddr>);

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("a Unix socket"),
        }
    }
}

/// Where in the protocol a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// Not yet ready for the first request.
    Startup,
    /// No transaction is open and nothing is owed.
    Idle,
    /// In a transaction block; the server waits for a request.
    IdleInTransaction,
    /// In a failed transaction block; the server waits for a request.
    IdleInTransactionAborted,
    /// As idle in transaction, and a part of the next request has come.
    HalfSentRequest,
    /// A message too large to be held is on its way to the server.
    HalfForwardedMessage,
    /// A batch without Sync, every message of which is answered.
    UnsyncedBatch,
    /// A batch without Sync that failed: the server skips to Sync.
    FailedBatch,
    /// COPY FROM STDIN that waits for data.
    CopyIn,
    /// The client does not read what the server has sent.
    ClientNotReading,
    /// The server works.
    Running,
    /// The transaction was ended by `release` and begins anew when the client speaks.
    Released,
    /// A replication connection: no limit counts.
    Replication,
}

impl Position {
    /// The name used in audit lines and the console.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            Self::IdleInTransactionAborted => "idle in transaction (aborted)",
            Self::HalfSentRequest => "half-sent request",
            Self::HalfForwardedMessage => "half-forwarded message",
            Self::UnsyncedBatch => "batch without sync",
            Self::FailedBatch => "failed batch without sync",
            Self::CopyIn => "copy in",
            Self::ClientNotReading => "client not reading",
            Self::Running => "active",
            Self::Released => "released",
            Self::Replication => "replication",
        }
    }
}

/// One statement of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// When it was sent, counted from the start of the transaction.
    pub at: Duration,
    /// The text as the client sent it, cut after a bound; `None` when it is not known.
    pub text: Option<Arc<str>>,
    /// From the request to the end of its answer; `None` while it runs.
    pub duration: Option<Duration>,
    /// Whether the server refused it before it had found what its names stand for: they may be anything.
    pub refused: bool,
}

/// How an action on a stuck transaction came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Only written down.
    Logged,
    /// The client was sent a notice.
    Noticed,
    /// The transaction was ended; the session lives.
    RolledBack,
    /// The transaction was ended and will begin anew.
    Released,
    /// The proof that the transaction only read did not succeed; the next rung acts.
    NotReleasable,
    /// The client spoke, or the transaction ended by itself, before the action could be taken.
    Moot,
    /// The transaction ended by itself, and the cancel that was meant for it ended what the client ran next.
    NextCancelled,
    /// What ran was cancelled, and whether it was committed, or a part of it, cannot be known.
    Unknown,
    /// The transaction has committed, and the cancel ended its wait for a standby, which may not have it.
    CommitNotAwaited,
    /// The session was ended.
    Terminated,
    /// The action cannot be taken in this position; the next rung acts.
    NotPossible,
    /// The server closed the connection while the action was under way.
    ServerClosed,
    /// A reply that is neither expected nor a known race; the session was ended to be safe.
    Unexpected,
}

impl Outcome {
    /// The name used in audit lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logged => "logged",
            Self::Noticed => "noticed",
            Self::RolledBack => "rolled_back",
            Self::Released => "released",
            Self::NotReleasable => "not_releasable",
            Self::Moot => "moot",
            Self::NextCancelled => "next_cancelled",
            Self::Unknown => "unknown",
            Self::CommitNotAwaited => "commit_not_awaited",
            Self::Terminated => "terminated",
            Self::NotPossible => "not_possible",
            Self::ServerClosed => "server_closed",
            Self::Unexpected => "unexpected_reply",
        }
    }
}

/// What a cancel of ours has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// It ended the transaction that was meant.
    Meant,
    /// The transaction had ended by itself: it ended what the client ran next.
    Next,
    /// Whether what it met was committed, or a part of it, cannot be known.
    Unknown,
    /// It ended the wait of a commit for its standby.
    Wait,
}

impl Hit {
    /// How that is reported.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Meant => Outcome::RolledBack,
            Self::Next => Outcome::NextCancelled,
            Self::Unknown => Outcome::Unknown,
            Self::Wait => Outcome::CommitNotAwaited,
        }
    }
}

/// Why something is done about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A limit was reached.
    Limit {
        /// The rule that decided.
        rule: Arc<str>,
        /// In which way the transaction was stuck.
        kind: StuckKind,
        /// The limit.
        limit: Duration,
    },
    /// A command came from the console.
    Console {
        /// The console's user who gave it.
        by: Arc<str>,
    },
}

impl Cause {
    /// The name used in audit lines and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Limit { .. } => "limit",
            Self::Console { .. } => "console",
        }
    }
}

/// Something that was done about a session, or was to be, and everything the wire tells about it.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Who it happened to.
    pub who: Who,
    /// Why something was done.
    pub cause: Cause,
    /// What was to be done.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
    /// A sentence more about the outcome, where there is one to say (`why` in the audit).
    pub why: Option<Arc<str>>,
    /// How long the session had been idle (or stalled) in this position.
    pub idle: Duration,
    /// How long others had waited for it meanwhile; known of [`StuckKind::Blocking`] alone.
    pub waited: Option<Duration>,
    /// How old the transaction was; `None` when none was open.
    pub age: Option<Duration>,
    /// Where in the protocol it stood.
    pub position: Position,
    /// The transaction's statements: the first ones and the last ones.
    pub statements: Vec<Statement>,
    /// How many statements the transaction had in all.
    pub statement_count: u64,
    /// What it held and who waited for it; `None` where there was no observation since it was stuck.
    pub damage: Option<Arc<Damage>>,
}

impl Incident {
    /// In which way the transaction was stuck, where a limit was reached.
    pub fn kind(&self) -> Option<StuckKind> {
        match self.cause {
            Cause::Limit { kind, .. } => Some(kind),
            Cause::Console { .. } => None,
        }
    }

    /// The rule whose limit was reached.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match &self.cause {
            Cause::Limit { rule, .. } => Some(rule),
            Cause::Console { .. } => None,
        }
    }

    /// The limit that was reached.
    pub fn limit(&self) -> Option<Duration> {
        match self.cause {
            Cause::Limit { limit, .. } => Some(limit),
            Cause::Console { .. } => None,
        }
    }

    /// The console's user whose command it was.
    pub fn by(&self) -> Option<&Arc<str>> {
        match &self.cause {
            Cause::Limit { .. } => None,
            Cause::Console { by } => Some(by),
        }
    }

    /// Notes that nothing can be done, and why.
    pub(super) fn is_not_possible(&mut self, why: &str) {
        self.outcome = Outcome::NotPossible;
        self.why = Some(why.into());
    }

    /// Notes that so much time has passed since it was written.
    pub(super) fn delay(&mut self, by: Duration) {
        // Who was not idle is not.
        if !self.idle.is_zero() {
            self.idle += by;
        }
        for time in [&mut self.waited, &mut self.age].into_iter().flatten() {
            *time += by;
        }
    }
}

/// How a transaction block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    /// The server answered COMMIT.
    Commit,
    /// The server answered ROLLBACK.
    Rollback,
    /// The server answered PREPARE TRANSACTION: it lives on outside the session.
    Prepared,
    /// Ended by `rollback`.
    Enforced,
    /// The session ended while it was open, be it by `terminate`.
    Disconnect,
}

impl TransactionOutcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Commit,
        Self::Rollback,
        Self::Prepared,
        Self::Enforced,
        Self::Disconnect,
    ];

    /// The name used in audit lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Prepared => "prepared",
            Self::Enforced => "enforced",
            Self::Disconnect => "disconnect",
        }
    }
}

/// A transaction block that ended, with its totals.
#[derive(Clone, Debug)]
pub struct TransactionRecord {
    /// Whose it was.
    pub who: Who,
    /// The rule that the session matched at its end, also one that is exempt.
    pub rule: Arc<str>,
    /// How it ended.
    pub outcome: TransactionOutcome,
    /// From the request that opened it to its end.
    pub duration: Duration,
    /// The part of it in which the server worked.
    pub busy: Duration,
    /// The part of it in which the server waited for the client.
    pub idle: Duration,
    /// The longest single wait for the client.
    pub longest_idle: Duration,
    /// Its statements: the first ones and the last ones.
    pub statements: Vec<Statement>,
    /// How many statements it had in all.
    pub statement_count: u64,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
    /// The error of a connection or of the protocol, if one was seen.
    pub error: Option<String>,
    /// How many requests were forwarded whose outcome is not known, because the session was ended.
    pub unknown_requests: usize,
    /// How many messages have passed of types that are not known.
    pub unknown_messages: u64,
}

/// Why a session ended: the metric label, the audit field and the log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed its connection.
    ClientLeft,
    /// The server closed its connection.
    ServerLeft,
    /// The client's connection failed.
    ClientIo,
    /// The server's connection failed.
    ServerIo,
    /// One side sent what cannot be followed.
    Protocol,
    /// A rule's limit was reached.
    Policy,
    /// A command came from the console.
    Console,
    /// pgidle shuts down.
    Drain,
    /// Proving who the client is cannot work through pgidle.
    Authentication,
    /// The server is not one that sessions are meant for.
    Target,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ClientLeft,
        Self::ServerLeft,
        Self::ClientIo,
        Self::ServerIo,
        Self::Protocol,
        Self::Policy,
        Self::Console,
        Self::Drain,
        Self::Authentication,
        Self::Target,
    ];

    /// The name used in logs, audit lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientLeft => "client_left",
            Self::ServerLeft => "server_left",
            Self::ClientIo => "client_io",
            Self::ServerIo => "server_io",
            Self::Protocol => "protocol",
            Self::Policy => "policy",
            Self::Console => "console",
            Self::Drain => "drain",
            Self::Authentication => "authentication",
            Self::Target => "target_session_attrs",
        }
    }
}
