//! Release: ends a transaction that provably only read, and begins it again when the client speaks.
//!
//! ```text
//!   Gate ─▶ the texts prove it? ─▶ Question ─▶ Rollback ─▶ (released) ─ the client speaks ─▶ Begin ─▶ as before
//!             │ no                  │ no │ failed  │ failed
//!             ▼                     ▼    ▼         ▼
//!           not releasable: nothing    full abort, as `rollback` does it
//!           has been changed
//! ```
//! Everything of ours goes by extended protocol under a name of its own, closed at once: a simple Query would drop the
//! client's unnamed statement and portal. The gate stays closed until the transaction has begun again, so that no cancel
//! of the client's hits what is ours; a session that is released has nothing to cancel.

use std::time::Duration;

use super::{
    Action, BackendTag, Frame, Instant, Outcome, Session, Step, TransactionStatus, Verdict, abort,
    drain::NO_KEY, originate,
};
use crate::{
    session::event::{Incident, Position},
    sql::{self, Names},
    wire::{CommandTag, originate::Parameter},
};

/// Name of the statements and portals.
const NAME: &str = "pgidle_release";

/// Asks for everything that only the server knows: the number of rows is the answer, see [`Answer`].
const QUESTION: &str = include_str!("release.sql");

/// How long the server may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// The time between two cancels of a question that was not answered.
const CANCEL_INTERVAL: Duration = Duration::from_millis(500);

/// How often BEGIN is sent again when statement_timeout hits it.
const MAX_RETRIES: u32 = 50;

/// `pg_type.oid` of `name[]`.
const NAME_ARRAY: u32 = 1003;

/// `pg_type.oid` of `text`.
const TEXT: u32 = 25;

/// A transaction that was ended and will be begun again.
#[derive(Clone, Debug)]
pub(in crate::session) struct Released {
    /// What was reported.
    incident: Incident,
    mode: Mode,
    /// Whether it has been begun again already.
    begun: bool,
}

/// How the transaction was, and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct Mode {
    read_only: bool,
    /// Whether the server would close a session without a transaction (`idle_session_timeout`).
    stays_open: bool,
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Question,
    Rollback(Mode),
    Begin(Mode),
}

/// A batch of our own, and what has been answered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct Exchange {
    purpose: Purpose,
    /// Messages that answer the batch so far; each statement has five.
    answered: usize,
    /// Messages that answer it when nothing fails.
    expected: usize,
    failed: bool,
    /// The number of rows.
    rows: u32,
    /// Whether ROLLBACK was carried out.
    rolled_back: bool,
    /// The ReadyForQuery.
    ready: Option<TransactionStatus>,
    /// When the server is asked to stop.
    deadline: Option<Instant>,
    /// Whether a CancelRequest of ours is under way.
    cancelling: bool,
}

/// What the number of rows says.
enum Answer {
    Releasable(Mode),
    Not(&'static str),
    Nonsense,
}

impl Answer {
    fn of(rows: u32) -> Self {
        let mode = |read_only, stays_open| {
            Self::Releasable(Mode {
                read_only,
                stays_open,
            })
        };
        match rows {
            1 => mode(false, false),
            2 => mode(true, false),
            3 => mode(false, true),
            4 => mode(true, true),
            5 => Self::Not("the isolation level is not READ COMMITTED, or it is DEFERRABLE"),
            6 => Self::Not("a cursor is open"),
            7 => Self::Not(
                "it holds a transaction id, a lock other than AccessShareLock, or one on something else than \
                 permanent tables without row-level security",
            ),
            8 => Self::Not("a table has a column of a user-made type"),
            9 => Self::Not(
                "a table has an index, constraint or statistics with a user-made function or operator",
            ),
            10 => Self::Not("a user-made function has a name that it uses"),
            11 => Self::Not("a user-made operator has a name that it uses"),
            12 => Self::Not("a user-made type has a name that it uses"),
            13 => Self::Not("there is a user-made cast"),
            14 => Self::Not("there is a user-made operator class for a type of PostgreSQL's"),
            15 => Self::Not(
                "the server's process id is not what the session was told: is there a pooler? See upstream.pooler",
            ),
            16 => Self::Not("a statement was prepared by SQL, and a name may stand for it"),
            _ => Self::Nonsense,
        }
    }
}

impl Session {
    /// Asks the server whether the transaction may be released, if nothing else speaks against it.
    pub(super) fn ask(&mut self, now: Instant) {
        match self.proof() {
            Ok(names) => {
                let arrays = [
                    &names.functions,
                    &names.operators,
                    &names.types,
                    &names.fields,
                ];
                let [functions, operators, types, fields] =
                    arrays.map(|names| (NAME_ARRAY, array(names.iter())));
                let parameters = [functions, operators, types, fields, (TEXT, self.process())];
                self.send(
                    Purpose::Question,
                    &[(QUESTION, &parameters)],
                    Some(now + DEADLINE),
                );
            }
            Err(why) => self.not_releasable(&why),
        }
    }

    /// Whether what the wire has told and what the texts say leave nothing to be said against it.
    fn proof(&self) -> Result<Names, String> {
        let position = self.position();
        if position != Position::IdleInTransaction {
            return Err(position.name().to_owned());
        }
        if !self.state.lexing.is_server_safe() {
            return Err(
                "standard_conforming_strings is off, or client_encoding is not a server's"
                    .to_owned(),
            );
        }
        if self.who.server_pid.is_none() {
            // A question that is not answered in time is cancelled.
            return Err(NO_KEY.to_owned());
        }
        let transaction = &self.state.transaction;
        let texts = transaction.texts().map_err(str::to_owned)?;
        sql::read_only(texts, !transaction.was_released())
    }

    /// The process that the session must be with: poolers that give servers away make up what they tell.
    fn process(&self) -> String {
        let told = self.who.server_pid.filter(|_| !self.keeps_server);
        told.map_or_else(|| "any".to_owned(), |pid| pid.to_string())
    }

    fn not_releasable(&mut self, why: &str) {
        if let Some(ending) = &mut self.ending {
            ending.incident.why = Some(why.into());
        }
        self.finish(Outcome::NotReleasable);
    }

    fn send(
        &mut self,
        purpose: Purpose,
        statements: &[(&str, &[Parameter])],
        deadline: Option<Instant>,
    ) {
        for (text, parameters) in statements {
            originate::run_once(NAME, text, parameters, &mut self.to_server);
        }
        originate::sync(&mut self.to_server);
        self.set_step(Step::Release(Exchange {
            purpose,
            answered: 0,
            expected: 5 * statements.len(),
            failed: false,
            rows: 0,
            rolled_back: false,
            ready: None,
            deadline,
            cancelling: false,
        }));
    }

    /// Looks at an answer to a batch of ours.
    pub(super) fn release_answered(&mut self, mut exchange: Exchange, frame: Frame<'_>) -> Verdict {
        if !exchange.answer(frame) {
            self.doubt(
                "The server answered the statements of a release with an unexpected message.",
            );
            return Verdict::Drop;
        }
        self.set_step(Step::Release(exchange));
        self.exchanged();
        Verdict::Drop
    }

    /// Goes on when the batch is answered and no cancel of ours can hit anything any more.
    fn exchanged(&mut self) {
        let Some(Step::Release(exchange)) = self.ending_step() else {
            return;
        };
        let (Some(status), false) = (exchange.ready, exchange.cancelling) else {
            return;
        };
        match exchange.purpose {
            Purpose::Question => self.question_answered(exchange, status),
            Purpose::Rollback(mode) => self.ended_by_release(exchange, status, mode),
            Purpose::Begin(mode) => self.begun_again(exchange, status, mode),
        }
    }

    fn question_answered(&mut self, exchange: Exchange, status: TransactionStatus) {
        match (exchange.failed, status) {
            (false, TransactionStatus::InBlock) => match Answer::of(exchange.rows) {
                Answer::Releasable(mode) => {
                    self.send(Purpose::Rollback(mode), &[("ROLLBACK", &[])], None);
                }
                Answer::Not(why) => self.not_releasable(why),
                Answer::Nonsense => self.doubt("The server answered a question with nonsense."),
            },
            (true, TransactionStatus::Failed) => self.abort_after_failure(),
            _ => {
                self.doubt("The server answered a question with an unexpected transaction status.")
            }
        }
    }

    /// A statement of ours has failed, and the client's transaction with it: the client has to be told.
    fn abort_after_failure(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.incident.why = Some(
                "asking whether it could be released failed, and ended it: it was rolled back"
                    .into(),
            );
        }
        self.abort(abort::Replies::default());
    }

    fn ended_by_release(&mut self, exchange: Exchange, status: TransactionStatus, mode: Mode) {
        match (exchange.rolled_back, exchange.failed, status) {
            (true, _, TransactionStatus::Idle) => {
                self.state.transaction.released();
                self.state.prepared.transaction_ended();
                if mode.stays_open {
                    self.begin(mode, false);
                } else {
                    self.released(mode, false);
                }
            }
            (false, true, TransactionStatus::Failed) => self.abort_after_failure(),
            _ => self.doubt("The server answered the ROLLBACK of a release unexpectedly."),
        }
    }

    /// The transaction is ended, or has begun again and waits for a client that has not spoken.
    fn released(&mut self, mode: Mode, begun: bool) {
        let Some(mut ending) = self.ending.take() else {
            return;
        };
        ending.incident.outcome = Outcome::Released;
        self.report(ending.incident.clone());
        self.released = Some(Box::new(Released {
            incident: ending.incident,
            mode,
            begun,
        }));
    }

    /// The client of a released session speaks; `true` when its request has to wait until the transaction has begun.
    pub(in crate::session) fn begins_again(&mut self) -> bool {
        let Some(released) = self.released.take() else {
            return false;
        };
        if released.begun {
            self.actions.push_back(Action::OpenGate);
            return false;
        }
        self.begin_ending(released.incident);
        self.begin(released.mode, false);
        true
    }

    fn begin(&mut self, mode: Mode, after_rollback: bool) {
        let access = if mode.read_only {
            "READ ONLY"
        } else {
            "READ WRITE"
        };
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED, {access}, NOT DEFERRABLE");
        let rollback: &[(&str, &[Parameter])] = if after_rollback {
            &[("ROLLBACK", &[])]
        } else {
            &[]
        };
        // SET TRANSACTION is refused once a query has run, as it was before.
        let statements = [rollback, &[(&begin, &[]), ("SELECT 1", &[])]].concat();
        self.send(Purpose::Begin(mode), &statements, None);
    }

    fn begun_again(&mut self, exchange: Exchange, status: TransactionStatus, mode: Mode) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        if !exchange.failed && status == TransactionStatus::InBlock {
            if ending.incident.outcome != Outcome::Released {
                return self.released(mode, true);
            }
            self.ending = None;
            self.actions.push_back(Action::OpenGate);
            return;
        }
        ending.retries += 1;
        let again = exchange.failed && ending.retries <= MAX_RETRIES;
        match status {
            TransactionStatus::Idle if again => self.begin(mode, false),
            TransactionStatus::Failed if again => self.begin(mode, true),
            TransactionStatus::Idle | TransactionStatus::InBlock | TransactionStatus::Failed => {
                self.doubt("A released transaction could not be begun again.");
            }
        }
    }

    /// When a question that is not answered is cancelled.
    pub(in crate::session) fn release_timeout(&self) -> Option<Instant> {
        match self.ending_step() {
            Some(Step::Release(exchange)) if exchange.ready.is_none() && !exchange.cancelling => {
                exchange.deadline
            }
            _ => None,
        }
    }

    /// Cancels a question that is not answered in time.
    pub(in crate::session) fn release_late(&mut self, now: Instant) {
        if self.release_timeout().is_none_or(|at| at > now) {
            return;
        }
        if let Some(Step::Release(exchange)) = self.ending_step() {
            self.set_step(Step::Release(Exchange {
                deadline: Some(now + CANCEL_INTERVAL),
                cancelling: true,
                ..exchange
            }));
            self.actions.push_back(Action::Cancel);
        }
    }

    /// The server has closed the connection of a cancel of ours.
    pub(super) fn release_cancel_closed(&mut self) {
        if let Some(Step::Release(exchange)) = self.ending_step() {
            self.set_step(Step::Release(Exchange {
                cancelling: false,
                ..exchange
            }));
            self.exchanged();
        }
    }
}

impl Exchange {
    /// Takes note of an answer; `false` when it is not one that may come here.
    fn answer(&mut self, frame: Frame<'_>) -> bool {
        let tag = BackendTag::from(frame.tag);
        if tag == BackendTag::ReadyForQuery {
            self.ready = TransactionStatus::read(frame.body);
            return self.ready.is_some() && (self.failed || self.answered == self.expected);
        }
        if self.failed || self.answered == self.expected {
            return false;
        }
        if tag == BackendTag::ErrorResponse {
            self.failed = true;
            return true;
        }
        let expected = match self.answered % 5 {
            0 => BackendTag::ParseComplete,
            1 => BackendTag::BindComplete,
            2 if tag == BackendTag::DataRow => return true,
            2 => BackendTag::CommandComplete,
            _ => BackendTag::CloseComplete,
        };
        if tag == BackendTag::CommandComplete {
            self.rolled_back |= CommandTag::read(frame.body) == CommandTag::Rollback;
            self.rows = rows(frame.body).unwrap_or_default();
        }
        self.answered += 1;
        tag == expected
    }
}

/// The number in `SELECT 1`.
fn rows(tag: &[u8]) -> Option<u32> {
    let number = tag.strip_prefix(b"SELECT ")?.strip_suffix(b"\0")?;
    str::from_utf8(number).ok()?.parse().ok()
}

/// An array of names as PostgreSQL reads it; none of them has a quote or a backslash.
fn array<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let quoted: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    format!("{{{}}}", quoted.join(","))
}
