//! What an enforcement does next: the answer to its one question, in the order in which things stand in the way.

use super::{CloseReason, Enforcement, Instant, Session, TransactionStatus, Trigger, policy};

/// What an enforcement does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Asks whether the transaction may be released.
    AskToRelease,
    /// Ends the session: nothing that was sent can be carried out any more.
    Terminate,
    /// Sends the Sync up to which the server skips because of a cancel that came too late.
    EndSkipping,
    /// Asks the server for a sign that no cancel of ours can hit anything any more.
    Fence,
    /// Is over, as the transaction is.
    Finish,
    /// Makes the client's COPY fail.
    FailCopy,
    /// Sends the Sync of a batch that has failed in the client's place.
    EndBatch,
    /// Stops what the server works at.
    Stop,
    /// Makes a batch without Sync fail.
    Poison,
    /// Leaves a client alone that is about to run what it has parsed.
    PutOff,
    /// Rolls back, and leaves the session in a failed transaction.
    Abort,
}

/// What stands in the way of a ReadyForQuery that says that nothing of the transaction is left.
#[derive(Clone, Copy, Debug, Default)]
struct Obstacles {
    /// A release is asked for, not a rollback.
    releases: bool,
    /// The transaction that is meant has ended.
    over: bool,
    /// The session is to end. One whose transaction has ended by itself lives on, unless pgidle ends or the console says so.
    closes: bool,
    /// The server takes COPY data.
    copy_in: bool,
    /// It has a whole request of the client's that it could carry out.
    can_run: bool,
    /// It skips to a Sync.
    skips: bool,
    /// That Sync is ours to send, also where the transaction has ended: the client does not know of the error.
    owes_sync: bool,
    /// It works at a request of the client's.
    works: bool,
    /// A cancel of ours may hit what the client runs next.
    may_be_hit: bool,
    /// A batch has no Sync yet, and everything in it is answered.
    unsynced: bool,
    /// The client is between two batches, of which the first has parsed what the second runs.
    between_batches: bool,
}

impl Obstacles {
    /// The first thing to be done; each case counts on those above it.
    fn next(self) -> Next {
        match self {
            Self {
                releases: true,
                over: false,
                ..
            } => Next::AskToRelease,
            Self {
                closes: true,
                copy_in: false,
                can_run: false,
                ..
            } => Next::Terminate,
            Self {
                over: true,
                closes: false,
                ..
            } => self.next_when_over(),
            Self { copy_in: true, .. } => Next::FailCopy,
            Self { skips: true, .. } => Next::EndBatch,
            Self { works: true, .. } => Next::Stop,
            Self { unsynced: true, .. } => Next::Poison,
            // The cancel came to nothing.
            Self {
                between_batches: true,
                ..
            } => Next::PutOff,
            Self { .. } => Next::Abort,
        }
    }

    /// There is nothing left to end, and the client is to go on as if there had been no cancel.
    fn next_when_over(self) -> Next {
        if self.skips && self.owes_sync {
            Next::EndSkipping
        } else if !self.works && self.may_be_hit {
            Next::Fence
        } else {
            Next::Finish
        }
    }
}

impl Session {
    /// What this enforcement does next.
    pub(super) fn next(&self, enforcement: &Enforcement, now: Instant) -> Next {
        let pending = &self.state.pending;
        let over = self.is_over();
        // A limit is about the transaction; an operator means the session.
        let commanded = enforcement.closes == Some(CloseReason::Console);
        let insists =
            enforcement.hit.is_some() || enforcement.trigger == Trigger::Shutdown || commanded;
        let in_block = self.state.status == TransactionStatus::InBlock;
        let bound_until = self.between_batches_until();
        Obstacles {
            releases: enforcement.incident.action == policy::Action::Release,
            over,
            closes: enforcement.closes.is_some() && (!over || insists),
            copy_in: pending.copy_in(),
            can_run: !self.nothing_can_run(),
            skips: pending.skipping(),
            owes_sync: self.is_spent() || enforcement.in_batch,
            works: !pending.is_empty(),
            may_be_hit: self.may_be_hit(),
            unsynced: pending.unsynced(),
            between_batches: in_block && bound_until.is_some_and(|until| now < until),
        }
        .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Obstacles = Obstacles {
        releases: true,
        over: true,
        closes: true,
        copy_in: true,
        can_run: true,
        skips: true,
        owes_sync: true,
        works: true,
        may_be_hit: true,
        unsynced: true,
        between_batches: true,
    };

    /// What comes next, and what takes it away.
    type Line = (Next, fn(&mut Obstacles));

    /// Each line takes away what the line above has answered; what is below it stays, and does not count.
    #[test]
    fn what_stands_in_the_way_is_dealt_with_in_order() {
        let open = Obstacles { over: false, ..ALL };
        let lines: [Line; 7] = [
            (Next::AskToRelease, |now| now.releases = false),
            (Next::FailCopy, |now| now.copy_in = false),
            (Next::EndBatch, |now| now.skips = false),
            (Next::Stop, |now| now.works = false),
            (Next::Poison, |now| now.unsynced = false),
            (Next::PutOff, |now| now.between_batches = false),
            (Next::Abort, |_| {}),
        ];
        let mut rolls_back = Obstacles {
            closes: false,
            ..open
        };
        let mut terminates = open;
        for (next, take_away) in lines {
            for obstacles in [&mut rolls_back, &mut terminates] {
                assert_eq!(obstacles.next(), next);
                take_away(obstacles);
            }
        }
    }

    #[test]
    fn a_session_ends_as_soon_as_nothing_can_run_whatever_else_there_is() {
        let closes = Obstacles {
            releases: false,
            copy_in: false,
            can_run: false,
            ..ALL
        };
        for over in [false, true] {
            assert_eq!(Obstacles { over, ..closes }.next(), Next::Terminate);
        }
        let copies = Obstacles {
            closes: true,
            copy_in: true,
            ..Obstacles::default()
        };
        assert_eq!(copies.next(), Next::FailCopy);
    }

    #[test]
    fn after_a_transaction_that_has_ended_only_traces_of_a_cancel_are_left() {
        let mut over = Obstacles {
            closes: false,
            ..ALL
        };
        assert_eq!(over.next(), Next::EndSkipping);
        over.owes_sync = false;
        assert_eq!(over.next(), Next::Finish, "what works has to end first");
        over.works = false;
        assert_eq!(over.next(), Next::Fence);
        over.may_be_hit = false;
        assert_eq!(over.next(), Next::Finish);
    }
}
