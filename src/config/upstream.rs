//! `[upstream]`: where PostgreSQL listens, what it has to be, and what stands before it.

use std::{num::NonZeroUsize, str::FromStr, time::Duration};

use super::{
    address::Address,
    error::Fault,
    section::{Section, Table, addresses, count, duration, parsed, path},
    tls::UpstreamTls,
};
use crate::policy::Target;

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

impl Default for Upstream {
    fn default() -> Self {
        Self {
            addresses: vec![Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 5432,
            }],
            target: Target::Any,
            connect_timeout: Some(Duration::from_secs(10)),
            max_sessions: None,
            pooler: Pooler::None,
            tls: UpstreamTls::default(),
        }
    }
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

impl Pooler {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Session => "session",
            Self::Transaction => "transaction",
        }
    }
}

impl FromStr for Pooler {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::None, Self::Session, Self::Transaction]
            .into_iter()
            .find(|pooler| pooler.name() == text)
            .ok_or("expected \"none\", \"session\" or \"transaction\"")
    }
}

pub(super) const TABLE: Table = Table {
    name: "upstream",
    keys: &[
        "address",
        "target_session_attrs",
        "connect_timeout",
        "max_sessions",
        "pooler",
        "sslmode",
        "sslnegotiation",
        "sslrootcert",
        "sslcert",
        "sslkey",
    ],
};

impl Upstream {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("address", &mut self.addresses, |value| {
            if value.as_array().is_some() {
                addresses(value)
            } else {
                Ok(vec![parsed(value)?])
            }
        })?;
        section.set("target_session_attrs", &mut self.target, parsed)?;
        section.set("connect_timeout", &mut self.connect_timeout, duration)?;
        section.set("max_sessions", &mut self.max_sessions, |value| {
            Ok(NonZeroUsize::new(count(value)?))
        })?;
        section.set("pooler", &mut self.pooler, parsed)?;
        let tls = &mut self.tls;
        section.set("sslmode", &mut tls.sslmode, parsed)?;
        section.set("sslnegotiation", &mut tls.negotiation, parsed)?;
        section.set("sslrootcert", &mut tls.root_cert, path)?;
        section.set("sslcert", &mut tls.cert, path)?;
        section.set("sslkey", &mut tls.key, path)?;
        tls.check()
            .map_err(|(key, problem)| section.fault_at(key, problem))
    }
}
