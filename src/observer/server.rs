//! The observer's connection to PostgreSQL, and the one question that it asks for all watched sessions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio_postgres::{
    Client, Error, Row, Statement,
    config::{Host, SslMode as Asked, SslNegotiation},
};

use super::{queue::Answer, tls::Tls};
use crate::{
    config::{Dsn, Encryption, Negotiation, SslMode},
    session::damage::{Lock, Waiter},
};

/// A connection with its question prepared.
pub(super) struct Server {
    client: Client,
    question: Statement,
    /// Whether the role may see what other roles run.
    pub(super) sees_statements: bool,
}

/// The sessions that are asked about. A process id counts only with the database and role that the client asked for:
/// so no stranger is taken for a session, be it that the id was given anew or that this is another server.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) pids: Vec<i32>,
    pub(super) databases: Vec<String>,
    pub(super) users: Vec<String>,
}

impl Server {
    /// Connects, and sees to it that no question takes long.
    pub(super) async fn connect(dsn: &Dsn) -> Result<Self, Error> {
        let client = connect(dsn).await?;
        client.batch_execute(&settings()).await?;
        let row = client.query_one(ABILITIES, &[]).await?;
        let waitstart = if row.try_get::<_, i32>(0)? >= 140_000 {
            "waitstart"
        } else {
            "NULL::timestamptz"
        };
        let question = QUESTION.replace("{waitstart}", waitstart);
        Ok(Self {
            question: client.prepare(&question).await?,
            client,
            sees_statements: row.try_get(1)?,
        })
    }

    /// Whether the server has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks about some sessions.
    pub(super) async fn ask(&self, watched: &Watched) -> Result<Answer, Error> {
        let Watched {
            pids,
            databases,
            users,
        } = watched;
        let rows = self
            .client
            .query(&self.question, &[pids, databases, users])
            .await?;
        let mut reader = Reader::default();
        for row in &rows {
            reader.read(row)?;
        }
        Ok(reader.answer)
    }
}

/// Connects in the first way, encrypted or not, that the server does not refuse.
async fn connect(dsn: &Dsn) -> Result<Client, Error> {
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
    let mut ways = mode.ways().iter().peekable();
    loop {
        config.ssl_mode(match ways.next() {
            Some(Encryption::No) | None => Asked::Disable,
            Some(Encryption::IfOffered) => Asked::Prefer,
            Some(Encryption::Yes) => Asked::Require,
        });
        match config.connect(Tls(dsn.tls.connector.clone())).await {
            Ok((client, connection)) => {
                // It ends with the client or the server; the client's next question tells.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if error.as_db_error().is_some() && ways.peek().is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes an answer from its rows, and each text but once.
#[derive(Default)]
struct Reader {
    answer: Answer,
    texts: HashSet<Arc<str>>,
}

impl Reader {
    fn read(&mut self, row: &Row) -> Result<(), Error> {
        let pid: i32 = row.try_get("pid")?;
        let Some(mode) = self.text(row, "mode")? else {
            self.answer.watched.push((pid, row.try_get("xmin_age")?));
            return Ok(());
        };
        let relation = self.text(row, "relation")?;
        let granted = row.try_get("granted")?;
        if granted {
            let lock = Lock {
                locktype: self.text(row, "locktype")?.unwrap_or_default(),
                relation,
                mode,
                granted,
                fastpath: row.try_get("fastpath")?,
            };
            self.answer.locks.push((pid, lock));
            return Ok(());
        }
        let waiting: Option<i64> = row.try_get("waiting_us")?;
        let waiter = Waiter {
            server_pid: pid,
            user: self.text(row, "usename")?,
            application_name: self.text(row, "application_name")?,
            statement: self.text(row, "statement")?,
            relation,
            mode,
            waiting: waiting.map(|us| Duration::from_micros(us.try_into().unwrap_or(0))),
            blocked_by: row.try_get::<_, Vec<i32>>("blocked_by")?.into(),
            depth: 0,
        };
        self.answer.waiters.push(waiter);
        Ok(())
    }

    fn text(&mut self, row: &Row, column: &str) -> Result<Option<Arc<str>>, Error> {
        let Some(text) = row.try_get::<_, Option<&str>>(column)? else {
            return Ok(None);
        };
        if let Some(known) = self.texts.get(text) {
            return Ok(Some(Arc::clone(known)));
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        Ok(Some(text))
    }
}

/// A question that waits or takes long is given up: what it would tell is old by then.
fn settings() -> String {
    format!(
        "SET search_path = pg_catalog; SET statement_timeout = {0}; SET lock_timeout = {0}; SET jit = off; \
         SET max_parallel_workers_per_gather = 0",
        QUESTION_TIMEOUT.as_millis()
    )
}

/// How long the server may take for an answer.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

const ABILITIES: &str = "SELECT current_setting('server_version_num')::int4, \
     pg_has_role('pg_read_all_stats', 'USAGE')";

/// A row without a mode for each watched session that there is, then one for each of their locks and for each lock
/// that anyone waits for.
///
/// `pg_blocking_pids` needs the lock manager for itself for a moment, so it is asked about those who wait, and nobody
/// else. Of relations in other databases only the number can be known.
const QUESTION: &str = "
WITH activity AS MATERIALIZED (
    SELECT pid, datname, usename, application_name, query, backend_xmin FROM pg_stat_activity
), watched AS MATERIALIZED (
    SELECT pid, age(backend_xmin) AS xmin_age
    FROM activity
    JOIN unnest($1::int4[], $2::text[], $3::text[]) AS w (wanted, database, role)
        ON pid = wanted AND datname = database AND usename = role
), locks AS MATERIALIZED (
    SELECT * FROM pg_locks
    WHERE locktype <> 'virtualxid' AND (NOT granted OR pid IN (SELECT pid FROM watched))
        AND pid <> pg_backend_pid()
)
SELECT pid, xmin_age, NULL AS locktype, NULL AS relation, NULL AS mode, NULL::bool AS granted,
    NULL::bool AS fastpath, NULL AS usename, NULL AS application_name, NULL AS statement,
    NULL::int8 AS waiting_us, NULL::int4[] AS blocked_by
FROM watched
UNION ALL
SELECT l.pid, NULL, l.locktype, quote_ident(n.nspname) || '.' || quote_ident(c.relname), l.mode, l.granted,
    l.fastpath, a.usename::text, a.application_name,
    CASE WHEN a.query NOT IN ('', '<insufficient privilege>') THEN a.query END,
    (extract(epoch FROM clock_timestamp() - {waitstart}) * 1000000)::int8,
    CASE WHEN NOT l.granted THEN pg_blocking_pids(l.pid) END
FROM locks l
LEFT JOIN activity a ON a.pid = l.pid AND NOT l.granted
LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
    ON c.oid = l.relation
    AND l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))";
