//! What is done about a stuck transaction, and when: actions in order of severity, each with its time.

use std::{
    fmt,
    ops::{Index, IndexMut},
    sync::Arc,
    time::Duration,
};

use super::{LockMode, format_duration};

/// What pgidle does when a limit is reached, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Writes an incident; the session is not touched.
    Log,
    /// Writes an incident and sends the client a NoticeResponse of severity WARNING.
    Notice,
    /// Ends a provably read-only transaction and begins it anew when the client speaks.
    Release,
    /// Ends the transaction and keeps the session.
    Rollback,
    /// Ends the session with a FATAL error.
    Terminate,
}

impl Action {
    /// Every action, mildest first.
    pub const ALL: [Self; 5] = [
        Self::Log,
        Self::Notice,
        Self::Release,
        Self::Rollback,
        Self::Terminate,
    ];

    /// Whether it does something to the transaction or the session.
    pub fn acts(self) -> bool {
        self >= Self::Release
    }

    /// The name used in configuration, audit and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Notice => "notice",
            Self::Release => "release",
            Self::Rollback => "rollback",
            Self::Terminate => "terminate",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// In which way a transaction is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StuckKind {
    /// Idle in transaction: the server waits for the client's next request.
    Idle,
    /// Idle in transaction (aborted), holding nothing.
    Failed,
    /// In the middle of the protocol: an un-Synced batch, a COPY without data, a client that does not read.
    Stalled,
    /// The whole transaction is too old, busy or not.
    Age,
    /// Idle while another session waits for this one's locks.
    Blocking,
}

impl StuckKind {
    /// Every kind, in the order of the configuration's documentation.
    pub const ALL: [Self; 5] = [
        Self::Idle,
        Self::Failed,
        Self::Stalled,
        Self::Age,
        Self::Blocking,
    ];

    /// The name used in configuration, audit and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::Age => "age",
            Self::Blocking => "blocking",
        }
    }
}

/// One value for each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerKind<T>([T; StuckKind::ALL.len()]);

impl<T> Index<StuckKind> for PerKind<T> {
    type Output = T;

    fn index(&self, kind: StuckKind) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<StuckKind> for PerKind<T> {
    fn index_mut(&mut self, kind: StuckKind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

impl fmt::Display for StuckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The rungs of one kind: actions of growing severity at times that do not shrink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ladder(Box<[(Duration, Action)]>);

impl Ladder {
    /// Builds a ladder from rungs in any order.
    ///
    /// # Errors
    /// Refuses an action given twice, and a severer action that comes before a milder one. `release` and `rollback`
    /// may share a time: what cannot be released is rolled back.
    pub fn new(rungs: impl IntoIterator<Item = (Action, Duration)>) -> Result<Self, LadderError> {
        let mut sorted: Vec<_> = rungs.into_iter().map(|(action, at)| (at, action)).collect();
        sorted.sort_by_key(|&(_, action)| action);
        for pair in sorted.windows(2) {
            let [(early, mild), (late, severe)] = pair else {
                continue;
            };
            if mild == severe {
                return Err(LadderError::Twice(*mild));
            }
            if early > late {
                return Err(LadderError::OutOfOrder {
                    mild: *mild,
                    severe: *severe,
                    mild_at: *early,
                    severe_at: *late,
                });
            }
        }
        Ok(Self(sorted.into()))
    }

    /// The rungs, soonest first.
    pub fn rungs(&self) -> &[(Duration, Action)] {
        &self.0
    }

    /// Whether an action is among the rungs.
    pub fn has(&self, action: Action) -> bool {
        self.0.iter().any(|&(_, rung)| rung == action)
    }

    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The rungs in words, such as `log 5s, rollback 1min`; empty without any.
impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, &(at, action)) in self.0.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{action} {}", format_duration(at))?;
        }
        Ok(())
    }
}

/// Why rungs do not make a ladder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// The same action was given two times.
    #[error("`{0}` is given twice")]
    Twice(Action),
    /// A severer action would be taken before a milder one.
    #[error(
        "`{severe}` at {} comes before `{mild}` at {}",
        super::format_duration(*severe_at),
        super::format_duration(*mild_at)
    )]
    OutOfOrder {
        /// The milder action.
        mild: Action,
        /// The severer action.
        severe: Action,
        /// When the milder action is due.
        mild_at: Duration,
        /// When the severer action is due.
        severe_at: Duration,
    },
}

/// What one rule allows its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Name of the rule that these limits come from.
    pub rule: Arc<str>,
    /// One ladder for each kind.
    pub ladders: PerKind<Ladder>,
    /// Whether `age` holds for implicit transactions too (CREATE INDEX CONCURRENTLY, VACUUM, COPY).
    pub age_implicit: bool,
    /// The only lock mode whose waiters count for `blocking`; `None` counts all.
    pub blocking_mode: Option<LockMode>,
    /// How long the server may take for the question that `release` asks.
    pub release_timeout: Duration,
}

/// [`Limits::release_timeout`] where none is set: a client that speaks again waits for the end of the question.
pub const RELEASE_TIMEOUT: Duration = Duration::from_millis(250);

impl Default for Limits {
    fn default() -> Self {
        Self {
            rule: Arc::default(),
            ladders: PerKind::default(),
            age_implicit: false,
            blocking_mode: None,
            release_timeout: RELEASE_TIMEOUT,
        }
    }
}

impl Limits {
    /// Whether there is no limit at all.
    pub fn is_exempt(&self) -> bool {
        StuckKind::ALL
            .into_iter()
            .all(|kind| self.ladder(kind).is_empty())
    }

    /// Whether any limit does more than to log or to warn.
    pub fn acts(&self) -> bool {
        let mut rungs = StuckKind::ALL
            .into_iter()
            .flat_map(|kind| self.ladder(kind).rungs());
        rungs.any(|&(_, action)| action.acts())
    }

    /// The ladder of one kind.
    pub fn ladder(&self, kind: StuckKind) -> &Ladder {
        &self.ladders[kind]
    }
}
