//! What happens in the demo: the same entanglement twice, first without pgidle and then with it. All that is told of it
//! is measured or asked of the server at that moment.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    DemoError,
    sidecar::Sidecar,
    timeline::{Actor, Mark, Timeline, seconds},
};
use crate::audit::schema::IncidentLine;

/// How long the DBA waits without pgidle.
const DBA_PATIENCE: Duration = Duration::from_secs(5);
/// How long anything else may take before the demo calls it failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause in which a person reads on.
const BEAT: Duration = Duration::from_millis(500);
/// How many sessions ask for the table while the ALTER TABLE waits.
const VISITORS: usize = 3;

const ALTER: &str = "ALTER TABLE orders ADD COLUMN note text";
const COUNT: &str = "SELECT count(*) FROM orders";
const LATE_INSERT: &str = "INSERT INTO orders (item) VALUES ('late')";
const SECOND_INSERT: &str = "INSERT INTO orders (item) VALUES ('again')";
const PREPARE: &str =
    "CREATE TABLE orders (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, item text);
    INSERT INTO orders (item) VALUES ('tea'), ('milk'), ('sugar')";
/// Who keeps a server process waiting, by application name.
const BLOCKERS: &str =
    "SELECT string_agg(DISTINCT application_name, ' and ' ORDER BY application_name)
    FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))";

/// Where sessions connect to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }
}

/// How long an act made people wait.
#[derive(Debug)]
pub(super) struct Waits {
    /// The ALTER TABLE, until it was through or given up.
    pub(super) alter: Duration,
    /// The one that waited longest of those behind the ALTER TABLE.
    pub(super) visitors: Duration,
}

/// What became of the writer when pgidle had acted.
#[derive(Debug)]
pub(super) struct Told {
    /// Server process of its session at the start and at the end.
    pub(super) server_pids: [i32; 2],
    /// SQLSTATE and message that its COMMIT met; `None` when COMMIT succeeded.
    pub(super) error: Option<(String, String)>,
    /// How many of its late rows are in the table.
    pub(super) late_rows: i64,
    /// The audit's record of it.
    pub(super) incident: IncidentLine,
}

/// A session of one of the actors. The task behind it ends when the client is dropped.
struct Session {
    client: Arc<Client>,
    server_pid: i32,
}

impl Session {
    async fn open(target: &Target, name: &str) -> Result<Self, DemoError> {
        let (client, connection) = Config::new()
            .host(&target.host)
            .port(target.port)
            .user("postgres")
            .dbname("postgres")
            .application_name(name)
            .connect(NoTls)
            .await?;
        // How the connection ends is told to the user of the client.
        tokio::spawn(async { drop(connection.await) });
        let server_pid = server_pid(&client).await?;
        Ok(Self {
            client: Arc::new(client),
            server_pid,
        })
    }

    async fn run(&self, sql: &str) -> Result<(), DemoError> {
        Ok(self.client.batch_execute(sql).await?)
    }

    async fn number(&self, sql: &str) -> Result<i64, DemoError> {
        Ok(self.client.query_one(sql, &[]).await?.get(0))
    }

    /// Runs a statement in a task of its own, which measures how long it takes.
    fn start(&self, sql: &'static str) -> Pending {
        let client = Arc::clone(&self.client);
        let since = Instant::now();
        let task = tokio::spawn(async move {
            let result = client.batch_execute(sql).await;
            (result, Instant::now())
        });
        Pending { task, since }
    }
}

async fn server_pid(client: &Client) -> Result<i32, DemoError> {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    Ok(row.get(0))
}

/// A statement that has been sent.
struct Pending {
    task: JoinHandle<(Result<(), tokio_postgres::Error>, Instant)>,
    since: Instant,
}

impl Pending {
    /// Waits for the answer: how it came out and when.
    async fn answer(self) -> Result<(Result<(), tokio_postgres::Error>, Instant), DemoError> {
        timeout(PATIENCE, self.task)
            .await
            .map_err(|_| {
                DemoError::Unmet(
                    "a statement is still waiting, long after the locks should be free",
                )
            })?
            .map_err(DemoError::Task)
    }
}

/// The sessions of one act, and the statements that wait.
pub(super) struct Act<'a> {
    timeline: &'a Timeline,
    reader: Session,
    writer: Session,
    dba: Session,
    visitors: Vec<Session>,
    onlooker: Session,
    /// Since when reader and writer have had nothing to do.
    idle_since: [Instant; 2],
    alter: Pending,
    visits: Vec<Pending>,
}

/// Makes the table that everybody wants.
pub(super) async fn prepare(server: &Target) -> Result<(), DemoError> {
    Session::open(server, "demo").await?.run(PREPARE).await
}

impl<'a> Act<'a> {
    /// Lets the sessions get in each other's way. The applications go through `app`, the DBA straight to the server.
    pub(super) async fn block_a_table(
        timeline: &'a Timeline,
        app: &Target,
        server: &Target,
    ) -> Result<Self, DemoError> {
        let reader = Session::open(app, Actor::Reader.name()).await?;
        let writer = Session::open(app, Actor::Writer.name()).await?;
        let dba = Session::open(server, Actor::Dba.name()).await?;
        let onlooker = Session::open(server, "onlooker").await?;
        let mut visitors = Vec::new();
        for _ in 0..VISITORS {
            visitors.push(Session::open(app, Actor::Visitors.name()).await?);
        }

        reader.run("BEGIN").await?;
        let rows = reader.number(COUNT).await?;
        let reader_idle = Instant::now();
        timeline.say(
            Actor::Reader,
            Mark::Does,
            format_args!("BEGIN; {COUNT};  -- {rows} rows; and never commits"),
        )?;
        writer.run("BEGIN").await?;
        writer.run(LATE_INSERT).await?;
        let writer_idle = Instant::now();
        timeline.say(
            Actor::Writer,
            Mark::Does,
            format_args!("BEGIN; {LATE_INSERT};  -- and thinks"),
        )?;
        sleep(BEAT).await;

        let alter = dba.start(ALTER);
        let blockers = blockers(&onlooker, &dba).await?;
        timeline.say(
            Actor::Dba,
            Mark::Waits,
            format_args!("{ALTER};  -- waits for {blockers}"),
        )?;
        sleep(BEAT).await;

        let visits = visitors
            .iter()
            .map(|visitor| visitor.start(COUNT))
            .collect();
        let mut behind = String::new();
        for visitor in &visitors {
            behind = self::blockers(&onlooker, visitor).await?;
        }
        timeline.say(
            Actor::Visitors,
            Mark::Waits,
            format_args!("{COUNT};  -- {VISITORS} sessions, all waiting for {behind}"),
        )?;
        Ok(Self {
            timeline,
            reader,
            writer,
            dba,
            visitors,
            onlooker,
            idle_since: [reader_idle, writer_idle],
            alter,
            visits,
        })
    }

    /// Lets the DBA wait as long as patience lasts.
    pub(super) async fn give_up(self) -> Result<Waits, DemoError> {
        let mut alter = self.alter;
        if timeout(
            DBA_PATIENCE.saturating_sub(alter.since.elapsed()),
            &mut alter.task,
        )
        .await
        .is_ok()
        {
            return Err(DemoError::Unmet(
                "the ALTER TABLE got through although transactions are open",
            ));
        }
        self.dba.client.cancel_token().cancel_query(NoTls).await?;
        let since = alter.since;
        let (result, at) = alter.answer().await?;
        let waited = at - since;
        if result.is_ok() {
            return Err(DemoError::Unmet(
                "the ALTER TABLE got through although it was cancelled",
            ));
        }
        self.timeline.say_at(
            at,
            Actor::Dba,
            Mark::Bad,
            format_args!(
                "still waiting after {}; gives up and cancels it",
                seconds(waited)
            ),
        )?;
        let visitors = answered(self.timeline, self.visits).await?;
        self.reader.run("ROLLBACK").await?;
        self.writer.run("ROLLBACK").await?;
        drop(self.visitors);
        Ok(Waits {
            alter: waited,
            visitors,
        })
    }

    /// Waits for pgidle to act, and goes on with the sessions that it acted on.
    pub(super) async fn watch_pgidle_free_it(
        self,
        sidecar: &Sidecar,
    ) -> Result<(Waits, Told), DemoError> {
        let [reader, writer] = sidecar
            .incidents([self.reader.server_pid, self.writer.server_pid], PATIENCE)
            .await?
            .ok_or(DemoError::Unmet(
                "pgidle took no action on the open transactions",
            ))?;
        for (incident, since, actor) in [
            (&reader, self.idle_since[0], Actor::Reader),
            (&writer, self.idle_since[1], Actor::Writer),
        ] {
            let idle = incident.idle_ms.0;
            let what = format!(
                "{}, idle in transaction for {}: {}",
                actor.name(),
                seconds(idle),
                incident.outcome.replace('_', " "),
            );
            self.timeline
                .say_at(since + idle, Actor::Pgidle, Mark::Does, what)?;
        }
        let since = self.alter.since;
        let (result, at) = self.alter.answer().await?;
        result?;
        let waited = at - since;
        self.timeline.say_at(
            at,
            Actor::Dba,
            Mark::Good,
            format_args!("ALTER TABLE is through, after {}", seconds(waited)),
        )?;
        let visitors = answered(self.timeline, self.visits).await?;
        sleep(BEAT).await;

        let error = late_commit(self.timeline, &self.writer).await?;
        let told = Told {
            server_pids: [
                self.writer.server_pid,
                server_pid(&self.writer.client).await?,
            ],
            error,
            late_rows: self
                .onlooker
                .number("SELECT count(*) FROM orders WHERE item = 'late'")
                .await?,
            incident: writer,
        };
        late_read(self.timeline, &self.reader).await?;
        drop(self.visitors);
        Ok((
            Waits {
                alter: waited,
                visitors,
            },
            told,
        ))
    }
}

/// Waits until a session waits for others, and names these.
async fn blockers(onlooker: &Session, waiting: &Session) -> Result<String, DemoError> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let row = onlooker
            .client
            .query_one(BLOCKERS, &[&waiting.server_pid])
            .await?;
        if let Some(names) = row.get(0) {
            return Ok(names);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(DemoError::Unmet(
        "a statement that should wait for a lock does not",
    ))
}

/// Waits for all visitors' answers and reports the longest wait.
async fn answered(timeline: &Timeline, visits: Vec<Pending>) -> Result<Duration, DemoError> {
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    for visit in visits {
        let since = visit.since;
        let (result, at) = visit.answer().await?;
        result?;
        longest = longest.max(at - since);
        last = last.max(at);
    }
    timeline.say_at(
        last,
        Actor::Visitors,
        Mark::Good,
        format_args!("answered, after {}", seconds(longest)),
    )?;
    Ok(longest)
}

/// The writer comes back and commits what is no longer there; then it goes on with the same connection.
async fn late_commit(
    timeline: &Timeline,
    writer: &Session,
) -> Result<Option<(String, String)>, DemoError> {
    let error = told(writer.client.batch_execute("COMMIT").await)?;
    let what = match &error {
        Some((code, _)) => format!("COMMIT;  -- ERROR {code}"),
        None => "COMMIT;  -- is told that it succeeded".to_owned(),
    };
    timeline.say(Actor::Writer, Mark::Bad, what)?;
    writer.run("ROLLBACK").await?;
    writer.run(SECOND_INSERT).await?;
    let pid = server_pid(&writer.client).await?;
    timeline.say(
        Actor::Writer,
        Mark::Good,
        format_args!("ROLLBACK; INSERT …;  -- same connection, server process {pid}"),
    )?;
    Ok(error)
}

/// The reader comes back too: it is told once, and goes on.
async fn late_read(timeline: &Timeline, reader: &Session) -> Result<(), DemoError> {
    if let Some((code, _)) = told(reader.client.batch_execute(COUNT).await)? {
        timeline.say(
            Actor::Reader,
            Mark::Bad,
            format_args!("{COUNT};  -- ERROR {code}"),
        )?;
    }
    reader.run("ROLLBACK").await?;
    let rows = reader.number(COUNT).await?;
    timeline.say(
        Actor::Reader,
        Mark::Good,
        format_args!("ROLLBACK; {COUNT};  -- {rows} rows"),
    )?;
    Ok(())
}

/// The SQLSTATE and message of an error that the server sent; other errors stay errors.
fn told(result: Result<(), tokio_postgres::Error>) -> Result<Option<(String, String)>, DemoError> {
    let Err(error) = result else { return Ok(None) };
    match error.as_db_error() {
        Some(told) => Ok(Some((
            told.code().code().to_owned(),
            told.message().to_owned(),
        ))),
        None => Err(error.into()),
    }
}
