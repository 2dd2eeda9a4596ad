//! The observer's connection to PostgreSQL, and the one question that it asks for all watched sessions.

use std::{error::Error as _, fmt, iter, time::Duration};

use tokio_postgres::{
    Client, Error, Statement,
    config::{Host, SslMode as Asked, SslNegotiation},
};

use super::{
    answer::{Answer, Reader},
    attend,
    tls::Tls,
};
use crate::{
    config::{Dsn, Encryption, Negotiation, SslMode},
    session::MAX_TEXT,
};

/// A connection with its question prepared.
pub(super) struct Server {
    client: Client,
    question: Statement,
    /// The encoding of the database that it is in.
    encoding: String,
    /// Whether the role may see what other roles run, and what they wait for.
    pub(super) sees_others: bool,
}

impl Server {
    /// Connects, and sees to it that no question takes long.
    pub(super) async fn connect(dsn: &Dsn) -> Result<Self, ServerError> {
        let client = connect(dsn).await?;
        client.batch_execute(&settings()).await?;
        let row = client.query_one(ABILITIES, &[]).await?;
        let question = QUESTION.replace("{max_text}", &MAX_TEXT.to_string());
        Ok(Self {
            question: client.prepare(&question).await?,
            client,
            encoding: row.try_get("encoding")?,
            sees_others: row.try_get("sees_others")?,
        })
    }

    /// Whether the server has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks about the sessions of some server processes.
    pub(super) async fn ask(&self, pids: &[i32]) -> Result<Answer, ServerError> {
        let rows = self.client.query(&self.question, &[&pids]).await?;
        let mut reader = Reader::new(&self.encoding, self.sees_others);
        for row in &rows {
            reader.read(row)?;
        }
        Ok(reader.finish())
    }
}

/// What a connection of pgidle's own ended with: the error and its causes, in one line.
#[derive(Debug)]
pub struct ServerError(Error);

impl From<Error> for ServerError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = iter::successors(self.0.source(), |&error| error.source());
        causes
            .into_iter()
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

// The causes are in the text, and are not named again as its source.
impl std::error::Error for ServerError {}

/// Connects in the first way, encrypted or not, that the server does not refuse.
pub(super) async fn connect(dsn: &Dsn) -> Result<Client, Error> {
    let mut config = dsn.postgres.clone();
    if config.get_application_name().is_none() {
        config.application_name("pgidle observer");
    }
    if dsn.tls.negotiation == Negotiation::Direct {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    // As with libpq, TLS does not concern Unix sockets.
    let is_unix = |host: &Host| matches!(host, Host::Unix(_));
    let mode = if config.get_hosts().iter().all(is_unix) {
        SslMode::Disable
    } else {
        dsn.tls.sslmode
    };
    let mut tls_attempts = mode.tls_attempts().iter().peekable();
    loop {
        config.ssl_mode(match tls_attempts.next() {
            Some(Encryption::No) | None => Asked::Disable,
            Some(Encryption::IfOffered) => Asked::Prefer,
            Some(Encryption::Yes) => Asked::Require,
        });
        match config.connect(Tls(dsn.tls.connector.clone())).await {
            Ok((client, connection)) => {
                // It ends with the client or the server; the client's next question tells.
                tokio::spawn(async move {
                    drop(attend(connection, "the observer's connection").await);
                });
                return Ok(client);
            }
            Err(error) if error.as_db_error().is_some() && tls_attempts.peek().is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// A question that waits or takes long is given up: what it would tell is old by then. Texts come as bytes: see
/// [`text`](super::text).
pub(super) fn settings() -> String {
    format!(
        "SET client_encoding = SQL_ASCII; SET search_path = pg_catalog; SET statement_timeout = {0}; \
         SET lock_timeout = {0}; SET jit = off; SET max_parallel_workers_per_gather = 0",
        QUESTION_TIMEOUT.as_millis()
    )
}

/// How long the server may take for an answer.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

const ABILITIES: &str = "SELECT getdatabaseencoding()::text AS encoding, \
     pg_has_role('pg_read_all_stats', 'USAGE') AS sees_others";

const QUESTION: &str = include_str!("question.sql");
