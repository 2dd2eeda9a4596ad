//! Release: ends a transaction that provably only read, and begins it again when the client speaks.
//!
//! ```text
//!   Gate ─▶ Prove: by the texts ─▶ Question ─▶ Rollback ─▶ (released) ─ the client speaks ─▶ Begin ─▶ as before
//!             │ no                  │ no, or it failed
//!             │                     ▼
//!             │                   Undo: back to the savepoint in which it was asked
//!             ▼                     ▼
//!           not releasable: nothing has been changed
//! ```
//! What fails outside of the savepoint has ended the client's transaction, which is then rolled back as `rollback` does
//! it. The gate stays closed until the transaction has begun again, so that no cancel of the client's hits what is ours; a
//! session that is released has nothing to cancel.

use super::{
    Action, Frame, Instant, Outcome, Session, Step, TransactionStatus, Verdict, abort,
    exchange::{Exchange, Exchanged, NAME, Unexpected},
    proof::Then,
    question::{self, About, Answer, Mode},
};
use crate::{
    session::{
        event::{Incident, Position},
        transaction::Refusal,
    },
    sql::{Claim, Names, Proof, Unproven},
    wire::originate::Parameter,
};

/// How often what statement_timeout (or a cancel by another session) has hit is sent again.
const MAX_RETRIES: u32 = 50;

/// A transaction that was ended and will be begun again.
#[derive(Clone, Debug)]
pub(in crate::session) struct Released {
    /// What was reported.
    incident: Incident,
    mode: Mode,
    /// Whether it has been begun again already.
    begun: bool,
}

/// What a batch of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Purpose {
    Question,
    Undo,
    Rollback(Mode),
    Begin(Mode),
}

impl Session {
    /// Asks the server whether the transaction may be released, if nothing else speaks against it.
    pub(super) fn ask(&mut self, now: Instant) {
        match self.reading() {
            Ok(claim) => self.claim(claim, Then::Question, now),
            Err(refusal) => self.not_releasable(refusal),
        }
    }

    /// Asks the server, if the transaction is proven to only read and the server has said nothing else meanwhile.
    pub(super) fn question_if(&mut self, proof: Proof) {
        match self.reading().and_then(|_| names(proof)) {
            Ok(names) => self.question(&names),
            Err(refusal) => self.not_releasable(refusal),
        }
    }

    /// What has to be proven, where what the wire has told leaves nothing to be said against a release.
    fn reading(&self) -> Result<Claim, Refusal> {
        let transaction = &self.state.transaction;
        if let Some(why) = &transaction.unreleasable {
            return Err(Refusal::lasting(why.clone()));
        }
        let position = self.position();
        if position != Position::IdleInTransaction {
            return Err(Refusal::for_now(position.name()));
        }
        if !self.state.lexing.is_server_safe() {
            return Err(Refusal::for_now(
                "standard_conforming_strings is off, or client_encoding is not a server's",
            ));
        }
        if self.who.server_pid.is_none() && !self.keeps_server {
            return Err(Refusal::lasting(
                "the server did not tell its process id: is there a pooler? See upstream.pooler",
            ));
        }
        Ok(Claim::Transaction {
            texts: transaction.texts()?,
            begins: !transaction.was_released(),
        })
    }

    fn question(&mut self, names: &Names) {
        let portal = self.own_name();
        let about = About {
            names,
            // Poolers that give servers away make up what they tell.
            process: self.who.server_pid.filter(|_| !self.keeps_server),
            portal: &portal,
        };
        let savepoint = format!("SAVEPOINT {NAME}");
        let time_limit = question::time_limit(self.limits.current().release_timeout);
        let (settings, text) = (question::settings(), question::text());
        self.send(
            Purpose::Question,
            &[
                (&savepoint, &[]),
                (&time_limit, &[]),
                ("SET LOCAL jit = off", &[]),
                (&settings, &[]),
                (&text, &about.parameters()),
            ],
        );
    }

    /// Goes back to where the question was asked; the incident says why the answer is no.
    fn undo(&mut self, refusal: Refusal) {
        self.refused(refusal);
        self.send_undo();
    }

    fn send_undo(&mut self) {
        // Of several savepoints with one name it is the newest that is meant, which is ours.
        let [back, forget] = [
            format!("ROLLBACK TO SAVEPOINT {NAME}"),
            format!("RELEASE SAVEPOINT {NAME}"),
        ];
        self.send(Purpose::Undo, &[(&back, &[]), (&forget, &[])]);
    }

    pub(super) fn not_releasable(&mut self, refusal: Refusal) {
        self.refused(refusal);
        self.finish(Outcome::NotReleasable);
    }

    /// Notes why the transaction is not released, for good where that cannot change before it ends.
    fn refused(&mut self, refusal: Refusal) {
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.incident.why = Some(refusal.why.clone());
        }
        if refusal.lasting {
            self.state.transaction.unreleasable = Some(refusal.why);
        }
    }

    fn send(&mut self, purpose: Purpose, statements: &[(&str, &[Parameter])]) {
        let exchange = self.send_batch(statements);
        self.set_step(Step::Release(purpose, exchange));
    }

    /// Looks at an answer to a batch of ours.
    pub(super) fn release_answered(
        &mut self,
        purpose: Purpose,
        mut exchange: Exchange,
        frame: Frame<'_>,
    ) -> Verdict {
        match exchange.answer(frame) {
            Err(Unexpected) => self.abort_on_unexpected_reply(
                "The server answered the statements of a release with an unexpected message.",
            ),
            Ok(None) => self.set_step(Step::Release(purpose, exchange)),
            Ok(Some(end)) => match purpose {
                Purpose::Question => self.question_answered(end),
                Purpose::Undo => self.undone(end),
                Purpose::Rollback(mode) => self.ended_by_release(end, mode),
                Purpose::Begin(mode) => self.begun_again(end, mode),
            },
        }
        Verdict::Drop
    }

    fn question_answered(&mut self, end: Exchanged) {
        match (end.failed(), end.status) {
            (None, TransactionStatus::InBlock) => match Answer::of(end.rows()) {
                Answer::Releasable(mode) => {
                    self.send(Purpose::Rollback(mode), &[("ROLLBACK", &[])])
                }
                Answer::Not(refusal) => self.undo(refusal),
                Answer::Unexpected => {
                    self.abort_on_unexpected_reply("The server answered a question with nonsense.")
                }
            },
            (Some(sqlstate), TransactionStatus::Failed) if end.completed(0) => {
                self.undo(question::unanswered(sqlstate));
            }
            (Some(_), TransactionStatus::Failed) => self.abort_after_failure(),
            _ => self.abort_on_unexpected_reply(
                "The server answered a question with an unexpected transaction status.",
            ),
        }
    }

    fn undone(&mut self, end: Exchanged) {
        match (end.failed(), end.status) {
            (None, TransactionStatus::InBlock) => self.finish(Outcome::NotReleasable),
            // Without the savepoint the client's transaction itself has failed.
            (Some(_), TransactionStatus::Failed) if !end.completed(1) && self.may_retry() => {
                self.send_undo();
            }
            (Some(_), TransactionStatus::Failed) => self.abort_after_failure(),
            _ => self.abort_on_unexpected_reply(
                "The server answered a ROLLBACK TO of a release unexpectedly.",
            ),
        }
    }

    /// Counts what is sent again; whether it may be.
    fn may_retry(&mut self) -> bool {
        let Some(enforcement) = &mut self.enforcement else {
            return false;
        };
        enforcement.retries += 1;
        enforcement.retries <= MAX_RETRIES
    }

    /// A statement of ours has failed, and the client's transaction with it: the client has to be told.
    fn abort_after_failure(&mut self) {
        if let Some(enforcement) = &mut self.enforcement {
            enforcement.incident.why = Some(
                "asking whether it could be released failed, and ended it: it was rolled back"
                    .into(),
            );
        }
        self.abort(abort::Replies::default());
    }

    fn ended_by_release(&mut self, end: Exchanged, mode: Mode) {
        match (end.completed(0), end.status) {
            (true, TransactionStatus::Idle) => {
                self.state.transaction.released();
                self.state.prepared.transaction_ended();
                if mode.stays_open {
                    self.begin(mode, false);
                } else {
                    self.released(mode, false);
                }
            }
            // It was to end, and a ROLLBACK ends a failed transaction too.
            (false, TransactionStatus::Failed) if self.may_retry() => {
                self.send(Purpose::Rollback(mode), &[("ROLLBACK", &[])]);
            }
            (false, TransactionStatus::Failed) => self.abort_after_failure(),
            _ => self.abort_on_unexpected_reply(
                "The server answered the ROLLBACK of a release unexpectedly.",
            ),
        }
    }

    /// The transaction is ended, or has begun again and waits for a client that has not spoken.
    fn released(&mut self, mode: Mode, begun: bool) {
        let Some(mut enforcement) = self.enforcement.take() else {
            return;
        };
        enforcement.incident.outcome = Outcome::Released;
        self.emit_incident(enforcement.incident.clone());
        self.released = Some(Box::new(Released {
            incident: enforcement.incident,
            mode,
            begun,
        }));
    }

    /// The client of a released session speaks; `true` when its request has to wait until the transaction has begun.
    pub(in crate::session) fn begins_again(&mut self, now: Instant) -> bool {
        let Some(released) = self.released.take() else {
            return false;
        };
        if released.begun {
            self.actions.push_back(Action::OpenGate);
            return false;
        }
        self.start_enforcement(released.incident, now);
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
        self.send(Purpose::Begin(mode), &statements);
    }

    fn begun_again(&mut self, end: Exchanged, mode: Mode) {
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        if end.failed().is_none() && end.status == TransactionStatus::InBlock {
            if enforcement.incident.outcome != Outcome::Released {
                return self.released(mode, true);
            }
            self.enforcement = None;
            self.actions.push_back(Action::OpenGate);
            return;
        }
        let again = end.failed().is_some() && self.may_retry();
        match end.status {
            TransactionStatus::Idle if again => self.begin(mode, false),
            TransactionStatus::Failed if again => self.begin(mode, true),
            TransactionStatus::Idle | TransactionStatus::InBlock | TransactionStatus::Failed => {
                self.abort_on_unexpected_reply("A released transaction could not be begun again.");
            }
        }
    }
}

/// The names that a transaction uses which is proven to only read.
fn names(proof: Proof) -> Result<Names, Refusal> {
    match proof {
        Proof::Transaction(Ok(names)) => Ok(names),
        Proof::Transaction(Err(Unproven::MayDoMore(why))) => Err(Refusal::lasting(why)),
        Proof::Transaction(Err(Unproven::NothingRead)) => {
            Err(Refusal::for_now("it has read nothing yet"))
        }
        Proof::Each(_) | Proof::Missing => Err(Refusal::for_now(
            "it was not proven in time that it only reads",
        )),
    }
}
