//! Which rung of which ladder is due when: the clocks of a session, read from its position.

use std::time::{Duration, Instant};

use super::{
    Session, diagnostics,
    event::{Cause, Event, Incident, Outcome, Position},
    in_force::RuleIndex,
    state::{Phase, TransactionStatus},
};
use crate::{
    policy::{Action, StuckKind},
    wire::originate,
};

/// How long a batch without Sync may be silent before a Flush of ours asks the server whether it has answered it all.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// How long before a rung is due an observer's answer has to be asked for.
const LOOK_AHEAD: Duration = Duration::from_millis(250);

/// A wish to know what the session holds and who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservationRequest {
    /// From when on a look is of use.
    pub from: Instant,
    /// When the look is needed at the latest.
    pub by: Instant,
    /// Whether the session wants to be looked at again and again, not once.
    pub continuous: bool,
}

/// How long a client that has parsed an unnamed statement and not bound it is taken to be on its way to do so: pg8000
/// sends a statement in three batches, and an end between two of them would take the statement away from the third.
const BETWEEN_BATCHES: Duration = Duration::from_millis(500);

/// A rung that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rung {
    pub(super) kind: StuckKind,
    pub(super) action: Action,
    pub(super) limit: Duration,
    /// When it is due.
    pub(super) at: Instant,
    /// Whose it is.
    pub(super) rule: RuleIndex,
}

impl Session {
    /// Where in the protocol the session stands.
    pub fn position(&self) -> Position {
        let (state, pending) = (&self.state, &self.state.pending);
        if !state.phase.is_ready() {
            Position::Startup
        } else if state.replication {
            Position::Replication
        } else if self.released.is_some() {
            Position::Released
        } else if self.client.is_blocked()
            && (state.status != TransactionStatus::Idle || !pending.is_empty())
        {
            Position::ClientNotReading
        } else if pending.copy_in() && !self.server.is_blocked() {
            Position::CopyIn
        } else if self.client.missing() > 0 && !self.server.is_blocked() {
            Position::HalfForwardedMessage
        } else if pending.skipping() {
            Position::FailedBatch
        } else if !pending.is_empty() {
            Position::Running
        } else if pending.unsynced() {
            if state.transaction.open {
                Position::UnsyncedBatch
            } else {
                Position::Idle
            }
        } else {
            match state.status {
                TransactionStatus::Idle => Position::Idle,
                TransactionStatus::InBlock if self.client.is_half_sent() => {
                    Position::HalfSentRequest
                }
                TransactionStatus::InBlock => Position::IdleInTransaction,
                TransactionStatus::Failed => Position::IdleInTransactionAborted,
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.enforcement.is_some() {
            let timeouts = [self.enforcement_due(), self.deadline()];
            return timeouts.into_iter().flatten().min();
        }
        if let Phase::Authenticating(startup) = &self.state.phase {
            return startup.authenticate_by();
        }
        let transaction = &self.state.transaction;
        if transaction.started.is_none() && transaction.enforced.is_none() {
            let timeouts = [self.flush_at(), self.operator.due()];
            return timeouts.into_iter().flatten().min();
        }
        let rung = self.next_rung().map(|rung| rung.at);
        let timeouts = [rung, self.flush_at(), self.read_ahead_at()];
        timeouts.into_iter().flatten().min()
    }

    /// Takes every rung that is due, the earliest first.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let step @ Some(_) = self.enforcement_step() {
            self.enforcement_late(now);
            self.step_ended(step, now);
            self.overdue(now);
            return self.insist(now);
        }
        self.startup_late(now);
        if self.operator.due().is_some_and(|at| at <= now) {
            self.operator.time_passes(now);
            self.close_if_drained();
        }
        if self.flush_at().is_some_and(|at| at <= now) {
            self.flush_batch();
        }
        if self.read_ahead_at().is_some_and(|at| at <= now) {
            self.client.read_ahead();
        }
        while self.enforcement.is_none()
            && let Some(rung) = self.next_rung().filter(|rung| rung.at <= now)
        {
            self.take(rung, now);
        }
    }

    /// Tells whether there is an observer, and how often it can look.
    pub fn handle_observer(&mut self, interval: Option<Duration>, _now: Instant) {
        self.observed.set_interval(interval);
    }

    /// Whether, and when, the observer should look at what the session holds.
    pub fn observation_due(&self) -> Option<ObservationRequest> {
        let interval = self.observed.interval()?;
        if let Some(look) = self.requested_observation() {
            return Some(look);
        }
        if self.enforcement.is_some() || self.state.transaction.enforced.is_some() {
            return None;
        }
        let first = |since: Instant, limit: Duration| since + (interval / 10).min(limit / 2);
        if self.limits.has(StuckKind::Blocking)
            && let Some((kind, since)) = self.stuck(self.position())
            && kind != StuckKind::Failed
        {
            let from = first(since, Duration::MAX);
            return Some(ObservationRequest {
                from,
                by: from,
                continuous: true,
            });
        }
        let rung = self.next_rung()?;
        let since = rung.at.checked_sub(rung.limit)?;
        let first = first(since, rung.limit);
        let by = (rung.at - LOOK_AHEAD).max(first);
        Some(ObservationRequest {
            from: by.checked_sub(interval).map_or(first, |at| at.max(first)),
            by,
            continuous: false,
        })
    }

    /// The kind in which the session is stuck at this position, and since when.
    pub(super) fn stuck(&self, position: Position) -> Option<(StuckKind, Instant)> {
        let silent_since = self.state.turn_since.max(self.silence.since());
        match position {
            Position::IdleInTransaction
            | Position::HalfSentRequest
            | Position::IdleInTransactionAborted => {
                self.idle_kind().map(|kind| (kind, self.state.turn_since))
            }
            Position::UnsyncedBatch | Position::FailedBatch | Position::CopyIn => {
                Some((StuckKind::Stalled, silent_since))
            }
            Position::HalfForwardedMessage => Some((StuckKind::Stalled, self.silence.since())),
            Position::ClientNotReading => self
                .client
                .blocked_since()
                .map(|since| (StuckKind::Stalled, since)),
            Position::Startup
            | Position::Idle
            | Position::Running
            | Position::Released
            | Position::Replication => None,
        }
    }

    /// The kind in which a session is stuck whose server waits for a request.
    fn idle_kind(&self) -> Option<StuckKind> {
        let transaction = &self.state.transaction;
        match self.state.status {
            TransactionStatus::Idle => None,
            TransactionStatus::InBlock => Some(StuckKind::Idle),
            TransactionStatus::Failed => match transaction.enforced {
                // A transaction that was ended for others' sake holds nothing.
                Some(StuckKind::Blocking) => Some(StuckKind::Failed),
                Some(StuckKind::Age) => None,
                Some(kind @ (StuckKind::Idle | StuckKind::Failed | StuckKind::Stalled)) => {
                    Some(kind)
                }
                None if transaction.savepoints.may_be_open() => Some(StuckKind::Idle),
                None => Some(StuckKind::Failed),
            },
        }
    }

    /// The kind in which a session is stuck, besides being stalled, whose client does not read, although the server has
    /// said everything and waits for a request; and since when.
    fn unread(&self) -> Option<(StuckKind, Instant)> {
        let pending = &self.state.pending;
        let since = self.client.blocked_since()?;
        let waits = pending.is_empty() && !pending.unsynced() && self.released.is_none();
        waits.then_some((self.idle_kind()?, since))
    }

    /// When the server has to be read on, although the client does not take what is due to it: whether it has said
    /// everything and is idle cannot be told before.
    fn read_ahead_at(&self) -> Option<Instant> {
        let since = self.client.blocked_since()?;
        let finished = self.state.pending.is_empty();
        if finished || self.client.is_read_ahead() {
            return None;
        }
        if self.ladders.wait() {
            // What was not possible while the server worked is due when it has said everything.
            return Some(since);
        }
        self.state.block_since()?;
        let kinds = [StuckKind::Idle, StuckKind::Failed].into_iter();
        let rungs = kinds.flat_map(|kind| self.rungs(kind));
        let acting = rungs.filter(|&(_, action, _)| action.acts());
        let first = acting.map(|(limit, _, _)| limit).min()?;
        Some(since + first)
    }

    pub(super) fn next_rung(&self) -> Option<Rung> {
        let position = self.position();
        if matches!(
            position,
            Position::Startup | Position::Idle | Position::Replication
        ) {
            return None;
        }
        let over = self.is_over_but_for_rollback(position);
        let age = self.age_since().filter(|_| !over);
        let clocks = [
            self.stuck(position),
            self.unread(),
            age.map(|since| (StuckKind::Age, since)),
        ];
        let between = self.between_batches_until();
        let after_batch = |rung: Rung| Rung {
            at: between.map_or(rung.at, |until| rung.at.max(until)),
            ..rung
        };
        let clocks = clocks.into_iter().flatten();
        clocks
            .filter_map(|(kind, since)| self.rung(kind, since))
            .map(after_batch)
            .min_by_key(|rung| rung.at)
    }

    /// Since when the transaction counts for `age`.
    pub(super) fn age_since(&self) -> Option<Instant> {
        if !self.limits.has(StuckKind::Age) {
            return None;
        }
        // That an implicit transaction counts is a matter of each rule.
        let implicit = || {
            let counts = self.limits.count_implicit();
            self.state.transaction.started.filter(|_| counts)
        };
        self.state.block_since().or_else(implicit)
    }

    /// Until when a client that has parsed the unnamed statement is taken to be on its way to bind it.
    pub(super) fn between_batches_until(&self) -> Option<Instant> {
        let between = self.position() != Position::Running && self.state.prepared.waits_for_bind();
        between.then(|| self.state.turn_since + BETWEEN_BATCHES)
    }

    /// The next rung of a ladder whose clock runs since then.
    pub(super) fn rung(&self, kind: StuckKind, since: Instant) -> Option<Rung> {
        let rungs = self.rungs(kind);
        let (limit, action, rule) = rungs.min_by_key(|&(limit, action, _)| (limit, action))?;
        Some(Rung {
            kind,
            action,
            limit,
            at: since + limit,
            rule,
        })
    }

    /// The rungs of a ladder that were not taken and can be.
    pub(super) fn rungs(
        &self,
        kind: StuckKind,
    ) -> impl Iterator<Item = (Duration, Action, RuleIndex)> {
        // Into the body of a message nothing can be put: a rollback waits for the end of it, unless it is the message
        // itself that is stuck.
        let waiting = self.is_half_forwarded()
            && (kind, self.position()) != (StuckKind::Stalled, Position::HalfForwardedMessage);
        let explicit = kind == StuckKind::Age && self.state.block_since().is_some();
        let rungs = self.limits.rungs(kind, explicit);
        let quiet = self.is_quiet();
        rungs
            .filter(move |&(_, action, _)| self.ladders.is_open(kind, action, quiet))
            .filter(move |&(_, action, _)| !waiting || action != Action::Rollback)
    }

    /// The `terminate` of a ladder whose clock runs since then, or of `age`, whichever is due first.
    pub(super) fn last_rung(&self, kind: StuckKind, since: Option<Instant>) -> Option<Rung> {
        let age = self.age_since();
        let rung = |(kind, since): (StuckKind, Option<Instant>)| {
            let rungs = self.limits.rungs(kind, self.state.block_since().is_some());
            let last = rungs.filter(|&(_, action, _)| action == Action::Terminate);
            let (limit, action, rule) = last.min_by_key(|&(limit, _, _)| limit)?;
            Some(Rung {
                kind,
                action,
                limit,
                at: since? + limit,
                rule,
            })
        };
        let rungs = [(kind, since), (StuckKind::Age, age)].into_iter();
        rungs.filter_map(rung).min_by_key(|rung| rung.at)
    }

    /// When the server has to be asked for its answers to a batch without Sync: a busy server and a waiting one look
    /// the same before, and a client that is held until they have come cannot ask by itself.
    fn flush_at(&self) -> Option<Instant> {
        let mut watching = [StuckKind::Stalled, StuckKind::Age, StuckKind::Blocking].into_iter();
        let watched = watching.any(|kind| self.limits.has(kind))
            && self.state.transaction.started.is_some()
            || self.deferred_error_holds_client();
        (watched && self.may_owe_a_flush()).then(|| self.silence.since() + FLUSH_AFTER)
    }

    /// Asks the server for its answers to a batch without Sync, once.
    pub(super) fn flush_batch(&mut self) {
        if self.may_owe_a_flush() {
            originate::flush(self.server.output());
            self.silence.flush();
        }
    }

    /// Whether the server may keep answers back until it is asked for them.
    fn may_owe_a_flush(&self) -> bool {
        let pending = &self.state.pending;
        let silent = pending.unsynced() && pending.ready_owed() == 0 && !pending.is_empty();
        let legal = !pending.copy_in() && self.client.missing() == 0;
        silent && legal && !self.silence.was_flushed() && self.state.phase.is_ready()
    }

    /// Notes that a rung is taken, and writes down of what.
    pub(super) fn taken(&mut self, rung: Rung, now: Instant) -> Incident {
        self.ladders.take(rung.kind, rung.action);
        self.incident(rung, now)
    }

    pub(super) fn take(&mut self, rung: Rung, now: Instant) {
        let mut incident = self.taken(rung, now);
        let half_forwarded = self.is_half_forwarded();
        match rung.action {
            Action::Log => {}
            Action::Notice => {
                if self.server.missing() == 0 {
                    originate::notice_response(
                        &diagnostics::notice(&incident),
                        self.client.output(),
                    );
                    incident.outcome = Outcome::Noticed;
                } else {
                    incident.outcome = Outcome::NotPossible;
                }
            }
            Action::Release if self.released.is_some() => return,
            Action::Rollback if half_forwarded => {
                incident.is_not_possible("a message is half forwarded; only terminate can act");
            }
            Action::Rollback if self.is_rolled_back() => return,
            Action::Release | Action::Rollback | Action::Terminate => {
                return self.start_enforcement(incident, now);
            }
        }
        self.emit_incident(incident);
    }

    /// Whether the transaction has failed and holds nothing: it is over but for its ROLLBACK. There is nothing to end, and
    /// a Query of ours could take away the unnamed statement which that ROLLBACK was parsed as.
    pub(super) fn is_over_but_for_rollback(&self, position: Position) -> bool {
        let savepoints = &self.state.transaction.savepoints;
        position == Position::IdleInTransactionAborted && !savepoints.may_be_open()
    }

    /// Whether nothing is under way, in either direction.
    fn is_quiet(&self) -> bool {
        let between = self.client.missing() == 0 && self.server.missing() == 0;
        self.state.pending.is_empty() && between
    }

    /// Whether the server has a part of a message whose rest cannot be made up.
    pub(super) fn is_half_forwarded(&self) -> bool {
        self.client.missing() > 0 && !self.state.pending.copy_in()
    }

    /// Whether the server is in a failed transaction of ours, and nothing was sent after it that it could begin.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.state.transaction.enforced.is_some() && self.state.pending.is_empty()
    }

    /// How many statements the transaction has had, with those that run.
    pub(super) fn statement_count(&self) -> u64 {
        let running = self.state.pending.running().count();
        self.state.transaction.statement_count + u64::try_from(running).unwrap_or(0)
    }

    pub(super) fn incident(&self, rung: Rung, now: Instant) -> Incident {
        let cause = Cause::Limit {
            rule: self.limits.rule(rung.rule),
            kind: rung.kind,
            limit: rung.limit,
        };
        let mut incident = self.incident_of(cause, rung.action, now);
        if rung.kind == StuckKind::Blocking {
            let waited = now.saturating_duration_since(rung.at) + rung.limit;
            incident.waited = Some(waited);
        }
        incident
    }

    /// What is reported of an action that is taken for this cause.
    pub(super) fn incident_of(&self, cause: Cause, action: Action, now: Instant) -> Incident {
        let position = self.position();
        let transaction = &self.state.transaction;
        let since = self.stuck(position).map_or(now, |(_, since)| since);
        let running = self.state.pending.running();
        let damage = self.observed.latest(since);
        Incident {
            who: self.who.clone(),
            cause,
            action,
            outcome: Outcome::Logged,
            why: None,
            idle: now.saturating_duration_since(since),
            waited: None,
            age: self
                .state
                .block_since()
                .or(transaction.started)
                .map(|started| now.saturating_duration_since(started)),
            position,
            statements: transaction.statements(running),
            statement_count: self.statement_count(),
            damage,
        }
    }

    /// Reports how an action came out; what was not possible is due again.
    pub(super) fn emit_incident(&mut self, incident: Incident) {
        if let Some(kind) = incident.kind()
            && incident.outcome == Outcome::NotPossible
        {
            self.ladders.defer(kind, incident.action);
        }
        self.events.push_back(Event::Incident(Box::new(incident)));
    }
}
