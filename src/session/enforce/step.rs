//! What an enforcement waits for, and what that means for the frames that come meanwhile.

use super::{Instant, abort, cancel, exchange, poison, proof, release};

/// What an enforcement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Step {
    /// A look at what the server's process waits for.
    Ask {
        /// From when on a look counts.
        since: Instant,
        /// How long it is waited for.
        until: Instant,
    },
    /// The proof that statements only read.
    Prove {
        /// The number of the claim.
        number: u64,
        /// What follows.
        then: proof::Then,
        /// How long it is waited for.
        until: Instant,
    },
    /// The client's own cancel connections to be closed by the server.
    Gate,
    /// What the server has sent to be read, ahead of a client that does not read it.
    Read {
        /// How long it is read.
        until: Instant,
    },
    /// The answer to our CopyFail, which is the end of the client's request.
    CopyFail {
        /// When the server is cancelled, which may have other things to do than to read it.
        until: Instant,
    },
    /// The end of the statement that was cancelled.
    Cancel(cancel::Cancel),
    /// The answer to our Close.
    Fence,
    /// The ErrorResponse to our Parse.
    Poison,
    /// The ReadyForQuery to our Sync.
    Synced(poison::Awaited),
    /// The answers to our Query.
    Abort(abort::Replies),
    /// The answers to a batch of ours.
    Release(release::Purpose, exchange::Exchange),
}

impl Step {
    /// The name used in the log.
    pub(in crate::session) const fn name(self) -> &'static str {
        match self {
            Self::Ask { .. } => "ask",
            Self::Prove { .. } => "prove",
            Self::Gate => "gate",
            Self::Read { .. } => "read",
            Self::CopyFail { .. } => "copy fail",
            Self::Cancel(_) => "cancel",
            Self::Fence => "fence",
            Self::Poison => "poison",
            Self::Synced(_) => "synced",
            Self::Abort(_) => "abort",
            Self::Release(..) => "release",
        }
    }

    /// Whether what the server has to answer is ours, and not the client's.
    pub(super) fn is_ours(self) -> bool {
        match self {
            Self::Ask { .. }
            | Self::Prove { .. }
            | Self::Gate
            | Self::Read { .. }
            | Self::CopyFail { .. }
            | Self::Cancel(_) => false,
            Self::Fence | Self::Poison | Self::Synced(_) | Self::Abort(_) | Self::Release(..) => {
                true
            }
        }
    }

    /// Whether nothing is done yet: the enforcement is given up when the client speaks.
    pub(super) fn is_preliminary(self) -> bool {
        use proof::Then::{Gate, Question};
        match self {
            Self::Gate
            | Self::Prove {
                then: Gate | Question,
                ..
            } => true,
            Self::Ask { .. }
            | Self::Prove { .. }
            | Self::Read { .. }
            | Self::CopyFail { .. }
            | Self::Cancel(_)
            | Self::Fence
            | Self::Poison
            | Self::Synced(_)
            | Self::Abort(_)
            | Self::Release(..) => false,
        }
    }
}
