//! The one door to PostgreSQL's scanner and grammar (`pg_query`), which lets one caller in at a time.
//!
//! While the parser runs, `pg_query` points the process's file descriptor 2 at a pipe, without a lock of its own: two
//! callers at once could leave it there. Whoever logs must hold a descriptor of its own, as `main` does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pg_query::{Fingerprint, ParseResult, Result, protobuf::ScanToken};

/// The syntax tree.
pub(super) fn parse(text: &str) -> Result<ParseResult> {
    let _alone = alone();
    pg_query::parse(text, 0)
}

/// The fingerprint.
pub(super) fn fingerprint(text: &str) -> Result<Fingerprint> {
    let _alone = alone();
    pg_query::fingerprint(text, 0, 0)
}

/// The tokens.
pub(super) fn scan_tokens(text: &str) -> Result<Vec<ScanToken>> {
    // `pg_query` makes a slice from a null pointer when there are no tokens.
    if text.chars().all(|c| matches!(c, ' ' | '\t'..='\r')) {
        return Ok(Vec::new());
    }
    let _alone = alone();
    pg_query::scan_tokens(text)
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// File descriptor 2 is the process's, so the lock is too.
static ALONE: Mutex<()> = Mutex::new(());
