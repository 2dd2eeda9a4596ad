//! The `pgidle` program: parse, configure, run, exit status.

use std::{
    convert::Infallible,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use pgidle::{
    app::{self, App},
    cli::{CheckArgs, Cli, Command, DemoArgs, ServeArgs},
    config::{Config, Source},
    demo::{self, DemoOptions},
    http,
    log::Log,
    service_manager,
    signals::Signals,
};

/// Usage or configuration: clap's own status for the former.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Check(args) => check(args),
        Command::Health(args) => match http::check(&args.http) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(ExitCode::FAILURE, error),
        },
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
    let config = match app::load(&source) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIGURATION.into(), error),
    };
    // Dropped last: it then waits for a moment until its lines are written.
    let _log = match Log::start(config.log.format) {
        Ok(log) => log,
        Err(error) => return fail(EXIT_CONFIGURATION.into(), format_args!("{error:#}")),
    };
    match run(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the proxy until a signal stops it.
fn run(config: Config, source: Source) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the log says that it listens: a signal that comes earlier kills the process.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let app = App::start(config, source)?;
    let status = app.status();
    service_manager::ready(&status);
    let reload = || {
        service_manager::reloading();
        // The log says what has come of it.
        match app.reload(None) {
            Ok(_) => service_manager::ready(&status),
            Err(error) => service_manager::ready(&format!("{status}; not reloaded: {error}")),
        }
    };
    runtime.block_on(async {
        let at_once = tokio::select! {
            () = signals.serve(reload) => false,
            at_once = app.operate() => at_once,
            never = announce(&app) => match never {},
        };
        let insisted = async {
            if !at_once {
                tokio::select! {
                    () = signals.stop() => {}
                    () = app.insisted() => {}
                }
            }
        };
        service_manager::stopping(app.drain_timeout());
        app.drain(insisted).await;
    });
    app.join()
}

async fn announce(app: &App) -> Infallible {
    app.announce().await;
    std::future::pending().await
}

fn check(args: CheckArgs) -> ExitCode {
    let (file, session) = (args.config.clone(), args.session.clone());
    match app::load(&args.source()) {
        Ok(config) => {
            for warning in &config.warnings {
                // A warning that cannot be written changes nothing.
                drop(writeln!(io::stderr(), "pgidle: warning: {warning}"));
            }
            let rules = config.rules.as_slice().len();
            let decided = session.map(|session| session.explain(&config.rules));
            let said = write!(
                io::stdout(),
                "{}: ok, {rules} {} with the built-in one\n{}",
                file.display(),
                if rules == 1 { "rule" } else { "rules" },
                decided.unwrap_or_default()
            );
            said.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(error) => fail(EXIT_CONFIGURATION.into(), error),
    }
}

/// Says on stderr why the program ends.
fn fail(status: ExitCode, reason: impl Display) -> ExitCode {
    // When stderr is gone, the exit status is all that is left to say.
    drop(writeln!(io::stderr(), "pgidle: {reason}"));
    status
}
