//! `[listen]`: where clients connect, and how many threads serve them.

use std::{num::NonZeroUsize, thread};

use super::{
    address::Address,
    error::Fault,
    section::{Section, Table, addresses, boolean, count},
};

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where clients connect; at least one.
    pub addresses: Vec<Address>,
    /// Whether who comes by TCP begins with a PROXY protocol header, and is who that says.
    pub proxy_protocol: bool,
    /// Whether other processes may listen at the same addresses, to take over from each other.
    pub reuse_port: bool,
    /// How many threads serve them.
    pub workers: NonZeroUsize,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 6432,
            }],
            proxy_protocol: false,
            reuse_port: false,
            workers: one_for_two_cpus(),
        }
    }
}

pub(super) const TABLE: Table = Table {
    name: "listen",
    keys: &["addresses", "proxy_protocol", "reuse_port", "workers"],
};

impl Listen {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("addresses", &mut self.addresses, addresses)?;
        section.set("proxy_protocol", &mut self.proxy_protocol, boolean)?;
        section.set("reuse_port", &mut self.reuse_port, boolean)?;
        section.set("workers", &mut self.workers, |value| {
            Ok(NonZeroUsize::new(count(value)?).unwrap_or_else(one_for_two_cpus))
        })
    }
}

/// A thread moves more bytes with fewer system calls the busier it is, and the server needs the other CPUs.
fn one_for_two_cpus() -> NonZeroUsize {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cpus / 2).unwrap_or(NonZeroUsize::MIN)
}
