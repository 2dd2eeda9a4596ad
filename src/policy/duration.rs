//! Durations as PostgreSQL writes them: `500ms`, `30s`, `5min`, `2h`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration")]
pub struct DurationError;

/// Stub.
///
/// # Errors
/// Stub.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let _ = text;
    Err(DurationError)
}

/// Stub.
pub fn format_duration(duration: Duration) -> String {
    format!("{duration:?}")
}
