//! Asks a running pgidle whether it is ready.

use std::{io, net::IpAddr, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1::handshake, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::config::Address;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const MOST_BYTES: usize = 4096;

/// Why a pgidle is not ready, as far as one can tell from outside.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is no answer.
    #[error("no answer from {0}: {1}")]
    Unreachable(Address, io::Error),
    /// The answer is no.
    #[error("{0}")]
    NotReady(String),
}

/// Asks the pgidle whose HTTP is at this address whether it is ready. It blocks, for a few seconds at most.
///
/// # Errors
/// It is not ready, or does not answer.
pub fn check(address: &Address) -> Result<(), HealthError> {
    let unreachable = |error| HealthError::Unreachable(address.clone(), error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unreachable)?;
    let asked = runtime.block_on(async { timeout(PATIENCE, ask(address)).await });
    let answer = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match answer.map_err(unreachable)? {
        (StatusCode::OK, _) => Ok(()),
        (_, why) => Err(HealthError::NotReady(why.trim_end().to_owned())),
    }
}

async fn ask(address: &Address) -> io::Result<(StatusCode, String)> {
    let Address::Tcp { host, port } = address else {
        return Err(io::Error::other("expected HOST:PORT"));
    };
    let stream = TcpStream::connect((reached_at(host), *port)).await?;
    let peer = stream.peer_addr()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header(HOST, peer.to_string());
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Where one that listens at all addresses of its host is reached from that host.
fn reached_at(host: &str) -> &str {
    match host.parse() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1",
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "::1",
        _ => host,
    }
}
