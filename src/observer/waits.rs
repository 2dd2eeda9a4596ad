//! How long others have waited for stuck sessions, put together from looks at them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::session::damage::Damage;

/// The time that was seen to be waited. Who waits for two sessions, or is seen twice in one wait, counts once.
#[derive(Debug, Default)]
pub(super) struct Waits {
    total: Duration,
    /// Until when the waits of each process are counted.
    counted: HashMap<i32, Instant>,
}

/// How many processes are known; a server has fewer at a time.
const MOST_KNOWN: usize = 10_000;

impl Waits {
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// Counts what one look has shown, whose answer was there at `seen`: to count on from the question would count the
    /// look's own time twice.
    pub(super) fn add<'a>(&mut self, damage: impl IntoIterator<Item = &'a Damage>, seen: Instant) {
        if self.counted.len() > MOST_KNOWN {
            self.counted.clear();
        }
        for damage in damage {
            for waiter in damage.blocked.iter().flatten() {
                let Some(waited) = waiter.waiting else {
                    continue;
                };
                let counted = self.counted.insert(waiter.server_pid, seen);
                let since = counted.map_or(waited, |until| seen.saturating_duration_since(until));
                self.total += waited.min(since);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::damage::Waiter;

    fn look(waiters: &[(i32, u64)]) -> Damage {
        let waiter = |&(server_pid, seconds): &(i32, u64)| Waiter {
            waiting: Some(Duration::from_secs(seconds)),
            ..Waiter::new(server_pid, &[7])
        };
        Damage {
            #[expect(clippy::disallowed_methods, reason = "any time will do")]
            at: Instant::now(),
            locks: Vec::new(),
            blocked: Some(waiters.iter().map(waiter).collect()),
            xmin_age: None,
            awaits_standby: None,
        }
    }

    #[test]
    fn each_second_of_a_wait_counts_once() {
        #[expect(clippy::disallowed_methods, reason = "any time will do")]
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let mut total = |seconds, damage: &[Damage]| {
            waits.add(damage, at(seconds));
            waits.total().as_secs()
        };
        assert_eq!(total(10, &[look(&[(1, 4)])]), 4);
        // The same wait three seconds later, for two sessions.
        assert_eq!(total(13, &[look(&[(1, 7)]), look(&[(1, 7)])]), 7);
        // It took a second to be seen, which is not counted twice.
        assert_eq!(total(15, &[look(&[(1, 10)])]), 9);
        // A new wait of the same process, and one of another.
        assert_eq!(total(30, &[look(&[(1, 2), (2, 5)])]), 16);
    }
}
