//! What has to hold: nothing is stuck, nothing is lost, and a session that lives on works.

use std::time::Duration;

use super::World;
use crate::{
    policy::{Action as PolicyAction, StuckKind},
    session::{
        Side, Tally,
        event::Position,
        tests::{model::Act, script::limits},
    },
    sql::{Lexing, outline},
};

/// Timers that ring one after another in a session whose client is silent, at most.
const MOST_TIMERS: usize = 50;

/// How much later a session is looked at again in which nothing has happened.
const LATER: Duration = Duration::from_millis(700);

/// Timers that ring in one moment, at most: what is put off leaves the next rung to the next of them.
const MOST_RINGS: usize = 4;

impl World {
    fn acts(&self, kind: StuckKind, least: PolicyAction) -> bool {
        let limits = limits(self.limits);
        limits
            .ladder(kind)
            .rungs()
            .iter()
            .any(|&(_, action)| action >= least)
    }

    /// Counts what is only counted from here on: a session that has come back to where it was, is where it was.
    pub(in crate::session::tests) fn count_anew(&mut self) {
        let session = &mut self.session;
        let unsent = [Side::Client, Side::Server].map(|side| session.unsent(side).len());
        let at_rest = session.enforcement.is_none() && session.cancels.sent().is_none();
        let settled = at_rest
            && (unsent, session.kept(Side::Client)) == ([0, 0], 0)
            && self.client.is_settled()
            && self.server.is_settled();
        self.client.count_anew(settled);
        self.server.count_anew(settled);
        self.moved = 0;
        let state = &mut session.state;
        state.ended = 0;
        state.tally = Tally::default();
        state.transaction.busy = Duration::ZERO;
        state.transaction.idle = Duration::ZERO;
        state.transaction.longest_idle = Duration::ZERO;
        if at_rest {
            state.transaction.number = 0;
        }
        if at_rest && self.claims.is_empty() {
            session.claims = 0;
        }
    }

    /// A timer that has rung so many times in one moment does not ring again in it: a driver would do nothing else any more.
    pub(super) fn check_timer(&self, rings: usize) -> Result<(), String> {
        let again = self.session.poll_timeout().filter(|&at| at <= self.now);
        if again.is_some() && rings >= MOST_RINGS && !self.closed {
            let step = self.session.enforcement_step();
            return Err(format!("a timer rings for ever: {step:?}"));
        }
        Ok(())
    }

    /// Where nothing happens, time alone passes: what was said of a session earlier is what would be said of it now.
    pub(super) fn check_snapshot(&self) -> Result<(), String> {
        // Steps that take no time may have been given one that is to come.
        let now = self.now + LATER;
        let earlier = self.session.snapshot(now);
        let later = now + LATER;
        let (aged, anew) = (earlier.later(LATER), self.session.snapshot(later));
        if aged != anew {
            return Err(format!(
                "not what time alone makes of it:\n{aged:?}\n{anew:?}"
            ));
        }
        Ok(())
    }

    /// Whatever the session is in the middle of comes to an end when the client is silent and time passes, without an end
    /// to its timers; then it is free, or closed.
    pub(in crate::session::tests) fn check_way_out(&mut self) -> Result<(), String> {
        self.server_reads = true;
        for _ in 0..MOST_TIMERS {
            self.exchange(false)?;
            self.land_cancels();
            self.exchange(false)?;
            self.prove();
            self.settle()?;
            if self.closed {
                return Ok(());
            }
            if self.session.poll_timeout().is_none() {
                return self.check_free();
            }
            self.ring()?;
        }
        Err(format!(
            "no end of timers: {:?}",
            self.session.poll_timeout()
        ))
    }

    /// Nothing is stuck that a limit should have ended.
    pub(in crate::session::tests) fn check_free(&self) -> Result<(), String> {
        let position = self.session.position();
        let ends = |kind| self.acts(kind, PolicyAction::Rollback);
        let half_forwarded = self.session.client.missing() > 0 && position != Position::CopyIn;
        let covered = match position {
            _ if half_forwarded => self.acts(StuckKind::Stalled, PolicyAction::Terminate),
            Position::IdleInTransaction
            | Position::HalfSentRequest
            | Position::IdleInTransactionAborted => ends(StuckKind::Idle),
            Position::UnsyncedBatch
            | Position::FailedBatch
            | Position::CopyIn
            | Position::ClientNotReading => ends(StuckKind::Stalled),
            Position::Idle => !self.limits.is_empty(),
            Position::Released => !self.server.closes_idle,
            Position::HalfForwardedMessage
            | Position::Running
            | Position::Startup
            | Position::Replication => false,
        };
        // Before the answer to BEGIN has come it is unknown that there is a block, where a list is not wholly known.
        let aged = ends(StuckKind::Age)
            && self.server.has_told_all()
            && !self.client.may_have_left_block()
            && !half_forwarded
            && (self.server.status() == b'T' || self.limits.contains("implicit"));
        // Without an observer nothing is cancelled that may be a commit.
        let commits =
            self.server.works_without_block() || self.client.may_commit() || self.texts_doubted;
        let unseen = commits && !self.observed || self.server.awaits_standby();
        let left = unseen || position == Position::Replication;
        if (covered || aged) && !left && !self.closed && self.server.holds() {
            return Err(format!("stuck in {position:?}"));
        }
        if position == Position::IdleInTransaction && !self.closed {
            self.check_savepoints()?;
        }
        Ok(())
    }

    /// The savepoints are those of the server.
    fn check_savepoints(&self) -> Result<(), String> {
        let ours = &self.session.state.transaction.savepoints;
        let theirs = &self.server.savepoints;
        let open = ["a", "b"].map(|name| theirs.is_open(name));
        let followed = ["a", "b"].map(|name| {
            let text = format!("SAVEPOINT {name}");
            let outline = outline(text.as_bytes(), true, Lexing::default());
            ours.is_open(outline.statement(0).1.unwrap())
        });
        if open != followed || ours.may_be_open() != open.contains(&true) {
            return Err(format!("savepoints: {ours:?}, not {theirs:?}"));
        }
        Ok(())
    }

    /// A server that does nothing more keeps no session for ever that is being ended.
    pub(in crate::session::tests) fn check_patience(&mut self) -> Result<(), String> {
        self.land_cancels();
        self.be_silent()?;
        if self.session.enforcement.is_some() && !self.closed {
            let terminates = |kind| self.acts(kind, PolicyAction::Terminate);
            if StuckKind::ALL.into_iter().all(terminates) {
                return Err("not terminated".to_owned());
            }
            self.session.handle_eof(Side::Client, self.now);
            self.pass(Duration::from_secs(5))?;
            if !self.closed {
                return Err("the client has left, and the session has not".to_owned());
            }
        }
        self.hangs = false;
        Ok(())
    }

    /// The client speaks again, and everything works.
    pub(in crate::session::tests) fn check_alive(&mut self) -> Result<(), String> {
        self.server_reads = true;
        self.set_reads(true)?;
        for round in 0..100 {
            self.exchange(true)?;
            self.land_cancels();
            self.server.wake();
            if self.closed {
                return if self.may_close || self.insisted {
                    Ok(())
                } else {
                    Err("the session was closed".to_owned())
                };
            }
            self.client.wind_down();
            if round > 3 && self.client.is_quiet() {
                break;
            }
            self.pass(Duration::from_millis(100))?;
        }
        if !self.client.is_quiet() {
            return Err(format!("never answered: {:?}", self.client));
        }
        if self.client.status != b'I' {
            self.client.act(&Act::Query(vec!["ROLLBACK"]));
            self.exchange(true)?;
        }
        let selects = self.client.selects;
        self.client.act(&Act::Query(vec!["SELECT 1"]));
        self.exchange(true)?;
        let (state, status) = (&self.session.state, self.server.status());
        let agrees = state.pending.is_empty()
            && !state.pending.unsynced()
            && matches!(
                self.session.position(),
                Position::Idle | Position::Replication
            )
            && self.session.enforcement.is_none()
            && self.session.released.is_none();
        if self.commands > 0 {
            return Err("nothing has come of a command".to_owned());
        }
        if self.client.selects != selects + 1 || status != b'I' || !agrees {
            return Err(format!(
                "does not answer any more: {:?} {:?}",
                self.client, self.session
            ));
        }
        Ok(())
    }

    pub(in crate::session::tests) fn check_books(&self) -> Result<(), String> {
        let committed = &self.server.committed;
        if let Some(token) = self.client.acknowledged.difference(committed).next() {
            return Err(format!("lost: {token} was acknowledged"));
        }
        if let Some(token) = self.client.refused.intersection(committed).next() {
            return Err(format!("ghost: {token} was refused"));
        }
        let unreplicated = &self.server.unreplicated;
        if let Some(token) = self.client.acknowledged.intersection(unreplicated).next() {
            return Err(format!("not replicated: {token} was acknowledged"));
        }
        let ends = self.insisted || self.may_close;
        if let (Some(token), false, false) = (unreplicated.first(), self.observed, ends) {
            return Err(format!("the commit of {token} was kept from waiting"));
        }
        Ok(())
    }
}
