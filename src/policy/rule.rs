//! For which sessions which limits hold: the first rule that matches decides, as in `pg_hba.conf`.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{Action, Ladder, Limits, StuckKind};

/// What a rule can match on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// The role asked for at startup, as the server calls it.
    pub user: &'a str,
    /// The database asked for at startup, as the server calls it.
    pub database: &'a str,
    /// The application name as the server last reported it.
    pub application_name: &'a str,
    /// The application name as it was at the start of the session.
    pub first_name: &'a str,
    /// The client's address; `None` for a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether the startup packet asks for a replication connection.
    pub replication: bool,
}

/// The rules in force, in order, and what holds where none of them matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    default: Arc<Limits>,
}

impl Rules {
    /// Rules that are tried in this order; where none matches, the rule `default` observes.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            default: Arc::new(observing_limits()),
        }
    }

    /// The limits of the first rule that matches.
    pub fn decide(&self, identity: &Identity<'_>) -> Arc<Limits> {
        let decided = self.rules.iter().find(|rule| rule.matches(identity));
        Arc::clone(decided.map_or(&self.default, |rule| &rule.limits))
    }

    /// What holds where no rule matches.
    pub fn default_rule(&self) -> Rule {
        Rule {
            name: DEFAULT_RULE.into(),
            matching: Match::default(),
            limits: Arc::clone(&self.default),
        }
    }

    /// The rules in the order in which they are tried, without the default.
    pub fn as_slice(&self) -> &[Rule] {
        &self.rules
    }
}

/// Rules with their limits, in the order in which they are tried, and first of all whether none of them does anything.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.rules.iter().any(|rule| rule.limits.acts()) {
            f.write_str("observing only; ")?;
        }
        // After a rule for every session nothing else is reached.
        let all = self.rules.iter().any(|rule| rule.matching.is_catch_all());
        let default = (!all).then(|| self.default_rule().to_string());
        let rules = self.rules.iter().map(ToString::to_string).chain(default);
        f.write_str(&rules.collect::<Vec<_>>().join("; "))
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Limits, and the sessions that they hold for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name that incidents and metrics give it.
    pub name: Arc<str>,
    /// For which sessions it holds.
    pub matching: Match,
    /// What it allows them.
    pub limits: Arc<Limits>,
}

impl Rule {
    /// Whether it holds for a session. To be exempt by its name, a session must have had it from the start.
    pub fn matches(&self, identity: &Identity<'_>) -> bool {
        let application_name = match self.limits.is_exempt() {
            true => identity.first_name,
            false => identity.application_name,
        };
        self.matching.matches(&Identity {
            application_name,
            ..*identity
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let mut separator = ": ";
        for kind in StuckKind::ALL {
            let ladder = self.limits.ladder(kind);
            if !ladder.is_empty() {
                write!(f, "{separator}{kind} {ladder}")?;
                separator = ", ";
            }
        }
        if self.limits.is_exempt() {
            f.write_str(": exempt")?;
        }
        Ok(())
    }
}

impl Rule {
    /// Whether no session that `other` would match gets as far as a rule that comes after this one. It may say no where
    /// it is so.
    pub fn covers(&self, other: &Self) -> bool {
        // An exempt rule asks for the name at the start, and the others for the present one.
        let same_name = self.limits.is_exempt() == other.limits.is_exempt();
        self.matching.covers(&other.matching, same_name)
    }
}

/// Conditions that must all hold; what is `None` is not asked, so that the default matches every session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The application name.
    pub application_name: Option<Pattern>,
    /// The database.
    pub database: Option<Pattern>,
    /// The role.
    pub user: Option<Pattern>,
    /// Where the client connects from.
    pub client: Option<ClientNet>,
    /// Whether it is a replication connection.
    pub replication: Option<bool>,
}

impl Match {
    /// Whether every condition holds.
    pub fn matches(&self, identity: &Identity<'_>) -> bool {
        let fits =
            |pattern: &Option<Pattern>, text| pattern.as_ref().is_none_or(|p| p.matches(text));
        fits(&self.application_name, identity.application_name)
            && fits(&self.database, identity.database)
            && fits(&self.user, identity.user)
            && self.client.is_none_or(|net| net.contains(identity.client))
            && self
                .replication
                .is_none_or(|wanted| wanted == identity.replication)
    }
}

impl Match {
    /// Whether every session fits.
    pub fn is_catch_all(&self) -> bool {
        self.covers(&Self::default(), true)
    }

    fn covers(&self, other: &Self, same_name: bool) -> bool {
        let wider = |one: &Option<Pattern>, other: &Option<Pattern>| match (one, other) {
            (None, _) => true,
            (Some(one), Some(other)) => one.covers(other),
            (Some(one), None) => one.is_any(),
        };
        let name = match same_name {
            true => wider(&self.application_name, &other.application_name),
            false => self.application_name.as_ref().is_none_or(Pattern::is_any),
        };
        name && wider(&self.database, &other.database)
            && wider(&self.user, &other.user)
            && self
                .client
                .is_none_or(|net| other.client.is_some_and(|other| net.covers(other)))
            && self
                .replication
                .is_none_or(|wanted| other.replication == Some(wanted))
    }
}

/// The conditions as the file has them.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key, value: String| format!("{key} = {value:?}");
        let pattern = |key, pattern: &Option<Pattern>| {
            pattern
                .as_ref()
                .map(|pattern| text(key, pattern.to_string()))
        };
        let client = self.client.map(|client| text("client", client.to_string()));
        let conditions = [
            pattern("application_name", &self.application_name),
            pattern("database", &self.database),
            pattern("user", &self.user),
            client,
            self.replication
                .map(|wanted| format!("replication = {wanted}")),
        ];
        let conditions: Vec<_> = conditions.into_iter().flatten().collect();
        match conditions.is_empty() {
            true => f.write_str("every session"),
            false => f.write_str(&conditions.join(", ")),
        }
    }
}

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientNet {
    /// A Unix socket.
    Unix,
    /// A TCP address in this block.
    Tcp(IpNet),
}

impl ClientNet {
    /// Whether a client at this address (`None` for a Unix socket) belongs here. An IPv4 address that a dual-stack
    /// listener shows as `::ffff:a.b.c.d` is the IPv4 address.
    pub fn contains(self, client: Option<IpAddr>) -> bool {
        match (self, client) {
            (Self::Unix, None) => true,
            (Self::Tcp(net), Some(address)) => net.contains(&address.to_canonical()),
            (Self::Unix, Some(_)) | (Self::Tcp(_), None) => false,
        }
    }
}

impl ClientNet {
    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unix, Self::Unix) => true,
            (Self::Tcp(net), Self::Tcp(other)) => net.contains(&other),
            (Self::Unix, Self::Tcp(_)) | (Self::Tcp(_), Self::Unix) => false,
        }
    }
}

/// A shell-like pattern over a whole name: `*` stands for any characters, `?` for one; case matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Every text is a pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// Whether every text fits.
    fn is_any(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether every text fits that fits `other`; it may say no where it is so.
    fn covers(&self, other: &Self) -> bool {
        // Without `?` only a `*` of this pattern takes a wildcard of the other, and with it whatever that stands for.
        self == other || (!self.0.contains('?') && self.matches(&other.0))
    }

    /// Whether the whole of `text` fits. Takes at most the product of both lengths in steps, whatever the pattern.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        // Where to go on after a mismatch: behind the last `*`, which then swallows one more character.
        let mut retry = None;
        loop {
            let (before_pattern, before_rest) = (pattern.clone(), rest.clone());
            match (pattern.next(), rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    rest = before_rest.clone();
                    retry = Some((before_pattern, before_rest));
                }
                (Some('?'), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                (_, _) => {
                    let Some((star, mut swallowed)) = retry.take() else {
                        return false;
                    };
                    if swallowed.next().is_none() {
                        return false;
                    }
                    rest = swallowed.clone();
                    pattern = star.clone();
                    pattern.next();
                    retry = Some((star, swallowed));
                }
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Tcp(net) => net.fmt(f),
        }
    }
}

/// The exemption that stands before all other rules unless it is switched off: replication connections. A role must have
/// the right to make one; what a client calls itself exempts no session.
pub fn builtin_rules() -> Vec<Rule> {
    let name: Arc<str> = "builtin: replication".into();
    let limits = Arc::new(Limits {
        rule: Arc::clone(&name),
        ..Limits::default()
    });
    let matching = Match {
        replication: Some(true),
        ..Match::default()
    };
    vec![Rule {
        name,
        matching,
        limits,
    }]
}

/// What holds where no rule matches: limits are logged and no session is touched.
pub fn observing_limits() -> Limits {
    let log_after = |seconds| {
        Ladder::new([(Action::Log, Duration::from_secs(seconds))])
            .expect("a single rung is always in order")
    };
    let mut limits = Limits {
        rule: DEFAULT_RULE.into(),
        ..Limits::default()
    };
    for (kind, seconds) in [
        (StuckKind::Idle, 10),
        (StuckKind::Failed, 60),
        (StuckKind::Stalled, 10),
        (StuckKind::Age, 15 * 60),
    ] {
        limits.ladders[kind] = log_after(seconds);
    }
    limits
}

/// The name of the rule that holds where none matches.
pub const DEFAULT_RULE: &str = "default";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(name: &str, matching: Match) -> Rule {
        let limits = Arc::new(Limits {
            rule: name.into(),
            ..Limits::default()
        });
        Rule {
            name: name.into(),
            matching,
            limits,
        }
    }

    fn client(text: &str) -> Option<ClientNet> {
        Some(ClientNet::Tcp(text.parse().unwrap()))
    }

    #[test]
    fn the_first_match_decides_and_the_default_observes() {
        let celery = Match {
            application_name: Some(Pattern::new("celery*")),
            database: Some(Pattern::new("prod")),
            ..Match::default()
        };
        let app = Match {
            user: Some(Pattern::new("app_?")),
            ..Match::default()
        };
        let rules = Rules::new(vec![rule("celery", celery), rule("app", app)]);
        let mut identity = Identity {
            user: "app_1",
            database: "prod",
            application_name: "celery@w1",
            first_name: "celery@w1",
            ..Identity::default()
        };
        assert_eq!(&*rules.decide(&identity).rule, "celery");
        identity.database = "staging";
        assert_eq!(&*rules.decide(&identity).rule, "app");
        identity.user = "app_12";
        let default = rules.decide(&identity);
        assert_eq!(&*default.rule, DEFAULT_RULE);
        let idle = default.ladder(StuckKind::Idle).rungs();
        assert_eq!(idle, [(Duration::from_secs(10), Action::Log)]);
        let mut actions = StuckKind::ALL
            .iter()
            .flat_map(|&k| default.ladder(k).rungs());
        assert!(actions.all(|&(_, action)| action == Action::Log));
    }

    #[test]
    fn a_network_never_matches_a_unix_socket_and_unix_nothing_else() {
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let ten = client("10.0.0.0/8").unwrap();
        assert!(ten.contains(address("10.1.2.3")));
        assert!(ten.contains(address("::ffff:10.1.2.3")));
        assert!(!ten.contains(address("11.1.2.3")));
        assert!(!ten.contains(None));
        assert!(!client("0.0.0.0/0").unwrap().contains(None));
        assert!(client("::/0").unwrap().contains(address("fe80::1")));
        assert!(ClientNet::Unix.contains(None));
        assert!(!ClientNet::Unix.contains(address("127.0.0.1")));
    }

    #[test]
    fn only_replication_is_exempt_by_itself() {
        let rules = Rules::new(builtin_rules());
        for (first_name, replication, expected) in [
            ("walreceiver", true, "builtin: replication"),
            ("pg_dump", false, "default"),
        ] {
            let limits = rules.decide(&Identity {
                application_name: first_name,
                first_name,
                replication,
                ..Identity::default()
            });
            assert_eq!(&*limits.rule, expected);
            assert_eq!(limits.is_exempt(), replication);
        }
    }

    #[test]
    fn a_name_exempts_only_who_has_had_it_from_the_start() {
        let rule = |name: &str, limits| Rule {
            name: name.into(),
            matching: Match {
                application_name: Some(Pattern::new(name)),
                ..Match::default()
            },
            limits,
        };
        let limits = |name: &str| Limits {
            rule: name.into(),
            ..observing_limits()
        };
        let rules = Rules::new(vec![
            rule("pg_dump", Arc::new(Limits::default())),
            rule("batch", Arc::new(limits("batch"))),
        ]);
        let exempt = |application_name, first_name| {
            let identity = Identity {
                application_name,
                first_name,
                ..Identity::default()
            };
            rules.decide(&identity).is_exempt()
        };
        assert!(exempt("pg_dump", "pg_dump"));
        assert!(exempt("anything", "pg_dump"));
        assert!(!exempt("pg_dump", "anything"));
        let batch = rules.decide(&Identity {
            application_name: "batch",
            ..Identity::default()
        });
        assert_eq!(&*batch.rule, "batch", "other rules go by the present name");
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*", "a", true),
            ("*a*b", "xxaxxbxb", true),
            ("*a*b", "xxaxxbx", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("App", "app", false),
            ("[a]", "a", false),
            ("**?", "", false),
        ] {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_rule_covers_what_it_leaves_no_session_of() {
        let named = |pattern: &str| Match {
            application_name: Some(Pattern::new(pattern)),
            ..Match::default()
        };
        let from = |text: &str| Match {
            client: client(text),
            ..Match::default()
        };
        let unix = Match {
            client: Some(ClientNet::Unix),
            ..Match::default()
        };
        let replication = Match {
            replication: Some(true),
            ..Match::default()
        };
        for (first, second, expected) in [
            (Match::default(), named("a"), true),
            (named("*"), from("::/0"), true),
            (named("a*"), named("ab?"), true),
            (named("a*c"), named("a*bc"), true),
            (named("a?"), named("a?"), true),
            (named("a?"), named("a*"), false),
            (named("a*"), named("*"), false),
            (named("a*"), Match::default(), false),
            (from("10.0.0.0/8"), from("10.1.0.0/16"), true),
            (from("10.1.0.0/16"), from("10.0.0.0/8"), false),
            (from("0.0.0.0/0"), unix.clone(), false),
            (unix.clone(), unix, true),
            (replication.clone(), replication.clone(), true),
            (replication, Match::default(), false),
        ] {
            let said = format!("{first:?} {second:?}");
            let covers = rule("first", first).covers(&rule("second", second));
            assert_eq!(covers, expected, "{said}");
        }
        // Exempt is who has had the name from the start; who takes it later comes to the second rule.
        let mut second = rule("second", named("a"));
        second.limits = Arc::new(observing_limits());
        assert!(!rule("first", named("a*")).covers(&second));
        assert!(rule("first", named("*")).covers(&second));
    }

    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..]))
            }
            (['?', p @ ..], [_, t @ ..]) => naive(p, t),
            ([a, p @ ..], [b, t @ ..]) => a == b && naive(p, t),
            ([], _) | (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn what_a_pattern_covers_fits_it(
            wide in "[ab*?]{0,4}", narrow in "[ab*?]{0,4}", text in "[ab*?]{0,5}"
        ) {
            let (wide, narrow) = (Pattern::new(&wide), Pattern::new(&narrow));
            prop_assert!(!wide.covers(&narrow) || !narrow.matches(&text) || wide.matches(&text));
        }

        #[test]
        fn a_pattern_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[abé]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                Pattern::new(&pattern).matches(&text),
                naive(&chars(&pattern), &chars(&text))
            );
        }
    }
}
