//! Connects to PostgreSQL.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;
use crate::config::Address;

/// When a silent connection is first probed.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// A server that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("could not connect to the PostgreSQL server at {address}: {source}")]
pub(super) struct ConnectError {
    address: Address,
    source: io::Error,
}

/// Opens a connection, within `timeout` if there is one.
pub(super) async fn connect(
    address: &Address,
    timeout: Option<Duration>,
) -> Result<Stream, ConnectError> {
    let attempt = open(address);
    let result = match timeout {
        Some(limit) => tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {limit:?}"),
                ))
            }),
        None => attempt.await,
    };
    result.map_err(|source| ConnectError {
        address: address.clone(),
        source,
    })
}

async fn open(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}
