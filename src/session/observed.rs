//! What the observer has seen of the session since its client last spoke.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::damage::{Damage, FreedBy};
use crate::policy::{Action, LockMode};

/// The latest sight, and since when others have waited.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// How often the observer can look, when there is one.
    interval: Option<Duration>,
    latest: Option<Arc<Damage>>,
    waited_for: WaitedFor,
}

impl Observed {
    /// Notes whether there is an observer, and how often it can look.
    pub(super) fn set_interval(&mut self, interval: Option<Duration>) {
        self.interval = interval;
    }

    /// How often the observer can look, when there is one.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// What was seen last, if that was after a moment.
    pub(super) fn latest(&self, since: Instant) -> Option<Arc<Damage>> {
        let latest = self.latest.as_ref();
        latest.filter(|damage| damage.at >= since).cloned()
    }

    /// Since when others have waited.
    pub(super) fn waited_for(&self) -> &WaitedFor {
        &self.waited_for
    }

    /// Takes note of what was seen; whether anyone waits in that mode, or in any.
    pub(super) fn note(
        &mut self,
        damage: Arc<Damage>,
        wanted: Option<LockMode>,
        now: Instant,
    ) -> bool {
        self.waited_for.update(&damage, wanted, now);
        self.latest = Some(damage);
        let anyone = self.waited_for.anyone.is_some();
        if !anyone {
            self.waited_for = WaitedFor::default();
        }
        anyone
    }

    /// Notes the action of which was reported that it would free no waiter.
    pub(super) fn reported(&mut self, action: Action) {
        self.waited_for.reported = Some(action);
    }

    /// The client has spoken: what was seen before says nothing any more.
    pub(super) fn forget(&mut self) {
        self.latest = None;
        self.waited_for = WaitedFor::default();
    }
}

/// Since when others have waited, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitedFor {
    anyone: Option<Instant>,
    /// Those who go on when the transaction ends, and those who do when the session ends.
    freed_by_rollback: Option<Instant>,
    freed_by_terminate: Option<Instant>,
    /// The severest action of which was reported that it would free no waiter.
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
    pub(super) fn by(&self, action: Action) -> Option<Instant> {
        match action {
            Action::Log | Action::Notice => self.anyone,
            Action::Release | Action::Rollback => self.freed_by_rollback,
            Action::Terminate => self.freed_by_terminate,
        }
    }

    /// Since when anyone has waited, for an action that would free none of them, where that was not reported.
    pub(super) fn by_nothing(&self, action: Action) -> Option<Instant> {
        self.anyone
            .filter(|_| action >= Action::Release && Some(action) > self.reported)
    }

    /// Whether a waiter goes on when the session ends.
    pub(super) fn frees_by_terminate(&self) -> bool {
        self.freed_by_terminate.is_some()
    }
}
