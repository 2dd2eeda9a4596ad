//! Settings, valid by construction: a [`Config`] exists only when every key was known and every value made sense.
//!
//! They come from defaults, a TOML file and flags, the later winning over the earlier. [`Source`] remembers the last
//! two so that a reload reads them again, with the certificates that they name. Nothing here opens a socket or resolves
//! a name.
//!
//! Each section of the file has a module with its settings, their defaults, its keys and its reader.

mod address;
mod audit;
mod console;
mod dsn;
mod error;
mod file;
mod http;
mod listen;
mod log;
mod observer;
mod reference;
mod rule;
#[cfg(test)]
mod schema;
mod section;
mod settings;
mod tls;
mod upstream;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

pub use address::{Address, AddressError};
pub use audit::AuditSettings;
pub use console::{ConsoleSettings, ConsoleUser, Role, Secret};
pub use dsn::{Dsn, parse_dsn};
pub use error::ConfigError;
pub use http::{HttpSettings, http_address};
pub use listen::Listen;
pub use log::{LogFormat, LogSettings};
pub use observer::ObserverSettings;
pub use reference::{Part, SAMPLE, reference};
pub use settings::{Change, Reloaded, list, reconcile, rows};
pub use tls::{
    ALPN, Acceptor, Connector, Encryption, Negotiation, SslMode, TlsSettings, UpstreamTls,
};
pub use upstream::{Pooler, Upstream};

use crate::policy::{
    Action, Ladder, Limits, Match, RELEASE_TIMEOUT, Rule, Rules, StuckKind, builtin_rules,
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
    /// `[console]`
    pub console: ConsoleSettings,
    /// `[http]`
    pub http: HttpSettings,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            upstream: Upstream::default(),
            tls: TlsSettings::default(),
            console: ConsoleSettings::default(),
            http: HttpSettings::default(),
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
    /// Replaces `http.address`.
    pub http: Option<Address>,
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
        if let Some(address) = flags.http {
            config.http.address = Some(address);
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
            rules.push(limit.rule_after(&rules, &config)?);
        }
        config.rules = Rules::new(rules);
        let refused = |section: &str, (key, problem): (&str, String)| {
            self.wrong(None, &format!("{section}.{key}"), problem)
        };
        config.tls.load().map_err(|fault| refused("tls", fault))?;
        let console = &mut config.console;
        console.load().map_err(|fault| refused("console", fault))?;
        let upstream = &mut config.upstream.tls;
        upstream
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
        let flag = Some("--upstream").filter(|_| !self.flags.upstream.is_empty());
        self.wrong(flag, "upstream.address", problem)
    }

    /// Settings whose audit file cannot be made, as was found only when its folder was looked for on this machine.
    pub fn wrong_audit(&self, problem: String) -> ConfigError {
        let flag = Some("--audit").filter(|_| self.flags.audit.is_some());
        self.wrong(flag, "audit.file", problem)
    }

    /// What is wrong with a setting, by the flag that said it or else by the file.
    fn wrong(&self, flag: Option<&str>, key: &str, problem: String) -> ConfigError {
        if let Some(flag) = flag {
            return ConfigError::in_flag(flag, problem);
        }
        let text = self.path.as_ref().map(fs::read_to_string);
        let line = text
            .and_then(Result::ok)
            .and_then(|text| file::line_of(&text, key, &problem));
        ConfigError {
            path: self.path.clone(),
            line,
            key: Some(key.to_owned()),
            problem,
        }
    }
}

impl IdleLimit {
    /// Its rule, as the last one of these settings.
    fn rule_after(self, rules: &[Rule], config: &Config) -> Result<Rule, ConfigError> {
        if self.action == Action::Release && config.upstream.pooler == Pooler::Transaction {
            return Err(ConfigError::in_flag(
                "--action",
                RELEASE_BEHIND_A_POOLER.to_owned(),
            ));
        }
        if let Some(first) = rules.iter().find(|rule| rule.matching.is_catch_all()) {
            let problem = rule::unreachable(first);
            return Err(ConfigError::in_flag("--idle-limit", problem));
        }
        self.rule(config.release_timeout)
    }

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
        rule::keep_logging(&mut limits, &[StuckKind::Age]);
        Ok(Rule {
            name,
            matching: Match::default(),
            limits: Arc::new(limits),
        })
    }
}

/// What a pooler in transaction mode does with a server whose transaction is over.
const RELEASE_BEHIND_A_POOLER: &str = "a pooler gives the server away when a transaction is released: expected upstream.pooler = \"none\" or \"session\"";

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
            http: Some("[::1]:9187".parse().unwrap()),
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
                    [[rule]]\nname = \"batch\"\nmatch = { user = \"batch\" }\nexempt = true\n";
        fs::write(&path, text).unwrap();
        let source = Source {
            path: Some(path.clone()),
            flags: flags(),
        };
        let config = source.load().unwrap();
        assert_eq!(config.listen.addresses, flags().listen);
        assert_eq!(config.upstream.addresses, flags().upstream);
        assert!(config.listen.reuse_port);
        assert_eq!(config.http.address, flags().http);
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
        let age = flags_rule.ladder(StuckKind::Age).rungs();
        assert_eq!(age, [(Duration::from_secs(15 * 60), Action::Log)]);

        fs::write(&path, "[[rule]]\nname = 'all'\nexempt = true\n").unwrap();
        let error = source.load().unwrap_err().to_string();
        let expected = "--idle-limit: it can never match: rule \"all\" comes first";
        assert!(error.starts_with(expected), "{error}");

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
        let password = folder.path().join("ops.password");
        fs::write(&password, "secret\n").unwrap();
        for (page, example) in schema::examples() {
            let example = example.replace("ops.password", password.to_str().unwrap());
            fs::write(source.path.as_ref().unwrap(), &example).unwrap();
            let read = source.load();
            assert!(read.is_ok(), "{page}: {read:?}\n{example}");
        }
    }

    #[test]
    fn a_file_that_a_setting_names_and_is_not_there_has_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgidle.toml");
        let is_there = folder.path().join("first");
        fs::write(&is_there, "secret\n").unwrap();
        let source = Source {
            path: Some(path.clone()),
            flags: Flags::default(),
        };
        let user = |name, file: &Path| {
            format!(
                "[[console.user]]\nname = \"{name}\"\nrole = \"admin\"\npassword_file = {file:?}\n"
            )
        };
        let users = [
            user("a", &is_there),
            user("b", Path::new("/no/such/password")),
        ];
        fs::write(&path, users.concat()).unwrap();
        let error = source.load().unwrap_err().to_string();
        let expected = format!(
            "{}:8: console.user.password_file: cannot read /no/such/password",
            path.display()
        );
        assert!(error.starts_with(&expected), "{error}");

        let tls = "\n[tls]\nsslmode = \"require\"\ncert = \"/no/such/certificate\"\nkey = \"/no/such/key\"\n";
        fs::write(&path, tls).unwrap();
        let error = source.load().unwrap_err().to_string();
        let expected = format!("{}:4: tls.cert: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
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
