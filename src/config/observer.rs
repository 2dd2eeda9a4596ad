//! `[observer]`: how the server is asked who waits for whom.

use std::time::Duration;

use super::{
    dsn::{Dsn, parse_dsn},
    error::Fault,
    section::{Section, Table, name, positive},
};

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

pub(super) const TABLE: Table = Table {
    name: "observer",
    keys: &["dsn", "interval"],
};

impl ObserverSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("dsn", &mut self.dsn, |value| {
            parse_dsn(name(value)?).map(Some)
        })?;
        section.set("interval", &mut self.interval, positive)
    }
}
