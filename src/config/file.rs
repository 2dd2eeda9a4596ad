//! From the text of a configuration file to settings.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Flags, audit, console,
    error::{Fault, line_at},
    http, listen, log, observer, rule,
    section::{Section, Table, duration, positive},
    tls, upstream,
};
use crate::policy::{Rule, Target};

/// Reads settings, the rules of the file with the built-in one before them, and what to warn of. What the flags say
/// counts where rules need it.
pub(super) fn read(text: &str, flags: &Flags) -> Result<(Config, Vec<Rule>, Vec<Fault>), Fault> {
    let document = DeTable::parse(text).map_err(|error| Fault {
        span: error.span().unwrap_or_default(),
        key: None,
        problem: error.message().to_owned(),
    })?;
    let root = Section::new(&ROOT, document.get_ref(), document.span())?;
    let mut config = Config::default();
    root.set("startup_timeout", &mut config.startup_timeout, duration)?;
    root.set("drain_timeout", &mut config.drain_timeout, duration)?;
    root.set("release_timeout", &mut config.release_timeout, positive)?;
    if let Some(section) = root.section("listen", &listen::TABLE)? {
        config.listen.read(&section)?;
    }
    if let Some(section) = root.section("upstream", &upstream::TABLE)? {
        config.upstream.read(&section)?;
    }
    if let Some(section) = root.section("tls", &tls::TABLE)? {
        config.tls.read(&section)?;
    }
    if let Some(section) = root.section("console", &console::TABLE)? {
        config.console.read(&section)?;
    }
    if let Some(section) = root.section("http", &http::TABLE)? {
        config.http.read(&section)?;
    }
    if let Some(section) = root.section("audit", &audit::TABLE)? {
        config.audit.read(&section)?;
    }
    if let Some(section) = root.section("observer", &observer::TABLE)? {
        config.observer.read(&section)?;
    }
    if let Some(section) = root.section("log", &log::TABLE)? {
        config.log.read(&section)?;
    }
    refuse_unasked(&root, &config, flags)?;
    let (rules, warnings) = rule::read(&root, &config, flags)?;
    Ok((config, rules, warnings))
}

/// Refuses to choose among several addresses without a role that asks each server what it is.
fn refuse_unasked(root: &Section<'_>, config: &Config, flags: &Flags) -> Result<(), Fault> {
    let upstream = &config.upstream;
    let addresses = match flags.upstream.len() {
        0 => upstream.addresses.len(),
        given => given,
    };
    let asks = config.observer.dsn.is_some() || flags.observer_dsn.is_some();
    if addresses > 1
        && upstream.target != Target::Any
        && !asks
        && let Some(section) = root.section("upstream", &upstream::TABLE)?
    {
        return Err(section.fault_at("target_session_attrs", UNASKED.to_owned()));
    }
    Ok(())
}

/// The line of a key with its sections in a file that was read before; of several, that whose value the problem names.
pub(super) fn line_of(text: &str, key: &str, problem: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let (sections, key) = key.rsplit_once('.')?;
    let mut tables = vec![document.get_ref()];
    for section in sections.split('.') {
        let found = tables.into_iter().filter_map(|table| table.get(section));
        tables = found.flat_map(|value| tables_of(value.get_ref())).collect();
    }
    let values: Vec<_> = tables.iter().filter_map(|table| table.get(key)).collect();
    let is_named = |value: &&&Spanned<DeValue<'_>>| {
        let text = value.get_ref().as_str();
        text.is_some_and(|text| problem.contains(text))
    };
    let value = values.iter().find(is_named).or_else(|| values.first())?;
    Some(line_at(text, value.span().start))
}

fn tables_of<'a>(value: &'a DeValue<'a>) -> Vec<&'a DeTable<'a>> {
    let items = value.as_array().into_iter().flatten();
    let of_items = items.filter_map(|item| item.get_ref().as_table());
    value.as_table().into_iter().chain(of_items).collect()
}

pub(super) const ROOT: Table = Table {
    name: "",
    keys: &[
        "startup_timeout",
        "drain_timeout",
        "release_timeout",
        "builtin_exemptions",
        "listen",
        "upstream",
        "tls",
        "console",
        "http",
        "audit",
        "observer",
        "log",
        "rule",
    ],
};

/// What pgidle needs to know a server before a client has authenticated with it.
const UNASKED: &str = "choosing among several addresses needs a role to ask each server what it is: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN";

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use expect_test::{Expect, expect};

    use super::{
        super::{
            SAMPLE, parse_dsn,
            rule::CHOSEN_NAME,
            schema::{tables, whole_sample},
        },
        *,
    };
    use crate::policy::{Action, ClientNet, Pattern, StuckKind, builtin_rules};

    fn refused(text: &str, expected: &Expect) {
        let fault = read(text, &Flags::default()).map(drop).unwrap_err();
        expected.assert_eq(&fault.in_file(Path::new("f"), text).to_string());
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let (config, rules, _) = read(SAMPLE, &Flags::default()).unwrap();
        let default = Config::default();
        assert_eq!(config, default);
        assert_eq!(rules, default.rules.as_slice());
    }

    #[test]
    fn the_sample_shows_every_key_and_each_is_accepted() {
        let text = whole_sample();
        let (_, rules, _) = read(&text, &Flags::default()).unwrap();
        assert_eq!(rules.len(), builtin_rules().len() + 1);

        let document = DeTable::parse(&text).unwrap();
        let mut shown = Vec::new();
        collect_keys("", document.get_ref(), &mut shown);
        for Table { name, keys } in tables() {
            for key in keys {
                let elsewhere = matches!(
                    name,
                    "rule.failed" | "rule.stalled" | "rule.age" | "rule.blocking"
                ) && *key != "implicit";
                let path = format!("{name}.{key}");
                let is_shown = shown.iter().any(|s| s == path.trim_start_matches('.'));
                assert!(
                    is_shown || elsewhere,
                    "{path} is missing from config/pgidle.toml"
                );
            }
        }
    }

    fn collect_keys(path: &str, table: &DeTable<'_>, keys: &mut Vec<String>) {
        for (key, value) in table {
            let path = format!("{path}.{}", key.get_ref())
                .trim_start_matches('.')
                .to_owned();
            let items = value.get_ref().as_array().into_iter().flatten();
            for item in items.chain([value]) {
                if let DeValue::Table(table) = item.get_ref() {
                    collect_keys(&path, table, keys);
                }
            }
            keys.push(path);
        }
    }

    #[test]
    fn a_rule_as_documented() {
        let text = r#"
            builtin_exemptions = false
            [[rule]]
            name = "celery"
            match = { application_name = "celery*", database = "prod", user = "app_*", client = "10.0.0.0/8" }
            idle = { log = "5s", rollback = "60s", terminate = "10min" }
            failed = { log = "1min", rollback = 0 }
            age = { log = "5min", rollback = "15min", implicit = true }
            [[rule]]
            name = "local"
            match = { client = "unix" }
            exempt = true
            [[rule]]
            name = "host"
            match = { client = "10.0.0.1" }
            exempt = true
        "#;
        let (_, rules, _) = read(text, &Flags::default()).unwrap();
        let [celery, local, host] = <[Rule; 3]>::try_from(rules).unwrap();
        assert_eq!(
            celery.matching.application_name,
            Some(Pattern::new("celery*"))
        );
        let seconds = Duration::from_secs;
        assert_eq!(
            celery.limits.ladder(StuckKind::Idle).rungs(),
            [
                (seconds(5), Action::Log),
                (seconds(60), Action::Rollback),
                (seconds(600), Action::Terminate),
            ]
        );
        assert_eq!(
            celery.limits.ladder(StuckKind::Failed).rungs(),
            [(seconds(60), Action::Log)]
        );
        assert!(celery.limits.ladder(StuckKind::Stalled).is_empty());
        assert!(celery.limits.age_implicit);
        assert_eq!(&*celery.limits.rule, "celery");
        assert_eq!(local.matching.client, Some(ClientNet::Unix));
        assert_eq!(
            host.matching.client,
            Some(ClientNet::Tcp("10.0.0.1/32".parse().unwrap()))
        );
    }

    #[test]
    fn what_is_wrong_with_a_setting_is_said_with_line_key_and_expectation() {
        refused(
            "drain_timeout = \"30s\"\ndrian = 1",
            &expect![
                "f:2: drian: unknown key; expected one of startup_timeout, drain_timeout, release_timeout, builtin_exemptions, listen, upstream, tls, console, http, audit, observer, log, rule"
            ],
        );
        refused(
            "[lisen]\n",
            &expect!["f:1: lisen: unknown key; did you mean `listen`?"],
        );
        refused(
            "[listen]\nadresses = []",
            &expect!["f:2: listen.adresses: unknown key; did you mean `addresses`?"],
        );
        refused(
            "[listen]\naddresses = []",
            &expect![[
                r#"f:2: listen.addresses: expected an array of one or more addresses, such as ["127.0.0.1:6432"]"#
            ]],
        );
        refused(
            "[listen]\naddresses = [\"6432\"]",
            &expect![
                "f:2: listen.addresses: `6432` is not an address: expected HOST:PORT, [IPV6]:PORT or unix:/absolute/path"
            ],
        );
        refused(
            "[listen]\nworkers = -1",
            &expect!["f:2: listen.workers: expected a whole number that is not negative, found -1"],
        );
        refused(
            "[listen]\nworkers = \"two\"",
            &expect!["f:2: listen.workers: expected a whole number, found a string"],
        );
        refused(
            "listen = 1",
            &expect!["f:1: listen: expected a table, found a whole number"],
        );
        refused(
            "[upstream]\npooler = \"pgbouncer\"",
            &expect![[r#"f:2: upstream.pooler: expected "none", "session" or "transaction""#]],
        );
        refused(
            "[upstream]\nconnect_timeout = 30",
            &expect![
                "f:2: upstream.connect_timeout: `30` is not a duration: the unit is missing; expected one of us, ms, s, min, h, d"
            ],
        );
        refused(
            "[http]\naddress = \"unix:/run/s\"",
            &expect!["f:2: http.address: expected HOST:PORT or [IPV6]:PORT, and no Unix socket"],
        );
        refused(
            "[audit]\nfile = \"\"",
            &expect!["f:2: audit.file: expected a string that is not empty"],
        );
        refused(
            "[log]\nformat = true",
            &expect!["f:2: log.format: expected a string, found true or false"],
        );
    }

    #[test]
    fn what_is_no_toml_is_said_with_its_line() {
        refused(
            "[log]\nformat = \"text\"\nformat = \"json\"",
            &expect!["f:3: duplicate key"],
        );
        refused("[log\n", &expect!["f:1: unclosed table, expected `]`"]);
        refused("a\nb = 2", &expect!["f:1: key with no value, expected `=`"]);
    }

    #[test]
    fn what_is_wrong_with_a_target_is_said_with_line_key_and_expectation() {
        refused(
            "[upstream]\ntarget_session_attrs = \"master\"",
            &expect![
                "f:2: upstream.target_session_attrs: expected one of any, read-write, read-only, primary, standby, prefer-standby"
            ],
        );
        refused(
            "[upstream]\naddress = [\"a:1\", \"b:1\"]\ntarget_session_attrs = \"primary\"",
            &expect![
                "f:3: upstream.target_session_attrs: choosing among several addresses needs a role to ask each server what it is: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN"
            ],
        );
    }

    #[test]
    fn what_is_wrong_with_tls_is_said_with_line_key_and_expectation() {
        refused(
            "[upstream]\nsslmode = \"verify\"",
            &expect![[
                r#"f:2: upstream.sslmode: expected "disable", "allow", "prefer", "require", "verify-ca" or "verify-full""#
            ]],
        );
        refused(
            "[upstream]\nsslmode = \"verify-ca\"",
            &expect![
                "f:1: upstream.sslrootcert: missing; expected the path of a PEM file with the authority of the server's certificate"
            ],
        );
        refused(
            "[upstream]\nsslnegotiation = \"direct\"",
            &expect![[
                r#"f:2: upstream.sslnegotiation: "direct" cannot fall back: expected sslmode "require" or stronger"#
            ]],
        );
        refused(
            "[tls]\nsslmode = \"require\"\ncert = \"c\"",
            &expect![[
                r#"f:1: tls.key: missing; expected the path of a PEM file, unless sslmode is "disable""#
            ]],
        );
    }

    /// Of a rule whose other keys begin in line 4.
    fn refused_rule(keys: &str, expected: &Expect) {
        refused(&format!("\n[[rule]]\nname = \"x\"\n{keys}"), expected);
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said_with_line_key_and_expectation() {
        refused(
            "[rule]\nname = \"x\"",
            &expect!["f:1: rule: expected an array of tables, each headed [[rule]], found a table"],
        );
        refused(
            "\n[[rule]]\nidle = { log = \"1s\" }",
            &expect!["f:2: rule.name: missing; every rule has a name, which its incidents carry"],
        );
        refused(
            "\n[[rule]]\nblocking = { log = \"1s\" }",
            &expect![
                "f:3: rule.blocking: needs an observer, who sees who waits for whom: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN"
            ],
        );
        refused(
            "\n[[rule]]\nmatch = { client = \"x\" }",
            &expect![
                "f:3: rule.match.client: `x` is not a network: expected CIDR such as 10.0.0.0/8, an address, or unix"
            ],
        );
        refused(
            "[[rule]]\nname = \"default\"\nexempt = true",
            &expect![[
                r#"f:2: rule.name: another rule has the name "default" too; expected one of its own"#
            ]],
        );
        refused_rule(
            "exempt = true\nmatch = { user = \"a\" }\n[[rule]]\nname = \"x\"\nexempt = true",
            &expect![[
                r#"f:7: rule.name: another rule has the name "x" too; expected one of its own"#
            ]],
        );
    }

    #[test]
    fn what_is_wrong_inside_a_rule_is_said_with_line_key_and_expectation() {
        refused_rule(
            "idle = { log = \"5 parsecs\" }",
            &expect![
                "f:4: rule.idle.log: `5 parsecs` is not a duration: unknown unit `parsecs`; expected one of us, ms, s, min, h, d"
            ],
        );
        refused_rule(
            "idle = { log = \"1min\", rollback = \"5s\" }",
            &expect![
                "f:4: rule.idle: `rollback` at 5s comes before `log` at 1min; expected times that do not shrink from log to terminate"
            ],
        );
        let long = format!("match = {{ user = \"{}*\" }}", "u".repeat(64));
        refused_rule(
            &long,
            &expect!["f:4: rule.match.user: it never matches: of a name the server keeps 63 bytes"],
        );
        refused_rule(
            "age = { release = \"5s\" }",
            &expect!["f:4: rule.age.release: only `idle` and `blocking` can release a transaction"],
        );
        refused_rule(
            "idle = { implicit = true }",
            &expect![
                "f:4: rule.idle.implicit: unknown key; expected one of log, notice, release, rollback, terminate"
            ],
        );
        refused_rule(
            "match = { client = \"10.0.0.0/33\" }",
            &expect![
                "f:4: rule.match.client: `10.0.0.0/33` is not a network: expected CIDR such as 10.0.0.0/8, an address, or unix"
            ],
        );
        refused_rule(
            "[rule.match]\nuser = 7",
            &expect!["f:5: rule.match.user: expected a string, found a whole number"],
        );
    }

    #[test]
    fn a_name_that_a_client_chooses_is_warned_of_where_limits_act() {
        let warned = |text: &str, flags: &Flags| -> Vec<String> {
            let (_, _, warnings) = read(text, flags).unwrap();
            let shown = |fault: Fault| fault.in_file(Path::new("f"), text).to_string();
            warnings.into_iter().map(shown).collect()
        };
        let named = "[[rule]]\nname = \"a\"\nmatch = { application_name = \"a*\" }\nidle = { log = \"1s\" }\n";
        let acting = "[[rule]]\nname = \"b\"\nidle = { rollback = \"1s\" }\n";
        let lines = |text: &str| {
            let warnings = warned(text, &Flags::default());
            assert!(
                warnings.iter().all(|w| w.ends_with(CHOSEN_NAME)),
                "{warnings:?}"
            );
            warnings
                .iter()
                .map(|w| w.split(" a ").next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let expected = ["f:3: rule.match.application_name:"];
        assert_eq!(lines(named), [""; 0]);
        assert_eq!(lines(&format!("{named}{acting}")), expected);
        assert_eq!(lines(&named.replace("log", "rollback")), expected);
        let some = acting.replace("idle", "match = { user = \"u\" }\nidle");
        assert_eq!(lines(&format!("{some}{named}")), [""; 0]);
        let with_role = "[[rule]]\nname = \"c\"\nmatch = { application_name = \"pg_dump\", user = \"backup\" }\nexempt = true\n";
        assert_eq!(lines(&format!("{with_role}{acting}")), [""; 0]);
        let flags = Flags {
            idle_limit: Some(crate::config::IdleLimit {
                limit: Duration::from_secs(1),
                action: Action::Rollback,
            }),
            ..Flags::default()
        };
        assert_eq!(warned(named, &flags).len(), 1);
        refused_rule(
            "match = { application_name = \"pg_dump\" }\nexempt = true",
            &expect![
                "f:4: rule.match.application_name: a client chooses its application_name: expected a `user` too, for an exempt rule"
            ],
        );
    }

    #[test]
    fn what_is_wrong_with_an_observer_is_said_with_line_key_and_expectation() {
        refused_rule(
            "blocking = { log = \"0s\" }",
            &expect![
                "f:4: rule.blocking: needs an observer, who sees who waits for whom: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN"
            ],
        );
        refused(
            "[observer]\ndsn = \"host=h\"\n[upstream]\npooler = \"session\"\n\n[[rule]]\nname = \"x\"\nblocking = { log = \"0s\" }",
            &expect![[
                r#"f:8: rule.blocking: needs the server's process ids, which a pooler hides: expected upstream.pooler = "none""#
            ]],
        );
        refused_rule(
            "blocking_mode = \"AccessExclusive\"",
            &expect![
                "f:4: rule.blocking_mode: `AccessExclusive` is not a lock mode: expected a name as in pg_locks, such as AccessExclusiveLock"
            ],
        );
        refused(
            "[observer]\ndsn = \"user=u password=secret prot=1\"",
            &expect![["f:2: observer.dsn: unknown option; did you mean `port`?"]],
        );
        refused(
            "[observer]\ndsn = \"user=u password=secret\"",
            &expect!["f:2: observer.dsn: the connection string names no host"],
        );
        refused(
            "[observer]\ndsn = \"host=h sslmode=verify-ca\"",
            &expect![
                "f:2: observer.dsn: sslrootcert: missing; expected the path of a PEM file with the authority of the server's certificate"
            ],
        );
        refused(
            "[observer]\ninterval = 0",
            &expect!["f:2: observer.interval: expected a duration longer than 0"],
        );
    }

    #[test]
    fn blocking_may_act_at_once_where_there_is_an_observer() {
        let rule =
            "[[rule]]\nname = \"x\"\nblocking = { log = \"0s\", notice = 0, rollback = \"3s\" }";
        let flags = Flags {
            observer_dsn: Some(parse_dsn("host=h").unwrap()),
            ..Flags::default()
        };
        let in_file = format!("[observer]\ndsn = \"host=h\"\n{rule}");
        for (text, flags) in [(rule, flags), (in_file.as_str(), Flags::default())] {
            let (_, rules, _) = read(text, &flags).unwrap();
            let rungs = rules
                .last()
                .unwrap()
                .limits
                .ladder(StuckKind::Blocking)
                .rungs();
            assert_eq!(
                rungs,
                [
                    (Duration::ZERO, Action::Log),
                    (Duration::from_secs(3), Action::Rollback)
                ]
            );
        }
    }
}
