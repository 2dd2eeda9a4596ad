//! Which of several servers a session is meant for: libpq's `target_session_attrs`, and what a server says of itself.
//!
//! Source: `CONNECTION_CHECK_TARGET` of `PQconnectPoll` in `src/interfaces/libpq/fe-connect.c`.

use std::str::FromStr;

/// What a session's server has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Anything.
    #[default]
    Any,
    /// One whose transactions may write.
    ReadWrite,
    /// One whose transactions only read.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery, and where there is none, anything.
    PreferStandby,
}

/// What a server has said of itself in ParameterStatus; PostgreSQL does since version 14.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerRole {
    /// Whether it is in recovery.
    in_hot_standby: Option<bool>,
    /// Whether transactions only read unless they say otherwise.
    default_read_only: Option<bool>,
}

impl Target {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// What is looked for, one after the other, while no server fits.
    pub const fn passes(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Why a server is not what is looked for, in libpq's words; nothing is held against one that does not say.
    pub fn refuses(self, server: ServerRole) -> Option<&'static str> {
        let standby = server.in_hot_standby;
        let read_only = match (standby, server.default_read_only) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (standby, read_only) => standby.and(read_only),
        };
        match self {
            Self::ReadWrite if read_only == Some(true) => Some("session is read-only"),
            Self::ReadOnly if read_only == Some(false) => Some("session is not read-only"),
            Self::Primary if standby == Some(true) => Some("server is in hot standby mode"),
            Self::Standby if standby == Some(false) => Some("server is not in hot standby mode"),
            Self::Any
            | Self::ReadWrite
            | Self::ReadOnly
            | Self::Primary
            | Self::Standby
            | Self::PreferStandby => None,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::Any,
            Self::ReadWrite,
            Self::ReadOnly,
            Self::Primary,
            Self::Standby,
            Self::PreferStandby,
        ];
        let found = all.into_iter().find(|target| target.name() == text);
        found.ok_or_else(|| format!("expected one of {}", all.map(Self::name).join(", ")))
    }
}

impl ServerRole {
    /// The parameters that it is made of.
    pub const PARAMETERS: [&str; 2] = ["in_hot_standby", "default_transaction_read_only"];

    /// Notes a parameter and its value.
    pub fn set_parameter(&mut self, parameter: &[u8], value: &[u8]) {
        let [standby, read_only] = Self::PARAMETERS;
        if parameter == standby.as_bytes() {
            self.in_hot_standby = Some(value == b"on");
        } else if parameter == read_only.as_bytes() {
            self.default_read_only = Some(value == b"on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(in_hot_standby: &str, default_transaction_read_only: &str) -> ServerRole {
        let mut kind = ServerRole::default();
        let values = [in_hot_standby, default_transaction_read_only];
        for (parameter, value) in ServerRole::PARAMETERS.into_iter().zip(values) {
            kind.set_parameter(parameter.as_bytes(), value.as_bytes());
        }
        kind
    }

    /// The table of libpq's documentation, `target_session_attrs`.
    #[test]
    fn as_libpq_decides() {
        let (primary, read_only, standby) =
            (kind("off", "off"), kind("off", "on"), kind("on", "off"));
        for (target, fits) in [
            ("any", [true, true, true]),
            ("read-write", [true, false, false]),
            ("read-only", [false, true, true]),
            ("primary", [true, true, false]),
            ("standby", [false, false, true]),
            ("prefer-standby", [true, true, true]),
        ] {
            let target: Target = target.parse().unwrap();
            let fit = [primary, read_only, standby].map(|kind| target.refuses(kind).is_none());
            assert_eq!(fit, fits, "{}", target.name());
            assert_eq!(target.refuses(ServerRole::default()), None);
        }
        assert!("master".parse::<Target>().is_err());
    }
}
