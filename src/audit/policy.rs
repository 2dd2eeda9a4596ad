//! The rules in force, as the audit's lines about pgidle itself have them, and the hash by which two policies are compared.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::policy::{Match, Rule, Rules, StuckKind, format_duration};

/// Every rule, in the order in which they are tried; the last one is the rule `default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy(pub Vec<RuleLine>);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct RuleLine {
    pub name: Arc<str>,
    pub r#match: MatchLine,
    pub exempt: bool,
    /// By kind and action.
    pub limits: BTreeMap<String, BTreeMap<String, String>>,
    pub age_implicit: bool,
    pub blocking_mode: Option<String>,
    pub release_timeout: String,
}

/// Which sessions a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/audit.md says what each field means")]
pub struct MatchLine {
    pub application_name: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub client: Option<String>,
    pub replication: Option<bool>,
}

impl Policy {
    /// The rules as the configuration file would have them.
    pub fn new(rules: &Rules) -> Self {
        let default = rules.default_rule();
        let rules = rules.as_slice().iter().chain([&default]);
        Self(rules.map(RuleLine::new).collect())
    }

    /// SHA-256 of its text in the audit file, in hexadecimal digits.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).expect("names are strings");
        Sha256::digest(&text)
            .iter()
            .fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a String takes every text");
                hex
            })
    }
}

impl RuleLine {
    fn new(rule: &Rule) -> Self {
        let limits = &rule.limits;
        let ladder = |kind: StuckKind| {
            let rungs = limits.ladder(kind).rungs().iter();
            let rungs = rungs.map(|&(at, action)| (action.name().to_owned(), format_duration(at)));
            (kind.name().to_owned(), rungs.collect::<BTreeMap<_, _>>())
        };
        let ladders = StuckKind::ALL.into_iter().map(ladder);
        Self {
            name: Arc::clone(&rule.name),
            r#match: MatchLine::new(&rule.matching),
            exempt: limits.is_exempt(),
            limits: ladders.filter(|(_, rungs)| !rungs.is_empty()).collect(),
            age_implicit: limits.age_implicit,
            blocking_mode: limits.blocking_mode.map(|mode| mode.to_string()),
            release_timeout: format_duration(limits.release_timeout),
        }
    }
}

impl MatchLine {
    fn new(matching: &Match) -> Self {
        let Match {
            application_name,
            database,
            user,
            client,
            replication,
        } = matching;
        Self {
            application_name: application_name.as_ref().map(ToString::to_string),
            database: database.as_ref().map(ToString::to_string),
            user: user.as_ref().map(ToString::to_string),
            client: client.map(|client| client.to_string()),
            replication: *replication,
        }
    }
}
