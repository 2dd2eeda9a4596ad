//! For which sessions which limits hold: the first rule that matches decides.

use std::{net::IpAddr, sync::Arc};

use super::Limits;

/// What a rule can match on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// The role asked for at startup.
    pub user: &'a str,
    /// The database asked for at startup.
    pub database: &'a str,
    /// The application name as the server last reported it.
    pub application_name: &'a str,
    /// The client's address; `None` for a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether the startup packet asks for a replication connection.
    pub replication: bool,
}

/// Stub.
#[derive(Clone, Debug)]
pub struct Pattern;

/// Stub.
#[derive(Clone, Debug)]
pub struct Match;

/// Stub.
#[derive(Clone, Debug)]
pub struct Rule;

/// The rules in force, in order.
#[derive(Clone, Debug, Default)]
pub struct Rules;

impl Rules {
    /// The limits of the first rule that matches.
    pub fn decide(&self, identity: &Identity<'_>) -> Arc<Limits> {
        let _ = identity;
        Arc::default()
    }
}

/// Stub.
pub fn builtin_rules() -> Vec<Rule> {
    Vec::new()
}
