//! The `pgidle` program: parse, configure, run, exit status.

use std::{
    fmt::Display,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    process::ExitCode,
    sync::Mutex,
};

use anyhow::Context;
use clap::Parser;
use pgidle::{
    app,
    cli::{CheckArgs, Cli, Command, DemoArgs, ServeArgs},
    config::LogFormat,
    demo::{self, DemoOptions},
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Usage or configuration: clap's own status for the former.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Check(args) => check(args),
        Command::Demo(DemoArgs { keep }) => match demo::run(DemoOptions { keep }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(
                ExitCode::FAILURE,
                format_args!("{:#}", anyhow::Error::from(error)),
            ),
        },
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let source = args.source();
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIGURATION.into(), error),
    };
    if let Err(error) = start_log(config.log.format) {
        return fail(EXIT_CONFIGURATION.into(), format_args!("{error:#}"));
    }
    match app::serve(config, &source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: CheckArgs) -> ExitCode {
    let file = args.config.clone();
    match args.source().load() {
        Ok(config) => {
            let rules = config.rules.as_slice().len();
            let said = writeln!(
                io::stdout(),
                "{}: ok, {rules} rules with the built-in ones",
                file.display()
            );
            said.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(error) => fail(EXIT_CONFIGURATION.into(), error),
    }
}

/// Sends log lines to stderr, by a descriptor of its own: PostgreSQL's parser, as `pg_query` runs it, points the
/// well-known one elsewhere for moments.
fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let stderr = io::stderr();
    let colours =
        stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let descriptor = stderr
        .as_fd()
        .try_clone_to_owned()
        .context("stderr cannot be used")?;
    let filter = EnvFilter::builder()
        .with_env_var("PGIDLE_LOG")
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .map_err(|_| anyhow::anyhow!("PGIDLE_LOG: expected a level (error, warn, info, debug, trace) or directives such as pgidle=debug"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colours)
        .with_writer(Mutex::new(File::from(descriptor)));
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Says on stderr why the program ends.
fn fail(status: ExitCode, reason: impl Display) -> ExitCode {
    // When stderr is gone, the exit status is all that is left to say.
    drop(writeln!(io::stderr(), "pgidle: {reason}"));
    status
}
