//! Keeps a cancel of ours from a commit that may wait for its standby.
//!
//! A cancel ends the wait for synchronous replication, and the commit returns as a success that no standby has
//! (`SyncRepWaitForLSN` in `src/backend/replication/syncrep.c`). The wire does not tell when a commit runs: it may be
//! after any statement of what was sent that ends a block, and at the end of every transaction without one. Where it
//! may run, the observer is asked what the process waits for, right before the cancel. Without an observer the commit is
//! left alone, unless the session is to end: then its client is told of no success.

use std::time::Duration;

use super::{Instant, Outcome, Session, Step, policy, proof::Then};
use crate::session::{damage::Damage, event::Position, limits::ObservationRequest, text::Text};

/// How long an answer of the observer's may take, beyond the interval at which it looks.
const PATIENCE: Duration = Duration::from_secs(2);

/// How old a look may be by which a cancel is sent.
const FRESH: Duration = Duration::from_millis(500);

/// How long the server's answers are read ahead of a client that does not read, before it is judged what runs.
const READ_FOR: Duration = Duration::from_millis(500);

/// Whether a commit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    No,
    Perhaps,
    Surely,
}

impl Session {
    /// Ends what runs, if no commit is a part of it.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.judge_running(Then::Stop, now) {
            return;
        }
        let commit = self.commit();
        let Some(enforcement) = &self.enforcement else {
            return;
        };
        let cleared = enforcement
            .cleared
            .is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        match commit {
            Commit::No => self.cancel(now),
            // Its answer may have come long ago, and not be read because the client does not read.
            Commit::Perhaps | Commit::Surely if self.client.is_blocked() && !enforcement.read => {
                self.set_step(Step::Read {
                    until: now + READ_FOR,
                });
            }
            Commit::Perhaps if cleared => self.cancel(now),
            Commit::Perhaps
                if self.observed.interval().is_some() && enforcement.unseen.is_none() =>
            {
                self.ask_observer(now);
            }
            // It is told of no success.
            Commit::Perhaps if enforcement.closes.is_some() => self.cancel(now),
            Commit::Perhaps => self.skip_running_commit(enforcement.unseen.unwrap_or(UNOBSERVED)),
            Commit::Surely => {
                self.skip_running_commit("the client is ending it: its COMMIT or ROLLBACK runs")
            }
        }
    }

    fn commit(&self) -> Commit {
        self.commit_if(|text| self.only_reads(text) == Some(true))
    }

    /// The texts that have to be judged before it is known whether a commit may run.
    pub(super) fn unjudged(&self) -> Vec<Text> {
        let mut unjudged = Vec::new();
        let commit = self.commit_if(|text| {
            let reads = self.only_reads(text);
            if reads.is_none() {
                unjudged.push(text.clone());
            }
            reads.unwrap_or(true)
        });
        if commit != Commit::No {
            // One may, whatever is proven of them.
            unjudged.clear();
        }
        unjudged
    }

    /// Whether a commit runs, when `reads` tells of a text whether it only reads.
    fn commit_if(&self, reads: impl FnMut(&Text) -> bool) -> Commit {
        let (pending, transaction) = (&self.state.pending, &self.state.transaction);
        let enforcement = self.enforcement.as_ref();
        if enforcement.is_some_and(|enforcement| enforcement.copy_failed) {
            Commit::No
        } else if pending.ends_block() && self.position() == Position::Running {
            Commit::Surely
        } else if pending.may_commit(transaction.explicit, transaction.open, reads) {
            Commit::Perhaps
        } else {
            Commit::No
        }
    }

    /// Whether what runs may be a commit.
    pub(super) fn may_be_commit(&self) -> bool {
        self.commit() != Commit::No
    }

    /// Looks at the server before the gate is closed where what runs may be a commit.
    pub(super) fn look_or_close_gate(&mut self, now: Instant) {
        let looks = self.looks_first();
        if looks && self.judge_running(Then::Gate, now) {
            return;
        }
        if looks && self.commit() == Commit::Perhaps {
            self.ask_observer(now);
        } else {
            self.close_gate();
        }
    }

    /// Whether a look at the server is due before anything is done about what runs, if that may be a commit.
    fn looks_first(&self) -> bool {
        let runs = !self.state.pending.is_empty() && !self.state.pending.copy_in();
        let reads = !self.client.is_blocked();
        let action = self
            .enforcement
            .as_ref()
            .map(|enforcement| enforcement.incident.action);
        let observes = self.observed.interval().is_some();
        action >= Some(policy::Action::Rollback) && runs && reads && observes
    }

    /// Everything has been read that the server has sent.
    pub(super) fn read_enough(&mut self, now: Instant) {
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.read = true;
        }
        self.next_step(now);
    }

    /// Asks what the server's process waits for.
    pub(super) fn ask_observer(&mut self, now: Instant) {
        let interval = self.observed.interval().unwrap_or_default();
        self.set_step(Step::Ask {
            since: now,
            until: now + interval + PATIENCE,
        });
    }

    /// The look that is waited for.
    pub(in crate::session) fn requested_observation(&self) -> Option<ObservationRequest> {
        let Some(Step::Ask { since, .. }) = self.enforcement_step() else {
            return None;
        };
        Some(ObservationRequest {
            from: since,
            by: since,
            continuous: false,
        })
    }

    /// Takes note of a look that was waited for.
    pub(in crate::session) fn commit_observed(&mut self, damage: &Damage, now: Instant) {
        let step = self.enforcement_step();
        if let Some(Step::Ask { since, .. }) = step
            && damage.at >= since
        {
            self.commit_seen(damage, now);
            self.step_ended(step, now);
        }
    }

    fn commit_seen(&mut self, damage: &Damage, now: Instant) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        match damage.awaits_standby {
            Some(true) => return self.skip_running_commit("its commit waits for a standby"),
            Some(false) => enforcement.cleared = Some(damage.at),
            None => {
                enforcement.unseen =
                    Some("a commit may be running, and the observer may not see what it waits for");
            }
        }
        self.asked(now);
    }

    /// No look came in time.
    pub(super) fn look_late(&mut self, now: Instant) {
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.unseen =
                Some("a commit may be running, and the observer did not answer in time");
        }
        self.asked(now);
    }

    /// What runs is a commit, or may be.
    pub(super) fn skip_running_commit(&mut self, why: &str) {
        let unknown = self.state.pending.ready_owed().max(1);
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        if enforcement.closes.is_some() {
            return self.terminate(unknown);
        }
        enforcement.incident.why = Some(why.into());
        self.finish(Outcome::NotPossible);
    }
}

/// Why what may be a commit is left alone.
pub(super) const UNOBSERVED: &str =
    "a commit may be running, and without an observer nobody knows whether it waits for a standby";
