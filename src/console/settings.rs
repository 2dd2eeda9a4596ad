//! The settings as `SHOW CONFIG` has them, and what a reload has changed.

use std::time::Duration;

use crate::{config::Config, policy::format_duration};

/// Settings that are read at the start alone.
const NEED_A_RESTART: [&str; 5] = [
    "listen.addresses",
    "listen.reuse_port",
    "listen.workers",
    "http.address",
    "log.format",
];

/// `key`, `value`, `default` and `changeable` of every setting but the rules.
pub(super) fn rows(config: &Config) -> Vec<[String; 4]> {
    let values = values(config);
    let defaults = self::values(&Config::default());
    let row = |((key, value), (_, default)): ((&str, String), (&str, String))| {
        let changeable = if NEED_A_RESTART.contains(&key) {
            "no"
        } else {
            "yes"
        };
        [key.to_owned(), value, default, changeable.to_owned()]
    };
    values.into_iter().zip(defaults).map(row).collect()
}

/// What differs: a key or a rule, what it was, and what it is.
pub(super) fn changes(before: &Config, after: &Config) -> Vec<[String; 3]> {
    let (old, new) = (values(before), values(after));
    let pairs = old.into_iter().zip(new);
    let mut changes: Vec<_> = pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((key, old), (_, new))| [key.to_owned(), old, new])
        .collect();
    if before.console.users != after.console.users {
        changes.push([
            "console.user".to_owned(),
            "…".to_owned(),
            "changed".to_owned(),
        ]);
    }
    let (old, new) = (before.rules.as_slice(), after.rules.as_slice());
    for rule in new {
        let change = match old.iter().find(|old| old.name == rule.name) {
            None => ("", "added"),
            Some(old) if old != rule => ("…", "changed"),
            Some(_) => continue,
        };
        changes.push([
            format!("rule {:?}", rule.name),
            change.0.to_owned(),
            change.1.to_owned(),
        ]);
    }
    for rule in old
        .iter()
        .filter(|old| new.iter().all(|new| new.name != old.name))
    {
        changes.push([
            format!("rule {:?}", rule.name),
            "…".to_owned(),
            "removed".to_owned(),
        ]);
    }
    let names = |rules: &[crate::policy::Rule]| {
        rules
            .iter()
            .map(|rule| rule.name.clone())
            .collect::<Vec<_>>()
    };
    let (mut sorted_old, mut sorted_new) = (names(old), names(new));
    let order_changed = sorted_old != sorted_new;
    sorted_old.sort();
    sorted_new.sort();
    if order_changed && sorted_old == sorted_new {
        changes.push([
            "rules".to_owned(),
            "…".to_owned(),
            "in another order".to_owned(),
        ]);
    }
    changes
}

#[expect(clippy::too_many_lines, reason = "one line for each setting")]
fn values(config: &Config) -> Vec<(&'static str, String)> {
    let Config {
        listen,
        upstream,
        tls,
        console,
        http,
        audit,
        observer,
        log,
        startup_timeout,
        drain_timeout,
        release_timeout,
        rules: _,
        warnings: _,
    } = config;
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    let list = |addresses: &[crate::config::Address]| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        addresses.join(", ")
    };
    vec![
        ("startup_timeout", duration(*startup_timeout)),
        ("drain_timeout", duration(*drain_timeout)),
        ("release_timeout", format_duration(*release_timeout)),
        ("listen.addresses", list(&listen.addresses)),
        ("listen.proxy_protocol", listen.proxy_protocol.to_string()),
        ("listen.reuse_port", listen.reuse_port.to_string()),
        ("listen.workers", listen.workers.to_string()),
        ("upstream.address", list(&upstream.addresses)),
        (
            "upstream.target_session_attrs",
            upstream.target.name().to_owned(),
        ),
        (
            "upstream.connect_timeout",
            duration(upstream.connect_timeout),
        ),
        (
            "upstream.max_sessions",
            upstream
                .max_sessions
                .map_or_else(|| "0".to_owned(), |max| max.to_string()),
        ),
        ("upstream.pooler", upstream.pooler.name().to_owned()),
        ("upstream.sslmode", upstream.tls.sslmode.name().to_owned()),
        ("tls.sslmode", tls.sslmode.name().to_owned()),
        (
            "console.database",
            console.database.clone().unwrap_or_default(),
        ),
        (
            "http.address",
            http.address
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        ),
        ("audit.file", path(&audit.file)),
        ("audit.literals", audit.literals.to_string()),
        ("audit.transactions", audit.transactions.to_string()),
        // The name of the role is no secret, and the password is.
        (
            "observer.dsn",
            if observer.dsn.is_some() { "set" } else { "" }.to_owned(),
        ),
        ("observer.interval", format_duration(observer.interval)),
        ("log.format", log.format.name().to_owned()),
    ]
}

fn duration(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "0".to_owned(), format_duration)
}
