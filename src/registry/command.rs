//! What a session is told from outside.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    session::{Refused, Snapshot, event::Outcome},
    sql::Proof,
};

/// What a session is told from outside.
#[derive(Debug)]
pub enum Command {
    /// End as soon as no transaction is open.
    Drain,
    /// End now.
    Shutdown,
    /// End if the client is not authenticated: another one waits for the place.
    GiveWay,
    /// The rules have changed.
    Reload,
    /// The last CancelRequest of the client's has passed, and the gate is closed.
    GateClosed,
    /// Our own CancelRequest has passed.
    CancelClosed,
    /// What has come of the claim of this number.
    Proven {
        /// The number that the session gave it.
        number: u64,
        /// What has come of it.
        proof: Proof,
    },
    /// A CancelRequest of the client's stands before the gate: [`Entry::let_pass`](super::Entry::let_pass) or
    /// [`Entry::turn_away`](super::Entry::turn_away).
    CancelWaits,
    /// Roll back the transaction that is open; the session lives on.
    Rollback(Order),
    /// End the session.
    Terminate(Order),
    /// Say how things stand.
    Snapshot(Asked),
}

/// A command from the console. Where the session ends before it is carried out, the reply is dropped.
#[derive(Debug)]
pub struct Order {
    /// The console's user who gave it.
    pub by: Arc<str>,
    /// What has come of it, or why nothing is done.
    pub reply: Reply,
}

/// Where someone waits to hear how things stand.
pub type Asked = oneshot::Sender<Snapshot>;

/// Where the console waits for what has come of its command.
pub type Reply = oneshot::Sender<Result<Outcome, Refused>>;
