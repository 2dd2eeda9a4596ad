//! The JSON lines of the audit: one structure for each kind of line, with the field names that users rely on.
//! What is not known is null and never left out.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use crate::{
    policy::LockMode,
    session::{
        damage::{Lock, Waiter},
        event::{Incident, TransactionRecord, Who},
    },
};

/// `event: "incident"`
#[derive(Serialize)]
pub(super) struct IncidentLine<'a> {
    time: &'a str,
    event: &'static str,
    id: &'a str,
    kind: &'static str,
    action: &'static str,
    outcome: &'static str,
    why: Option<&'a str>,
    rule: &'a str,
    limit_ms: Millis,
    idle_ms: Millis,
    age_ms: Option<Millis>,
    #[serde(flatten)]
    who: WhoFields<'a>,
    position: &'static str,
    statements: &'a [StatementLine],
    statement_count: u64,
    /// Only an observer knows the locks, who waits for them, and the age of xmin.
    locks: Option<Vec<LockLine<'a>>>,
    blocked: Option<&'a [WaiterLine<'a>]>,
    xmin_age: Option<i32>,
}

impl<'a> IncidentLine<'a> {
    pub(super) fn new(
        time: &'a str,
        id: &'a str,
        incident: &'a Incident,
        statements: &'a [StatementLine],
        blocked: Option<&'a [WaiterLine<'a>]>,
    ) -> Self {
        let damage = incident.damage.as_deref();
        Self {
            time,
            event: "incident",
            id,
            kind: incident.kind.name(),
            action: incident.action.name(),
            outcome: incident.outcome.name(),
            why: incident.why.as_deref(),
            rule: &incident.rule,
            limit_ms: Millis(incident.limit),
            idle_ms: Millis(incident.idle),
            age_ms: incident.age.map(Millis),
            who: WhoFields::new(&incident.who),
            position: incident.position.name(),
            statements,
            statement_count: incident.statement_count,
            locks: damage.map(|damage| damage.locks.iter().map(LockLine::new).collect()),
            blocked,
            xmin_age: damage.and_then(|damage| damage.xmin_age),
        }
    }
}

/// `event: "transaction"`
#[derive(Serialize)]
pub(super) struct TransactionLine<'a> {
    time: &'a str,
    event: &'static str,
    id: &'a str,
    outcome: &'static str,
    duration_ms: Millis,
    busy_ms: Millis,
    idle_ms: Millis,
    longest_idle_ms: Millis,
    #[serde(flatten)]
    who: WhoFields<'a>,
    statements: &'a [StatementLine],
    statement_count: u64,
}

impl<'a> TransactionLine<'a> {
    pub(super) fn new(
        time: &'a str,
        id: &'a str,
        transaction: &'a TransactionRecord,
        statements: &'a [StatementLine],
    ) -> Self {
        Self {
            time,
            event: "transaction",
            id,
            outcome: transaction.outcome.name(),
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

/// `event: "dropped"`: so many events are missing before this line.
#[derive(Serialize)]
pub(super) struct DroppedLine<'a> {
    pub(super) time: &'a str,
    pub(super) event: &'static str,
    pub(super) count: u64,
}

/// One statement of a transaction.
#[derive(Serialize)]
pub(super) struct StatementLine {
    pub(super) at_ms: Millis,
    #[serde(serialize_with = "text")]
    pub(super) text: Option<Arc<str>>,
    #[serde(serialize_with = "text")]
    pub(super) fingerprint: Option<Arc<str>>,
    pub(super) duration_ms: Option<Millis>,
    /// What a sqlcommenter comment says of the code that it comes from.
    pub(super) tags: Option<BTreeMap<String, String>>,
}

/// A lock that a session holds.
#[derive(Serialize)]
struct LockLine<'a> {
    locktype: &'a str,
    relation: Option<&'a str>,
    mode: &'a str,
    granted: bool,
    fastpath: bool,
    /// The statements that it keeps waiting; of locks on relations alone can that be said.
    blocks: Option<String>,
}

impl<'a> LockLine<'a> {
    fn new(lock: &'a Lock) -> Self {
        let mode = lock.mode.parse::<LockMode>().ok();
        Self {
            locktype: &lock.locktype,
            relation: lock.relation.as_deref(),
            mode: &lock.mode,
            granted: lock.granted,
            fastpath: lock.fastpath,
            blocks: mode
                .filter(|_| *lock.locktype == *"relation")
                .map(LockMode::blocks),
        }
    }
}

/// A session of the server that waits for the incident's.
#[derive(Serialize)]
pub(super) struct WaiterLine<'a> {
    server_pid: i32,
    backend_type: Option<&'a str>,
    user: Option<&'a str>,
    application_name: Option<&'a str>,
    #[serde(serialize_with = "text")]
    statement: Option<Arc<str>>,
    waits_for: &'a str,
    relation: Option<&'a str>,
    mode: Option<&'a str>,
    waiting_ms: Option<Millis>,
    blocked_by: &'a [i32],
    blocked_by_prepared: Vec<Option<&'a str>>,
    depth: u32,
    freed_by: Option<&'static str>,
}

impl<'a> WaiterLine<'a> {
    pub(super) fn new(waiter: &'a Waiter, statement: Option<Arc<str>>) -> Self {
        Self {
            server_pid: waiter.server_pid,
            backend_type: waiter.backend_type.as_deref(),
            user: waiter.user.as_deref(),
            application_name: waiter.application_name.as_deref(),
            statement,
            waits_for: &waiter.waits_for,
            relation: waiter.relation.as_deref(),
            mode: waiter.mode.as_deref(),
            waiting_ms: waiter.waiting.map(Millis),
            blocked_by: &waiter.blocked_by,
            blocked_by_prepared: waiter.prepared.iter().map(Option::as_deref).collect(),
            depth: waiter.depth,
            freed_by: waiter.freed_by.name(),
        }
    }
}

/// The fields that say whose session it is.
#[derive(Serialize)]
struct WhoFields<'a> {
    session: u64,
    client_addr: Option<IpAddr>,
    client_port: Option<u16>,
    client_pid: Option<i32>,
    user: &'a str,
    database: &'a str,
    application_name: &'a str,
    server_pid: Option<i32>,
    tls: bool,
}

impl<'a> WhoFields<'a> {
    fn new(who: &'a Who) -> Self {
        Self {
            session: who.session,
            client_addr: who.client_addr.map(|address| address.ip().to_canonical()),
            client_port: who.client_addr.map(|address| address.port()),
            client_pid: who.client_pid,
            user: &who.user,
            database: &who.database,
            application_name: &who.application_name,
            server_pid: who.server_pid,
            tls: who.tls,
        }
    }
}

/// Milliseconds: a whole number where it is one, else with up to three decimals.
#[derive(Clone, Copy)]
pub(super) struct Millis(pub(super) Duration);

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

fn text<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}
