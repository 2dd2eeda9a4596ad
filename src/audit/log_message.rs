//! The log line of an incident: a sentence that says who, how long, by which rule, and what was done.
//! Of statements it holds the command alone.

use std::time::Duration;

use crate::{
    policy::{Action, DEFAULT_RULE, StuckKind, format_duration},
    session::{
        damage::{Damage, Waiter},
        event::{Cause, ClientAddress, Incident, Outcome},
    },
    sql,
};

/// Logs an incident: a warning where pgidle was to act on the session, else for information.
pub(super) fn log(id: &str, incident: &Incident) {
    let message = log_message(incident);
    let kind = incident.kind().map(StuckKind::name);
    let (action, outcome) = (incident.action.name(), incident.outcome.name());
    let (rule, by) = (
        incident.rule().map(|rule| &**rule),
        incident.by().map(|by| &**by),
    );
    match incident.action {
        Action::Log => tracing::info!(id, kind, action, outcome, rule, by, "{message}"),
        Action::Notice | Action::Release | Action::Rollback | Action::Terminate => {
            tracing::warn!(id, kind, action, outcome, rule, by, "{message}");
        }
    }
}

fn log_message(incident: &Incident) -> String {
    let why = incident
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(" ({why})"));
    let damage = incident.damage.as_deref().map_or_else(String::new, holds);
    format!(
        "{} {}; {damage}{}{why}",
        who(incident),
        what(incident),
        done(incident)
    )
}

/// Names come from clients: they are quoted, and what could break a line is escaped.
fn who(incident: &Incident) -> String {
    let who = &incident.who;
    let client = match (who.client_addr, who.client_pid) {
        (None, Some(pid)) => format!("process {pid} by a Unix socket"),
        (address, _) => ClientAddress(address).to_string(),
    };
    let pid = who
        .server_pid
        .map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
    format!(
        "session {} (user {:?}, database {:?}, application {:?}, from {client}, server pid {pid})",
        who.session, who.user, who.database, who.application_name
    )
}

fn what(incident: &Incident) -> String {
    let (rule, kind, limit) = match &incident.cause {
        Cause::Limit { rule, kind, limit } => (rule, *kind, *limit),
        Cause::Console { by } => {
            let action = incident.action.name();
            return format!("got the command {action} of {by:?} from the console");
        }
    };
    let idle = measured(incident.idle);
    let stuck = match kind {
        StuckKind::Idle => format!("has been idle in transaction for {idle}"),
        StuckKind::Failed => format!("has been idle in transaction (aborted) for {idle}"),
        StuckKind::Stalled => format!("has been stalled ({}) for {idle}", incident.position.name()),
        StuckKind::Age => match incident.age {
            Some(age) => format!("has had a transaction open for {}", measured(age)),
            None => "has had a transaction open for too long".to_owned(),
        },
        StuckKind::Blocking => {
            let waited = measured(incident.waited.unwrap_or_default());
            format!("has kept others waiting for {waited}, stuck for {idle}")
        }
    };
    let limit = format_duration(limit);
    format!("{stuck}, past the limit of {limit} in rule {rule:?}")
}

/// What it holds, who waits longest for that, and how many more wait.
fn holds(damage: &Damage) -> String {
    let blocked = damage.blocked.as_deref().unwrap_or_default();
    let waiter = blocked.first();
    let waited_for = damage.locks.iter().find(|lock| {
        lock.relation.is_some()
            && lock.relation == waiter.and_then(|waiter| waiter.relation.clone())
    });
    let mut relations = damage.locks.iter().filter(|lock| lock.relation.is_some());
    let shown = waited_for.or_else(|| relations.next());
    let Some(lock) = shown.or_else(|| damage.locks.first()) else {
        return "it holds no locks; ".to_owned();
    };
    let on = lock.relation.as_ref().unwrap_or(&lock.locktype);
    let mut said = format!("it holds {} on {}", lock.mode, on.escape_debug());
    if let others @ 1.. = damage.locks.len() - 1 {
        said += &format!(" and {others} other {}", plural(others, "lock"));
    }
    if let Some(waiter) = waiter {
        said += &waits(waiter);
        if let others @ 1.. = blocked.len() - 1 {
            said += &format!(
                ", and {others} more {} with or behind it",
                if others == 1 { "waits" } else { "wait" }
            );
        }
    }
    said + "; "
}

fn waits(waiter: &Waiter) -> String {
    let command = waiter.statement.as_deref().and_then(sql::command);
    let process = waiter.backend_type.as_deref();
    let command = command.unwrap_or_else(|| match process {
        Some("startup") => "the replay of the primary's changes".to_owned(),
        Some(process) if process != "client backend" => format!("the process {process:?}"),
        _ => "a statement".to_owned(),
    });
    let user = waiter
        .user
        .as_ref()
        .map_or_else(String::new, |user| format!(" by {user:?}"));
    let since = waiter
        .waiting
        .map_or_else(String::new, |time| format!(" for {}", measured(time)));
    format!(
        ", {command}{user} (server pid {}) has waited for it{since}",
        waiter.server_pid
    )
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}

fn done(incident: &Incident) -> &'static str {
    match incident.outcome {
        Outcome::Logged if incident.rule().is_some_and(|rule| **rule == *DEFAULT_RULE) => {
            "nothing was done, because no rule applies to it"
        }
        Outcome::Logged => "only logged, as the rule says",
        Outcome::Noticed => "the client was sent a notice",
        Outcome::RolledBack => "its transaction was rolled back, and the session lives on",
        Outcome::Released => "its transaction was released and begins anew when the client speaks",
        Outcome::NotReleasable => "it could not be released, and the next limit stands",
        Outcome::Moot => "it went on by itself before anything was done",
        Outcome::NextCancelled => {
            "its transaction ended by itself, and what came next was cancelled in its place"
        }
        Outcome::Unknown => {
            "what ran was cancelled, and whether any of it was committed is unknown"
        }
        Outcome::CommitNotAwaited => {
            "its commit was kept from waiting for a standby, which may not have it"
        }
        Outcome::Terminated => "the session was ended",
        Outcome::NotPossible if incident.by().is_some() => "nothing was done",
        Outcome::NotPossible if incident.why.is_some() => {
            "nothing was done, and the next limit stands"
        }
        Outcome::NotPossible => {
            "nothing can be done at this point of the protocol, and the next limit stands"
        }
        Outcome::ServerClosed => "the server closed the connection meanwhile",
        Outcome::Unexpected => {
            "the server answered out of turn, and the session was ended to be safe"
        }
    }
}

/// A measured time as a person says it: `350ms`, `61.2s`, `15min 3s`, `2h 5min`.
fn measured(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..120 => format!("{seconds}.{}s", duration.subsec_millis() / 100),
        120..7200 => format!("{}min {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::session::{
        damage::Lock,
        event::{Position, Statement, Who},
    };

    fn limit(rule: &str, kind: StuckKind) -> Cause {
        Cause::Limit {
            rule: rule.into(),
            kind,
            limit: Duration::from_secs(60),
        }
    }

    fn check(change: impl FnOnce(&mut Incident), expected: &Expect) {
        let mut incident = Incident {
            who: Who {
                session: 7,
                client_addr: Some("10.0.3.7:51234".parse().unwrap()),
                client_pid: None,
                user: "app_rw".into(),
                database: "prod".into(),
                application_name: "celery\n@w1".into(),
                server_pid: Some(4711),
                tls: false,
            },
            cause: limit("celery", StuckKind::Idle),
            action: Action::Rollback,
            outcome: Outcome::RolledBack,
            why: None,
            idle: Duration::from_millis(61_250),
            waited: None,
            age: Some(Duration::from_secs(1003)),
            position: Position::IdleInTransaction,
            statements: vec![Statement {
                at: Duration::ZERO,
                text: Some("SELECT 'secret'".into()),
                duration: None,
                refused: false,
            }],
            statement_count: 1,
            damage: None,
        };
        change(&mut incident);
        expected.assert_eq(&log_message(&incident));
    }

    #[test]
    fn reads_as_a_sentence() {
        check(
            |_| {},
            &expect![[
                r#"session 7 (user "app_rw", database "prod", application "celery\n@w1", from 10.0.3.7:51234, server pid 4711) has been idle in transaction for 61.2s, past the limit of 1min in rule "celery"; its transaction was rolled back, and the session lives on"#
            ]],
        );
        check(
            |incident| {
                incident.action = Action::Log;
                incident.outcome = Outcome::Logged;
                incident.cause = limit(DEFAULT_RULE, StuckKind::Idle);
                incident.who.client_addr = None;
                incident.who.server_pid = None;
                incident.idle = Duration::from_millis(350);
            },
            &expect![[
                r#"session 7 (user "app_rw", database "prod", application "celery\n@w1", from a Unix socket, server pid unknown) has been idle in transaction for 350ms, past the limit of 1min in rule "default"; nothing was done, because no rule applies to it"#
            ]],
        );
        check(
            |incident| {
                incident.cause = limit("celery", StuckKind::Age);
                incident.action = Action::Terminate;
                incident.outcome = Outcome::Terminated;
                incident.why = Some("the outcome of 2 requests is unknown".into());
            },
            &expect![[
                r#"session 7 (user "app_rw", database "prod", application "celery\n@w1", from 10.0.3.7:51234, server pid 4711) has had a transaction open for 16min 43s, past the limit of 1min in rule "celery"; the session was ended (the outcome of 2 requests is unknown)"#
            ]],
        );
        check(
            |incident| {
                incident.cause = limit("celery", StuckKind::Stalled);
                incident.position = Position::CopyIn;
                incident.outcome = Outcome::NotPossible;
                incident.idle = Duration::from_secs(7500);
            },
            &expect![[
                r#"session 7 (user "app_rw", database "prod", application "celery\n@w1", from 10.0.3.7:51234, server pid 4711) has been stalled (copy in) for 2h 5min, past the limit of 1min in rule "celery"; nothing can be done at this point of the protocol, and the next limit stands"#
            ]],
        );
    }

    fn waiter(server_pid: i32, depth: u32, statement: Option<&str>) -> Waiter {
        Waiter {
            backend_type: Some("client backend".into()),
            user: Some("dba".into()),
            statement: statement.map(Into::into),
            relation: Some("public.t".into()),
            mode: Some("AccessExclusiveLock".into()),
            waiting: Some(Duration::from_millis(4200)),
            depth,
            ..Waiter::new(server_pid, &[4711])
        }
    }

    fn lock(mode: &str, relation: &str) -> Lock {
        Lock {
            locktype: "relation".into(),
            relation: Some(relation.into()),
            mode: mode.into(),
            granted: true,
            fastpath: false,
        }
    }

    /// The part of the sentence that tells of the damage.
    fn check_damage(locks: Vec<Lock>, blocked: Vec<Waiter>, expected: &Expect) {
        let damage = Damage {
            at: tokio::time::Instant::now().into_std(),
            locks,
            blocked: Some(blocked),
            xmin_age: None,
            awaits_standby: None,
        };
        expected.assert_eq(&holds(&damage));
    }

    #[test]
    fn says_what_it_holds_and_who_waits() {
        let alter = Some("alter table\n t ADD secret int");
        check_damage(Vec::new(), Vec::new(), &expect!["it holds no locks; "]);
        check_damage(
            vec![lock("AccessShareLock", "public.\"a\nb\"")],
            Vec::new(),
            &expect![[r#"it holds AccessShareLock on public.\"a\nb\"; "#]],
        );
        check_damage(
            vec![
                lock("RowExclusiveLock", "public.u"),
                lock("AccessShareLock", "public.t"),
            ],
            vec![waiter(8, 1, alter)],
            &expect![[
                r#"it holds AccessShareLock on public.t and 1 other lock, ALTER TABLE by "dba" (server pid 8) has waited for it for 4.2s; "#
            ]],
        );
        let behind = (9..46).map(|pid| waiter(pid, 2, None));
        check_damage(
            vec![lock("AccessShareLock", "public.t"); 4],
            std::iter::once(waiter(8, 1, None)).chain(behind).collect(),
            &expect![[
                r#"it holds AccessShareLock on public.t and 3 other locks, a statement by "dba" (server pid 8) has waited for it for 4.2s, and 37 more wait with or behind it; "#
            ]],
        );
    }
}
