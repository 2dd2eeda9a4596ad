//! The demo's printed page: who did what and when, one line each. Colours only on a terminal, and not under `NO_COLOR`.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::time::Instant;

/// Columns that a full bar takes.
const BAR_WIDTH: u32 = 40;

/// Who acts in a line of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    Reader,
    Writer,
    Dba,
    Visitors,
    Pgidle,
}

impl Actor {
    /// The name on the timeline, which is also the `application_name` of the actor's sessions.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Dba => "dba",
            Self::Visitors => "visitors",
            Self::Pgidle => "pgidle",
        }
    }

    const fn colour(self) -> &'static str {
        match self {
            Self::Reader => "36",
            Self::Writer => "33",
            Self::Dba => "35",
            Self::Visitors => "34",
            Self::Pgidle => "1;32",
        }
    }
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Something is done.
    Does,
    /// Something waits.
    Waits,
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
}

impl Mark {
    const fn look(self) -> (&'static str, &'static str) {
        match self {
            Self::Does => ("•", "0"),
            Self::Waits => ("…", "33"),
            Self::Good => ("✓", "32"),
            Self::Bad => ("✗", "31"),
        }
    }
}

/// Writes the page to standard output; every method fails when that cannot be written.
#[derive(Debug)]
pub(super) struct Timeline {
    colours: bool,
    start: Instant,
}

impl Timeline {
    pub(super) fn new() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && io::stdout().is_terminal(),
            start: Instant::now(),
        }
    }

    /// A line of plain text.
    pub(super) fn text(&self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// A heading, after which times count from zero.
    pub(super) fn act(&mut self, title: &str) -> io::Result<()> {
        self.start = Instant::now();
        self.heading(title)
    }

    /// A heading.
    pub(super) fn heading(&self, title: &str) -> io::Result<()> {
        self.text(format_args!("\n{}", self.paint("1", title)))
    }

    /// What an actor does at this moment.
    pub(super) fn say(&self, actor: Actor, mark: Mark, what: impl fmt::Display) -> io::Result<()> {
        self.say_at(Instant::now(), actor, mark, what)
    }

    /// What an actor did at a moment that was measured.
    pub(super) fn say_at(
        &self,
        at: Instant,
        actor: Actor,
        mark: Mark,
        what: impl fmt::Display,
    ) -> io::Result<()> {
        let (sign, colour) = mark.look();
        self.text(format_args!(
            "  {:>6.2} s  {}  {} {what}",
            at.saturating_duration_since(self.start).as_secs_f64(),
            self.paint(actor.colour(), format_args!("{:<8}", actor.name())),
            self.paint(colour, sign),
        ))
    }

    /// A duration as a bar, as long in proportion to `longest`.
    pub(super) fn bar(
        &self,
        label: &str,
        mark: Mark,
        length: Duration,
        longest: Duration,
        what: &str,
    ) -> io::Result<()> {
        let share = length.as_secs_f64() / longest.as_secs_f64().max(f64::MIN_POSITIVE);
        let filled = (0..BAR_WIDTH).filter(|cell| f64::from(*cell) < share * f64::from(BAR_WIDTH));
        let bar: String = filled.map(|_| '█').collect();
        self.text(format_args!(
            "  {label:<18}{} {}{what}",
            self.paint(mark.look().1, bar),
            seconds(length),
        ))
    }

    /// A fact of the summary: whether it holds, and in which words.
    pub(super) fn fact(&self, holds: bool, what: impl fmt::Display) -> io::Result<()> {
        let (sign, colour) = if holds { Mark::Good } else { Mark::Bad }.look();
        self.text(format_args!("  {} {what}", self.paint(colour, sign)))
    }

    fn paint(&self, colour: &str, text: impl fmt::Display) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// A duration in seconds, to a tenth.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
