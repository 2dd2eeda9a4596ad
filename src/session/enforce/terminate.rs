//! Ends the session: a FATAL error that the client can read, then both connections are closed.

use super::{Action, CloseReason, Outcome, Phase, Session, originate, report};

impl Session {
    /// Whether the server has no whole request that it could still carry out: one that is half forwarded is not.
    pub(super) fn nothing_can_run(&self) -> bool {
        let unfinished = usize::from(self.client.scanner.rest() > 0);
        self.state.pending.len() <= unfinished
    }

    /// Closes both sides; `unknown` requests were forwarded and not answered.
    pub(super) fn terminate(&mut self, unknown: usize) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        if unknown > 0 {
            ending.incident.why =
                Some(format!("the outcome of {unknown} request(s) is unknown").into());
        }
        let report = report::terminated(&ending.incident, unknown);
        self.fatal(&report, CloseReason::Policy);
        self.finish(Outcome::Terminated);
    }

    /// Sends a FATAL error where the client can read it, and asks for the end of the session.
    pub(in crate::session) fn fatal(&mut self, report: &originate::Report, reason: CloseReason) {
        if self.state.phase == Phase::Closing {
            return;
        }
        let ready = self.state.phase == Phase::Ready;
        self.state.phase = Phase::Closing;
        // In the middle of a message a FATAL would be read as a part of it.
        if self.server.scanner.rest() == 0 {
            originate::fatal_response(report, &mut self.to_client);
        }
        // A server that still waits for a password takes no Terminate.
        if ready && self.state.pending.is_empty() && self.client.scanner.rest() == 0 {
            originate::terminate(&mut self.to_server);
        }
        self.actions.push_back(Action::Close(reason));
    }
}
