//! What is remembered of the transaction that is open: when it began, what it ran, who waited for whom.

use std::time::{Duration, Instant};

use super::{
    event::{Statement, TransactionOutcome},
    pending::{Request, Text},
};
use crate::{policy::Kind, sql::Control, wire::CommandTag};

/// Statements kept from the front of a transaction.
const FIRST: usize = 16;

/// Statements kept from the end of a transaction.
const LAST: usize = 16;

/// A statement that was answered.
#[derive(Clone, Debug)]
struct Ran {
    at: Instant,
    text: Text,
    duration: Duration,
}

/// How a command ended a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// What became of it.
    pub(super) outcome: TransactionOutcome,
    /// Whether the next one began with the same command (AND CHAIN).
    pub(super) chained: bool,
}

/// The transaction that is open, or the statement that runs outside of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    /// When the request that opened it was sent; `None` when nothing is open and nothing runs.
    pub(super) started: Option<Instant>,
    /// Whether the server has answered anything in it: it may hold locks.
    pub(super) open: bool,
    /// Whether it is a transaction block (BEGIN), not the implicit transaction of a statement or batch.
    pub(super) explicit: bool,
    /// Savepoints that may be open: never fewer than there are.
    pub(super) savepoints: u32,
    /// In which way it was stuck when pgidle ended it; the client is still in the failed block.
    pub(super) enforced: Option<Kind>,
    /// Time in which the server worked.
    pub(super) busy: Duration,
    /// Time in which the server waited for the client.
    pub(super) idle: Duration,
    /// The longest single wait for the client.
    pub(super) longest_idle: Duration,
    /// Statements in all.
    pub(super) statement_count: u64,
    statements: Vec<Ran>,
}

impl Transaction {
    /// Notes a request of which the server has answered everything.
    pub(super) fn ran(&mut self, request: Request, now: Instant) {
        self.statement_count += 1;
        if self.statements.len() == FIRST + LAST {
            self.statements.remove(FIRST);
        }
        if self.statements.len() == self.statements.capacity() {
            self.statements.reserve_exact(self.statements.len().max(1));
        }
        self.statements.push(Ran {
            at: request.at,
            duration: now.saturating_duration_since(request.at),
            text: request.text,
        });
    }

    /// Notes a command that was carried out; `control` is what the text of its request does, as far as it is known.
    ///
    /// Returns how it ended the transaction, if it did.
    pub(super) fn command(&mut self, tag: CommandTag, control: Control) -> Option<Ended> {
        let outcome = match (tag, control) {
            (CommandTag::Commit, _) => TransactionOutcome::Commit,
            (CommandTag::Prepare, _) => TransactionOutcome::Prepared,
            // ROLLBACK TO has the same tag and ends nothing.
            (CommandTag::Rollback, Control::RollbackTo) => return None,
            (CommandTag::Rollback, Control::Other) if self.savepoints > 0 => return None,
            (CommandTag::Rollback, _) => TransactionOutcome::Rollback,
            (CommandTag::Begin, _) => {
                self.explicit = true;
                return None;
            }
            (CommandTag::Savepoint, _) => {
                self.savepoints += 1;
                return None;
            }
            (CommandTag::Release, _) => {
                self.savepoints = self.savepoints.saturating_sub(1);
                return None;
            }
            (CommandTag::ForgetAll | CommandTag::Other, _) => return None,
        };
        let chained = matches!(control, Control::CommitAndChain | Control::RollbackAndChain);
        Some(Ended { outcome, chained })
    }

    /// Adds to the totals a time in which the client had the turn.
    pub(super) fn waited_for_client(&mut self, time: Duration) {
        self.idle += time;
        self.longest_idle = self.longest_idle.max(time);
    }

    /// The statements that are kept, and those that run, with times counted from the start of the transaction.
    pub(super) fn statements<'a>(
        &self,
        running: impl Iterator<Item = &'a Request>,
    ) -> Vec<Statement> {
        let since_start = |at: Instant| at.saturating_duration_since(self.started.unwrap_or(at));
        let ran = self.statements.iter().map(|ran| Statement {
            at: since_start(ran.at),
            text: ran.text.sql.clone(),
            duration: Some(ran.duration),
        });
        let running = running.map(|request| Statement {
            at: since_start(request.at),
            text: request.text.sql.clone(),
            duration: None,
        });
        ran.chain(running).collect()
    }

    /// Forgets it, and keeps a little memory for the next one.
    pub(super) fn clear(&mut self) {
        let mut statements = std::mem::take(&mut self.statements);
        statements.clear();
        statements.shrink_to(4);
        *self = Self {
            statements,
            ..Self::default()
        };
    }
}
