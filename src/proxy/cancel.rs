//! Cancel requests: a connection of their own each, closed by the server without a word when the signal was sent.

use std::{io, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Shared,
    upstream::{self, Encryption},
};
use crate::{config::Upstream, registry::Entry, wire::CancelKey};

/// How long the server may take to close the connection of a cancel request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Passes a client's request on, unless an injection of ours runs in that session: it would hit the injection, and the
/// session has nothing else to cancel.
pub(super) async fn forward(shared: &Shared, key: &CancelKey) {
    let Some(entry) = shared.registry.find(key) else {
        let config = shared.config.borrow().clone();
        let way = upstream::ways(&config.upstream).first();
        return send(&config.upstream, *way.unwrap_or(&Encryption::No), key).await;
    };
    if entry.enter_gate() {
        send_for(&entry, key).await;
        entry.leave_gate();
    }
}

/// Sends a request for a session, encrypted when the session is.
pub(super) async fn send_for(entry: &Entry, key: &CancelKey) {
    let encryption = if entry.encrypted() {
        Encryption::Yes
    } else {
        Encryption::No
    };
    send(entry.server(), encryption, key).await;
}

/// Sends a request and waits until the server has closed its connection: from then on it cannot hit a later statement
/// of the session (`processCancelRequest` in `src/backend/postmaster/postmaster.c`).
async fn send(upstream: &Upstream, encryption: Encryption, key: &CancelKey) {
    let exchange = async {
        let mut stream = upstream::connect(upstream, encryption)
            .await
            .map_err(io::Error::other)?;
        stream.write_all(&key.request()).await?;
        stream.flush().await?;
        // A server that refuses the key closes just the same.
        stream.read_to_end(&mut Vec::new()).await
    };
    let address = &upstream.address;
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%address, %error, "a cancel request failed"),
        Err(_) => tracing::warn!(%address, "a cancel request was not answered within {TIMEOUT:?}"),
    }
}
