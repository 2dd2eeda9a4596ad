//! Stub.

use crate::config::{Config, Source};

/// Stub.
///
/// # Errors
/// Always.
pub fn serve(_config: Config, _source: Source) -> anyhow::Result<()> {
    anyhow::bail!("the proxy is not part of this branch")
}
