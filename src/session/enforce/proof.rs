//! Asks for the proof that statements only read. It takes PostgreSQL's grammar, which is made to work elsewhere: the
//! caller of the session has a prover, and hands in what that says with [`Session::handle_proof`].
//!
//! ```text
//!   start_enforcement ─▶ (Prove) ─▶ Ask or Gate ─▶ what runs: (Prove) ─▶ stop
//!                                        └──▶ a release: (Prove) ─▶ Question
//! ```
//! What is not proven in time is not proven. A claim has a number; an answer to another one than is waited for comes too
//! late, and is not looked at.

use std::{sync::Arc, time::Duration};

use super::{Action, Instant, Session, Step, policy};
use crate::{
    policy::StuckKind,
    session::text::Text,
    sql::{self, Claim, Control, Proof},
};

/// How long a proof is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long one for a release is, which holds nobody up: where many sessions get stuck at once their claims form a queue.
const PATIENCE_TO_RELEASE: Duration = Duration::from_secs(10);

/// Texts that are judged in one enforcement; the others count as not proven.
const MAX_JUDGED: usize = 512;

/// What an enforcement goes on with when it has the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Then {
    /// The look at the server, or the gate: nothing is done yet.
    Gate,
    /// The end of what runs. The gate is closed, and the client is held.
    Stop,
    /// The question of a release. The gate is closed, and nothing else is done yet.
    Question,
}

/// Texts that an enforcement has had judged, each with what has come of it: until it is proven, a text does more than to read.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct Judged {
    texts: Vec<(Arc<str>, bool)>,
    /// How many had been judged before the last claim.
    before: usize,
}

impl Judged {
    /// Whether a text only reads; `None` when that was never asked.
    fn reads(&self, sql: &Arc<str>) -> Option<bool> {
        let found = self.texts.iter().find(|(text, _)| Arc::ptr_eq(text, sql));
        found.map(|&(_, reads)| reads)
    }

    /// Notes a text that is to be judged, if there is room; `false` where none is, or it was noted before.
    fn note(&mut self, sql: &Arc<str>) -> bool {
        let new = self.texts.len() < MAX_JUDGED && self.reads(sql).is_none();
        if new {
            self.texts.push((Arc::clone(sql), false));
        }
        new
    }

    /// Takes in what has come of the last claim.
    fn proven(&mut self, reads: &[bool]) {
        let claimed = self.texts.get_mut(self.before..).unwrap_or_default();
        if claimed.len() == reads.len() {
            for ((_, judged), reads) in claimed.iter_mut().zip(reads) {
                *judged = *reads;
            }
        }
    }
}

impl Session {
    /// Asks for a proof, and waits for it.
    pub(super) fn claim(&mut self, claim: Claim, then: Then, now: Instant) {
        self.claims += 1;
        let number = self.claims;
        self.actions
            .push_back(Action::ProveReadOnly { number, claim });
        // The rungs of `blocking` are not known before others are seen to wait.
        let releases = then == Then::Question && !self.limits.has(StuckKind::Blocking);
        let until = now
            + if releases {
                PATIENCE_TO_RELEASE
            } else {
                PATIENCE
            };
        // What is more severe does not wait for a prover that is slow.
        let rung = self.next_rung().filter(|rung| rung.at > now);
        let acts = rung.filter(|rung| rung.action >= policy::Action::Rollback);
        let until = acts.map_or(until, |rung| until.min(rung.at));
        self.set_step(Step::Prove {
            number,
            then,
            until,
        });
    }

    /// Takes what has come of the claim of this number. It is not looked at when it comes too late.
    pub fn handle_proof(&mut self, number: u64, proof: Proof, now: Instant) {
        let step = self.enforcement_step();
        if let Some(Step::Prove {
            number: awaited,
            then,
            ..
        }) = step
            && awaited == number
        {
            self.claimed(then, proof, now);
            self.step_ended(step, now);
        }
        self.insist(now);
    }

    /// Goes on with what has come of a claim.
    pub(super) fn claimed(&mut self, then: Then, proof: Proof, now: Instant) {
        if let (Some(enforcement), Proof::Each(reads)) = (&mut self.enforcement, &proof) {
            enforcement.judged.proven(reads);
        }
        match then {
            Then::Gate => self.look_or_close_gate(now),
            Then::Question if !self.is_over() => self.question_if(proof),
            Then::Stop | Then::Question => self.next_step(now),
        }
    }

    /// Has the texts judged by which it is decided whether a commit may run; `false` when none has to be.
    pub(super) fn judge_running(&mut self, then: Then, now: Instant) -> bool {
        let unjudged = self.unjudged();
        let Some(enforcement) = self.enforcement.as_mut().filter(|_| !unjudged.is_empty()) else {
            return false;
        };
        enforcement.judged.before = enforcement.judged.texts.len();
        let mut texts = Vec::new();
        for text in unjudged {
            if let Some(sql) = &text.sql
                && enforcement.judged.note(sql)
            {
                texts.push(judged_part(&text, sql));
            }
        }
        if texts.is_empty() {
            return false;
        }
        self.claim(Claim::Each(texts), then, now);
        true
    }

    /// Whether a text leaves nothing to wait for: a transaction that has written nothing does not wait. `None` when that
    /// was never asked.
    pub(super) fn only_reads(&self, text: &Text) -> Option<bool> {
        let Some(sql) = text.sql.as_ref().filter(|_| text.certain) else {
            return Some(false);
        };
        let unread = self.client.is_blocked();
        if unread && sql::sends_as_it_runs(&judged_part(text, sql)) {
            return Some(true);
        }
        self.enforcement.as_ref()?.judged.reads(sql)
    }
}

/// The part of a text that has to be judged: of one that begins with ROLLBACK the rest is meant.
fn judged_part(text: &Text, sql: &Arc<str>) -> Arc<str> {
    if text.control() == Control::RollbackThen {
        sql.split_once(';').map_or("", |(_, rest)| rest).into()
    } else {
        Arc::clone(sql)
    }
}
