//! What is remembered of the transaction that is open: when it began, what it ran, who waited for whom.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    event::{Statement, TransactionOutcome},
    pending::Request,
    savepoints::Savepoints,
    text::Text,
};
use crate::{
    policy::StuckKind,
    sql::{Control, Identifier},
    wire::CommandTag,
};

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
    refused: bool,
}

/// Why a transaction is not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) why: Arc<str>,
    /// Whether it holds until the transaction ends: what stands in the way can only grow.
    pub(super) lasting: bool,
}

impl Refusal {
    /// What may be gone the next time that the client is idle.
    pub(super) fn for_now(why: impl Into<Arc<str>>) -> Self {
        Self {
            why: why.into(),
            lasting: false,
        }
    }

    /// What stays until the transaction ends.
    pub(super) fn lasting(why: impl Into<Arc<str>>) -> Self {
        Self {
            why: why.into(),
            lasting: true,
        }
    }
}

/// How a command ended a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// What became of it.
    pub(super) outcome: TransactionOutcome,
    /// Whether the next one has begun, by AND CHAIN or by a BEGIN that shows the end of this one.
    pub(super) begun: bool,
}

/// The transaction that is open, or the statement that runs outside of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    /// Which of the session's transactions it is: two may begin at the same instant. Counted by [`clear`](Self::clear).
    pub(super) number: u64,
    /// When the request that opened it was sent; `None` when nothing is open and nothing runs.
    pub(super) started: Option<Instant>,
    /// Whether the server has answered anything in it: it may hold locks.
    pub(super) open: bool,
    /// Whether it is a transaction block (BEGIN), not the implicit transaction of a statement or batch.
    pub(super) explicit: bool,
    /// Savepoints that are open, or may be.
    pub(super) savepoints: Savepoints,
    /// Whether a ROLLBACK that was answered may have been a full one and not ROLLBACK TO: its text is not known.
    may_be_over: bool,
    /// Whether a part of it may have been committed by a statement that does so by itself.
    pub(super) doubtful: bool,
    /// In which way it was stuck when pgidle ended it; the client is still in the failed block.
    pub(super) enforced: Option<StuckKind>,
    /// Time in which the server worked.
    pub(super) busy: Duration,
    /// Time in which the server waited for the client.
    pub(super) idle: Duration,
    /// The longest single wait for the client.
    pub(super) longest_idle: Duration,
    /// Statements in all.
    pub(super) statement_count: u64,
    /// What release has to know of the extended protocol.
    pub(super) traces: ExtendedProtocolState,
    /// How many statements had run when the transaction was last released; its BEGIN at least, 0 when it never was.
    released: u64,
    /// Why it cannot be released before it ends, once that is known: neither parser nor server is asked again.
    pub(super) unreleasable: Option<Arc<str>>,
    statements: Vec<Ran>,
}

/// What the extended protocol has left behind in a transaction, as far as it stands in the way of a release.
///
/// Every statement that the server has looked at is run before the next one is looked at: so the statements that ran are
/// all that there is to prove.
#[derive(Clone, Debug, Default)]
pub(super) struct ExtendedProtocolState {
    /// A statement that was parsed, described or bound, and has not been run since.
    waiting: Option<Arc<str>>,
    portal: Portal,
    /// Whether something was done that cannot be followed.
    obscure: bool,
}

/// The unnamed portal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Portal {
    #[default]
    Done,
    Bound,
    Suspended,
}

impl ExtendedProtocolState {
    /// The server has parsed a statement, or looked at it again.
    pub(super) fn analysed(&mut self, text: &Text) {
        let Some(sql) = text.sql.as_ref().filter(|_| text.certain) else {
            self.obscure = true;
            return;
        };
        match &self.waiting {
            Some(waiting) if !Arc::ptr_eq(waiting, sql) => self.obscure = true,
            Some(_) => {}
            None => self.waiting = Some(Arc::clone(sql)),
        }
    }

    /// A portal was made.
    pub(super) fn bound(&mut self, portal: &[u8], text: &Text) {
        self.analysed(text);
        self.obscure |= !portal.is_empty() || self.portal == Portal::Bound;
        self.portal = Portal::Bound;
    }

    /// A portal was run.
    pub(super) fn executed(&mut self, text: &Text, suspended: bool) {
        self.portal = if suspended {
            Portal::Suspended
        } else {
            Portal::Done
        };
        if let (Some(waiting), Some(sql)) = (&self.waiting, &text.sql)
            && Arc::ptr_eq(waiting, sql)
        {
            self.waiting = None;
        }
    }

    /// A simple Query has dropped the unnamed portal.
    pub(super) fn queried(&mut self) {
        self.portal = Portal::Done;
    }
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
            refused: request.refused,
        });
    }

    /// Notes a command that was carried out; `statement` is what its text does and the savepoint that it names, as far as
    /// they are known.
    ///
    /// Returns how it ended the transaction, if it did.
    pub(super) fn command(
        &mut self,
        tag: CommandTag,
        (control, savepoint): (Control, Option<&Identifier>),
    ) -> Option<Ended> {
        let outcome = match (tag, control) {
            (CommandTag::Commit, _) => TransactionOutcome::Commit,
            (CommandTag::Prepare, _) => TransactionOutcome::Prepared,
            // ROLLBACK TO has the same tag and ends nothing.
            (CommandTag::Rollback, Control::RollbackTo) => {
                self.savepoints.rolled_back_to(savepoint);
                return None;
            }
            (CommandTag::Rollback, Control::Other | Control::Doubtful)
                if self.savepoints.may_be_open() =>
            {
                self.savepoints.rolled_back_to(None);
                self.may_be_over = true;
                return None;
            }
            (CommandTag::Rollback, _) => TransactionOutcome::Rollback,
            // A block does not begin in a block: that ROLLBACK was a full one.
            (CommandTag::Begin, _) if self.may_be_over => {
                return Some(Ended {
                    outcome: TransactionOutcome::Rollback,
                    begun: true,
                });
            }
            (CommandTag::Begin, _) => {
                self.explicit = true;
                return None;
            }
            (CommandTag::Savepoint, _) => {
                self.savepoints.opened(savepoint);
                return None;
            }
            (CommandTag::Release, _) => {
                self.savepoints.released(savepoint);
                return None;
            }
            (
                CommandTag::Data
                | CommandTag::Deallocate
                | CommandTag::ForgetAll
                | CommandTag::Other,
                _,
            ) => return None,
        };
        let begun = matches!(control, Control::CommitAndChain | Control::RollbackAndChain);
        Some(Ended { outcome, begun })
    }

    /// Notes that it was ended by `release`, and begins again: what ran before is done with.
    pub(super) fn released(&mut self) {
        self.released = self.statement_count;
        self.traces = ExtendedProtocolState::default();
    }

    /// Whether it was ended by `release` and began again.
    pub(super) fn was_released(&self) -> bool {
        self.released > 0
    }

    /// The texts of everything that ran since it began, or began again.
    ///
    /// # Errors
    /// Why they are not all known, or not all of them have run.
    pub(super) fn texts(&self) -> Result<Vec<Arc<str>>, Refusal> {
        if self.traces.obscure {
            return Err(Refusal::lasting(
                "a statement was prepared and not run, or is not wholly known, or a portal has a name",
            ));
        }
        if self.traces.waiting.is_some() {
            return Err(Refusal::for_now("a statement was prepared and not run"));
        }
        if self.traces.portal != Portal::Done {
            return Err(Refusal::for_now("a portal is open"));
        }
        let ran = usize::try_from(self.statement_count - self.released).unwrap_or(usize::MAX);
        // All are kept, or those that ran since are among the last ones.
        let all = usize::try_from(self.statement_count) == Ok(self.statements.len());
        if !all && ran > LAST {
            return Err(Refusal::lasting(
                "it ran more statements than are remembered",
            ));
        }
        let since = self.statements.iter().rev().take(ran).rev();
        let texts: Option<_> = since
            .map(|ran| ran.text.sql.clone().filter(|_| ran.text.certain))
            .collect();
        texts.ok_or_else(|| Refusal::lasting("a statement is not wholly known"))
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
            refused: ran.refused,
        });
        let running = running.map(|request| Statement {
            at: since_start(request.at),
            text: request.text.sql.clone(),
            duration: None,
            refused: request.refused,
        });
        ran.chain(running).collect()
    }

    /// Forgets it and makes way for the next one, for which a little memory is kept.
    pub(super) fn clear(&mut self) {
        let mut statements = std::mem::take(&mut self.statements);
        statements.clear();
        statements.shrink_to(4);
        *self = Self {
            number: self.number + 1,
            statements,
            ..Self::default()
        };
    }
}
