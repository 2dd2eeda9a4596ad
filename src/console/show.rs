//! What `SHOW` shows. Columns are called as in `pg_stat_activity`, `pg_locks` and PgBouncer's console where those have
//! them, and as in the audit where they do not; times that pass are in milliseconds.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;

use super::{
    Context,
    table::{
        Column,
        Kind::{Boolean, Number, Text, Time},
        Table, Value,
    },
};
use crate::{
    audit::schema::{IncidentLine, Record},
    config::{self, Dsn},
    metrics::Totals,
    observer::{self, Holder, PreparedTransaction},
    policy::{LockMode, Rule, StuckKind},
    session::{Snapshot, event::Position},
};

/// How long the server may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Help,
    Version,
    Sessions,
    Transactions,
    Locks,
    Incidents,
    Rules,
    Config,
    Lists,
    Stats,
    Prepared,
}

impl Topic {
    const ALL: [(&'static str, Self, &'static str); 11] = [
        ("HELP", Self::Help, "what the console understands"),
        ("VERSION", Self::Version, "the version of pgidle"),
        (
            "SESSIONS",
            Self::Sessions,
            "every session, and where it stands",
        ),
        (
            "TRANSACTIONS",
            Self::Transactions,
            "the sessions in a transaction, the oldest first",
        ),
        (
            "LOCKS",
            Self::Locks,
            "what stuck sessions hold, as the observer saw it last",
        ),
        (
            "INCIDENTS",
            Self::Incidents,
            "the last incidents, the newest first",
        ),
        (
            "RULES",
            Self::Rules,
            "the rules in force, in the order in which they are tried",
        ),
        ("CONFIG", Self::Config, "the settings in force"),
        ("LISTS", Self::Lists, "how many there are of what"),
        (
            "STATS",
            Self::Stats,
            "totals since the start by database; bytes received are the clients', times are in microseconds",
        ),
        (
            "PREPARED",
            Self::Prepared,
            "the prepared transactions of the server (two-phase commit), as the observer's role sees them",
        ),
    ];

    /// The topic that a word in lower case names.
    pub(super) fn named(word: &str) -> Option<Self> {
        let mut topics = Self::ALL.into_iter();
        topics.find_map(|(name, topic, _)| name.eq_ignore_ascii_case(word).then_some(topic))
    }

    /// All words, for a client that completes what is typed.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(|(name, _, _)| name)
    }

    /// The columns of its table.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Help => HELP,
            Self::Version => VERSION,
            Self::Sessions => SESSIONS,
            Self::Transactions => TRANSACTIONS,
            Self::Locks => LOCKS,
            Self::Incidents => INCIDENTS,
            Self::Rules => RULES,
            Self::Config => CONFIG,
            Self::Lists => LISTS,
            Self::Stats => STATS,
            Self::Prepared => PREPARED,
        }
    }
}

macro_rules! columns {
    ($($table:ident: $($name:literal $kind:ident),+;)*) => {$(
        pub(super) const $table: &[Column] = &[$(Column { name: $name, kind: $kind }),+];
    )*};
}

columns! {
    HELP: "command" Text, "does" Text, "role" Text;
    VERSION: "version" Text;
    SESSIONS: "id" Number, "database" Text, "user" Text, "application_name" Text, "client_addr" Text,
        "client_port" Number, "client_pid" Number, "server_pid" Number, "tls" Boolean, "state" Text,
        "state_change" Time, "state_ms" Number, "xact_start" Time, "xact_ms" Number, "statement_count" Number,
        "query" Text, "rule" Text, "stuck" Text, "next_action" Text, "next_ms" Number, "enforcement" Text,
        "blocked" Number;
    TRANSACTIONS: "id" Number, "xact_ms" Number, "state" Text, "state_ms" Number, "database" Text, "user" Text,
        "application_name" Text, "statement_count" Number, "query" Text, "rule" Text, "next_action" Text,
        "next_ms" Number, "blocked" Number;
    LOCKS: "id" Number, "server_pid" Number, "user" Text, "locktype" Text, "relation" Text, "mode" Text,
        "granted" Boolean, "fastpath" Boolean;
    INCIDENTS: "time" Text, "id" Text, "kind" Text, "cause" Text, "by" Text, "action" Text, "outcome" Text, "why" Text,
        "rule" Text, "limit_ms" Number, "idle_ms" Number, "age_ms" Number, "session" Number, "database" Text,
        "user" Text, "application_name" Text, "client_addr" Text, "server_pid" Number, "position" Text, "query" Text,
        "blocked" Number;
    RULES: "number" Number, "name" Text, "database" Text, "user" Text, "application_name" Text, "client" Text,
        "replication" Boolean, "exempt" Boolean, "idle" Text, "failed" Text, "stalled" Text, "age" Text,
        "blocking" Text;
    CONFIG: "key" Text, "value" Text, "default" Text, "changeable" Text;
    LISTS: "list" Text, "items" Number;
    STATS: "database" Text, "total_xact_count" Number, "total_query_count" Number, "total_received" Number,
        "total_sent" Number, "total_xact_time" Number, "total_query_time" Number;
    PREPARED: "gid" Text, "owner" Text, "database" Text, "age_ms" Number, "locks" Number;
    BLOCKERS: "id" Number, "server_pid" Number, "prepared" Text, "user" Text, "application_name" Text, "state" Text,
        "mode" Text, "granted" Boolean, "xact_ms" Number;
}

/// The whole table of a topic.
///
/// # Errors
/// The server cannot be asked.
pub(super) async fn table(topic: Topic, context: &Context) -> Result<Table, String> {
    let rows = match topic {
        Topic::Help => help(),
        Topic::Version => vec![vec![super::VERSION.into()]],
        Topic::Sessions => sessions(context).await,
        Topic::Transactions => transactions(context).await,
        Topic::Locks => locks(context).await,
        Topic::Incidents => incidents(context),
        Topic::Rules => rules(context),
        Topic::Config => config::rows(&context.config.borrow())
            .into_iter()
            .map(|row| row.map(Value::from).to_vec())
            .collect(),
        Topic::Lists => lists(context).await,
        Topic::Stats => stats(context),
        Topic::Prepared => prepared(context).await?,
    };
    Ok(Table::new(topic.columns(), rows))
}

fn help() -> Vec<Vec<Value>> {
    let shows = Topic::ALL.into_iter();
    let shows = shows.map(|(name, _, does)| (format!("SHOW {name} [column, …]"), does, "monitor"));
    let blockers = (
        "SHOW BLOCKERS relation [mode]".to_owned(),
        "who would be in the way of a lock on a relation, by default of an ALTER TABLE (ACCESS EXCLUSIVE)",
        "monitor",
    );
    let commands = [
        (
            "ROLLBACK id",
            "rolls a session's transaction back, and keeps the session",
        ),
        ("TERMINATE id", "ends a session"),
        (
            "RELOAD",
            "reads the settings again, and says what has changed",
        ),
        (
            "DRAIN",
            "accepts no more, lets transactions finish, and ends",
        ),
        ("SHUTDOWN", "ends at once"),
    ];
    let commands = commands.map(|(command, does)| (command.to_owned(), does, "admin"));
    let row = |(command, does, role): (String, &str, &str)| {
        vec![command.into(), does.into(), role.into()]
    };
    shows.chain([blockers]).chain(commands).map(row).collect()
}

async fn snapshots(context: &Context) -> Vec<Snapshot> {
    let mut snapshots = context.registry.snapshots().await;
    snapshots.sort_by_key(|snapshot| snapshot.who.session);
    snapshots
}

fn millis(time: Duration) -> Value {
    time.as_millis().into()
}

/// When that was, by the clock on the wall.
fn ago(time: Duration) -> Value {
    super::now()
        .checked_sub(time)
        .map_or(Value::Null, |at: SystemTime| at.into())
}

/// The rung that comes next: its action, and in how many milliseconds.
fn next(snapshot: &Snapshot) -> [Value; 2] {
    let next = snapshot.clocks.iter().filter_map(|clock| clock.next);
    match next.min_by_key(|&(_, left)| left) {
        Some((action, left)) => [action.name().into(), millis(left)],
        None => [Value::Null, Value::Null],
    }
}

/// In which ways it is stuck; that a transaction grows old is none.
fn stuck(snapshot: &Snapshot) -> impl Iterator<Item = StuckKind> {
    let kinds = snapshot.clocks.iter().map(|clock| clock.kind);
    kinds.filter(|&kind| kind != StuckKind::Age)
}

async fn sessions(context: &Context) -> Vec<Vec<Value>> {
    let snapshots = snapshots(context).await;
    let row = |snapshot: &Snapshot| {
        let who = &snapshot.who;
        let stuck: Vec<_> = stuck(snapshot).map(StuckKind::name).collect();
        let [action, left] = next(snapshot);
        vec![
            who.session.into(),
            who.database.clone().into(),
            who.user.clone().into(),
            who.application_name.clone().into(),
            who.client_addr
                .map(|address| address.ip().to_canonical().to_string())
                .into(),
            who.client_addr.map(|address| address.port()).into(),
            who.client_pid.into(),
            who.server_pid.into(),
            who.tls.into(),
            snapshot.position.name().into(),
            ago(snapshot.position_for),
            millis(snapshot.position_for),
            snapshot.transaction_for.map_or(Value::Null, ago),
            snapshot.transaction_for.map_or(Value::Null, millis),
            snapshot.statement_count.into(),
            context.shown(snapshot.statement.as_ref()),
            snapshot.rule.clone().into(),
            (!stuck.is_empty()).then(|| stuck.join(", ")).into(),
            action,
            left,
            snapshot.enforcement.into(),
            snapshot.blocked().into(),
        ]
    };
    snapshots.iter().map(row).collect()
}

async fn transactions(context: &Context) -> Vec<Vec<Value>> {
    let mut snapshots = snapshots(context).await;
    snapshots.retain(|snapshot| snapshot.transaction_for.is_some());
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.transaction_for));
    let row = |snapshot: &Snapshot| {
        let who = &snapshot.who;
        let [action, left] = next(snapshot);
        vec![
            who.session.into(),
            snapshot.transaction_for.map_or(Value::Null, millis),
            snapshot.position.name().into(),
            millis(snapshot.position_for),
            who.database.clone().into(),
            who.user.clone().into(),
            who.application_name.clone().into(),
            snapshot.statement_count.into(),
            context.shown(snapshot.statement.as_ref()),
            snapshot.rule.clone().into(),
            action,
            left,
            snapshot.blocked().into(),
        ]
    };
    snapshots.iter().map(row).collect()
}

async fn locks(context: &Context) -> Vec<Vec<Value>> {
    let snapshots = snapshots(context).await;
    let rows = |snapshot: &Snapshot| {
        let who = snapshot.who.clone();
        let locks = snapshot.damage.iter().flat_map(|damage| &damage.locks);
        let rows = locks.map(|lock| {
            vec![
                who.session.into(),
                who.server_pid.into(),
                who.user.clone().into(),
                lock.locktype.clone().into(),
                lock.relation.clone().into(),
                lock.mode.clone().into(),
                lock.granted.into(),
                lock.fastpath.into(),
            ]
        });
        rows.collect::<Vec<_>>()
    };
    snapshots.iter().flat_map(rows).collect()
}

fn incidents(context: &Context) -> Vec<Vec<Value>> {
    let row = |time: &str, incident: &IncidentLine| {
        let who = &incident.who;
        let query = incident
            .statements
            .last()
            .and_then(|last| last.text.clone());
        vec![
            time.into(),
            incident.id.as_str().into(),
            incident.kind.clone().into(),
            incident.cause.clone().into(),
            incident.by.clone().into(),
            incident.action.clone().into(),
            incident.outcome.clone().into(),
            incident.why.clone().into(),
            incident.rule.clone().into(),
            incident
                .limit_ms
                .map_or(Value::Null, |limit| millis(limit.0)),
            millis(incident.idle_ms.0),
            incident.age_ms.map_or(Value::Null, |age| millis(age.0)),
            who.session.into(),
            who.database.clone().into(),
            who.user.clone().into(),
            who.application_name.clone().into(),
            who.client_addr.map(|address| address.to_string()).into(),
            who.server_pid.into(),
            incident.position.clone().into(),
            query.into(),
            incident.blocked.as_ref().map(Vec::len).into(),
        ]
    };
    let recent = context.audit.recent();
    let incidents = recent.iter().rev().filter_map(|line| match &line.record {
        Record::Incident(incident) => Some(row(&line.time, incident)),
        Record::Transaction(_)
        | Record::Dropped { .. }
        | Record::Started(_)
        | Record::Reloaded(_)
        | Record::Stopped(_) => None,
    });
    incidents.collect()
}

fn rules(context: &Context) -> Vec<Vec<Value>> {
    let config = context.config.borrow();
    let row = |(number, rule): (usize, &Rule)| {
        let matching = &rule.matching;
        let pattern = |pattern: &Option<crate::policy::Pattern>| {
            Value::from(pattern.as_ref().map(ToString::to_string))
        };
        let mut row = vec![
            (number + 1).into(),
            rule.name.clone().into(),
            pattern(&matching.database),
            pattern(&matching.user),
            pattern(&matching.application_name),
            matching.client.map(|client| client.to_string()).into(),
            matching.replication.into(),
            rule.limits.is_exempt().into(),
        ];
        row.extend(StuckKind::ALL.iter().map(|&kind| ladder(rule, kind)));
        row
    };
    let default = config.rules.default_rule();
    let rules = config.rules.as_slice().iter().chain([&default]);
    rules.enumerate().map(row).collect()
}

/// A ladder as the file has it.
fn ladder(rule: &Rule, kind: StuckKind) -> Value {
    let ladder = rule.limits.ladder(kind);
    (!ladder.is_empty()).then(|| ladder.to_string()).into()
}

async fn lists(context: &Context) -> Vec<Vec<Value>> {
    let snapshots = snapshots(context).await;
    let count = |is: fn(&Snapshot) -> bool| snapshots.iter().filter(|&one| is(one)).count();
    let config = context.config.borrow();
    let lists = [
        ("sessions", snapshots.len()),
        (
            "active_sessions",
            count(|one| one.position == Position::Running),
        ),
        ("idle_sessions", count(|one| one.position == Position::Idle)),
        ("transactions", count(|one| one.transaction_for.is_some())),
        (
            "stuck_sessions",
            count(|one| one.clocks.iter().any(|clock| clock.kind != StuckKind::Age)),
        ),
        (
            "sessions_that_block",
            count(|one| one.blocked().is_some_and(|blocked| blocked > 0)),
        ),
        ("rules", config.rules.as_slice().len()),
        ("console_users", config.console.users.len()),
        ("servers", config.upstream.addresses.len()),
        ("workers", config.listen.workers.get()),
    ];
    lists
        .map(|(list, items)| vec![list.into(), items.into()])
        .to_vec()
}

/// Named and measured as in PgBouncer's SHOW STATS. Without a name are logins, and databases beyond the first 100.
fn stats(context: &Context) -> Vec<Vec<Value>> {
    let row = |(database, totals): (Option<Arc<str>>, Totals)| {
        vec![
            database.into(),
            totals.transactions.into(),
            totals.queries.into(),
            totals.bytes_from_clients.into(),
            totals.bytes_from_servers.into(),
            totals.in_transaction.as_micros().into(),
            totals.busy.as_micros().into(),
        ]
    };
    context.metrics.totals().into_iter().map(row).collect()
}

/// How the server is asked.
fn dsn(context: &Context) -> Result<Box<Dsn>, String> {
    let dsn = context.config.borrow().observer.dsn.clone();
    dsn.ok_or_else(|| {
        "only an observer can tell: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN".to_owned()
    })
}

async fn prepared(context: &Context) -> Result<Vec<Vec<Value>>, String> {
    let dsn = dsn(context)?;
    let prepared = in_time(observer::prepared(&dsn)).await?;
    let row = |one: PreparedTransaction| {
        vec![
            one.gid.into(),
            one.owner.into(),
            one.database.into(),
            one.age_ms.into(),
            one.locks.into(),
        ]
    };
    Ok(prepared.into_iter().map(row).collect())
}

/// Who would be in the way of a lock.
///
/// # Errors
/// The server cannot be asked, or there is no such relation.
pub(super) async fn blockers(
    context: &Context,
    relation: &str,
    mode: LockMode,
) -> Result<Vec<Vec<Value>>, String> {
    let dsn = dsn(context)?;
    let holders = in_time(observer::holders(&dsn, relation, mode)).await?;
    let sessions: HashMap<_, _> = snapshots(context)
        .await
        .into_iter()
        .filter_map(|snapshot| Some((snapshot.who.server_pid?, snapshot.who.session)))
        .collect();
    let row = |holder: Holder| {
        let session = holder
            .server_pid
            .and_then(|pid| sessions.get(&pid).copied());
        vec![
            session.into(),
            holder.server_pid.into(),
            holder.prepared.into(),
            holder.user.into(),
            holder.application_name.into(),
            holder.state.into(),
            holder.mode.into(),
            holder.granted.into(),
            holder.xact_ms.into(),
        ]
    };
    Ok(holders.into_iter().map(row).collect())
}

/// What the server answers, if it does so soon.
async fn in_time<T, E: ToString>(asked: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    let answer = timeout(PATIENCE, asked).await;
    let too_late = |_| format!("the server has not answered within {PATIENCE:?}");
    answer.map_err(too_late)?.map_err(|error| error.to_string())
}

/// The columns of a topic that are wanted, by their places; all of them where none is named.
pub(super) fn picked(topic: Topic, names: &[String]) -> Result<Vec<(usize, Column)>, String> {
    let columns = topic.columns();
    if names.is_empty() {
        return Ok(columns.iter().copied().enumerate().collect());
    }
    if names.len() > columns.len() {
        let (asked, known) = (names.len(), columns.len());
        return Err(format!(
            "{asked} columns are asked for, and there are {known}"
        ));
    }
    let place = |name: &String| {
        let mut places = columns.iter().copied().enumerate();
        places
            .find(|(_, column)| column.name == name)
            .ok_or_else(|| {
                let known: Vec<_> = columns.iter().map(|column| column.name).collect();
                format!(
                    "column {name:?} does not exist; there are {}",
                    known.join(", ")
                )
            })
    };
    names.iter().map(place).collect()
}
