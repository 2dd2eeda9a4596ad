//! The command line: commands, flags, the environment variables that stand for flags, and the help.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{
    Arg, Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};

use crate::{
    config::{
        Address, AddressError, Dsn, Flags, IdleLimit, LogFormat, Source, http_address, parse_dsn,
    },
    policy::{Action, Described, parse_duration},
};

/// A sidecar that ends stuck PostgreSQL transactions without killing the session.
#[derive(Debug, Parser)]
#[command(name = "pgidle", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy; without a rule it observes, and touches no session.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Validate a configuration file: exit status 0, or 2 with file, line, key and what was expected.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Show on a throwaway PostgreSQL what stuck transactions do, and what pgidle does about them.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Ask a running pgidle whether it is ready: exit status 0 when it is.
    #[command(after_help = HEALTH_EXAMPLES)]
    Health(HealthArgs),
}

/// The flags of `pgidle serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration file; the flags below win over it.
    #[arg(long, value_name = "FILE", env = "PGIDLE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where clients connect: HOST:PORT or unix:/path; repeat it, or divide by commas [default: 127.0.0.1:6432].
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = Unechoed(address),
        env = "PGIDLE_LISTEN"
    )]
    pub listen: Vec<Address>,
    /// Where PostgreSQL listens: HOST:PORT or unix:/path; repeat it, or divide by commas, and each session takes the first
    /// that can be reached and fits [default: 127.0.0.1:5432].
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = Unechoed(address),
        env = "PGIDLE_UPSTREAM"
    )]
    pub upstream: Vec<Address>,
    /// Let another pgidle with this flag listen at the same addresses, so that a new process can take over from an old one.
    #[arg(long, env = "PGIDLE_REUSE_PORT")]
    pub reuse_port: bool,
    /// A rule for every session that no other rule matches: for how long its client may leave a transaction idle, failed
    /// or stalled, such as 30s.
    #[arg(long, value_name = "DUR", value_parser = limit, env = "PGIDLE_IDLE_LIMIT")]
    pub idle_limit: Option<Duration>,
    /// What is done at --idle-limit; release is done where the transaction is idle, and the others are logged [default:
    /// log].
    #[arg(long, requires = "idle_limit", value_parser = actions(), env = "PGIDLE_ACTION")]
    pub action: Option<Action>,
    /// Where metrics, probes and lists of sessions and incidents are asked for by HTTP: HOST:PORT; without it they are not.
    #[arg(long, value_name = "ADDR", value_parser = Unechoed(http_address), env = "PGIDLE_HTTP")]
    pub http: Option<Address>,
    /// Append incidents and finished transactions to this file as JSON lines.
    #[arg(long, value_name = "FILE", env = "PGIDLE_AUDIT")]
    pub audit: Option<PathBuf>,
    /// How the observer connects, to say what stuck sessions hold and who waits for them.
    #[arg(long, value_name = "DSN", value_parser = Unechoed(parse_dsn), env = "PGIDLE_OBSERVER_DSN", hide_env_values = true)]
    pub observer_dsn: Option<Box<Dsn>>,
    /// Record each session in which a limit is reached in a file of its own in this folder, as a transcript without
    /// literals and values.
    #[arg(long, value_name = "DIR", env = "PGIDLE_RECORD")]
    pub record: Option<PathBuf>,
    /// How log lines on stderr are written [default: text].
    #[arg(long, value_parser = formats(), env = "PGIDLE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl ServeArgs {
    /// Where the settings come from, now and at every reload.
    pub fn source(self) -> Source {
        let action = self.action.unwrap_or(Action::Log);
        Source {
            path: self.config,
            flags: Flags {
                listen: self.listen,
                upstream: self.upstream,
                reuse_port: self.reuse_port,
                idle_limit: self.idle_limit.map(|limit| IdleLimit { limit, action }),
                http: self.http,
                audit: self.audit,
                observer_dsn: self.observer_dsn,
                log_format: self.log_format,
                record: self.record,
            },
        }
    }
}

/// The flags of `pgidle check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "PGIDLE_CONFIG")]
    pub config: PathBuf,
    /// Say which rule a session would come under, and what that allows it: KEY=VALUE divided by commas, of user, database
    /// [default: as the user], application_name, client (an IP address or unix) [default: 127.0.0.1] and replication.
    #[arg(long, value_name = "SESSION", env = "PGIDLE_SESSION")]
    pub session: Option<Described>,
    /// How the observer will connect, when the file does not say so.
    #[arg(long, value_name = "DSN", value_parser = Unechoed(parse_dsn), env = "PGIDLE_OBSERVER_DSN", hide_env_values = true)]
    pub observer_dsn: Option<Box<Dsn>>,
}

impl CheckArgs {
    /// Where the settings would come from.
    pub fn source(self) -> Source {
        Source {
            path: Some(self.config),
            flags: Flags {
                observer_dsn: self.observer_dsn,
                ..Flags::default()
            },
        }
    }
}

/// The flags of `pgidle demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Stay up afterwards, with psql command lines to try, until Ctrl-C.
    #[arg(long, env = "PGIDLE_KEEP")]
    pub keep: bool,
}

/// The flags of `pgidle health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where that pgidle answers by HTTP: HOST:PORT.
    #[arg(long, value_name = "ADDR", value_parser = Unechoed(http_address), env = "PGIDLE_HTTP")]
    pub http: Address,
}

/// Reads a value that may hold a password. Unlike clap's own parsers it says what is wrong without the value.
#[derive(Clone)]
struct Unechoed<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unechoed<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let value = value.to_str().ok_or_else(|| "is not UTF-8".to_owned());
        value.and_then(self.0).map_err(|problem| {
            let flag = arg.map_or_else(String::new, |arg| format!("{arg}: "));
            clap::Error::raw(ErrorKind::ValueValidation, format!("{flag}{problem}\n"))
                .with_cmd(command)
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    text.parse()
        .map_err(|error: AddressError| error.to_string())
}

/// A duration that is not zero.
fn limit(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text).map_err(|error| error.to_string())?;
    if limit.is_zero() {
        return Err(
            "expected a duration longer than 0; leave the flag out to set no limit".to_owned(),
        );
    }
    Ok(limit)
}

fn actions() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.map(Action::name)).try_map(|name| {
        Action::ALL
            .into_iter()
            .find(|action| action.name() == name)
            .ok_or("unknown action")
    })
}

fn formats() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["text", "json"]).try_map(|name| name.parse())
}

const EXAMPLES: &str = "\
Examples:
  pgidle demo
  pgidle serve --listen 127.0.0.1:6432 --upstream 127.0.0.1:5432
  pgidle serve --config pgidle.toml
  pgidle check --config pgidle.toml

Logs go to stderr; PGIDLE_LOG sets what is logged (error, warn, info, debug, trace).
Exit status: 0 fine, 2 usage or configuration, 1 anything else.";

const SERVE_EXAMPLES: &str = "\
Examples:
  # Observe: log what is stuck, touch no session
  pgidle serve --upstream 127.0.0.1:5432 --audit audit.jsonl

  # Roll back what its client leaves idle, failed or stalled for a minute; the session lives on
  pgidle serve --upstream 127.0.0.1:5432 --idle-limit 1min --action rollback

  # Unix sockets on both sides
  pgidle serve --listen unix:/run/pgidle/.s.PGSQL.6432 --upstream unix:/run/postgresql/.s.PGSQL.5432

  # Rules from a file, re-read on SIGHUP
  pgidle serve --config pgidle.toml";

const CHECK_EXAMPLES: &str = "\
Examples:
  pgidle check --config pgidle.toml

  # Which limits would a session have?
  pgidle check --config pgidle.toml --session user=app,database=shop,application_name=celery,client=10.1.2.3
  pgidle check --config pgidle.toml --session user=backup,client=unix";

const HEALTH_EXAMPLES: &str = "\
Examples:
  pgidle health --http 127.0.0.1:9187";

const DEMO_EXAMPLES: &str = "\
Examples:
  pgidle demo
  pgidle demo --keep";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn serve(args: &[&str]) -> Result<Source, String> {
        let args = ["pgidle", "serve"].iter().chain(args);
        match Cli::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Serve(args) => Ok(args.source()),
            Command::Check(_) | Command::Demo(_) | Command::Health(_) => {
                Err("not serve".to_owned())
            }
        }
    }

    #[test]
    fn every_flag_has_a_variable_and_every_command_examples() {
        Cli::command().debug_assert();
        let mut cli = Cli::command();
        cli.build();
        for command in cli
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
            let own = |id: &str| id != "help" && id != "version";
            for arg in command
                .get_arguments()
                .filter(|arg| own(arg.get_id().as_str()))
            {
                let expected = format!("PGIDLE_{}", arg.get_id().as_str().to_uppercase());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(&*expected));
            }
        }
    }

    #[test]
    fn flags_become_a_source() {
        let source = serve(&[
            "--config",
            "f.toml",
            "--listen",
            "127.0.0.1:1,unix:/run/s",
            "--listen",
            "[::1]:2",
            "--upstream",
            "db:5432,unix:/run/pg",
            "--upstream",
            "[::1]:5432",
            "--reuse-port",
            "--idle-limit",
            "1.5 min",
            "--action",
            "rollback",
            "--audit",
            "a.jsonl",
            "--log-format",
            "json",
        ])
        .unwrap();
        let shown = |addresses: &[Address]| -> Vec<_> {
            addresses.iter().map(ToString::to_string).collect()
        };
        let flags = &source.flags;
        assert_eq!(
            shown(&flags.listen),
            ["127.0.0.1:1", "unix:/run/s", "[::1]:2"]
        );
        let expected = ["db:5432", "unix:/run/pg", "[::1]:5432"];
        assert_eq!(shown(&flags.upstream), expected);
        assert!(flags.reuse_port);
        let expected = IdleLimit {
            limit: Duration::from_secs(90),
            action: Action::Rollback,
        };
        assert_eq!(source.flags.idle_limit, Some(expected));
        assert_eq!(source.flags.log_format, Some(LogFormat::Json));
        assert_eq!(source.path, Some(PathBuf::from("f.toml")));
        let logged = serve(&["--idle-limit", "1s"]).unwrap().flags.idle_limit;
        assert_eq!(logged.map(|limit| limit.action), Some(Action::Log));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (args, expected) in [
            (&["--idle-limit", "0"][..], "longer than 0"),
            (&["--idle-limit", "30"], "the unit is missing"),
            (&["--action", "rollback"], "--idle-limit"),
            (
                &["--idle-limit", "1s", "--action", "kill"],
                "[possible values: log, notice, release, rollback, terminate]",
            ),
            (&["--listen", "6432"], "expected HOST:PORT"),
            (&["--http", "unix:/run/s"], "no Unix socket"),
            (&["--log-format", "xml"], "[possible values: text, json]"),
            (
                &["--observer-dsn", "host=h port=secret"],
                "--observer-dsn <DSN>: expected",
            ),
            (
                &["--upstream", "h:1,postgres://u:secret@h/d"],
                "--upstream <ADDR>: expected HOST",
            ),
        ] {
            let error = serve(args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
