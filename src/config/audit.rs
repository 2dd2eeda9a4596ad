//! `[audit]`: what is written of incidents and transactions, and where.

use std::path::PathBuf;

use super::{
    error::Fault,
    section::{Section, Table, boolean, path},
};

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where JSON lines are appended; `None` writes none.
    pub file: Option<PathBuf>,
    /// Whether statement text keeps its literals.
    pub literals: bool,
    /// Whether each finished transaction is written.
    pub transactions: bool,
}

impl AuditSettings {
    /// Whether finished transactions go to the file.
    pub fn wants_transactions(&self) -> bool {
        self.transactions && self.file.is_some()
    }
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            file: None,
            literals: false,
            transactions: true,
        }
    }
}

pub(super) const TABLE: Table = Table {
    name: "audit",
    keys: &["file", "literals", "transactions"],
};

impl AuditSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("file", &mut self.file, path)?;
        section.set("literals", &mut self.literals, boolean)?;
        section.set("transactions", &mut self.transactions, boolean)
    }
}
