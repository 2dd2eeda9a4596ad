//! Requests as clients send them: the same statement by every way of the protocol.

use super::frontend::messages;

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// A statement, which can be sent in every way.
    Sql(&'static str),
    /// Messages in the notation of [`messages`].
    Wire(&'static str),
}

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Simple,
    /// One batch.
    Extended,
    /// Parse, Describe and the rest in batches of their own, as pg8000 does.
    Batches,
    /// By a statement that was prepared before the transaction began.
    Prepared,
}

pub(crate) const SPEECHES: [Speech; 4] = [
    Speech::Simple,
    Speech::Extended,
    Speech::Batches,
    Speech::Prepared,
];

/// Messages that are written at once.
pub(crate) type Packet = Vec<Vec<u8>>;

impl Request {
    /// Whether it is more than one statement, which a batch cannot run.
    pub(crate) fn is_list(self) -> bool {
        let blank = [';', ' ', '\n', '\t'];
        matches!(self, Self::Sql(sql) if sql.trim_matches(blank).contains(';'))
    }

    /// Its packets. A `name` is the statement's.
    pub(crate) fn packets(self, speech: Speech, name: &str) -> Vec<Packet> {
        let Self::Sql(sql) = self else {
            return vec![self.prepared(name)];
        };
        let speech = if self.is_list() {
            Speech::Simple
        } else {
            speech
        };
        let packets = match speech {
            Speech::Simple => vec![format!("Q {sql}")],
            Speech::Extended => vec![format!("P - {sql} | B - - | D P - | E - | S")],
            Speech::Batches => vec![
                format!("P {name}_late {sql} | S"),
                format!("D S {name}_late | S"),
                format!("B - {name}_late | E - | S"),
            ],
            Speech::Prepared => vec![format!("B - {name} | E - | S")],
        };
        packets.iter().map(|packet| messages(packet)).collect()
    }

    /// What prepares it for [`Speech::Prepared`]; its messages where they are given.
    pub(crate) fn prepared(self, name: &str) -> Packet {
        match self {
            Self::Wire(notation) => messages(notation),
            Self::Sql(sql) => messages(&format!("P {name} {sql} | S")),
        }
    }
}

/// How many ReadyForQuery the messages earn.
pub(crate) fn readies(packet: &Packet) -> usize {
    let earns = |message: &&Vec<u8>| b"QSF".contains(&message[0]);
    packet.iter().filter(earns).count()
}
