//! The limits that a session is under: those of the rule that it matches, and those of the rules that it has matched
//! since its transaction began.
//!
//! A client can change its application_name, and with it the rule, in the middle of a transaction. No limit is left in
//! this way: those of its earlier names stay in force until the transaction is over, and the severest acts. What the
//! operator changes holds at once, in both directions: then every name is matched anew.

use std::{sync::Arc, time::Duration};

use crate::policy::{Action, Limits, LockMode, StuckKind};

/// The limits of a session.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    current: Arc<Limits>,
    /// The application name as it was when the client had authenticated.
    first_name: Arc<str>,
    /// Of names that the transaction had before, where they lead to other limits.
    earlier: Vec<Earlier>,
}

/// Which of the rules in force, as long as they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RuleIndex(usize);

impl RuleIndex {
    /// The rule that matches at present.
    pub(super) const CURRENT: Self = Self(0);
}

#[derive(Clone, Debug)]
struct Earlier {
    application_name: Arc<str>,
    limits: Arc<Limits>,
}

impl InForce {
    pub(super) fn new(limits: Arc<Limits>, first_name: Arc<str>) -> Self {
        Self {
            current: limits,
            first_name,
            earlier: Vec::new(),
        }
    }

    /// Those of the rule that matches at present.
    pub(super) fn current(&self) -> &Limits {
        &self.current
    }

    /// Notes an application name that the client has before it is authenticated.
    pub(super) fn set_first_name(&mut self, application_name: Arc<str>) {
        self.first_name = application_name;
    }

    /// Keeps the limits that the client has had under a name which it changes while its transaction is open.
    pub(super) fn keep(&mut self, application_name: Arc<str>) {
        self.earlier.push(Earlier {
            application_name,
            limits: Arc::clone(&self.current),
        });
    }

    /// Puts the limits in force to which the names lead; `decide` is given the first name, and an earlier name or `None` for
    /// the present one.
    pub(super) fn decide(&mut self, decide: impl Fn(&str, Option<&str>) -> Arc<Limits>) {
        let decide = |earlier: Option<&str>| decide(&self.first_name, earlier);
        self.current = decide(None);
        let mut known = vec![Arc::clone(&self.current)];
        self.earlier.retain_mut(|earlier| {
            earlier.limits = decide(Some(&earlier.application_name));
            let is_new = !known
                .iter()
                .any(|known| Arc::ptr_eq(known, &earlier.limits));
            known.push(Arc::clone(&earlier.limits));
            is_new
        });
    }

    /// The transaction is over, and with it what its earlier names have left behind.
    pub(super) fn transaction_ended(&mut self) {
        self.earlier = Vec::new();
    }

    /// The rungs of a kind, in no order where several rules are in force; those of `age` hold for an implicit transaction
    /// only where the rule says so.
    pub(super) fn rungs(
        &self,
        kind: StuckKind,
        explicit: bool,
    ) -> impl Iterator<Item = (Duration, Action, RuleIndex)> {
        let holds =
            move |limits: &Limits| kind != StuckKind::Age || explicit || limits.age_implicit;
        let all = self
            .all()
            .enumerate()
            .filter(move |(_, limits)| holds(limits));
        all.flat_map(move |(index, limits)| {
            let rungs = limits.ladder(kind).rungs().iter();
            rungs.map(move |&(limit, action)| (limit, action, RuleIndex(index)))
        })
    }

    /// The name of a rule that is in force.
    pub(super) fn rule(&self, RuleIndex(index): RuleIndex) -> Arc<str> {
        let limits = self.all().nth(index).unwrap_or(&self.current);
        Arc::clone(&limits.rule)
    }

    /// Whether there is any limit of a kind.
    pub(super) fn has(&self, kind: StuckKind) -> bool {
        self.all().any(|limits| !limits.ladder(kind).is_empty())
    }

    /// Whether a transaction without a block counts for the `age` of any rule.
    pub(super) fn count_implicit(&self) -> bool {
        self.all().any(|limits| limits.age_implicit)
    }

    /// The lock mode whose waiters count for `blocking`; `None` where all do, in one rule at least.
    pub(super) fn blocking_mode(&self) -> Option<LockMode> {
        let mut modes = self
            .all()
            .filter(|limits| !limits.ladder(StuckKind::Blocking).is_empty())
            .map(|limits| limits.blocking_mode);
        let first = modes.next()?;
        first.filter(|_| modes.all(|mode| mode == first))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Limits>> {
        let earlier = self.earlier.iter().map(|earlier| &earlier.limits);
        std::iter::once(&self.current).chain(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Ladder;

    fn limits(rule: &str, seconds: u64) -> Arc<Limits> {
        let mut limits = Limits {
            rule: rule.into(),
            ..Limits::default()
        };
        let rung = (Action::Rollback, Duration::from_secs(seconds));
        limits.ladders[StuckKind::Idle] = Ladder::new([rung]).unwrap();
        Arc::new(limits)
    }

    fn seconds(in_force: &InForce) -> Vec<u64> {
        let rungs = in_force.rungs(StuckKind::Idle, true);
        rungs.map(|(limit, _, _)| limit.as_secs()).collect()
    }

    #[test]
    fn limits_of_earlier_names_stay_until_the_transaction_is_over() {
        let (lax, strict) = (limits("lax", 9), limits("strict", 3));
        let decide = |_: &str, name: Option<&str>| match name {
            Some("s") => Arc::clone(&strict),
            _ => Arc::clone(&lax),
        };
        let mut in_force = InForce::new(Arc::clone(&strict), "".into());
        in_force.keep("s".into());
        in_force.decide(decide);
        assert_eq!(seconds(&in_force), [9, 3]);
        assert_eq!(&*in_force.current().rule, "lax");
        // Names that lead to the same limits are not gathered.
        for name in ["a", "b", "s", "c"] {
            in_force.keep(name.into());
            in_force.decide(decide);
            assert_eq!(seconds(&in_force), [9, 3]);
        }
        in_force.transaction_ended();
        assert_eq!(seconds(&in_force), [9]);
    }

    #[test]
    fn a_reload_holds_at_once_for_earlier_names_too() {
        let mut in_force = InForce::new(limits("strict", 3), "".into());
        in_force.keep("s".into());
        let (lax, other) = (limits("lax", 9), limits("other", 5));
        in_force.decide(|_, name| Arc::clone(name.map_or(&lax, |_| &other)));
        assert_eq!(seconds(&in_force), [9, 5]);
        in_force.decide(|_, _| Arc::clone(&lax));
        assert_eq!(seconds(&in_force), [9]);
    }

    #[test]
    fn where_one_rule_counts_all_waiters_all_count() {
        let with_mode = |mode| {
            let mut limits = Limits::default();
            limits.ladders[StuckKind::Blocking] =
                Ladder::new([(Action::Log, Duration::from_secs(1))]).unwrap();
            limits.blocking_mode = mode;
            Arc::new(limits)
        };
        let exclusive = Some(LockMode::AccessExclusive);
        let mut in_force = InForce::new(with_mode(exclusive), "".into());
        assert_eq!(in_force.blocking_mode(), exclusive);
        in_force.keep("a".into());
        assert_eq!(in_force.blocking_mode(), exclusive);
        let all = with_mode(None);
        in_force.decide(|_, name| name.map_or_else(|| with_mode(exclusive), |_| Arc::clone(&all)));
        assert_eq!(in_force.blocking_mode(), None);
    }
}
