//! The live sessions, as JSON: the fields are called as in the audit where that has them.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use crate::{audit::Texts, session::Snapshot};

/// One session.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    session: u64,
    client_addr: Option<IpAddr>,
    client_port: Option<u16>,
    client_pid: Option<i32>,
    user: &'a str,
    database: &'a str,
    application_name: &'a str,
    server_pid: Option<i32>,
    tls: bool,
    position: &'static str,
    position_ms: f64,
    age_ms: Option<f64>,
    statement_count: u64,
    /// The last statement, without its literals.
    text: Option<Arc<str>>,
    fingerprint: Option<Arc<str>>,
    rule: &'a str,
    enforcement: Option<&'static str>,
    blocked: Option<usize>,
    xmin_age: Option<i32>,
}

/// The sessions by their numbers.
pub(super) fn rows<'a>(sessions: &'a [Snapshot], texts: &Mutex<Texts>) -> Vec<Row<'a>> {
    let mut texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rows: Vec<_> = sessions.iter().map(|one| row(one, &mut texts)).collect();
    rows.sort_unstable_by_key(|row| row.session);
    rows
}

fn row<'a>(session: &'a Snapshot, texts: &mut Texts) -> Row<'a> {
    let (text, fingerprint) = match &session.statement {
        Some(statement) => texts.of(statement),
        None => (None, None),
    };
    let who = &session.who;
    Row {
        session: who.session,
        client_addr: who.client_addr.map(|address| address.ip()),
        client_port: who.client_addr.map(|address| address.port()),
        client_pid: who.client_pid,
        user: &who.user,
        database: &who.database,
        application_name: &who.application_name,
        server_pid: who.server_pid,
        tls: who.tls,
        position: session.position.name(),
        position_ms: millis(session.position_for),
        age_ms: session.transaction_for.map(millis),
        statement_count: session.statement_count,
        text,
        fingerprint,
        rule: &session.rule,
        enforcement: session.enforcement,
        blocked: session.blocked(),
        xmin_age: session.damage.as_ref().and_then(|damage| damage.xmin_age),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
