//! The text of a statement, as far as it is kept, and what it does to the transaction.

use std::sync::Arc;

use crate::sql::{self, Commits, Control, Lexing, Outline};

/// Bytes of a statement's text that are kept.
pub const MAX_TEXT: usize = 4096;

/// A statement as far as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// The text, cut after a bound; `None` when it is not known.
    pub(super) sql: Option<Arc<str>>,
    /// What its statements do to the transaction.
    pub(super) outline: Outline,
    /// Whether all of it is kept, the server reads it as we do, and no parameter is of a type that a user made.
    pub(super) certain: bool,
}

impl Text {
    /// A statement of which nothing is known.
    pub(super) const UNKNOWN: Self = Self {
        sql: None,
        outline: Outline::Unknown,
        certain: false,
    };

    /// What the whole text does to the transaction.
    pub(super) fn control(&self) -> Control {
        self.outline.control()
    }

    /// Whether one of its statements begins a transaction block.
    pub(super) fn begins_block(&self) -> bool {
        let mut controls = self.outline.controls(0);
        controls.any(|(control, _)| control == Control::Begin)
    }

    /// When it commits outside of a transaction block, if it is one statement.
    pub(super) fn commits(&self) -> Commits {
        self.sql.as_deref().map_or(Commits::Perhaps, sql::commits)
    }

    /// The server may have read it in another way than we did.
    pub(super) fn doubt(&mut self) {
        self.certain = false;
        let sql = self.sql.as_deref().unwrap_or_default().as_bytes();
        let certain = sql::certain_front(sql);
        if certain.len() < sql.len() || sql.len() >= MAX_TEXT {
            self.outline = sql::outline(certain, false, Lexing::default());
        }
    }
}
