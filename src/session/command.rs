//! Commands from the console, which end a transaction or the session by the very steps by which a limit does.

use std::{sync::Arc, time::Instant};

use super::{
    CloseReason, Session, diagnostics,
    event::{Cause, Outcome, Position},
};
use crate::policy::Action;

/// Why a command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is open and nothing runs.
    #[error("no transaction is open")]
    NoTransaction,
    /// The transaction has failed: its client has yet to say ROLLBACK, and it holds nothing.
    #[error("the transaction has failed already, and holds nothing")]
    HoldsNothing,
    /// pgidle has rolled it back: its client has yet to say ROLLBACK.
    #[error("the transaction is rolled back already")]
    RolledBack,
    /// A limit or another command has begun to end it.
    #[error("the transaction is being ended")]
    BeingEnded,
    /// The session is over but for its connections.
    #[error("the session has ended")]
    Closing,
}

impl Session {
    /// Rolls the transaction back that is open, or what runs outside of one, and keeps the session. What has come of it is
    /// an [`Incident`](super::event::Incident) whose cause is the console.
    ///
    /// # Errors
    /// There is nothing to roll back, or it is being ended.
    pub fn handle_rollback(&mut self, by: Arc<str>, now: Instant) -> Result<(), Refused> {
        let position = self.position();
        if self.state.phase.is_closing() {
            return Err(Refused::Closing);
        }
        if matches!(
            position,
            Position::Startup | Position::Idle | Position::Replication
        ) {
            return Err(Refused::NoTransaction);
        }
        if self.is_rolled_back() {
            return Err(Refused::RolledBack);
        }
        if self.is_over_but_for_rollback(position) {
            return Err(Refused::HoldsNothing);
        }
        self.take_over()?;
        // As for a limit: the server may wait, and may have answers that it was not asked for.
        self.flush_batch();
        let mut incident = self.incident_of(Cause::Console { by }, Action::Rollback, now);
        if self.is_half_forwarded() {
            incident.is_not_possible("a message is half forwarded; only terminate can act");
            self.emit_incident(incident);
        } else {
            self.start_enforcement(incident, now);
        }
        Ok(())
    }

    /// Ends the session, once nothing that was sent can be carried out any more. What has come of it is an incident, as
    /// with [`handle_rollback`](Self::handle_rollback).
    ///
    /// # Errors
    /// The session is over, or its transaction is being ended.
    pub fn handle_terminate(&mut self, by: Arc<str>, now: Instant) -> Result<(), Refused> {
        if self.state.phase.is_closing() {
            return Err(Refused::Closing);
        }
        self.take_over()?;
        let mut incident = self.incident_of(Cause::Console { by }, Action::Terminate, now);
        if self.state.phase.is_ready() && !self.state.replication {
            self.start_enforcement(incident, now);
        } else {
            self.fatal(&diagnostics::terminated(&incident, 0), CloseReason::Console);
            incident.outcome = Outcome::Terminated;
            self.emit_incident(incident);
        }
        Ok(())
    }

    /// Gives up an enforcement in which nothing is done yet: a command comes first.
    fn take_over(&mut self) -> Result<(), Refused> {
        self.abandon_enforcement();
        match self.enforcement {
            Some(_) => Err(Refused::BeingEnded),
            None => Ok(()),
        }
    }
}
