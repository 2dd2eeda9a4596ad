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
    /// Everyone who waits for the session, and who waits for those, the nearest first.
    pub blocked: Vec<Waiter>,
    /// How many transactions ago the oldest snapshot it holds was taken; `None` when it holds none.
    pub xmin_age: Option<i32>,
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
    /// Whether it was taken by the fast path: seen by its owner alone until somebody needs a strong lock.
    pub fastpath: bool,
}

/// A session of the server that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its process id.
    pub server_pid: i32,
    /// Its role.
    pub user: Option<Arc<str>>,
    /// Its application name.
    pub application_name: Option<Arc<str>>,
    /// The statement that waits, with its literals; `None` without the privilege to see it.
    pub statement: Option<Arc<str>>,
    /// The relation that it waits to lock; `None` for what is no relation, and for one whose name cannot be seen.
    pub relation: Option<Arc<str>>,
    /// The mode in which it wants the lock.
    pub mode: Arc<str>,
    /// For how long; `None` on servers before 14, which do not tell.
    pub waiting: Option<Duration>,
    /// The processes that it waits for, also those that only stand before it in the queue.
    pub blocked_by: Arc<[i32]>,
    /// 1 when it waits for the session itself, 2 when it waits for one that does, and so on.
    pub depth: u32,
}
