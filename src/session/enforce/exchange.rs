//! A batch of our own by the extended protocol: it is sent whole, and each answer to it is checked off.
//!
//! A simple Query would drop the client's unnamed statement and portal, so statements and portals have a name, which no
//! client can guess: a Parse under a name that the client has used would fail, and the transaction with it. A batch that
//! fails leaves them behind, as prepared statements know no transactions; so each statement closes what was there first.

use super::{BackendTag, Frame, Session, TransactionStatus, originate};
use crate::wire::{ErrorFields, originate::Parameter};

/// What begins the names of our statements, portals and savepoints.
pub(super) const NAME: &str = "pgidle_release";

/// Messages that answer a statement of ours: two CloseComplete, ParseComplete, BindComplete and CommandComplete.
const ANSWERS: usize = 5;

/// Messages that answer the two Closes at the end of a batch.
const CLOSED: usize = 2;

/// What has been answered to a batch of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Exchange {
    /// Messages that answer the batch so far.
    answered: usize,
    /// Messages that answer it when nothing fails.
    expected: usize,
    /// The SQLSTATE of the ErrorResponse.
    failed: Option<[u8; 5]>,
    /// The number of rows of the last query.
    rows: u32,
}

/// The end of a batch of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exchanged {
    exchange: Exchange,
    pub(super) status: TransactionStatus,
}

impl Exchanged {
    /// The SQLSTATE with which it failed.
    pub(super) fn failed(self) -> Option<[u8; 5]> {
        self.exchange.failed
    }

    /// The number of rows of the last query.
    pub(super) fn rows(self) -> u32 {
        self.exchange.rows
    }

    /// Whether the statement at this place was carried out, whatever became of those after it.
    pub(super) fn completed(self, statement: usize) -> bool {
        self.exchange.answered >= ANSWERS * (statement + 1)
    }
}

impl Session {
    /// Sends statements with their parameters as one batch.
    pub(super) fn send_batch(&mut self, statements: &[(&str, &[Parameter])]) -> Exchange {
        let name = self.own_name();
        for (text, parameters) in statements {
            originate::run_as(&name, text, parameters, self.server.output());
        }
        originate::close_both(&name, self.server.output());
        originate::sync(self.server.output());
        Exchange {
            expected: ANSWERS * statements.len() + CLOSED,
            ..Exchange::default()
        }
    }

    /// The name of our statements and portals in this session.
    pub(super) fn own_name(&self) -> String {
        format!("{NAME}_{:x}", self.nonce)
    }
}

impl Exchange {
    /// Takes note of an answer; the end of the batch is returned.
    ///
    /// # Errors
    /// It is not one that may come here.
    pub(super) fn answer(&mut self, frame: Frame<'_>) -> Result<Option<Exchanged>, Unexpected> {
        let tag = BackendTag::from(frame.tag);
        let whole = self.answered == self.expected;
        if tag == BackendTag::ReadyForQuery {
            let status = TransactionStatus::read(frame.body).ok_or(Unexpected)?;
            let exchange = *self;
            let over = self.failed.is_some() || whole;
            return over
                .then_some(Some(Exchanged { exchange, status }))
                .ok_or(Unexpected);
        }
        if self.failed.is_some() || whole {
            return Err(Unexpected);
        }
        if tag == BackendTag::ErrorResponse {
            let sqlstate = ErrorFields::read(frame.body).sqlstate.try_into();
            self.failed = Some(sqlstate.unwrap_or_default());
            return Ok(None);
        }
        let expected = match self.answered % ANSWERS {
            0 | 1 => BackendTag::CloseComplete,
            2 => BackendTag::ParseComplete,
            3 => BackendTag::BindComplete,
            _ if tag == BackendTag::DataRow => return Ok(None),
            _ => BackendTag::CommandComplete,
        };
        if tag == BackendTag::CommandComplete {
            self.rows = rows(frame.body).unwrap_or_default();
        }
        self.answered += 1;
        (tag == expected).then_some(None).ok_or(Unexpected)
    }
}

/// An answer that may not come at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unexpected;

/// The number in `SELECT 1`.
fn rows(tag: &[u8]) -> Option<u32> {
    let number = tag.strip_prefix(b"SELECT ")?.strip_suffix(b"\0")?;
    str::from_utf8(number).ok()?.parse().ok()
}
