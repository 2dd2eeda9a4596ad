//! The clock of `blocking`: since when others have waited for this session, and whether ending it would help them.
//!
//! An action destroys work, so it is taken for the sake of those alone whom it frees: a lock of the session's outlives its
//! transaction, and a prepared transaction outlives both.

use std::{sync::Arc, time::Instant};

use super::{
    Session,
    damage::{Damage, FreedBy},
    event::Outcome,
    limits::Rung,
};
use crate::policy::{Action, Kind, LockMode};

/// Since when others have waited, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitedFor {
    anyone: Option<Instant>,
    /// Those who go on when the transaction ends, and those who do when the session ends.
    freed_by_rollback: Option<Instant>,
    freed_by_terminate: Option<Instant>,
    /// The severest action of which was reported that it would free nobody.
    reported: Option<Action>,
}

impl WaitedFor {
    /// Takes note of who waits. Where the server does not say since when, the first sight counts.
    fn update(&mut self, damage: &Damage, wanted: Option<LockMode>, now: Instant) {
        let since = |freed_by: FreedBy, known: Option<Instant>| {
            let waiters = damage.blocked.iter().flatten();
            let counted = waiters.filter(|waiter| {
                let mode = waiter.mode.as_deref();
                waiter.freed_by <= freed_by
                    && wanted.is_none_or(|wanted| mode == Some(wanted.name()))
            });
            let since = counted.map(|waiter| match waiter.waiting {
                Some(waiting) => now.checked_sub(waiting).unwrap_or(now),
                None => known.unwrap_or(now),
            });
            since.min()
        };
        self.anyone = since(FreedBy::Nothing, self.anyone);
        self.freed_by_rollback = since(FreedBy::Rollback, self.freed_by_rollback);
        self.freed_by_terminate = since(FreedBy::Terminate, self.freed_by_terminate);
    }

    /// Since when those have waited for whose sake an action is taken.
    fn by(&self, action: Action) -> Option<Instant> {
        match action {
            Action::Log | Action::Notice => self.anyone,
            Action::Release | Action::Rollback => self.freed_by_rollback,
            Action::Terminate => self.freed_by_terminate,
        }
    }
}

impl Session {
    /// Takes note of what was seen, and takes the rungs of `blocking` that are due by it.
    ///
    /// No other clock rings for them: whoever is ended for keeping others waiting was seen to do so just now.
    pub fn observed(&mut self, damage: Arc<Damage>, now: Instant) {
        self.commit_observed(&damage, now);
        let mode = self.limits.blocking_mode();
        self.waited_for.update(&damage, mode, now);
        if self.waited_for.anyone.is_none() {
            self.waited_for = WaitedFor::default();
            self.ladders.restart(Kind::Blocking);
        }
        let seen = damage.at;
        self.damage = Some(damage);
        while self.ending.is_none()
            && let Some(rung) = self.blocking_rung(seen, now, WaitedFor::by)
        {
            self.take(rung, now);
        }
        let anyone = |waited: &WaitedFor, action| {
            waited
                .anyone
                .filter(|_| action >= Action::Release && Some(action) > waited.reported)
        };
        while self.ending.is_none()
            && let Some(rung) = self.blocking_rung(seen, now, anyone)
        {
            self.waited_for.reported = Some(rung.action);
            self.frees_nobody(rung, now);
        }
    }

    /// The first rung of `blocking` that is due, given since when others have waited; the session was stuck already when
    /// they were `seen`.
    fn blocking_rung(
        &self,
        seen: Instant,
        now: Instant,
        since: impl Fn(&WaitedFor, Action) -> Option<Instant>,
    ) -> Option<Rung> {
        let (_, stuck) = self.stuck(self.position())?;
        if self.state.transaction.enforced.is_some() || stuck > seen {
            return None;
        }
        self.rungs(Kind::Blocking)
            .filter_map(|(limit, action, rule)| {
                let at = stuck.max(since(&self.waited_for, action)?) + limit;
                Some(Rung {
                    kind: Kind::Blocking,
                    action,
                    limit,
                    at,
                    rule,
                })
            })
            .filter(|rung| rung.at <= now)
            .min_by_key(|rung| (rung.limit, rung.action))
    }

    /// Reports that an action which is due is not taken.
    fn frees_nobody(&mut self, rung: Rung, now: Instant) {
        let mut incident = self.incident(rung, now);
        incident.outcome = Outcome::NotPossible;
        let kept_by_session = self.waited_for.freed_by_terminate.is_some();
        let why = if rung.action < Action::Terminate && kept_by_session {
            "who has waited so long might not go on: it waits for an advisory lock, which can be the session's"
        } else {
            "who has waited so long would not go on: it waits for a prepared transaction too"
        };
        incident.why = Some(why.into());
        self.report(incident);
    }
}
