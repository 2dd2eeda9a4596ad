//! Settings, valid by construction: a [`Config`] exists only when every key was known and every value made sense.
//!
//! They come from defaults, a TOML file and flags, the later winning over the earlier. [`Source`] remembers the last
//! two so that a reload reads them again, with the certificates that they name. Nothing here opens a socket or resolves
//! a name.

mod address;
mod dsn;
mod error;
mod file;
mod rule;
mod section;
mod tls;

use std::{fs, num::NonZeroUsize, path::PathBuf, str::FromStr, sync::Arc, thread, time::Duration};

pub use address::{Address, AddressError};
pub use dsn::{Dsn, parse_dsn};
pub use error::ConfigError;
pub use tls::{
    ALPN, Acceptor, Connector, Encryption, Negotiation, SslMode, TlsSettings, UpstreamTls,
};

use crate::policy::{
    Action, Ladder, Limits, Match, RELEASE_TIMEOUT, Rule, Rules, StuckKind, Target, builtin_rules,
};

/// Every setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[tls]`
    pub tls: TlsSettings,
    /// `[audit]`
    pub audit: AuditSettings,
    /// `[observer]`
    pub observer: ObserverSettings,
    /// `[log]`
    pub log: LogSettings,
    /// How long a client may take until it is authenticated; `None` is for ever.
    pub startup_timeout: Option<Duration>,
    /// How long a drain waits for transactions to finish; `None` is for ever.
    pub drain_timeout: Option<Duration>,
    /// How long the server may take for the question that `release` asks, by rules that do not say.
    pub release_timeout: Duration,
    /// The rules in force: the built-in exemption, those of the file, the one of the flags.
    pub rules: Rules,
    /// What makes sense, and may not be what was meant.
    pub warnings: Vec<ConfigError>,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where clients connect; at least one.
    pub addresses: Vec<Address>,
    /// Whether who comes by TCP begins with a PROXY protocol header, and is who that says.
    pub proxy_protocol: bool,
    /// Whether other processes may listen at the same addresses, to take over from each other.
    pub reuse_port: bool,
    /// How many threads serve them.
    pub workers: NonZeroUsize,
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where PostgreSQL listens, at least one address; the first that can be reached and fits is taken.
    pub addresses: Vec<Address>,
    /// What the server has to be.
    pub target: Target,
    /// How long connecting to one may take; `None` is as long as the system tries.
    pub connect_timeout: Option<Duration>,
    /// How many sessions there may be at once; `None` is as many as come.
    pub max_sessions: Option<NonZeroUsize>,
    /// What stands between pgidle and PostgreSQL.
    pub pooler: Pooler,
    /// `sslmode` and the other keys of TLS.
    pub tls: UpstreamTls,
}

/// A connection pooler behind pgidle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooler {
    /// None: the process id that a session is told is the server's.
    #[default]
    None,
    /// One that keeps a server connection for the life of a session; the process id may be the pooler's invention.
    Session,
    /// One that gives the server connection away between transactions.
    Transaction,
}

impl FromStr for Pooler {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "session" => Ok(Self::Session),
            "transaction" => Ok(Self::Transaction),
            _ => Err("expected \"none\", \"session\" or \"transaction\""),
        }
    }
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where JSON lines are appended; `None` writes none.
    pub file: Option<PathBuf>,
    /// Whether statement text keeps its literals.
    pub literals: bool,
    /// Whether each finished transaction is written.
    pub transactions: bool,
}

impl AuditSettings {
    /// Whether finished transactions go to the file.
    pub fn wants_transactions(&self) -> bool {
        self.transactions && self.file.is_some()
    }
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            file: None,
            literals: false,
            transactions: true,
        }
    }
}

/// `[observer]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserverSettings {
    /// How the observer connects; `None` looks at nothing.
    pub dsn: Option<Box<Dsn>>,
    /// The time between two looks.
    pub interval: Duration,
}

impl Default for ObserverSettings {
    fn default() -> Self {
        Self {
            dsn: None,
            interval: Duration::from_secs(1),
        }
    }
}

/// `[log]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// How lines on stderr are written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected \"text\" or \"json\""),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let tcp = |port| Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        };
        Self {
            listen: Listen {
                addresses: vec![tcp(6432)],
                proxy_protocol: false,
                reuse_port: false,
                workers: one_for_two_cpus(),
            },
            upstream: Upstream {
                addresses: vec![tcp(5432)],
                target: Target::Any,
                connect_timeout: Some(Duration::from_secs(10)),
                max_sessions: None,
                pooler: Pooler::None,
                tls: UpstreamTls::default(),
            },
            tls: TlsSettings::default(),
            audit: AuditSettings::default(),
            observer: ObserverSettings::default(),
            log: LogSettings::default(),
            startup_timeout: Some(Duration::from_secs(60)),
            drain_timeout: Some(Duration::from_secs(30)),
            release_timeout: RELEASE_TIMEOUT,
            rules: Rules::new(builtin_rules()),
            warnings: Vec::new(),
        }
    }
}

/// Settings given on the command line; they win over the file's.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Replaces `listen.addresses`, unless empty.
    pub listen: Vec<Address>,
    /// Replaces `upstream.address`, unless empty.
    pub upstream: Vec<Address>,
    /// Switches `listen.reuse_port` on.
    pub reuse_port: bool,
    /// One more rule, after all others and for every session.
    pub idle_limit: Option<IdleLimit>,
    /// Replaces `audit.file`.
    pub audit: Option<PathBuf>,
    /// Replaces `observer.dsn`.
    pub observer_dsn: Option<Box<Dsn>>,
    /// Replaces `log.format`.
    pub log_format: Option<LogFormat>,
    /// Where sessions are recorded, when they are.
    pub record: Option<PathBuf>,
}

/// A rule in two flags: for every session, this action when its client has left it stuck in a transaction for so long, be
/// it idle, failed, or stalled in the middle of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimit {
    /// The limit; not zero.
    pub limit: Duration,
    /// What is done when it is reached.
    pub action: Action,
}

/// Where settings come from, so that they can be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; without one there are only defaults and flags.
    pub path: Option<PathBuf>,
    /// The flags.
    pub flags: Flags,
}

impl Source {
    /// Reads the file as it is at this moment and puts the flags over it.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the flags does not make sense.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let (mut config, mut rules) = match &self.path {
            Some(path) => {
                let text =
                    fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
                let (mut config, rules, warnings) =
                    file::read(&text, &self.flags).map_err(|fault| fault.in_file(path, &text))?;
                let warnings = warnings.into_iter().map(|fault| fault.in_file(path, &text));
                config.warnings = warnings.collect();
                (config, rules)
            }
            None => (Config::default(), builtin_rules()),
        };
        let flags = self.flags.clone();
        if !flags.listen.is_empty() {
            config.listen.addresses = flags.listen;
        }
        config.listen.reuse_port |= flags.reuse_port;
        if !flags.upstream.is_empty() {
            config.upstream.addresses = flags.upstream;
        }
        if let Some(file) = flags.audit {
            config.audit.file = Some(file);
        }
        if let Some(dsn) = flags.observer_dsn {
            config.observer.dsn = Some(dsn);
        }
        if let Some(format) = flags.log_format {
            config.log.format = format;
        }
        if let Some(limit) = flags.idle_limit {
            if limit.action == Action::Release && config.upstream.pooler == Pooler::Transaction {
                return Err(ConfigError::in_flag(
                    "--action",
                    RELEASE_BEHIND_A_POOLER.to_owned(),
                ));
            }
            rules.push(limit.rule(config.release_timeout)?);
        }
        config.rules = Rules::new(rules);
        let refused = |section: &str, (key, problem): (&str, String)| ConfigError {
            path: self.path.clone(),
            line: None,
            key: Some(format!("{section}.{key}")),
            problem,
        };
        config.tls.load().map_err(|fault| refused("tls", fault))?;
        config
            .upstream
            .tls
            .load()
            .map_err(|fault| refused("upstream", fault))?;
        if let Some(dsn) = &mut config.observer.dsn {
            dsn.tls.load().map_err(|(key, problem)| {
                refused("observer", ("dsn", format!("{key}: {problem}")))
            })?;
        }
        Ok(config)
    }
}

impl Source {
    /// Settings whose server's address cannot be used, as was found only when it was looked for on this machine.
    pub fn wrong_upstream(&self, problem: String) -> ConfigError {
        let Some(path) = self
            .path
            .as_ref()
            .filter(|_| self.flags.upstream.is_empty())
        else {
            return ConfigError::in_flag("--upstream", problem);
        };
        let line = fs::read_to_string(path)
            .ok()
            .and_then(|text| file::line_of(&text, "upstream", "address"));
        ConfigError {
            path: Some(path.clone()),
            line,
            key: Some("upstream.address".to_owned()),
            problem,
        }
    }
}

impl IdleLimit {
    fn rule(self, release_timeout: Duration) -> Result<Rule, ConfigError> {
        let name: Arc<str> = FLAGS_RULE.into();
        let mut limits = Limits {
            rule: Arc::clone(&name),
            release_timeout,
            ..Limits::default()
        };
        for kind in [StuckKind::Idle, StuckKind::Failed, StuckKind::Stalled] {
            // Nothing but an idle transaction can be released, and a release never fails: the others are only logged.
            let releases = self.action == Action::Release && kind != StuckKind::Idle;
            let action = if releases { Action::Log } else { self.action };
            limits.ladders[kind] = Ladder::new([(action, self.limit)])
                .map_err(|error| ConfigError::in_flag("--idle-limit", error.to_string()))?;
        }
        Ok(Rule {
            name,
            matching: Match::default(),
            limits: Arc::new(limits),
        })
    }
}

/// What a pooler in transaction mode does with a server whose transaction is over.
const RELEASE_BEHIND_A_POOLER: &str = "a pooler gives the server away when a transaction is released: expected upstream.pooler = \"none\" or \"session\"";

/// A thread moves more bytes with fewer system calls the busier it is, and the server needs the other CPUs.
fn one_for_two_cpus() -> NonZeroUsize {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cpus / 2).unwrap_or(NonZeroUsize::MIN)
}

/// The name of the rule that flags make.
const FLAGS_RULE: &str = "flags";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Identity;

    fn flags() -> Flags {
        Flags {
            listen: vec!["[::1]:7000".parse().unwrap()],
            upstream: vec!["unix:/run/pg/.s.PGSQL.5432".parse().unwrap()],
            reuse_port: true,
            idle_limit: Some(IdleLimit {
                limit: Duration::from_secs(1),
                action: Action::Rollback,
            }),
            audit: Some("flags.jsonl".into()),
            observer_dsn: Some(parse_dsn("host=::1").unwrap()),
            log_format: Some(LogFormat::Json),
            record: None,
        }
    }

    #[test]
    fn flags_win_over_the_file_and_their_rule_is_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgidle.toml");
        let text = "drain_timeout = 0\n[audit]\nfile = \"file.jsonl\"\nliterals = true\n\
                    [[rule]]\nname = \"batch\"\nmatch = { user = \"batch\" }\n";
        fs::write(&path, text).unwrap();
        let source = Source {
            path: Some(path.clone()),
            flags: flags(),
        };
        let config = source.load().unwrap();
        assert_eq!(config.listen.addresses, flags().listen);
        assert_eq!(config.upstream.addresses, flags().upstream);
        assert!(config.listen.reuse_port);
        assert_eq!(config.audit.file, flags().audit);
        assert_eq!(config.log.format, LogFormat::Json);
        assert!(config.audit.literals);
        assert_eq!(config.drain_timeout, None);
        let rule = |user, application_name| {
            let identity = Identity {
                user,
                application_name,
                ..Identity::default()
            };
            config.rules.decide(&identity)
        };
        assert_eq!(&*rule("batch", "").rule, "batch");
        assert_eq!(&*rule("batch", "pg_dump").rule, "batch");
        let flags_rule = rule("other", "");
        assert_eq!(&*flags_rule.rule, "flags");
        for kind in [StuckKind::Idle, StuckKind::Failed, StuckKind::Stalled] {
            let rungs = flags_rule.ladder(kind).rungs();
            assert_eq!(rungs, [(Duration::from_secs(1), Action::Rollback)]);
        }
        assert!(flags_rule.ladder(StuckKind::Age).is_empty());

        fs::write(&path, "[audit]\nliterals = false\n").unwrap();
        assert!(
            !source.load().unwrap().audit.literals,
            "a reload reads the file anew"
        );
    }

    #[test]
    fn without_a_file_there_are_defaults_and_they_observe() {
        let config = Source::default().load().unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(&*config.rules.decide(&Identity::default()).rule, "default");
    }

    #[test]
    fn every_example_of_the_documents_is_a_valid_file() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source {
            path: Some(folder.path().join("pgidle.toml")),
            flags: Flags::default(),
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = fs::read_dir(root.join("docs")).unwrap();
        let pages = pages.map(|page| page.unwrap().path());
        let mut examples = 0;
        for page in pages.chain([root.join("README.md")]) {
            let text = fs::read_to_string(&page).unwrap();
            for example in text.split("```toml\n").skip(1) {
                let (example, _) = example.split_once("```").unwrap();
                fs::write(source.path.as_ref().unwrap(), example).unwrap();
                let read = source.load();
                assert!(read.is_ok(), "{}: {read:?}\n{example}", page.display());
                examples += 1;
            }
        }
        assert!(examples > 10, "{examples}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let source = Source {
            path: Some("/no/such/pgidle.toml".into()),
            flags: Flags::default(),
        };
        let error = source.load().unwrap_err().to_string();
        assert!(
            error.starts_with("/no/such/pgidle.toml: cannot be read: No such file"),
            "{error}"
        );
    }
}
