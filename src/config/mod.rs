//! Settings.

use std::path::PathBuf;

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

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            file: None,
            literals: false,
            transactions: true,
        }
    }
}

impl AuditSettings {
    /// Whether finished transactions go to the file.
    pub fn wants_transactions(&self) -> bool {
        self.transactions && self.file.is_some()
    }
}
