//! The one way out for what happens in sessions: each [`Event`] comes here, and goes to whoever is to know of it, which is
//! the audit, the metrics and the log. Nothing here waits.

use crate::{
    audit::Audit,
    metrics::Metrics,
    session::{
        CloseReason,
        event::{ClientAddress, Closed, Event, Who},
    },
};

/// What `PGIDLE_LOG` calls the lines about single sessions.
pub const LOG_TARGET: &str = "pgidle::session";

/// A handle to all who are told. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Events {
    audit: Audit,
    metrics: Metrics,
}

impl Events {
    /// Hands everything on to this audit, to what counts, and to the log.
    pub const fn new(audit: Audit, metrics: Metrics) -> Self {
        Self { audit, metrics }
    }

    /// Whether anyone wants to know of finished transactions; when not, there is no need to put a record together.
    pub fn want_transactions(&self) -> bool {
        self.audit.wants_transactions() || self.metrics.wants_transactions()
    }

    /// Hands on what happened in the session of `who`. It does not block: what finds no room is dropped, counted and said.
    pub fn emit(&self, who: &Who, event: Event) {
        match event {
            Event::Opened => {
                self.metrics.opened();
                log_opened(who);
            }
            Event::Closed(closed) => {
                self.metrics.closed(closed.reason);
                log_closed(who, &closed);
            }
            Event::Step(step) => {
                tracing::debug!(target: LOG_TARGET, session = who.session, step, "an ending goes on");
            }
            Event::Incident(incident) => {
                self.metrics.incident(&incident);
                self.audit.record(incident.into());
            }
            Event::Transaction(transaction) => {
                self.metrics.transaction(&transaction);
                self.audit.record(transaction.into());
            }
        }
    }
}

fn log_opened(who: &Who) {
    let (session, user, database) = (who.session, &*who.user, &*who.database);
    let application_name = &*who.application_name;
    tracing::debug!(
        target: LOG_TARGET,
        session,
        user,
        database,
        application_name,
        client = %ClientAddress(who.client_addr),
        "session opened"
    );
}

fn log_closed(who: &Who, closed: &Closed) {
    let (session, user, database) = (who.session, &*who.user, &*who.database);
    let reason = closed.reason.name();
    match closed.reason {
        CloseReason::ClientLeft
        | CloseReason::Policy
        | CloseReason::Console
        | CloseReason::Drain => {
            tracing::debug!(target: LOG_TARGET, session, user, database, reason, "session closed");
        }
        CloseReason::ServerLeft
        | CloseReason::ClientIo
        | CloseReason::ServerIo
        | CloseReason::Authentication
        | CloseReason::Target
        | CloseReason::Protocol => {
            let error = closed.error.as_deref();
            tracing::info!(target: LOG_TARGET, session, user, database, reason, error, "session closed");
        }
    }
    let requests = closed.unknown_requests;
    if requests > 0 && closed.reason == CloseReason::Drain {
        tracing::warn!(
            target: LOG_TARGET,
            session,
            user,
            database,
            requests,
            "the outcome of requests is unknown: they were not answered before pgidle had to end"
        );
    }
    let unknown = closed.unknown_messages;
    if unknown > 0 {
        tracing::info!(target: LOG_TARGET, session, unknown, "messages of unknown types were passed on");
    }
}
