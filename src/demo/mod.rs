//! Stub.

/// Stub.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// Stub.
    pub keep: bool,
}

/// Stub.
#[derive(Debug, thiserror::Error)]
#[error("the demo is not part of this branch")]
pub struct DemoError;

/// Stub.
///
/// # Errors
/// Always.
pub fn run(_options: DemoOptions) -> Result<(), DemoError> {
    Err(DemoError)
}
