//! `[http]`: where metrics, probes and lists are asked for.

use super::{
    address::Address,
    error::Fault,
    section::{Section, Table, text},
};

/// `[http]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where it listens, by TCP; `None` where there is no HTTP.
    pub address: Option<Address>,
}

pub(super) const TABLE: Table = Table {
    name: "http",
    keys: &["address"],
};

impl HttpSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("address", &mut self.address, |value| match text(value)? {
            "" => Ok(None),
            text => http_address(text).map(Some),
        })
    }
}

/// An address for HTTP, which is one of TCP.
///
/// # Errors
/// It is no address, or one of a Unix socket.
pub fn http_address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(address @ Address::Tcp { .. }) => Ok(address),
        Ok(Address::Unix(_)) => {
            Err("expected HOST:PORT or [IPV6]:PORT, and no Unix socket".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
