//! Where sessions stand, put together from their snapshots when someone asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

use super::{OTHER, SESSIONS, Series, registered};
use crate::session::{
    Snapshot,
    event::{Position, Who},
};

/// How many users of databases with application names are told apart at a time.
const MOST_SETS: usize = 200;

/// How much of a name a label has: PostgreSQL's own names are no longer than 63 bytes.
const LONGEST_LABEL: usize = 63;

/// A database, a user and an application name.
type Names<T> = [T; 3];

/// The gauges.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Those who have a name of their own: each keeps it while it has a session.
    named: BTreeSet<Names<String>>,
    /// Those who had none when someone last asked.
    folded: BTreeSet<Names<String>>,
    by_state: IntGaugeVec,
    blocked: IntGauge,
    xmin_age: IntGauge,
    oldest_transaction: Gauge,
    longest_idle: Gauge,
}

impl Sessions {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (name, help, labels) = SESSIONS;
        let whole = |(name, help, _): Series| registered(registry, IntGauge::new(name, help)?);
        let seconds = |(name, help, _): Series| registered(registry, Gauge::new(name, help)?);
        Ok(Self {
            named: BTreeSet::new(),
            folded: BTreeSet::new(),
            by_state: registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)?,
            blocked: whole(BLOCKED)?,
            xmin_age: whole(XMIN_AGE)?,
            oldest_transaction: seconds(OLDEST_TRANSACTION)?,
            longest_idle: seconds(LONGEST_IDLE)?,
        })
    }

    /// Brings the gauges up to date; returns how many names have newly become `other`.
    pub(super) fn set(&mut self, sessions: &[Snapshot]) -> u64 {
        let mut counts: BTreeMap<Names<&str>, BTreeMap<&'static str, i64>> = BTreeMap::new();
        for session in sessions {
            let states = counts.entry(names(&session.who, session.position));
            *states
                .or_default()
                .entry(session.position.name())
                .or_default() += 1;
        }
        let is_there =
            |names: &Names<String>| counts.contains_key(&names.each_ref().map(String::as_str));
        self.named.retain(is_there);
        let (mut others, mut newly) = (BTreeSet::new(), 0);
        self.by_state.reset();
        for (names, states) in &counts {
            let owned = names.map(str::to_owned);
            let is_named = self.named.contains(&owned)
                || self.named.len() < MOST_SETS && self.named.insert(owned.clone());
            for (state, count) in states {
                let [database, user, application_name] = if is_named { *names } else { [OTHER; 3] };
                let labels = [database, user, application_name, state];
                self.by_state.with_label_values(&labels).add(*count);
            }
            if !is_named {
                newly += u64::from(!self.folded.contains(&owned));
                others.insert(owned);
            }
        }
        self.folded = others;
        self.set_worst(sessions);
        newly
    }

    fn set_worst(&self, sessions: &[Snapshot]) {
        let blocked: usize = sessions.iter().filter_map(Snapshot::blocked).sum();
        self.blocked.set(i64::try_from(blocked).unwrap_or(i64::MAX));
        let damage = sessions.iter().filter_map(|one| one.damage.as_ref());
        let xmin = damage.filter_map(|damage| damage.xmin_age).max();
        self.xmin_age.set(xmin.unwrap_or_default().into());
        let oldest = sessions.iter().filter_map(|one| one.transaction_for).max();
        self.oldest_transaction.set(seconds(oldest));
        let idle = sessions.iter().filter(|one| is_idle(one.position));
        let longest = idle.map(|one| one.position_for).max();
        self.longest_idle.set(seconds(longest));
    }
}

fn seconds(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64()
}

/// Whether a transaction is open and the server waits for the client.
fn is_idle(position: Position) -> bool {
    match position {
        Position::IdleInTransaction
        | Position::IdleInTransactionAborted
        | Position::HalfSentRequest
        | Position::HalfForwardedMessage
        | Position::UnsyncedBatch
        | Position::FailedBatch
        | Position::CopyIn
        | Position::ClientNotReading => true,
        Position::Startup
        | Position::Idle
        | Position::Running
        | Position::Released
        | Position::Replication => false,
    }
}

/// The names of a session, which are nobody's until the server has let the client in.
fn names(who: &Who, position: Position) -> Names<&str> {
    if position == Position::Startup {
        return Names::default();
    }
    [&who.database, &who.user, &who.application_name].map(|name| {
        let end = name.floor_char_boundary(LONGEST_LABEL);
        name.get(..end).unwrap_or_default()
    })
}

const BLOCKED: Series = (
    "pgidle_blocked_sessions",
    "Sessions of the server that wait for stuck sessions, as the observer saw last; one that waits for two counts twice.",
    &[],
);
const XMIN_AGE: Series = (
    "pgidle_xmin_age",
    "How many transactions ago the oldest snapshot was taken that a stuck session holds, as the observer saw last; 0 when \
     none is known.",
    &[],
);
const OLDEST_TRANSACTION: Series = (
    "pgidle_oldest_transaction_seconds",
    "The age of the oldest transaction that is open, a single statement's included; 0 when there is none.",
    &[],
);
const LONGEST_IDLE: Series = (
    "pgidle_longest_idle_in_transaction_seconds",
    "For how long the server has waited for the client of a transaction, of all that wait now; 0 when there is none.",
    &[],
);
