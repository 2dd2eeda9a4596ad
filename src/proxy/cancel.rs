//! Cancel requests: a connection of their own each, closed by the server without a word when the signal was sent.

use std::{io, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Shared,
    upstream::{self, Place},
};
use crate::{
    config::{Encryption, Upstream},
    registry::Entry,
    wire::CancelKey,
};

/// How long the server may take to close the connection of a cancel request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Passes a client's request on, unless an injection of ours runs in that session: it would hit the injection, and the
/// session has nothing else to cancel.
pub(super) async fn forward(shared: &Shared, key: &CancelKey) {
    let Some(entry) = shared.registry.find(key) else {
        let config = shared.config.borrow().clone();
        // Whose it is only a server can say.
        for (index, address) in config.upstream.addresses.iter().enumerate() {
            let way = upstream::ways(address, &config.upstream).first();
            let way = *way.unwrap_or(&Encryption::No);
            for place in upstream::places(index, address).await.unwrap_or_default() {
                send(place, &config.upstream, way, key).await;
            }
        }
        return;
    };
    if entry.enter_gate() {
        send_for(&entry, key).await;
        entry.leave_gate();
    }
}

/// Sends a request for a session: to the very server that it has, encrypted when the session is.
pub(super) async fn send_for(entry: &Entry, key: &CancelKey) {
    let Some((server, address, upstream)) = entry.server() else {
        return;
    };
    let encryption = if server.encrypted {
        Encryption::Yes
    } else {
        Encryption::No
    };
    let place = Place {
        index: server.index,
        address,
        resolved: server.resolved,
    };
    send(place, upstream, encryption, key).await;
}

/// Sends a request and waits until the server has closed its connection: from then on it cannot hit a later statement
/// of the session (`processCancelRequest` in `src/backend/postmaster/postmaster.c`).
async fn send(place: Place<'_>, upstream: &Upstream, encryption: Encryption, key: &CancelKey) {
    let exchange = async {
        let mut stream = upstream::connect(place, upstream, encryption)
            .await
            .map_err(io::Error::other)?;
        stream.write_all(&key.request()).await?;
        stream.flush().await?;
        // A server that refuses the key closes just the same.
        stream.read_to_end(&mut Vec::new()).await
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%place, %error, "a cancel request failed"),
        Err(_) => tracing::warn!(%place, "a cancel request was not answered within {TIMEOUT:?}"),
    }
}
