//! Ends a COPY FROM STDIN that gets no data: CopyFail, between whole CopyData messages.
//!
//! The answer is the end of the client's own request, so it goes to the client, in our words.

use super::{
    BackendTag, Discarding, ErrorFields, Frame, Instant, Session, Step, Telling, Verdict,
    originate, report,
};
use crate::wire::originate::padding;

impl Session {
    /// Sends CopyFail; a CopyData message that was half forwarded is completed first.
    pub(super) fn copy_fail(&mut self) {
        let Some(ending) = &self.ending else {
            return;
        };
        let rest = self.client.scanner.rest();
        if rest > MAX_PADDING {
            return self.terminate(0);
        }
        padding(rest, &mut self.to_server);
        self.client.drop_rest = rest > 0;
        originate::copy_fail(&report::sql_reason(&ending.incident), &mut self.to_server);
        self.discarding = Discarding::CopyData;
        self.state.pending.copy_failed();
        self.set_step(Step::CopyFail);
    }

    /// Looks at an answer to the client's own request, which CopyFail or a cancel is meant to end.
    pub(super) fn client_request_ends(&mut self, frame: Frame<'_>, now: Instant) -> Verdict {
        let settled = self.settled;
        let mut verdict = self.answer_received(frame, now);
        // An error of the COPY's own that came first says more than ours; one about our padding does not.
        let padded = self.client.drop_rest && self.ending_step() == Some(Step::CopyFail);
        let cancelled = padded || ErrorFields::read(frame.body).sqlstate == b"57014";
        if let Some(ending) = &self.ending
            && frame.tag == u8::from(BackendTag::ErrorResponse)
            && cancelled
            && !settled
        {
            // A COMMIT may be under way already, sent before the client could know.
            let mut telling = Telling::new(report::ended(&ending.incident), true, false);
            telling.send(&mut self.to_client);
            self.telling = Some(Box::new(telling));
            verdict = Verdict::Drop;
        }
        self.request_ended(now);
        verdict
    }
}

/// The longest rest of a CopyData message that is completed, in bytes.
const MAX_PADDING: usize = 16 << 20;
