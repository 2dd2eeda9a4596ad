//! Cancel requests: a connection of their own each, closed by the server without a word when the signal was sent.

use std::{io, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Shared,
    connect::{self, ResolvedAddress},
    stream::Stream,
};
use crate::{
    config::{Encryption, Upstream},
    policy::format_duration,
    registry::{Entrance, Entry},
    wire::CancelKey,
};

/// How long the server may take until it has been sent a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may then take to close the connection. Until it has, the request may hit whatever the session runs
/// (closing our end, or resetting it, does not withdraw what the server's kernel has taken), and the session's client has
/// to wait: for less than the twenty seconds and more after which clients give up. A server that never closes such
/// connections takes no cancels.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(18);

/// How long a client may take to be told farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves the connection of a client's request. The client waits for its end, as it would for the server's.
pub(super) async fn serve(mut stream: Stream, key: &CancelKey, shared: &Shared) {
    forward(shared, key).await;
    // TLS has a farewell, and libpq insists on it.
    drop(tokio::time::timeout(FAREWELL, stream.shutdown()).await);
}

/// Passes a client's request on. While an injection of ours runs in that session it would hit the injection: then it waits
/// as long as the client's next request does, which it is about, and is dropped where the session has nothing to cancel.
async fn forward(shared: &Shared, key: &CancelKey) {
    let Some(entry) = shared.registry.find(key) else {
        let config = shared.config.borrow().clone();
        // Only a server knows whose key it is.
        for (index, address) in config.upstream.addresses.iter().enumerate() {
            let way = connect::tls_attempts(address, &config.upstream).first();
            let way = *way.unwrap_or(&Encryption::No);
            for place in connect::resolve(index, address).await.unwrap_or_default() {
                send(place, &config.upstream, way, key).await;
            }
        }
        return;
    };
    let passage = match entry.enter_gate() {
        Entrance::Open(passage) => passage,
        Entrance::Waits(decided) => match decided.await {
            Ok(passage) => passage,
            Err(_) => return,
        },
    };
    send_for(&entry, key).await;
    drop(passage);
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
    let place = ResolvedAddress {
        index: server.index,
        address,
        resolved: server.resolved,
    };
    send(place, upstream, encryption, key).await;
}

/// Sends a request and waits until the server has closed its connection: from then on it cannot hit a later statement
/// of the session (`processCancelRequest` in `src/backend/postmaster/postmaster.c`).
async fn send(
    place: ResolvedAddress<'_>,
    upstream: &Upstream,
    encryption: Encryption,
    key: &CancelKey,
) {
    let sending = async {
        let mut stream = connect::connect(place, upstream, encryption)
            .await
            .map_err(io::Error::other)?;
        stream.write_all(&key.request()).await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    let mut stream = match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%place, %error, "a cancel request could not be sent");
            return;
        }
        Err(_) => {
            let limit = format_duration(SEND_TIMEOUT);
            tracing::warn!(%place, "a cancel request could not be sent within {limit}");
            return;
        }
    };
    // A server that refuses the key closes just the same, and one that is gone has nothing to cancel.
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(CLOSE_TIMEOUT, stream.read_to_end(&mut answer)).await;
    if closed.is_err() {
        let limit = format_duration(CLOSE_TIMEOUT);
        tracing::warn!(
            %place,
            "the server has not closed a cancel request within {limit}: it may yet cancel a later statement"
        );
    }
}
