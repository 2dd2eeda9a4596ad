//! What a stuck session does to others, as an observer saw it: the locks it holds, who waits for them, what it keeps
//! from being vacuumed. Texts are shared: one look may say the same of a thousand sessions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What one session holds and who waits for it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Just before the server was asked.
    pub at: Instant,
    /// The locks, without the one on its own virtual transaction id that every session has.
    pub locks: Vec<Lock>,
    /// Everyone who waits for the session, and who waits for those, the nearest first; `None` when none is seen
    /// and there may be some all the same.
    pub blocked: Option<Vec<Waiter>>,
    /// How many transactions ago the oldest snapshot it holds was taken; `None` when it holds none.
    pub xmin_age: Option<i32>,
    /// Whether its process waits for a standby to have what it commits; `None` when the observer may not see that.
    pub awaits_standby: Option<bool>,
}

/// A lock, with the names of `pg_locks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// `relation`, `transactionid`, `tuple`, `advisory`, and so on (`pg_locks.locktype`).
    pub locktype: Arc<str>,
    /// `schema.table`; `None` for what is no relation, and for one whose name the observer cannot see.
    pub relation: Option<Arc<str>>,
    /// `AccessShareLock`, and so on.
    pub mode: Arc<str>,
    /// Whether it is held, not waited for.
    pub granted: bool,
    /// Whether it was taken by the fast path: seen by its owner alone until a strong lock is asked for.
    pub fastpath: bool,
}

/// A session of the server that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its process id; that of the leader for a parallel group.
    pub server_pid: i32,
    /// What kind of process it is: `client backend`, `autovacuum worker`, `startup` for the replay of a standby.
    pub backend_type: Option<Arc<str>>,
    /// Its role; `None` for a process of the server's own.
    pub user: Option<Arc<str>>,
    /// Its application name.
    pub application_name: Option<Arc<str>>,
    /// The statement that waits, with its literals; `None` without the privilege to see it.
    pub statement: Option<Arc<str>>,
    /// The type of the lock that it waits for (`pg_locks.locktype`), or the event (`pg_stat_activity.wait_event`) when that
    /// is no lock: `SafeSnapshot`, `BufferPin`, `RecoveryConflictSnapshot`, and so on.
    pub waits_for: Arc<str>,
    /// The relation that it waits to lock; `None` for what is no relation, and for one whose name cannot be seen.
    pub relation: Option<Arc<str>>,
    /// The mode in which it wants the lock.
    pub mode: Option<Arc<str>>,
    /// For how long; `None` where the server does not tell.
    pub waiting: Option<Duration>,
    /// The processes that it waits for, also those that only stand before it in the queue, each once.
    pub blocked_by: Arc<[i32]>,
    /// The prepared transactions that it waits for, each by its name where that can be read.
    pub prepared: Arc<[Option<Arc<str>>]>,
    /// 1 when it waits for the session itself, 2 when it waits for one that does, and so on.
    pub depth: u32,
    /// What frees it, as far as this session is in its way.
    pub freed_by: FreedBy,
}

impl Waiter {
    /// One that waits for a relation which these processes keep from it, and of which nothing else is known.
    pub fn new(server_pid: i32, blocked_by: &[i32]) -> Self {
        Self {
            server_pid,
            backend_type: None,
            user: None,
            application_name: None,
            statement: None,
            waits_for: "relation".into(),
            relation: None,
            mode: None,
            waiting: None,
            blocked_by: blocked_by.into(),
            prepared: [].into(),
            depth: 1,
            freed_by: FreedBy::Rollback,
        }
    }
}

/// What has to be done to a session so that one who waits for it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FreedBy {
    /// Its transaction has to end.
    Rollback,
    /// The session has to end: an advisory lock can be the session's, and PostgreSQL does not tell whose it is.
    Terminate,
    /// It waits for a prepared transaction as well, and does not go on before that is over.
    Nothing,
}

impl FreedBy {
    /// The name of the action, where one helps.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Rollback => Some("rollback"),
            Self::Terminate => Some("terminate"),
            Self::Nothing => None,
        }
    }
}
