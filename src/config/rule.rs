//! Reads `[[rule]]`, and refuses rules that cannot be kept with the rest of the settings.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    Config, FLAGS_RULE, Flags, Pooler, RELEASE_BEHIND_A_POOLER,
    error::Fault,
    section::{Section, Table, boolean, duration, name, parsed, positive, text},
};
use crate::{
    policy::{
        Action, ClientNet, DEFAULT_RULE, Ladder, Limits, Match, Pattern, Rule, StuckKind,
        builtin_rules, observing_limits,
    },
    wire::MAX_NAME,
};

pub(super) const TABLE: Table = Table {
    name: "rule",
    keys: &[
        "name",
        "match",
        "exempt",
        "idle",
        "failed",
        "stalled",
        "age",
        "blocking",
        "blocking_mode",
        "release_timeout",
    ],
};

pub(super) const MATCH: Table = Table {
    name: "rule.match",
    keys: &[
        "application_name",
        "database",
        "user",
        "client",
        "replication",
    ],
};

/// The kinds, each with the table of its limits.
pub(super) const KINDS: [(StuckKind, Table); 5] = [
    (StuckKind::Idle, rungs("rule.idle")),
    (StuckKind::Failed, rungs("rule.failed")),
    (StuckKind::Stalled, rungs("rule.stalled")),
    (
        StuckKind::Age,
        Table {
            name: "rule.age",
            keys: &[
                "log",
                "notice",
                "release",
                "rollback",
                "terminate",
                "implicit",
            ],
        },
    ),
    (StuckKind::Blocking, rungs("rule.blocking")),
];

const fn rungs(name: &'static str) -> Table {
    Table {
        name,
        keys: &["log", "notice", "release", "rollback", "terminate"],
    }
}

/// Reads the rules of the file with the built-in one before them, and what to warn of.
pub(super) fn read(
    root: &Section<'_>,
    config: &Config,
    flags: &Flags,
) -> Result<(Vec<Rule>, Vec<Fault>), Fault> {
    let mut rules = match root.get("builtin_exemptions", boolean)? {
        Some(false) => Vec::new(),
        Some(true) | None => builtin_rules(),
    };
    let mut names: HashSet<Arc<str>> = builtin_rules().into_iter().map(|rule| rule.name).collect();
    names.extend([DEFAULT_RULE.into(), FLAGS_RULE.into()]);
    // Where rules go by application_name, with the number of the rule.
    let mut by_name = Vec::new();
    for section in root.sections("rule", &TABLE)? {
        let rule = rule(&section, config.release_timeout)?;
        refuse_limits(&rule, &section, config, flags)?;
        if let Some(first) = rules.iter().find(|first: &&Rule| first.covers(&rule)) {
            return Err(section.fault(section.span.clone(), "match", unreachable(first)));
        }
        if let Some(conditions) = section.section("match", &MATCH)?
            && rule.matching.application_name.is_some()
        {
            if !rule.limits.is_exempt() {
                by_name.push((rules.len(), conditions));
            } else if rule.matching.user.is_none() {
                return Err(conditions.fault_at("application_name", EXEMPT_BY_NAME.to_owned()));
            }
        }
        if rule.name.is_empty() {
            return Err(section.fault_at("name", NAMELESS.to_owned()));
        }
        if !names.insert(Arc::clone(&rule.name)) {
            let problem = format!(
                "another rule has the name {:?} too; expected one of its own",
                rule.name
            );
            return Err(section.fault_at("name", problem));
        }
        rules.push(rule);
    }
    let flags_act = flags.idle_limit.is_some_and(|limit| limit.action.acts());
    let can_be_left = |number: usize| {
        let from_here = rules.get(number..).unwrap_or_default();
        flags_act || from_here.iter().any(|rule| rule.limits.acts())
    };
    let warnings = by_name
        .into_iter()
        .filter(|&(number, _)| can_be_left(number))
        .map(|(_, conditions)| conditions.fault_at("application_name", CHOSEN_NAME.to_owned()))
        .collect();
    Ok((rules, warnings))
}

/// Refuses limits that cannot be kept with the rest of the settings.
fn refuse_limits(
    rule: &Rule,
    section: &Section<'_>,
    config: &Config,
    flags: &Flags,
) -> Result<(), Fault> {
    if !rule.limits.ladder(StuckKind::Blocking).is_empty() {
        require_observer(config, flags).map_err(|problem| section.fault_at("blocking", problem))?;
    }
    for kind in [StuckKind::Idle, StuckKind::Blocking] {
        if config.upstream.pooler == Pooler::Transaction
            && rule.limits.ladder(kind).has(Action::Release)
        {
            return Err(section.fault_at(kind.name(), RELEASE_BEHIND_A_POOLER.to_owned()));
        }
    }
    Ok(())
}

/// Says what is missing to know who waits for whom.
fn require_observer(config: &Config, flags: &Flags) -> Result<(), String> {
    if config.observer.dsn.is_none() && flags.observer_dsn.is_none() {
        return Err(
            "needs an observer, who sees who waits for whom: set `dsn` in [observer], or PGIDLE_OBSERVER_DSN"
                .to_owned(),
        );
    }
    if config.upstream.pooler != Pooler::None {
        return Err(
            "needs the server's process ids, which a pooler hides: expected upstream.pooler = \"none\"".to_owned(),
        );
    }
    Ok(())
}

/// Reads a rule; one without a name has an empty one.
fn rule(section: &Section<'_>, release_timeout: Duration) -> Result<Rule, Fault> {
    // That it is missing is said last, so that it hides no other mistake.
    let name = section.get("name", |value| name(value).map(Arc::<str>::from))?;
    let name = name.unwrap_or_default();
    let mut limits = Limits {
        rule: Arc::clone(&name),
        release_timeout,
        ..Limits::default()
    };
    let matching = section.section("match", &MATCH)?;
    let matching = matching.map_or_else(|| Ok(Match::default()), |section| conditions(&section))?;
    let mut unsaid = Vec::new();
    for (kind, table) in KINDS {
        let Some(rungs) = section.section(kind.name(), &table)? else {
            unsaid.push(kind);
            continue;
        };
        limits.ladders[kind] = ladder(kind, &rungs, section)?;
        if kind == StuckKind::Age {
            rungs.set("implicit", &mut limits.age_implicit, boolean)?;
        }
    }
    limits.blocking_mode = section.get("blocking_mode", parsed)?;
    section.set("release_timeout", &mut limits.release_timeout, positive)?;
    let exempt = section.get("exempt", boolean)?.unwrap_or_default();
    if exempt != limits.is_exempt() {
        let problem = if exempt { EXEMPT_WITH_LIMITS } else { NO_LIMIT };
        return Err(section.fault_at("exempt", problem.to_owned()));
    }
    if matching.is_catch_all() && !exempt {
        keep_logging(&mut limits, &unsaid);
    }
    Ok(Rule {
        name,
        matching,
        limits: Arc::new(limits),
    })
}

/// Has a rule for every session, after which the rule `default` holds for none, log what that would log.
pub(super) fn keep_logging(limits: &mut Limits, unsaid: &[StuckKind]) {
    let observing = observing_limits();
    for &kind in unsaid {
        limits.ladders[kind].clone_from(observing.ladder(kind));
    }
}

/// Why a rule is refused that this one comes before.
pub(super) fn unreachable(first: &Rule) -> String {
    format!(
        "it can never match: rule {:?} comes first and takes every session that it is for",
        first.name
    )
}

/// The time of a rung. 0 is off, but "0s" in `blocking` is at once: another session waits already.
fn limit(kind: StuckKind, value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    match duration(value)? {
        None if value.as_str().is_none() => Ok(None),
        None if kind == StuckKind::Blocking => Ok(Some(Duration::ZERO)),
        None => Err(AT_ONCE.to_owned()),
        limit => Ok(limit),
    }
}

fn ladder(kind: StuckKind, rungs: &Section<'_>, rule: &Section<'_>) -> Result<Ladder, Fault> {
    let mut ladder = Vec::new();
    for action in Action::ALL {
        if let Some(at) = rungs
            .get(action.name(), |value| limit(kind, value))?
            .flatten()
        {
            if action == Action::Release && !matches!(kind, StuckKind::Idle | StuckKind::Blocking) {
                let problem = "only `idle` and `blocking` can release a transaction".to_owned();
                return Err(rungs.fault_at(action.name(), problem));
            }
            ladder.push((action, at));
        }
    }
    Ladder::new(ladder).map_err(|error| {
        let problem = format!("{error}; expected times that do not shrink from log to terminate");
        rule.fault_at(kind.name(), problem)
    })
}

fn conditions(section: &Section<'_>) -> Result<Match, Fault> {
    Ok(Match {
        application_name: section.get("application_name", pattern)?,
        database: section.get("database", of_name)?,
        user: section.get("user", of_name)?,
        client: section.get("client", client)?,
        replication: section.get("replication", boolean)?,
    })
}

/// A pattern. What negates or begins a regular expression elsewhere is refused at its front: as a part of a name it would
/// match nothing that was meant.
fn pattern(value: &DeValue<'_>) -> Result<Pattern, String> {
    let text = text(value)?;
    let meant = match text.chars().next() {
        Some('!') => {
            "`!` does not negate: put a rule for the sessions that are not meant before this one"
        }
        Some('/') => "`/` does not begin a regular expression",
        _ => return Ok(Pattern::new(text)),
    };
    Err(format!(
        "{meant}; * stands for any characters and ? for one, also for a first character that is {}",
        &text[..1]
    ))
}

/// A pattern for a role or a database.
fn of_name(value: &DeValue<'_>) -> Result<Pattern, String> {
    let found = pattern(value)?;
    let text = text(value)?;
    if text.bytes().filter(|&byte| byte != b'*').count() > MAX_NAME {
        return Err(format!(
            "it never matches: of a name the server keeps {MAX_NAME} bytes"
        ));
    }
    Ok(found)
}

/// A block of addresses, one address, or `unix`.
fn client(value: &DeValue<'_>) -> Result<ClientNet, String> {
    let text = text(value)?;
    if text == "unix" {
        return Ok(ClientNet::Unix);
    }
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(ClientNet::Tcp).map_err(|_| {
        format!("`{text}` is not a network: expected CIDR such as 10.0.0.0/8, an address, or unix")
    })
}

/// Why a rung of no time is refused where it would not be at once.
const AT_ONCE: &str = "a limit of no time would act at once; expected a longer one, or the number 0 (without quotes) to switch it off";

const NO_LIMIT: &str =
    "the rule has no limit: expected one, such as idle = { log = \"10s\" }, or exempt = true";

const EXEMPT_WITH_LIMITS: &str =
    "an exempt rule has no limits: expected either exempt = true or limits";

/// Why no name alone exempts.
const EXEMPT_BY_NAME: &str =
    "a client chooses its application_name: expected a `user` too, for an exempt rule";

/// What a client can do about a rule for a name.
pub(super) const CHOSEN_NAME: &str = "a client chooses its application_name, and with it whether this rule or one after it holds; where a limit must hold, match on user, database or client";

const NAMELESS: &str = "missing; every rule has a name, which its incidents carry";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::{Expect, expect};

    use super::{
        super::{file, parse_dsn},
        *,
    };

    fn rules(text: &str) -> Result<Vec<Rule>, String> {
        let flags = Flags {
            observer_dsn: parse_dsn("host=h").ok(),
            ..Flags::default()
        };
        let read = file::read(text, &flags);
        read.map(|(_, rules, _)| rules)
            .map_err(|fault| fault.in_file(Path::new("f"), text).to_string())
    }

    fn refused(text: &str, expected: &Expect) {
        expected.assert_eq(&rules(text).unwrap_err());
    }

    const EVERYONE: &str = "[[rule]]\nname = 'everyone'\nidle = { log = '1s' }\n";

    #[test]
    fn a_rule_that_can_never_match_is_refused() {
        let second = |matching: &str| {
            format!("{EVERYONE}[[rule]]\nname = 'b'\n{matching}\nidle = {{ log = '2s' }}")
        };
        refused(
            &second("match = { user = 'app' }"),
            &expect![[
                r#"f:4: rule.match: it can never match: rule "everyone" comes first and takes every session that it is for"#
            ]],
        );
        refused(
            &second(""),
            &expect![[
                r#"f:4: rule.match: it can never match: rule "everyone" comes first and takes every session that it is for"#
            ]],
        );
        refused(
            "[[rule]]\nname = 'a'\nexempt = true\nmatch = { replication = true }",
            &expect![[
                r#"f:1: rule.match: it can never match: rule "builtin: replication" comes first and takes every session that it is for"#
            ]],
        );
        let narrower = EVERYONE.replace("idle", "match = { user = 'a*' }\nidle");
        assert!(rules(&(narrower + &second("")[EVERYONE.len()..])).is_ok());
    }

    #[test]
    fn a_rule_without_limits_says_that_it_exempts() {
        refused(
            "[[rule]]\nname = 'a'\nmatch = { user = 'a' }",
            &expect![[
                r#"f:1: rule.exempt: the rule has no limit: expected one, such as idle = { log = "10s" }, or exempt = true"#
            ]],
        );
        refused(
            "[[rule]]\nname = 'a'\nidle = { rollback = 0 }",
            &expect![[
                r#"f:1: rule.exempt: the rule has no limit: expected one, such as idle = { log = "10s" }, or exempt = true"#
            ]],
        );
        refused(
            &format!("{EVERYONE}exempt = true"),
            &expect![
                "f:4: rule.exempt: an exempt rule has no limits: expected either exempt = true or limits"
            ],
        );
        let exempt = rules("[[rule]]\nname = 'a'\nexempt = true").unwrap();
        assert!(exempt.last().unwrap().limits.is_exempt());
    }

    #[test]
    fn a_rung_of_no_time_is_refused_where_it_could_mean_off() {
        for zero in ["'0s'", "'0'", "'0min'"] {
            let text = EVERYONE.replace("'1s'", zero);
            assert_eq!(
                rules(&text).unwrap_err(),
                format!("f:3: rule.idle.log: {AT_ONCE}")
            );
        }
    }

    #[test]
    fn what_is_special_elsewhere_is_refused_at_the_front_of_a_pattern() {
        let matching =
            |text: &str| EVERYONE.replace("idle", &format!("match = {{ {text} }}\nidle"));
        refused(
            &matching("user = '!app'"),
            &expect![
                "f:3: rule.match.user: `!` does not negate: put a rule for the sessions that are not meant before this one; * stands for any characters and ? for one, also for a first character that is !"
            ],
        );
        refused(
            &matching("application_name = '/^app'"),
            &expect![
                "f:3: rule.match.application_name: `/` does not begin a regular expression; * stands for any characters and ? for one, also for a first character that is /"
            ],
        );
        assert!(rules(&matching("application_name = 'a/b!'")).is_ok());
    }

    #[test]
    fn a_rule_for_every_session_logs_what_it_does_not_mention() {
        let limits = |text: &str| Arc::clone(&rules(text).unwrap().last().unwrap().limits);
        let observing = observing_limits();
        for text in [
            EVERYONE.to_owned(),
            format!("{EVERYONE}match = {{ user = '*' }}"),
        ] {
            let limits = limits(&text);
            assert_eq!(limits.ladder(StuckKind::Idle).rungs().len(), 1);
            for kind in [StuckKind::Failed, StuckKind::Stalled, StuckKind::Age] {
                assert_eq!(limits.ladder(kind), observing.ladder(kind));
            }
        }
        let said = limits(&format!("{EVERYONE}age = {{}}\nfailed = {{ log = 0 }}"));
        assert!(said.ladder(StuckKind::Age).is_empty());
        assert!(said.ladder(StuckKind::Failed).is_empty());
        let some = limits(&format!("{EVERYONE}match = {{ user = 'a' }}"));
        assert!(some.ladder(StuckKind::Age).is_empty());
    }
}
