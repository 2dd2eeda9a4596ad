//! From the rows of an answer to the damage that each watched session does. Pure: no connection, no clock.
//!
//! Who waits for whom is a graph, and a session's queue is what a walk from it reaches: those who wait for it are at
//! depth 1, those who wait for them at depth 2. `pg_blocking_pids` counts those who only stand before one in the queue
//! (a SELECT behind an ALTER TABLE that waits), so the whole queue belongs to the idle session at its root.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Instant,
};

use crate::{
    policy::LockMode,
    session::damage::{Damage, Lock, Waiter},
};

/// What the server said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The watched sessions that there are, with the age of their xmin.
    pub(super) watched: Vec<(i32, Option<i32>)>,
    /// Their locks.
    pub(super) locks: Vec<(i32, Lock)>,
    /// Everyone on the server who waits for a lock; their depth is not known yet.
    pub(super) waiters: Vec<Waiter>,
}

impl Answer {
    /// The damage that each watched session does, by its process id.
    pub(super) fn damage(self, at: Instant) -> HashMap<i32, Damage> {
        let mut behind: HashMap<i32, Vec<&Waiter>> = HashMap::new();
        for waiter in &self.waiters {
            for &pid in &*waiter.blocked_by {
                behind.entry(pid).or_default().push(waiter);
            }
        }
        let damage = |&(pid, xmin_age): &(i32, Option<i32>)| {
            let damage = Damage {
                at,
                locks: Vec::new(),
                blocked: queue(pid, &behind),
                xmin_age,
            };
            (pid, damage)
        };
        let mut found: HashMap<_, _> = self.watched.iter().map(damage).collect();
        for (pid, lock) in self.locks {
            if let Some(damage) = found.get_mut(&pid) {
                damage.locks.push(lock);
            }
        }
        for damage in found.values_mut() {
            damage.locks.sort_by_cached_key(|lock| {
                let mode = lock.mode.parse::<LockMode>().ok();
                (
                    Reverse(mode),
                    lock.locktype.clone(),
                    lock.relation.is_none(),
                    lock.relation.clone(),
                )
            });
        }
        found
    }
}

/// Everyone who waits behind a process, nearest first, and of those at one depth the longest waiting first.
fn queue(root: i32, behind: &HashMap<i32, Vec<&Waiter>>) -> Vec<Waiter> {
    let mut queue = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut level = vec![root];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        let waiting = level.iter().filter_map(|pid| behind.get(pid)).flatten();
        let mut found: Vec<&Waiter> = waiting
            .copied()
            .filter(|waiter| seen.insert(waiter.server_pid))
            .collect();
        found.sort_by_key(|waiter| (Reverse(waiter.waiting), waiter.server_pid));
        level = found.iter().map(|waiter| waiter.server_pid).collect();
        queue.extend(found.into_iter().map(|waiter| Waiter {
            depth,
            ..waiter.clone()
        }));
    }
    queue
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant as Clock;

    use super::*;

    fn waiter(server_pid: i32, waiting_ms: u64, blocked_by: &[i32]) -> Waiter {
        Waiter {
            server_pid,
            user: None,
            application_name: None,
            statement: None,
            relation: None,
            mode: "AccessExclusiveLock".into(),
            waiting: Some(Duration::from_millis(waiting_ms)),
            blocked_by: blocked_by.into(),
            depth: 0,
        }
    }

    fn lock(mode: &str, relation: &str) -> Lock {
        Lock {
            locktype: "relation".into(),
            relation: Some(relation.into()),
            mode: mode.into(),
            granted: true,
            fastpath: true,
        }
    }

    fn queues(watched: &[i32], waiters: Vec<Waiter>) -> HashMap<i32, Vec<(i32, u32)>> {
        let answer = Answer {
            watched: watched.iter().map(|&pid| (pid, None)).collect(),
            waiters,
            ..Answer::default()
        };
        let damage = answer.damage(Clock::now().into_std());
        let queue = |(pid, damage): (i32, Damage)| {
            let waiters = damage.blocked.iter().map(|w| (w.server_pid, w.depth));
            (pid, waiters.collect())
        };
        damage.into_iter().map(queue).collect()
    }

    #[test]
    fn a_sandwich_belongs_to_its_idle_root() {
        // 2 alters a table that 1 has read; 3 and 4 read it behind 2. 9 blocks nobody, 8 waits for somebody else.
        let waiters = vec![
            waiter(3, 5, &[2]),
            waiter(4, 7, &[2]),
            waiter(2, 9, &[1]),
            waiter(8, 1, &[7]),
        ];
        let queues = queues(&[1, 9], waiters);
        assert_eq!(queues[&1], [(2, 1), (4, 2), (3, 2)]);
        assert_eq!(queues[&9], []);
    }

    #[test]
    fn one_who_waits_for_two_stands_in_both_queues_at_its_least_depth() {
        let waiters = vec![
            waiter(3, 5, &[1, 2]),
            waiter(4, 4, &[3, 1]),
            waiter(5, 3, &[4]),
        ];
        let queues = queues(&[1, 2], waiters);
        assert_eq!(queues[&1], [(3, 1), (4, 1), (5, 2)]);
        assert_eq!(queues[&2], [(3, 1), (4, 2), (5, 3)]);
    }

    #[test]
    fn locks_go_to_their_holders_strongest_first() {
        let mut other = lock("ExclusiveLock", "");
        other.relation = None;
        other.locktype = "transactionid".into();
        let answer = Answer {
            watched: vec![(1, Some(7)), (2, None)],
            locks: vec![
                (1, lock("AccessShareLock", "public.b")),
                (1, lock("AccessShareLock", "public.a")),
                (1, lock("RowExclusiveLock", "public.b")),
                (1, other),
                (3, lock("AccessShareLock", "public.c")),
            ],
            waiters: Vec::new(),
        };
        let damage = answer.damage(Clock::now().into_std());
        let locks = damage[&1].locks.iter();
        let locks: Vec<_> = locks.map(|l| (&*l.mode, l.relation.as_deref())).collect();
        assert_eq!(
            locks,
            [
                ("ExclusiveLock", None),
                ("RowExclusiveLock", Some("public.b")),
                ("AccessShareLock", Some("public.a")),
                ("AccessShareLock", Some("public.b")),
            ]
        );
        assert_eq!(damage[&1].xmin_age, Some(7));
        assert_eq!(damage[&2].locks, []);
        assert!(!damage.contains_key(&3));
    }

    proptest! {
        #[test]
        fn any_graph_ends_and_names_nobody_twice(edges in prop::collection::vec((0..8, prop::collection::vec(0..8, 0..4)), 0..8)) {
            let waiters = edges.iter().map(|(pid, by)| waiter(*pid, 1, by)).collect();
            for (root, queue) in queues(&[0, 1], waiters) {
                let mut pids: Vec<_> = queue.iter().map(|&(pid, _)| pid).collect();
                prop_assert!(!pids.contains(&root));
                prop_assert!(queue.is_sorted_by_key(|&(_, depth)| depth));
                pids.sort_unstable();
                let named = pids.len();
                pids.dedup();
                prop_assert_eq!(named, pids.len());
            }
        }
    }
}
