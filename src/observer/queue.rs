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

use super::{Asked, answer::Answer};
use crate::{
    policy::LockMode,
    session::damage::{Damage, FreedBy, Waiter},
};

impl Answer {
    /// The damage that each session does, by its process id, for those that are the ones which were asked about.
    pub(super) fn damage(self, at: Instant, asked: &[Asked]) -> HashMap<i32, Damage> {
        let asked: HashMap<i32, &Asked> = asked.iter().map(|one| (one.server_pid, one)).collect();
        let mut behind: HashMap<i32, Vec<&Waiter>> = HashMap::new();
        for waiter in &self.waiters {
            for &pid in &*waiter.blocked_by {
                behind.entry(pid).or_default().push(waiter);
            }
        }
        let mut found = HashMap::new();
        for seen in self.sessions {
            let pid = seen.server_pid;
            let is_asked =
                |one: &&Asked| *one.database == *seen.database && *one.user == *seen.user;
            if asked.get(&pid).is_none_or(|one| !is_asked(one)) {
                continue;
            }
            let queue = queue(pid, &behind);
            let is_known = !queue.is_empty() || self.sees_all && !self.suspects.contains(&pid);
            let damage = Damage {
                at,
                awaits_standby: seen.awaits_standby,
                locks: Vec::new(),
                blocked: is_known.then_some(queue),
                xmin_age: seen.xmin_age,
            };
            found.insert(pid, damage);
        }
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
            freed_by: freed_by(root, waiter),
            ..waiter.clone()
        }));
    }
    for stays in [FreedBy::Terminate, FreedBy::Nothing] {
        hold_back(stays, &mut queue, behind);
    }
    queue
}

/// What frees a waiter as far as it is not held back by others in the queue.
fn freed_by(root: i32, waiter: &Waiter) -> FreedBy {
    if !waiter.prepared.is_empty() {
        FreedBy::Nothing
    } else if *waiter.waits_for == *"advisory" && waiter.blocked_by.contains(&root) {
        // The lock can be held at session level: of that the server tells nothing.
        FreedBy::Terminate
    } else {
        FreedBy::Rollback
    }
}

/// Who waits for one who stays stays too.
fn hold_back(stays: FreedBy, queue: &mut [Waiter], behind: &HashMap<i32, Vec<&Waiter>>) {
    let staying = queue.iter().filter(|waiter| waiter.freed_by == stays);
    let mut reached: HashSet<i32> = staying.map(|waiter| waiter.server_pid).collect();
    let mut level: Vec<i32> = reached.iter().copied().collect();
    while let Some(pid) = level.pop() {
        for waiter in behind.get(&pid).into_iter().flatten() {
            if reached.insert(waiter.server_pid) {
                level.push(waiter.server_pid);
            }
        }
    }
    for waiter in queue {
        if reached.contains(&waiter.server_pid) {
            waiter.freed_by = waiter.freed_by.max(stays);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant as Clock;

    use super::*;
    use crate::{observer::answer::Seen, session::damage::Lock};

    fn waiter(server_pid: i32, waiting_ms: u64, blocked_by: &[i32]) -> Waiter {
        Waiter {
            mode: Some("AccessExclusiveLock".into()),
            waiting: Some(Duration::from_millis(waiting_ms)),
            depth: 0,
            ..Waiter::new(server_pid, blocked_by)
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

    fn session(server_pid: i32) -> Seen {
        Seen {
            server_pid,
            database: "shop".to_owned(),
            user: "app".to_owned(),
            ..Seen::default()
        }
    }

    fn answer(sessions: &[i32], waiters: Vec<Waiter>) -> Answer {
        Answer {
            sessions: sessions.iter().copied().map(session).collect(),
            waiters,
            sees_all: true,
            ..Answer::default()
        }
    }

    /// The damage of every session in the answer.
    fn damage(answer: Answer) -> HashMap<i32, Damage> {
        let asked = |seen: &Seen| Asked {
            server_pid: seen.server_pid,
            database: "shop".into(),
            user: "app".into(),
        };
        let asked: Vec<_> = answer.sessions.iter().map(asked).collect();
        answer.damage(Clock::now().into_std(), &asked)
    }

    fn queues(watched: &[i32], waiters: Vec<Waiter>) -> HashMap<i32, Vec<(i32, u32)>> {
        let queue = |(pid, damage): (i32, Damage)| {
            let waiters = damage.blocked.unwrap_or_default().into_iter();
            (pid, waiters.map(|w| (w.server_pid, w.depth)).collect())
        };
        damage(answer(watched, waiters))
            .into_iter()
            .map(queue)
            .collect()
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
    fn where_nobody_is_seen_to_wait_and_somebody_may_nothing_is_known() {
        let blocked = |change: fn(&mut Answer)| {
            let mut answer = answer(&[1, 2], vec![waiter(3, 5, &[2])]);
            change(&mut answer);
            let damage = damage(answer);
            [1, 2].map(|pid| damage[&pid].blocked.as_ref().map(Vec::len))
        };
        assert_eq!(blocked(|_| {}), [Some(0), Some(1)]);
        assert_eq!(
            blocked(|answer| answer.suspects = HashSet::from([1, 2])),
            [None, Some(1)]
        );
        assert_eq!(blocked(|answer| answer.sees_all = false), [None, Some(1)]);
    }

    #[test]
    fn a_process_counts_by_its_database_and_role_too() {
        let mut answer = answer(&[1, 2], Vec::new());
        let asked = |server_pid, user: &str| Asked {
            server_pid,
            database: "shop".into(),
            user: user.into(),
        };
        answer.sessions[0].database = "other".to_owned();
        let asked = [asked(1, "app"), asked(2, "app"), asked(3, "app")];
        let damage = answer.damage(Clock::now().into_std(), &asked);
        assert_eq!(damage.keys().collect::<Vec<_>>(), [&2]);
    }

    #[test]
    fn who_waits_for_more_than_a_transaction_holds_back_those_behind() {
        use FreedBy::{Nothing, Rollback, Terminate};
        let advisory = |pid, blocked_by: &[i32]| Waiter {
            waits_for: "advisory".into(),
            ..waiter(pid, 1, blocked_by)
        };
        let prepared = |pid, blocked_by: &[i32]| Waiter {
            prepared: [None].into(),
            ..waiter(pid, 1, blocked_by)
        };
        let waiters = vec![
            waiter(2, 1, &[1]),
            // Behind one who is freed: what that one holds is its own affair.
            advisory(3, &[2]),
            advisory(4, &[1]),
            waiter(5, 1, &[4]),
            // Free of 1, and still behind 4.
            waiter(6, 1, &[1, 4]),
            prepared(7, &[1]),
            waiter(8, 1, &[6, 7]),
            waiter(9, 1, &[2, 8]),
        ];
        let damage = damage(answer(&[1], waiters));
        let freed_by: HashMap<i32, FreedBy> = damage[&1]
            .blocked
            .iter()
            .flatten()
            .map(|waiter| (waiter.server_pid, waiter.freed_by))
            .collect();
        for (pid, expected) in [
            (2, Rollback),
            (3, Rollback),
            (4, Terminate),
            (5, Terminate),
            (6, Terminate),
            (7, Nothing),
            (8, Nothing),
            (9, Nothing),
        ] {
            assert_eq!(freed_by[&pid], expected, "{pid}");
        }
    }

    #[test]
    fn locks_go_to_their_holders_strongest_first() {
        let mut other = lock("ExclusiveLock", "");
        other.relation = None;
        other.locktype = "transactionid".into();
        let mut answer = answer(&[1, 2], Vec::new());
        answer.sessions[0].xmin_age = Some(7);
        answer.locks = vec![
            (1, lock("AccessShareLock", "public.b")),
            (1, lock("AccessShareLock", "public.a")),
            (1, lock("RowExclusiveLock", "public.b")),
            (1, other),
            (3, lock("AccessShareLock", "public.c")),
        ];
        let damage = damage(answer);
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
