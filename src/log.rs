//! The log on stderr: which lines are written, how they look, and that nobody waits for them.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    panic,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt::MakeWriter};

use crate::{
    config::LogFormat,
    line_writer::{LineWriter, Target},
};

/// The running log. When it is dropped, it waits for a moment until its lines are written.
#[derive(Debug)]
pub struct Log(LineWriter);

impl Log {
    /// Sends log lines to stderr, by a descriptor of its own: PostgreSQL's parser, as `pg_query` runs it, points the
    /// well-known one elsewhere for moments. Panics are logged too.
    ///
    /// # Errors
    /// `PGIDLE_LOG` makes no sense, stderr cannot be used, or a thread cannot be started.
    pub fn start(format: LogFormat) -> anyhow::Result<Self> {
        let stderr = io::stderr();
        let colours = stderr.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let descriptor = stderr
            .as_fd()
            .try_clone_to_owned()
            .context("stderr cannot be used")?;
        let filter = filter(&std::env::var("PGIDLE_LOG").unwrap_or_default())?;
        let target = Target::stream(File::from(descriptor));
        let missing = match format {
            LogFormat::Text => missing_in_text,
            LogFormat::Json => missing_in_json,
        };
        let lines = LineWriter::start("log", target, BOUND, missing)
            .context("could not start the thread of the log")?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_ansi(colours)
            // They would go to stderr past the thread that may wait for it.
            .log_internal_errors(false)
            .with_writer(Lines(lines.clone()));
        match format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        // The standard library's own message would wait for whoever reads stderr.
        panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        Ok(Self(lines))
    }
}

/// What is logged. A word that is no level would name a module that there is not, and nothing would be logged.
fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let is_meant = |directive: &str| {
        let named = directive.split(['=', '[']).next().unwrap_or_default();
        let is_ours = named == "pgidle" || named.starts_with("pgidle::");
        directive.len() > named.len() || is_ours || named.parse::<LevelFilter>().is_ok()
    };
    let words = directives.split(',').map(str::trim);
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    match filter.parse(directives) {
        Ok(filter) if words.filter(|word| !word.is_empty()).all(is_meant) => Ok(filter),
        Ok(_) | Err(_) => anyhow::bail!(
            "PGIDLE_LOG: {directives:?} is no level: expected error, warn, info, debug, trace or off, or levels of modules \
             such as info,pgidle::session=debug"
        ),
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // There is nobody left to tell how many lines are unwritten.
        self.0.close(PATIENCE);
    }
}

struct Lines(LineWriter);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Takes one line: the subscriber writes each in one piece.
struct Line<'a>(&'a LineWriter);

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn missing_in_text(count: u64) -> Vec<u8> {
    let time = Timestamp::now();
    format!("{time:.6}  WARN {MISSING} count={count}\n").into()
}

fn missing_in_json(count: u64) -> Vec<u8> {
    let time = Timestamp::now();
    format!("{{\"timestamp\":\"{time:.6}\",\"level\":\"WARN\",\"message\":\"{MISSING}\",\"count\":{count}}}\n").into()
}

const MISSING: &str = "log lines were dropped";

/// How many bytes may wait to be written.
const BOUND: usize = 1 << 20;

/// How long the end of the program waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for fine in [
            "",
            "warn",
            "DEBUG",
            "off",
            "pgidle",
            "info,pgidle::session=debug",
            "info,hyper=off,",
            "pgidle[{session=1}]=trace",
        ] {
            assert!(filter(fine).is_ok(), "{fine}");
        }
        for wrong in ["verbose", "info,verbose", "warning", "pgidle=loud"] {
            let error = filter(wrong).unwrap_err().to_string();
            assert!(error.contains("error, warn, info, debug, trace"), "{error}");
        }
    }
}
