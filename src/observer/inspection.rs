//! What an operator asks the server by the observer's role, on a connection of its own that ends with the answer.

use tokio_postgres::{Row, types::ToSql};

use super::server::{ServerError, connect, settings};
use crate::{config::Dsn, policy::LockMode};

/// Whoever holds a lock on a relation, or waits for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The server process; `None` for a prepared transaction.
    pub server_pid: Option<i32>,
    /// The identifier of a prepared transaction.
    pub prepared: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// What the client calls itself.
    pub application_name: Option<String>,
    /// The state in `pg_stat_activity`.
    pub state: Option<String>,
    /// The mode of the lock, as in `pg_locks`.
    pub mode: String,
    /// Whether it has the lock.
    pub granted: bool,
    /// How old its transaction is, in milliseconds.
    pub xact_ms: Option<i64>,
}

/// A transaction that was prepared for a two-phase commit, and that nobody has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// The role that prepared it.
    pub owner: String,
    /// The database in which it holds its locks.
    pub database: String,
    /// How long ago it was prepared, in milliseconds.
    pub age_ms: i64,
    /// How many locks on relations it holds.
    pub locks: i64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    /// The server could not be asked.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is no relation of that name.
    #[error(
        "relation \"{relation}\" does not exist in database \"{database}\", which the observer is connected to"
    )]
    NoRelation {
        /// What was asked for.
        relation: String,
        /// The database of `[observer] dsn`.
        database: String,
    },
}

impl From<tokio_postgres::Error> for InspectionError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

/// Who would be in the way of a statement that takes a lock of this mode on a relation.
///
/// # Errors
/// The server cannot be asked, or there is no such relation.
pub async fn holders(
    dsn: &Dsn,
    relation: &str,
    mode: LockMode,
) -> Result<Vec<Holder>, InspectionError> {
    let conflicts = LockMode::ALL
        .iter()
        .filter(|other| mode.conflicts_with(**other));
    let modes: Vec<_> = conflicts.map(|mode| mode.name()).collect();
    let rows = ask(dsn, HOLDERS, &[&relation, &modes]).await?;
    let found = rows.first().map(|row| row.try_get::<_, bool>("found"));
    if !found.transpose()?.unwrap_or(false) {
        let database = rows.first().and_then(|row| text(row, "database"));
        return Err(InspectionError::NoRelation {
            relation: relation.to_owned(),
            database: database.unwrap_or_default(),
        });
    }
    let held = rows.iter().filter_map(|row| {
        let mode = text(row, "mode")?;
        Some(holder(row, mode))
    });
    Ok(held.collect::<Result<_, _>>()?)
}

fn holder(row: &Row, mode: String) -> Result<Holder, tokio_postgres::Error> {
    Ok(Holder {
        server_pid: row.try_get("server_pid")?,
        prepared: text(row, "prepared"),
        user: text(row, "user"),
        application_name: text(row, "application_name"),
        state: text(row, "state"),
        mode,
        granted: row.try_get("granted")?,
        xact_ms: row.try_get("xact_ms")?,
    })
}

/// The transactions that are prepared, the oldest first.
///
/// # Errors
/// The server cannot be asked.
pub async fn prepared(dsn: &Dsn) -> Result<Vec<PreparedTransaction>, InspectionError> {
    let rows = ask(dsn, PREPARED, &[]).await?;
    let prepared = |row: &Row| {
        Ok(PreparedTransaction {
            gid: text(row, "gid").unwrap_or_default(),
            owner: text(row, "owner").unwrap_or_default(),
            database: text(row, "database").unwrap_or_default(),
            age_ms: row.try_get("age_ms")?,
            locks: row.try_get("locks")?,
        })
    };
    rows.iter().map(prepared).collect()
}

async fn ask(
    dsn: &Dsn,
    question: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let client = connect(dsn).await?;
    client.batch_execute(&settings()).await?;
    client.query(question, parameters).await
}

/// A text that came as bytes, because it need not be of the database's encoding.
fn text(row: &Row, column: &str) -> Option<String> {
    let bytes: Option<&[u8]> = row.try_get(column).ok()?;
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// One row without a mode where nobody is in the way. A name without a schema is looked for in `public` too.
const HOLDERS: &str = "
    WITH asked AS (
        SELECT coalesce(to_regclass($1), to_regclass('public.' || $1)) AS relation
    )
    SELECT asked.relation IS NOT NULL AS found, textsend(current_database()::text) AS database, l.pid AS server_pid,
           textsend(p.gid) AS prepared, textsend(coalesce(a.usename, p.owner)::text) AS \"user\",
           textsend(a.application_name) AS application_name, textsend(a.state) AS state, textsend(l.mode) AS mode,
           l.granted,
           (extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)) * 1000)::bigint AS xact_ms
    FROM asked
    LEFT JOIN pg_locks l ON l.locktype = 'relation' AND l.relation = asked.relation::oid AND l.mode = ANY ($2)
        AND l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND split_part(l.virtualtransaction, '/', 2) = p.transaction::text
    ORDER BY l.granted DESC, xact_ms DESC NULLS LAST";

const PREPARED: &str = "
    SELECT textsend(p.gid) AS gid, textsend(p.owner::text) AS owner, textsend(p.database::text) AS database,
           (extract(epoch FROM clock_timestamp() - p.prepared) * 1000)::bigint AS age_ms,
           (SELECT count(*) FROM pg_locks l WHERE l.pid IS NULL AND l.locktype = 'relation'
                AND split_part(l.virtualtransaction, '/', 2) = p.transaction::text) AS locks
    FROM pg_prepared_xacts p
    ORDER BY p.prepared";
