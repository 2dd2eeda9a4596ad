//! The lines of the audit file, with the field names that users rely on: they are written from these types, and read into
//! them again by the programs that evaluate a file. docs/audit.md says what each field means.
//!
//! What is not known is null and never left out.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use super::policy::{MatchLine, Policy, RuleLine};
use crate::{
    config::{Change, Reloaded},
    policy::{LockMode, Rules},
    session::{
        damage::{Lock, Waiter},
        event::{Incident, TransactionRecord, Who},
    },
};

/// The version of the lines. Fields may be added under the same one; it grows when one that is there is taken away or gets
/// another meaning.
pub const SCHEMA: u32 = 1;

/// One line of the audit file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The version that it was written in.
    #[serde(deserialize_with = "known_schema")]
    schema: u32,
    /// When it was written down: UTC, RFC 3339, with microseconds.
    pub time: String,
    /// Which run of pgidle wrote it; empty in files from before there was this field, as 0 is below.
    #[serde(default)]
    pub run: Arc<str>,
    /// Its number in this run: where one is missing, a line is.
    #[serde(default)]
    pub sequence: u64,
    /// What it tells.
    #[serde(flatten)]
    pub record: Record,
}

impl Line {
    /// A line of this version.
    pub(super) fn new(time: String, run: Arc<str>, sequence: u64, record: Record) -> Self {
        Self {
            schema: SCHEMA,
            time,
            run,
            sequence,
            record,
        }
    }
}

impl FromStr for Line {
    type Err = serde_json::Error;

    /// Reads a line.
    ///
    /// # Errors
    /// It is cut off, of another version, or no line of an audit file.
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(line)
    }
}

fn known_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let schema = u32::deserialize(deserializer)?;
    if schema == SCHEMA {
        Ok(schema)
    } else {
        let message = format!("a line of schema {schema}, where {SCHEMA} is known");
        Err(D::Error::custom(message))
    }
}

/// What a line tells: the field `event`, and those that go with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Record {
    /// A limit was reached.
    Incident(Box<IncidentLine>),
    /// A transaction block is over.
    Transaction(Box<TransactionLine>),
    /// Lines are missing before this one.
    Dropped {
        /// How many.
        count: u64,
    },
    /// pgidle listens.
    Started(Box<StartedLine>),
    /// The settings were read again.
    Reloaded(Box<ReloadedLine>),
    /// Every session has ended, and pgidle does.
    Stopped(Box<StoppedLine>),
}

/// `event: "started"`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct StartedLine {
    pub version: String,
    pub pid: u32,
    pub listen: Vec<String>,
    pub upstream: Vec<String>,
    pub policy_hash: String,
    pub policy: Policy,
}

/// `event: "reloaded"`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct ReloadedLine {
    pub by: Option<Arc<str>>,
    pub changed: Vec<ChangeLine>,
    pub needs_restart: Vec<ChangeLine>,
    pub policy_hash: String,
    pub policy: Policy,
}

/// A setting or rule that a reload has found changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct ChangeLine {
    pub key: String,
    pub was: String,
    pub is: String,
}

/// `event: "stopped"`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct StoppedLine {
    pub by: Option<Arc<str>>,
    pub cut_off: u64,
}

impl ReloadedLine {
    /// What a reload has brought about, and the rules that hold since.
    pub fn new(by: Option<Arc<str>>, reloaded: &Reloaded, rules: &Rules) -> Self {
        let lines = |changes: &[Change]| changes.iter().map(ChangeLine::new).collect();
        let policy = Policy::new(rules);
        Self {
            by,
            changed: lines(&reloaded.changed),
            needs_restart: lines(&reloaded.needs_restart),
            policy_hash: policy.hash(),
            policy,
        }
    }
}

impl ChangeLine {
    fn new(change: &Change) -> Self {
        let Change { key, was, is } = change.clone();
        Self { key, was, is }
    }
}

/// `event: "incident"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct IncidentLine {
    pub id: String,
    pub kind: Option<Arc<str>>,
    pub cause: Arc<str>,
    pub by: Option<Arc<str>>,
    pub action: Arc<str>,
    pub outcome: Arc<str>,
    pub why: Option<Arc<str>>,
    pub rule: Option<Arc<str>>,
    pub limit_ms: Option<Millis>,
    pub idle_ms: Millis,
    pub age_ms: Option<Millis>,
    #[serde(flatten)]
    pub who: WhoFields,
    pub position: Arc<str>,
    pub statements: Vec<StatementLine>,
    pub statement_count: u64,
    /// Only an observer knows the locks, who waits for them, and the age of xmin.
    pub locks: Option<Vec<LockLine>>,
    pub blocked: Option<Vec<WaiterLine>>,
    pub xmin_age: Option<i32>,
}

impl IncidentLine {
    pub(super) fn new(
        id: String,
        incident: &Incident,
        statements: Vec<StatementLine>,
        blocked: Option<Vec<WaiterLine>>,
    ) -> Self {
        let damage = incident.damage.as_deref();
        Self {
            id,
            kind: incident.kind().map(|kind| kind.name().into()),
            cause: incident.cause.name().into(),
            by: incident.by().cloned(),
            action: incident.action.name().into(),
            outcome: incident.outcome.name().into(),
            why: incident.why.clone(),
            rule: incident.rule().cloned(),
            limit_ms: incident.limit().map(Millis),
            idle_ms: Millis(incident.idle),
            age_ms: incident.age.map(Millis),
            who: WhoFields::new(&incident.who),
            position: incident.position.name().into(),
            statements,
            statement_count: incident.statement_count,
            locks: damage.map(|damage| damage.locks.iter().map(LockLine::new).collect()),
            blocked,
            xmin_age: damage.and_then(|damage| damage.xmin_age),
        }
    }
}

/// `event: "transaction"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct TransactionLine {
    pub id: String,
    /// Null in files from before there was this field alone.
    pub rule: Option<Arc<str>>,
    pub outcome: Arc<str>,
    pub duration_ms: Millis,
    pub busy_ms: Millis,
    pub idle_ms: Millis,
    pub longest_idle_ms: Millis,
    #[serde(flatten)]
    pub who: WhoFields,
    pub statements: Vec<StatementLine>,
    pub statement_count: u64,
}

impl TransactionLine {
    pub(super) fn new(
        id: String,
        transaction: &TransactionRecord,
        statements: Vec<StatementLine>,
    ) -> Self {
        Self {
            id,
            rule: Some(Arc::clone(&transaction.rule)),
            outcome: transaction.outcome.name().into(),
            duration_ms: Millis(transaction.duration),
            busy_ms: Millis(transaction.busy),
            idle_ms: Millis(transaction.idle),
            longest_idle_ms: Millis(transaction.longest_idle),
            who: WhoFields::new(&transaction.who),
            statements,
            statement_count: transaction.statement_count,
        }
    }
}

/// One statement of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct StatementLine {
    pub at_ms: Millis,
    pub text: Option<Arc<str>>,
    pub fingerprint: Option<Arc<str>>,
    pub duration_ms: Option<Millis>,
    /// What a sqlcommenter comment says of the code that it comes from.
    pub tags: Option<BTreeMap<String, String>>,
}

/// A lock that a session holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct LockLine {
    pub locktype: Arc<str>,
    pub relation: Option<Arc<str>>,
    pub mode: Arc<str>,
    pub granted: bool,
    pub fastpath: bool,
    /// The statements that it keeps waiting; of locks on relations alone can that be said.
    pub blocks: Option<String>,
}

impl LockLine {
    fn new(lock: &Lock) -> Self {
        let mode = lock.mode.parse::<LockMode>().ok();
        Self {
            locktype: Arc::clone(&lock.locktype),
            relation: lock.relation.clone(),
            mode: Arc::clone(&lock.mode),
            granted: lock.granted,
            fastpath: lock.fastpath,
            blocks: mode
                .filter(|_| *lock.locktype == *"relation")
                .map(LockMode::blocks),
        }
    }
}

/// A session of the server that waits for the incident's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct WaiterLine {
    pub server_pid: i32,
    pub backend_type: Option<Arc<str>>,
    pub user: Option<Arc<str>>,
    pub application_name: Option<Arc<str>>,
    pub statement: Option<Arc<str>>,
    pub waits_for: Arc<str>,
    pub relation: Option<Arc<str>>,
    pub mode: Option<Arc<str>>,
    pub waiting_ms: Option<Millis>,
    pub blocked_by: Arc<[i32]>,
    pub blocked_by_prepared: Arc<[Option<Arc<str>>]>,
    pub depth: u32,
    pub freed_by: Option<Arc<str>>,
}

impl WaiterLine {
    pub(super) fn new(waiter: &Waiter, statement: Option<Arc<str>>) -> Self {
        Self {
            server_pid: waiter.server_pid,
            backend_type: waiter.backend_type.clone(),
            user: waiter.user.clone(),
            application_name: waiter.application_name.clone(),
            statement,
            waits_for: Arc::clone(&waiter.waits_for),
            relation: waiter.relation.clone(),
            mode: waiter.mode.clone(),
            waiting_ms: waiter.waiting.map(Millis),
            blocked_by: Arc::clone(&waiter.blocked_by),
            blocked_by_prepared: Arc::clone(&waiter.prepared),
            depth: waiter.depth,
            freed_by: waiter.freed_by.name().map(Arc::from),
        }
    }
}

/// The fields that say whose session it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct WhoFields {
    pub session: u64,
    pub client_addr: Option<IpAddr>,
    pub client_port: Option<u16>,
    pub client_pid: Option<i32>,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub application_name: Arc<str>,
    pub server_pid: Option<i32>,
    pub tls: bool,
}

impl WhoFields {
    fn new(who: &Who) -> Self {
        Self {
            session: who.session,
            client_addr: who.client_addr.map(|address| address.ip().to_canonical()),
            client_port: who.client_addr.map(|address| address.port()),
            client_pid: who.client_pid,
            user: Arc::clone(&who.user),
            database: Arc::clone(&who.database),
            application_name: Arc::clone(&who.application_name),
            server_pid: who.server_pid,
            tls: who.tls,
        }
    }
}

/// Milliseconds: a whole number where it is one, else with up to three decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub Duration);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if micros.is_multiple_of(1000) {
            serializer.serialize_u64(micros / 1000)
        } else {
            serializer.serialize_f64(micros as f64 / 1000.0)
        }
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        let time = Duration::try_from_secs_f64(millis / 1000.0).map_err(D::Error::custom)?;
        // What a float adds or takes away is far below a microsecond.
        let micros = (time.as_nanos() + 500) / 1000;
        let micros = u64::try_from(micros).map_err(D::Error::custom)?;
        Ok(Self(Duration::from_micros(micros)))
    }
}
