//! Which rungs have been taken, for each kind since its clock began.
//!
//! They are remembered by their severity and not counted: limits change under a stuck session (a reload, another
//! application_name), and a rung of the new ladder that is severer than whatever was done is due at its time, while a
//! milder one comes too late.

use crate::policy::{Action, PerKind, StuckKind};

/// What was done about a session in each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ladders(PerKind<Taken>);

/// What was done in one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    actions: Actions,
    /// Those of them that were not possible where the session stood, and are due again where it is quiet.
    deferred: Actions,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Actions(u8);

impl Actions {
    fn insert(&mut self, action: Action) {
        self.0 |= 1 << action as u8;
    }

    fn remove(&mut self, others: Self) {
        self.0 &= !others.0;
    }

    fn has(self, action: Action) -> bool {
        self.0 & Self::from(action).0 != 0
    }

    /// Whether an action of this severity or more is among them.
    fn reach(self, action: Action) -> bool {
        self.0 >> action as u8 != 0
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        let mut only = Self::default();
        only.insert(action);
        only
    }
}

impl Ladders {
    /// Whether a rung is still to be taken; `quiet` tells whether what was not possible before may be now.
    pub(super) fn is_open(&self, kind: StuckKind, action: Action, quiet: bool) -> bool {
        let Taken {
            mut actions,
            deferred,
        } = self.0[kind];
        if quiet {
            actions.remove(deferred);
        }
        !actions.reach(action)
    }

    /// What was done since the clock of a kind began.
    pub(super) fn taken(&self, kind: StuckKind) -> Vec<Action> {
        let taken = self.0[kind].actions;
        let actions = Action::ALL.into_iter();
        actions.filter(|&action| taken.has(action)).collect()
    }

    /// Notes that a rung is taken.
    pub(super) fn take(&mut self, kind: StuckKind, action: Action) {
        let taken = &mut self.0[kind];
        taken.actions.insert(action);
        taken.deferred.remove(action.into());
    }

    /// Notes that a rung that was taken came to nothing, and is due as before.
    pub(super) fn give_back(&mut self, kind: StuckKind, action: Action) {
        self.0[kind].actions.remove(action.into());
    }

    /// Notes that a rung that was taken was not possible, and is due again as soon as the session is quiet.
    pub(super) fn defer(&mut self, kind: StuckKind, action: Action) {
        self.0[kind].deferred.insert(action);
    }

    /// Whether a rung waits for the session to be quiet.
    pub(super) fn wait(&self) -> bool {
        let waits = |kind| {
            let Taken { actions, deferred } = self.0[kind];
            actions.0 & deferred.0 != 0
        };
        StuckKind::ALL.into_iter().any(waits)
    }

    /// The clock of a kind begins anew.
    pub(super) fn restart(&mut self, kind: StuckKind) {
        self.0[kind] = Taken::default();
    }

    /// The transaction is over, and every clock with it.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actions that are still to be taken in `idle`.
    fn open(ladders: &Ladders, quiet: bool) -> Vec<Action> {
        let actions = Action::ALL.into_iter();
        actions
            .filter(|&action| ladders.is_open(StuckKind::Idle, action, quiet))
            .collect()
    }

    #[test]
    fn what_is_severer_than_everything_that_was_done_is_open() {
        use Action::{Log, Notice, Release, Rollback, Terminate};
        let mut ladders = Ladders::default();
        assert_eq!(open(&ladders, false), Action::ALL);
        ladders.take(StuckKind::Age, Terminate);
        ladders.take(StuckKind::Idle, Notice);
        assert_eq!(open(&ladders, true), [Release, Rollback, Terminate]);
        ladders.take(StuckKind::Idle, Rollback);
        ladders.give_back(StuckKind::Idle, Rollback);
        assert_eq!(open(&ladders, false), [Release, Rollback, Terminate]);
        ladders.take(StuckKind::Idle, Rollback);
        ladders.defer(StuckKind::Idle, Rollback);
        assert_eq!(open(&ladders, false), [Terminate]);
        assert!(ladders.wait());
        assert_eq!(open(&ladders, true), [Release, Rollback, Terminate]);
        ladders.take(StuckKind::Idle, Rollback);
        assert!(!ladders.wait());
        assert_eq!(open(&ladders, true), [Terminate]);
        ladders.restart(StuckKind::Idle);
        assert_eq!(
            open(&ladders, false),
            [Log, Notice, Release, Rollback, Terminate]
        );
        assert!(!ladders.is_open(StuckKind::Age, Terminate, true));
        ladders.reset();
        assert!(ladders.is_open(StuckKind::Age, Log, false));
    }
}
