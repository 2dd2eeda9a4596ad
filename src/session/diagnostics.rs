//! What a client is told about its transaction: the sentences, built once for each enforcement.
//!
//! The texts go to the client as message fields. What goes into SQL is [`sql_reason`] alone: plain ASCII without quotes
//! or backslashes, because a backslash could end the literal under `standard_conforming_strings = off`.

use std::{fmt::Write as _, time::Duration};

use super::event::{Cause, Hit, Incident, Position};
use crate::{
    policy::{Action, StuckKind, Target, format_duration},
    wire::originate::Diagnostic,
};

/// The error that a client gets for what was ended because of its transaction.
pub(super) fn hit(incident: &Incident, hit: Hit) -> Diagnostic {
    let diagnostic = diagnostic(incident, &format!("{}: {}", message(hit), what(incident)));
    with_hint(diagnostic, hit)
}

/// The error that a client gets for what was ended because pgidle ends.
pub(super) fn hit_by_shutdown(hit: Hit) -> Diagnostic {
    let diagnostic = Diagnostic {
        message: format!("{}: pgidle is shutting down", message(hit)),
        ..shutdown(0)
    };
    with_hint(diagnostic, hit)
}

fn message(hit: Hit) -> &'static str {
    match hit {
        Hit::Meant => "pgidle rolled back the transaction that was open",
        Hit::Next => {
            "pgidle cancelled what was running in the place of the transaction before it, which has ended by itself"
        }
        Hit::Unknown => {
            "pgidle cancelled what was running, and whether any of it was committed is unknown"
        }
        Hit::Wait => {
            "the transaction is committed on this server, and unknown is whether its standby has it: pgidle has ended the wait for that"
        }
    }
}

/// 40003 `statement_completion_unknown`, 57014 `query_canceled`.
fn with_hint(diagnostic: Diagnostic, hit: Hit) -> Diagnostic {
    let (sqlstate, hint) = match hit {
        Hit::Meant => return diagnostic,
        Hit::Next => ("57014", "Run it again: the session is kept."),
        Hit::Unknown => ("40003", "Look at what was done before running it again."),
        Hit::Wait => (
            "40003",
            "Do not run it again without looking at what was done.",
        ),
    };
    Diagnostic {
        sqlstate,
        hint: hint.to_owned(),
        ..diagnostic
    }
}

/// The FATAL error in front of a closed connection; `unknown` requests may or may not have been carried out.
pub(super) fn terminated(incident: &Incident, unknown: usize) -> Diagnostic {
    let mut diagnostic = diagnostic(
        incident,
        &format!("terminating connection: {}", what(incident)),
    );
    diagnostic.hint = match incident.cause {
        Cause::Limit { .. } => "Connect again. End transactions in time to avoid this.",
        Cause::Console { .. } => "Connect again.",
    }
    .to_owned();
    add_unknown(&mut diagnostic, unknown);
    diagnostic
}

/// Adds to a FATAL error that so many requests may or may not have been carried out.
pub(super) fn add_unknown(diagnostic: &mut Diagnostic, requests: usize) {
    if requests > 0 {
        if !diagnostic.detail.is_empty() {
            diagnostic.detail.push(' ');
        }
        diagnostic.detail += &of_unknown_outcome(requests);
    }
}

fn of_unknown_outcome(requests: usize) -> String {
    format!("The outcome of {requests} request(s) that were sent before is unknown.")
}

/// The warning of the `notice` action.
pub(super) fn notice(incident: &Incident) -> Diagnostic {
    let mut diagnostic = diagnostic(
        incident,
        &format!("the transaction that is open is {}", what(incident)),
    );
    diagnostic.hint = "Commit or roll back soon.".to_owned();
    diagnostic
}

/// The FATAL error for a client that wants its authentication bound to a TLS connection that ends at pgidle.
pub(super) fn cannot_bind() -> Diagnostic {
    Diagnostic {
        sqlstate: "28000",
        message: "pgidle: SCRAM authentication cannot pass between two TLS connections with different certificates".to_owned(),
        detail: "The client could bind it to its TLS connection and is not offered to; the server would take that for an attack.".to_owned(),
        hint: "Set channel_binding=disable in the client, or give pgidle the server's own certificate and key, \
               or let pgidle reach the server without TLS (docs/tls.md)."
            .to_owned(),
    }
}

/// The FATAL error of a client whose server is not what sessions are meant for.
pub(super) fn wrong_server(why: &str, target: Target) -> Diagnostic {
    Diagnostic {
        sqlstate: "08004",
        message: format!("pgidle: {why}"),
        detail: format!(
            "Sessions are meant for target_session_attrs = \"{}\".",
            target.name()
        ),
        hint: String::new(),
    }
}

/// The FATAL error after a reply of the server that cannot be explained.
pub(super) fn doubt(incident: &Incident, why: &str) -> Diagnostic {
    Diagnostic {
        sqlstate: sqlstate(incident),
        message: format!(
            "terminating connection: the end of a transaction ({}) could not be confirmed",
            what(incident)
        ),
        detail: format!("{why} The outcome of the transaction is unknown."),
        hint: "Connect again, and check what was done.".to_owned(),
    }
}

/// The FATAL error of a session when pgidle shuts down; `unknown` requests may or may not have been carried out.
pub(super) fn shutdown(unknown: usize) -> Diagnostic {
    Diagnostic {
        sqlstate: "57P01",
        message: "terminating connection: pgidle is shutting down".to_owned(),
        detail: match unknown {
            0 => String::new(),
            requests => of_unknown_outcome(requests),
        },
        hint: String::new(),
    }
}

/// The FATAL error of a client that is not authenticated in time, in PostgreSQL's words (`PerformAuthentication` in
/// `src/backend/utils/init/postinit.c`).
pub(super) fn login_too_slow() -> Diagnostic {
    Diagnostic {
        sqlstate: "57014",
        message: "pgidle: canceling authentication due to timeout (startup_timeout)".to_owned(),
        detail: String::new(),
        hint: String::new(),
    }
}

/// The FATAL error of a client that is not authenticated when others need its place.
pub(super) fn gives_way() -> Diagnostic {
    Diagnostic {
        sqlstate: "53300",
        message: "pgidle: sorry, too many sessions already, and this one is not authenticated yet"
            .to_owned(),
        detail: String::new(),
        hint: String::new(),
    }
}

/// What the server is told when pgidle shuts down, as [`sql_reason`].
pub(super) const SQL_SHUTDOWN: &str = "pgidle: shutting down";

/// The reason as it stands in SQL and in CopyFail: ASCII letters, digits, spaces and `:.` only.
pub(super) fn sql_reason(incident: &Incident) -> String {
    if incident.kind().is_none() {
        return "pgidle: rolled back by a command".to_owned();
    }
    let seconds = stuck_for(incident).as_secs();
    format!(
        "pgidle: rolled back after {} for {seconds} s",
        position(incident)
    )
}

fn diagnostic(incident: &Incident, message: &str) -> Diagnostic {
    let mut detail = match &incident.cause {
        Cause::Limit { rule, kind, limit } => format!(
            "Rule \"{rule}\": {kind} {} at {}.",
            incident.action,
            format_duration(*limit)
        ),
        Cause::Console { by } => format!(
            "Command of \"{by}\" on the console of pgidle: {}.",
            incident.action
        ),
    };
    if let Some(age) = incident.age {
        write!(
            detail,
            " The transaction had been open for {}.",
            seconds(age)
        )
        .expect("a String takes any text");
    }
    Diagnostic {
        sqlstate: sqlstate(incident),
        message: message.to_owned(),
        detail,
        hint: "Roll back and run the transaction again: the session, its prepared statements, temporary tables and \
               settings are kept."
            .to_owned(),
    }
}

/// 25P03 `idle_in_transaction_session_timeout`, 25P04 `transaction_timeout` (Appendix A, Class 25); of a command those
/// that PostgreSQL has for `pg_cancel_backend` and `pg_terminate_backend`: 57014 `query_canceled`, 57P01
/// `admin_shutdown`.
fn sqlstate(incident: &Incident) -> &'static str {
    match (incident.kind(), incident.action) {
        (Some(StuckKind::Age), _) => "25P04",
        (
            Some(StuckKind::Idle | StuckKind::Failed | StuckKind::Stalled | StuckKind::Blocking),
            _,
        ) => "25P03",
        (None, Action::Terminate) => "57P01",
        (None, Action::Log | Action::Notice | Action::Release | Action::Rollback) => "57014",
    }
}

fn what(incident: &Incident) -> String {
    match &incident.cause {
        Cause::Limit { limit, .. } => {
            let time = seconds(stuck_for(incident));
            let limit = format_duration(*limit);
            format!("{} for {time} (limit {limit})", position(incident))
        }
        Cause::Console { .. } => "administrator command".to_owned(),
    }
}

fn position(incident: &Incident) -> &'static str {
    match (incident.kind(), incident.position) {
        (Some(StuckKind::Age), _) => "not ended",
        (Some(StuckKind::Blocking), _) => "keeping others waiting",
        (_, Position::IdleInTransactionAborted) => "idle in transaction aborted",
        (_, Position::HalfSentRequest) => "idle in transaction",
        (_, position) => position.name(),
    }
}

/// The time by which the limit was reached.
pub(super) fn stuck_for(incident: &Incident) -> Duration {
    match incident.kind() {
        Some(StuckKind::Age) => incident.age.unwrap_or(incident.idle),
        Some(StuckKind::Blocking) => incident.waited.unwrap_or(incident.idle),
        Some(StuckKind::Idle | StuckKind::Failed | StuckKind::Stalled) | None => incident.idle,
    }
}

/// A time as it is told.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
