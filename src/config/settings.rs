//! The settings by their keys: what each is (`SHOW CONFIG`), what a reload has changed, and what it cannot change.

use std::{fmt, path::PathBuf, time::Duration};

use super::Config;
use crate::policy::{Rule, format_duration};

/// Puts a setting of the running program in the place of a new one.
type PutBack = fn(&mut Config, &Config);

/// The settings that are read at the start alone.
const NEED_A_RESTART: [(&str, PutBack); 5] = [
    ("listen.addresses", |new, running| {
        new.listen.addresses.clone_from(&running.listen.addresses);
    }),
    ("listen.reuse_port", |new, running| {
        new.listen.reuse_port = running.listen.reuse_port;
    }),
    ("listen.workers", |new, running| {
        new.listen.workers = running.listen.workers;
    }),
    ("http.address", |new, running| {
        new.http.address.clone_from(&running.http.address);
    }),
    ("log.format", |new, running| {
        new.log.format = running.log.format;
    }),
];

/// Something that a reload has found changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// A key with its section, or a rule.
    pub key: String,
    /// What it was.
    pub was: String,
    /// What it is.
    pub is: String,
}

impl Change {
    fn new(key: impl Into<String>, was: impl Into<String>, is: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            was: was.into(),
            is: is.into(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, was, is } = self;
        let or_nothing = |value: &str| match value {
            "" => "nothing".to_owned(),
            value => value.to_owned(),
        };
        match is.as_str() {
            // Not each value can be shown in a line.
            "added" | "changed" | "removed" | REORDERED => write!(f, "{key} {is}"),
            is => write!(f, "{key} from {} to {}", or_nothing(was), or_nothing(is)),
        }
    }
}

/// What a reload has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What holds from now on.
    pub changed: Vec<Change>,
    /// What the file has, and needs a restart to hold.
    pub needs_restart: Vec<Change>,
}

/// Says what differs in new settings, and puts back what is read at the start alone.
pub fn reconcile(running: &Config, new: &mut Config) -> Reloaded {
    let (needs_restart, changed) = changes(running, new)
        .into_iter()
        .partition(|change| needs_restart(&change.key));
    for (_, put_back) in NEED_A_RESTART {
        put_back(new, running);
    }
    Reloaded {
        changed,
        needs_restart,
    }
}

fn needs_restart(key: &str) -> bool {
    NEED_A_RESTART.iter().any(|&(fixed, _)| fixed == key)
}

const REORDERED: &str = "in another order";

/// `key`, `value`, `default` and `changeable` of every setting but the rules.
pub fn rows(config: &Config) -> Vec<[String; 4]> {
    let values = values(config);
    let defaults = self::values(&Config::default());
    let row = |((key, value), (_, default)): ((&str, String), (&str, String))| {
        let changeable = if needs_restart(key) { "no" } else { "yes" };
        [key.to_owned(), value, default, changeable.to_owned()]
    };
    values.into_iter().zip(defaults).map(row).collect()
}

fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let pairs = values(before).into_iter().zip(values(after));
    let mut changes: Vec<_> = pairs
        .filter(|((_, was), (_, is))| was != is)
        .map(|((key, was), (_, is))| Change::new(key, was, is))
        .collect();
    // What cannot be shown: verifiers of passwords, and a password.
    let unseen = [
        ("console.user", before.console.users != after.console.users),
        (
            "observer.dsn",
            match (&before.observer.dsn, &after.observer.dsn) {
                (Some(before), Some(after)) => !before.says_the_same_as(after),
                (_, _) => false,
            },
        ),
    ];
    let unseen = unseen.into_iter().filter(|&(_, differs)| differs);
    changes.extend(unseen.map(|(key, _)| Change::new(key, "…", "changed")));
    changes.extend(rule_changes(
        before.rules.as_slice(),
        after.rules.as_slice(),
    ));
    changes
}

fn rule_changes(before: &[Rule], after: &[Rule]) -> Vec<Change> {
    let named = |rules: &[Rule], name: &str| rules.iter().any(|rule| *rule.name == *name);
    let of =
        |rule: &Rule, was: &str, is: &str| Change::new(format!("rule {:?}", rule.name), was, is);
    let mut changes = Vec::new();
    for rule in after {
        match before.iter().find(|was| was.name == rule.name) {
            None => changes.push(of(rule, "", "added")),
            Some(was) if was != rule => changes.push(of(rule, "…", "changed")),
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|rule| !named(after, &rule.name));
    changes.extend(removed.map(|rule| of(rule, "…", "removed")));
    let kept = |rules: &[Rule], others: &[Rule]| -> Vec<_> {
        let kept = rules.iter().filter(|rule| named(others, &rule.name));
        kept.map(|rule| rule.name.clone()).collect()
    };
    if kept(before, after) != kept(after, before) {
        changes.push(Change::new("rules", "…", REORDERED));
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
    let path = |path: &Option<PathBuf>| {
        path.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
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
        (
            "upstream.sslnegotiation",
            upstream.tls.negotiation.name().to_owned(),
        ),
        ("upstream.sslrootcert", path(&upstream.tls.root_cert)),
        ("upstream.sslcert", path(&upstream.tls.cert)),
        ("upstream.sslkey", path(&upstream.tls.key)),
        ("tls.sslmode", tls.sslmode.name().to_owned()),
        ("tls.cert", path(&tls.cert)),
        ("tls.key", path(&tls.key)),
        ("tls.ca", path(&tls.ca)),
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

/// Things in a line of the log or a table.
pub fn list(things: &[impl ToString]) -> String {
    let things: Vec<_> = things.iter().map(ToString::to_string).collect();
    things.join(", ")
}

fn duration(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "0".to_owned(), format_duration)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Source, audit, console, file, http, listen, log, observer, tls, upstream},
        *,
    };

    #[test]
    fn every_key_has_a_value() {
        let known: Vec<_> = values(&Config::default())
            .into_iter()
            .map(|(key, _)| key.to_owned())
            .collect();
        let mut expected: Vec<_> = file::ROOT.keys.iter().map(|&key| key.to_owned()).collect();
        for table in [
            listen::TABLE,
            upstream::TABLE,
            tls::TABLE,
            console::TABLE,
            http::TABLE,
            audit::TABLE,
            observer::TABLE,
            log::TABLE,
        ] {
            expected.retain(|key| key != table.name);
            let keys = table.keys.iter();
            expected.extend(keys.map(|key| format!("{}.{key}", table.name)));
        }
        // What users and rules are, and that the built-in rule is one of them, is compared in another way.
        expected.retain(|key| !["console.user", "rule", "builtin_exemptions"].contains(&&**key));
        for key in &expected {
            assert!(known.contains(key), "{key}");
        }
        assert_eq!(known.len(), expected.len(), "{known:?}");
        assert!(
            NEED_A_RESTART
                .iter()
                .all(|(key, _)| known.iter().any(|known| known == key))
        );
    }

    fn read(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgidle.toml");
        std::fs::write(&path, text).unwrap();
        let source = Source {
            path: Some(path),
            ..Source::default()
        };
        source.load().unwrap()
    }

    fn said(changes: &[Change]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_reload_says_what_has_changed_and_keeps_what_needs_a_restart() {
        let running = read(
            "drain_timeout = '30s'\n[observer]\ndsn = 'host=a password=one'\n\
             [[rule]]\nname = 'a'\nmatch = { user = 'a' }\nexempt = true\n\
             [[rule]]\nname = 'b'\nmatch = { user = 'b' }\nexempt = true\n\
             [[rule]]\nname = 'c'\nidle = { log = '1s' }",
        );
        assert_eq!(
            reconcile(&running, &mut running.clone()),
            Reloaded::default()
        );
        let mut new = read(
            "drain_timeout = 0\n[listen]\nworkers = 7\n[log]\nformat = 'json'\n[http]\naddress = '127.0.0.1:1'\n\
             [audit]\nliterals = true\n[observer]\ndsn = 'host=a password=two'\n\
             [[rule]]\nname = 'b'\nmatch = { user = 'b' }\nexempt = true\n\
             [[rule]]\nname = 'a'\nmatch = { user = 'a*' }\nexempt = true\n\
             [[rule]]\nname = 'd'\nidle = { log = '1s' }",
        );
        let reloaded = reconcile(&running, &mut new);
        assert_eq!(
            said(&reloaded.changed),
            [
                "drain_timeout from 30s to 0",
                "audit.literals from false to true",
                "observer.dsn changed",
                "rule \"a\" changed",
                "rule \"d\" added",
                "rule \"c\" removed",
                "rules in another order",
            ]
        );
        let workers = running.listen.workers;
        assert_eq!(
            said(&reloaded.needs_restart),
            [
                &format!("listen.workers from {workers} to 7"),
                "http.address from nothing to 127.0.0.1:1",
                "log.format from text to json",
            ]
        );
        assert_eq!(new.listen, running.listen);
        assert_eq!((new.http, new.log), (running.http, running.log));
        assert_eq!(new.drain_timeout, None);
    }

    /// With TLS the certificates are read anew each time, which is no change of a setting.
    #[test]
    fn the_same_connection_string_is_no_change() {
        let text = "[observer]\ndsn = 'host=a sslmode=require'";
        let (running, mut new) = (read(text), read(text));
        assert_eq!(reconcile(&running, &mut new), Reloaded::default());
    }
}
