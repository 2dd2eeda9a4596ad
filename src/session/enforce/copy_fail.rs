//! Ends a COPY FROM STDIN that gets no data: CopyFail, between whole CopyData messages.
//!
//! The answer is the end of the client's own request, so it goes to the client, in our words. A server that is busy with
//! the data which it has (a trigger, a unique key that waits for another transaction) reads the CopyFail late: it is
//! cancelled after a while. Nothing of the COPY can be committed, whatever the server meets first.

use std::time::Duration;

use super::{Instant, Session, Step, originate};
use crate::wire::originate::padding;

/// How long a CopyFail may lie unread before the server is cancelled.
const PATIENCE: Duration = Duration::from_millis(500);

impl Session {
    /// Sends CopyFail; a CopyData message that was half forwarded is completed first.
    pub(super) fn copy_fail(&mut self, now: Instant) {
        let rest = self.client.missing();
        let Some(enforcement) = &mut self.enforcement else {
            return;
        };
        enforcement.copy_failed = true;
        if rest > MAX_PADDING {
            // Nothing may be put into the message: there is no other end than that of the session.
            enforcement.closes.get_or_insert(super::CloseReason::Policy);
            return self.cancel(now);
        }
        let reason = enforcement.reason();
        padding(rest, self.server.output());
        self.client.drop_rest();
        originate::copy_fail(&reason, self.server.output());
        self.discard.rest_of_copy();
        self.state.pending.copy_failed();
        self.set_step(Step::CopyFail {
            until: now + PATIENCE,
        });
    }
}

/// The longest rest of a CopyData message that is completed, in bytes.
const MAX_PADDING: usize = 16 << 20;
