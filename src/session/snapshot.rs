//! How things stand with a session at one moment, for those who ask. It is put together when it is asked for, and costs a
//! session nothing before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Session,
    damage::Damage,
    enforce::Step,
    event::{Position, Statement, Who},
    in_force::RuleIndex,
};
use crate::policy::{Action, StuckKind};

/// How things stand with a session. Times count up to the moment at which it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Who it belongs to.
    pub who: Who,
    /// Where in the protocol it stands.
    pub position: Position,
    /// For how long, as far as that is known: what passes between the server and the client in that position does not
    /// count anew.
    pub position_for: Duration,
    /// How old the transaction is, which may be that of a single statement; `None` when none is open.
    pub transaction_for: Option<Duration>,
    /// How many statements the transaction has had, with one that runs.
    pub statement_count: u64,
    /// The last of them, with its literals.
    pub statement: Option<Statement>,
    /// The rule that holds for it.
    pub rule: Arc<str>,
    /// The clocks that run: in which ways it is stuck, and what was done about it.
    pub clocks: Vec<Clock>,
    /// The step of an enforcement that is under way.
    pub enforcement: Option<&'static str>,
    /// What it holds and who waits for it, as an observer saw last.
    pub damage: Option<Arc<Damage>>,
}

/// A clock that runs for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it measures.
    pub kind: StuckKind,
    /// What it shows.
    pub shows: Duration,
    /// The rungs of its ladder that were taken.
    pub taken: Vec<Action>,
    /// The rung that comes next, and in how long.
    pub next: Option<(Action, Duration)>,
}

impl Snapshot {
    /// The same some time later, where nothing has happened in the session meanwhile.
    #[must_use]
    pub fn later(&self, by: Duration) -> Self {
        let mut later = self.clone();
        later.position_for += by;
        later.transaction_for = later.transaction_for.map(|age| age + by);
        for clock in &mut later.clocks {
            clock.shows += by;
            clock.next = clock
                .next
                .map(|(action, left)| (action, left.saturating_sub(by)));
        }
        later
    }

    /// How many others wait for it, as an observer saw last; `None` where there was no observation, or the observer may not
    /// see them.
    pub fn blocked(&self) -> Option<usize> {
        Some(self.damage.as_ref()?.blocked.as_ref()?.len())
    }
}

impl Session {
    /// How things stand at `now`.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let position = self.position();
        let transaction = &self.state.transaction;
        let started = self.state.block_since().or(transaction.started);
        let age = |since: Instant| now.saturating_duration_since(since);
        let since = self.in_position_since(position);
        let running = self.state.pending.running();
        Snapshot {
            who: self.who.clone(),
            position,
            position_for: age(since),
            transaction_for: started.map(age),
            statement_count: self.statement_count(),
            statement: transaction.statements(running).pop(),
            rule: self.limits.rule(RuleIndex::CURRENT),
            clocks: self.clocks(position, now),
            enforcement: self.enforcement_step().map(Step::name),
            damage: self.observed.latest(since),
        }
    }

    fn in_position_since(&self, position: Position) -> Instant {
        let front = self.state.pending.front().map(|request| request.at);
        match position {
            Position::Running => front.unwrap_or(self.state.turn_since),
            Position::Startup
            | Position::Idle
            | Position::IdleInTransaction
            | Position::IdleInTransactionAborted
            | Position::HalfSentRequest
            | Position::HalfForwardedMessage
            | Position::UnsyncedBatch
            | Position::FailedBatch
            | Position::CopyIn
            | Position::ClientNotReading
            | Position::Released
            | Position::Replication => self
                .stuck(position)
                .map_or(self.state.turn_since, |(_, since)| since),
        }
    }

    fn clocks(&self, position: Position, now: Instant) -> Vec<Clock> {
        let stuck = self.stuck(position);
        let waited_for = self.observed.waited_for().by(Action::Log);
        // Others count for a session that is stuck.
        let blocking = stuck
            .zip(waited_for)
            .map(|((_, stuck), since)| since.max(stuck));
        let clocks = [
            stuck,
            self.age_since().map(|since| (StuckKind::Age, since)),
            blocking.map(|since| (StuckKind::Blocking, since)),
        ];
        let clock = |(kind, since): (StuckKind, Instant)| {
            let next = self.rung(kind, since);
            Clock {
                kind,
                shows: now.saturating_duration_since(since),
                taken: self.ladders.taken(kind),
                next: next.map(|rung| (rung.action, rung.at.saturating_duration_since(now))),
            }
        };
        clocks.into_iter().flatten().map(clock).collect()
    }
}
