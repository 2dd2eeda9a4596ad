//! The clock of `blocking`: since when others have waited for this session, and whether ending it would help them.
//!
//! An action destroys work, so it is taken for the sake of those alone whom it frees: a lock of the session's outlives its
//! transaction, and a prepared transaction outlives both.

use std::{sync::Arc, time::Instant};

use super::{Session, damage::Damage, event::Outcome, limits::Rung, observed::WaitedFor};
use crate::policy::{Action, StuckKind};

impl Session {
    /// Takes note of what was seen, and takes the rungs of `blocking` that are due by it.
    ///
    /// No other clock rings for them: a session that is ended for keeping others waiting was seen to do so just now.
    pub fn handle_observation(&mut self, damage: Arc<Damage>, now: Instant) {
        self.commit_observed(&damage, now);
        let seen = damage.at;
        if !self.observed.note(damage, self.limits.blocking_mode(), now) {
            self.ladders.restart(StuckKind::Blocking);
        }
        while self.enforcement.is_none()
            && let Some(rung) = self.blocking_rung(seen, now, WaitedFor::by)
        {
            self.take(rung, now);
        }
        while self.enforcement.is_none()
            && let Some(rung) = self.blocking_rung(seen, now, WaitedFor::by_nothing)
        {
            self.observed.reported(rung.action);
            self.frees_nobody(rung, now);
        }
        self.insist(now);
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
        self.rungs(StuckKind::Blocking)
            .filter_map(|(limit, action, rule)| {
                let at = stuck.max(since(self.observed.waited_for(), action)?) + limit;
                Some(Rung {
                    kind: StuckKind::Blocking,
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
        let kept_by_session = self.observed.waited_for().frees_by_terminate();
        let why = if rung.action < Action::Terminate && kept_by_session {
            "who has waited so long might not go on: it waits for an advisory lock, which can be the session's"
        } else {
            "who has waited so long would not go on: it waits for a prepared transaction too"
        };
        incident.why = Some(why.into());
        self.emit_incident(incident);
    }
}
