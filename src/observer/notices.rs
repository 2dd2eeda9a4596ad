//! What a server says unasked to a connection of pgidle's own, such as a warning after authentication.

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Connection, Error};

/// Does the connection's work until it ends, and logs its notices with its name.
pub async fn attend<S, T>(mut connection: Connection<S, T>, name: &str) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message? {
            let (severity, text) = (notice.severity(), notice.message());
            tracing::info!("the server said to {name}: {severity}: {text:?}");
        }
    }
    Ok(())
}
