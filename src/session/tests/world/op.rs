//! What can happen around the machine.

use crate::{
    policy::Action as PolicyAction,
    session::{Side, tests::model::Act},
};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(in crate::session::tests) enum Op {
    Client(Act),
    /// So many of the client's bytes reach the machine.
    Send(usize),
    /// All of them but the last one.
    SendHalf,
    /// The server does so many things.
    Serve(usize),
    /// So many of the server's bytes reach the machine.
    Deliver(usize),
    /// Everything is sent, done and delivered.
    Exchange,
    Pass(u64),
    /// Time passes until the next timer rings.
    Ring,
    Wake,
    /// The client opens a cancel connection.
    CancelRequest,
    /// The cancel connections reach the server and are closed.
    CancelsLand,
    /// A timeout of the server's own hits what runs.
    Timeout,
    /// The server notices one between two messages.
    Interrupt,
    /// The server does nothing more, or goes on.
    Hang(bool),
    Unasked(&'static str),
    /// The server's output buffer is full.
    Spill,
    /// The client reads, or does not.
    Reads(bool),
    /// A client that does not read takes one byte all the same.
    TakesSome,
    /// The server takes what it is sent, or does not.
    ServerReads(bool),
    /// The client or the server closes its connection.
    Leave(Side),
    /// The observer has seen who waits, in the words of a transcript.
    Seen(&'static str),
    /// What the machine asks for is done a little later.
    Lag,
    /// From here on the prover answers late, or at once.
    ProverLags(bool),
    /// The prover answers everything that it was asked, also what is not waited for any more; or it has no room for it.
    Prove(bool),
    /// Other limits come into force.
    Limits(&'static str),
    /// The console has the transaction rolled back, or the session ended.
    Command(PolicyAction),
    /// pgidle ends, and insists.
    Shutdown,
}
