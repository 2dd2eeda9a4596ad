//! Where the server connection of a session leads.

use std::net::SocketAddr;

/// The server end of a session.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where it listens: the place among the settings' addresses.
    pub index: usize,
    /// What that address stood for; `None` for a Unix socket.
    pub resolved: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}
