//! `[log]`: how lines on stderr are written.

use std::str::FromStr;

use super::{
    error::Fault,
    section::{Section, Table, parsed},
};

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

impl LogFormat {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
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

pub(super) const TABLE: Table = Table {
    name: "log",
    keys: &["format"],
};

impl LogSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("format", &mut self.format, parsed)
    }
}
