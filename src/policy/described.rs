//! A session that nobody has opened yet, described in words, and what the rules would say of it.

use std::{net::IpAddr, str::FromStr};

use super::{Identity, Limits, Rules, StuckKind, format_duration};

/// A session as `pgidle check --session` takes it: `user=app,database=shop,application_name=celery,client=10.1.2.3`.
///
/// A comma in a value is written `\,` and a backslash `\\`. What is not said is as in libpq: the database is called as
/// the user is, and there is no application name; the client is at 127.0.0.1, and does not ask for replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// The application name, from the start of the session to its end.
    pub application_name: String,
    /// The client's address; `None` for a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether it is a replication connection.
    pub replication: bool,
}

/// What can be said of a session.
const KEYS: &str = "user, database, application_name, client, replication";

impl FromStr for Described {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [
            mut user,
            mut database,
            mut application_name,
            mut client,
            mut replication,
        ] = [const { None::<String> }; 5];
        for (key, value) in pairs(text)? {
            let place = match key.as_str() {
                "user" => &mut user,
                "database" => &mut database,
                "application_name" => &mut application_name,
                "client" => &mut client,
                "replication" => &mut replication,
                _ => return Err(format!("unknown key `{key}`; expected one of {KEYS}")),
            };
            if place.replace(value).is_some() {
                return Err(format!("`{key}` is said twice"));
            }
        }
        let user = user.filter(|user| !user.is_empty());
        let user = user.ok_or("expected user=NAME: every session has a role")?;
        let client = match client.as_deref() {
            None => Some(IpAddr::from([127, 0, 0, 1])),
            Some("unix") => None,
            Some(address) => Some(address.parse().map_err(|_| {
                format!("client: `{address}` is not an address: expected an IP address, or unix")
            })?),
        };
        let replication = match replication.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("replication: expected true or false".to_owned()),
        };
        Ok(Self {
            database: database.unwrap_or_else(|| user.clone()),
            user,
            application_name: application_name.unwrap_or_default(),
            client,
            replication,
        })
    }
}

/// Keys and values, divided by commas that no backslash stands before.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = parts.last_mut();
        match c {
            ',' => parts.push(String::new()),
            '\\' => {
                let next = chars.next().filter(|next| [',', '\\'].contains(next));
                let next = next.ok_or("expected `,` or `\\` after `\\`")?;
                last.into_iter().for_each(|part| part.push(next));
            }
            c => last.into_iter().for_each(|part| part.push(c)),
        }
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err(format!("`{part}`: expected KEY=VALUE, of {KEYS}")),
    };
    parts.into_iter().map(pair).collect()
}

impl Described {
    /// What the rules decide by.
    pub fn identity(&self) -> Identity<'_> {
        Identity {
            user: &self.user,
            database: &self.database,
            application_name: &self.application_name,
            first_name: &self.application_name,
            client: self.client,
            replication: self.replication,
        }
    }

    /// Says in lines which rule it would come under, and what that allows.
    pub fn explain(&self, rules: &Rules) -> String {
        let default = rules.default_rule();
        let tried = rules.as_slice().iter().chain([&default]);
        let identity = self.identity();
        let mut said = format!("session: {self}\n");
        let decided = tried.zip(1..).find(|(rule, _)| rule.matches(&identity));
        let Some((rule, number)) = decided else {
            return said;
        };
        said += &format!("rule {number}, {:?}: {}\n", &*rule.name, rule.matching);
        said + &limits(&rule.limits)
    }
}

/// The ladders, a line each.
fn limits(limits: &Limits) -> String {
    if limits.is_exempt() {
        return "  exempt: it is left alone\n".to_owned();
    }
    let mut said = String::new();
    for kind in StuckKind::ALL {
        let ladder = limits.ladder(kind);
        let rungs = match ladder.is_empty() {
            true => "no limit".to_owned(),
            false => ladder.to_string(),
        };
        let also = match (kind, limits.blocking_mode) {
            _ if ladder.is_empty() => String::new(),
            (StuckKind::Age, _) if limits.age_implicit => {
                " (of transactions without BEGIN too)".to_owned()
            }
            (StuckKind::Blocking, Some(mode)) => format!(" (for waiters for {})", mode.name()),
            (
                StuckKind::Idle
                | StuckKind::Failed
                | StuckKind::Stalled
                | StuckKind::Age
                | StuckKind::Blocking,
                _,
            ) => String::new(),
        };
        said += &format!("  {kind:<9} {rungs}{also}\n");
    }
    let releases = StuckKind::ALL
        .iter()
        .any(|&kind| limits.ladder(kind).has(super::Action::Release));
    if releases {
        let timeout = format_duration(limits.release_timeout);
        said += &format!("  release_timeout {timeout}\n");
    }
    said
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let client = self
            .client
            .map_or_else(|| "unix".to_owned(), |client| client.to_string());
        write!(
            f,
            "user={}, database={}, application_name={}, client={client}, replication={}",
            self.user, self.database, self.application_name, self.replication
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use expect_test::expect;

    use super::*;
    use crate::policy::{Action, ClientNet, Ladder, LockMode, Match, Pattern, Rule, builtin_rules};

    fn rules() -> Rules {
        let mut limits = Limits {
            rule: "celery".into(),
            age_implicit: true,
            blocking_mode: Some(LockMode::AccessExclusive),
            ..Limits::default()
        };
        let rungs = |rungs: &[(Action, u64)]| {
            Ladder::new(rungs.iter().map(|&(a, s)| (a, Duration::from_secs(s)))).unwrap()
        };
        limits.ladders[StuckKind::Idle] = rungs(&[(Action::Log, 5), (Action::Release, 60)]);
        limits.ladders[StuckKind::Age] = rungs(&[(Action::Rollback, 900)]);
        limits.ladders[StuckKind::Blocking] = rungs(&[(Action::Log, 0)]);
        let mut rules = builtin_rules();
        rules.push(Rule {
            name: "celery".into(),
            matching: Match {
                application_name: Some(Pattern::new("celery*")),
                user: Some(Pattern::new("app_?")),
                client: Some(ClientNet::Tcp("10.0.0.0/8".parse().unwrap())),
                ..Match::default()
            },
            limits: Arc::new(limits),
        });
        Rules::new(rules)
    }

    fn explain(text: &str) -> String {
        text.parse::<Described>().unwrap().explain(&rules())
    }

    #[test]
    fn the_rule_that_would_match_and_its_ladders() {
        expect![[r#"
            session: user=app_1, database=app_1, application_name=celery@a, b, client=10.1.2.3, replication=false
            rule 2, "celery": application_name = "celery*", user = "app_?", client = "10.0.0.0/8"
              idle      log 5s, release 1min
              failed    no limit
              stalled   no limit
              age       rollback 15min (of transactions without BEGIN too)
              blocking  log 0 (for waiters for AccessExclusiveLock)
              release_timeout 250ms
        "#]]
        .assert_eq(&explain("user=app_1,application_name=celery@a\\, b,client=10.1.2.3"));
        expect![[r#"
            session: user=r, database=shop, application_name=, client=unix, replication=true
            rule 1, "builtin: replication": replication = true
              exempt: it is left alone
        "#]]
        .assert_eq(&explain(
            "user=r,database=shop,client=unix,replication=true",
        ));
        expect![[r#"
            session: user=other, database=other, application_name=, client=127.0.0.1, replication=false
            rule 3, "default": every session
              idle      log 10s
              failed    log 1min
              stalled   log 10s
              age       log 15min
              blocking  no limit
        "#]]
        .assert_eq(&explain("user=other"));
    }

    #[test]
    fn what_describes_no_session_is_refused() {
        for (text, expected) in [
            ("", "``: expected KEY=VALUE, of user, "),
            ("user", "`user`: expected KEY=VALUE"),
            (
                "usr=a",
                "unknown key `usr`; expected one of user, database,",
            ),
            ("user=a,user=b", "`user` is said twice"),
            ("database=a", "expected user=NAME"),
            ("user=", "expected user=NAME"),
            (
                "user=a,client=10.0.0.0/8",
                "client: `10.0.0.0/8` is not an address",
            ),
            (
                "user=a,replication=yes",
                "replication: expected true or false",
            ),
            ("user=a\\b", "expected `,` or `\\` after `\\`"),
        ] {
            let error = text.parse::<Described>().unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_comes_under_the_rule_that_decides(
            user in "app_[12]{1,2}", name in "(celery)?x?", v6 in proptest::bool::ANY, replication in proptest::bool::ANY
        ) {
            let client = if v6 { "::1" } else { "10.0.0.1" };
            let text = format!("user={user},application_name={name},client={client},replication={replication}");
            let described: Described = text.parse().unwrap();
            let decided = rules().decide(&described.identity());
            let quoted = format!(", {:?}: ", &*decided.rule);
            proptest::prop_assert!(described.explain(&rules()).contains(&quoted));
        }
    }
}
