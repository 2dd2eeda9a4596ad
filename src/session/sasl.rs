//! Channel binding, where the client and the server are not the ends of one TLS connection: it is not offered, and a
//! client that takes this for an attack is told the way out before the server refuses it.

use super::{CloseReason, Session, report};
use crate::wire::{BackendTag, Frame, FrontendTag, originate, sasl};

/// What becomes of channel binding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// It passes: both ends see the same certificate, or the server has none to bind to.
    #[default]
    Passes,
    /// It cannot pass, and is to be hidden.
    Hidden,
    /// The server offered it and the client was not told.
    Missed,
}

impl Session {
    /// Offers the client what the server offered, without channel binding, where that must be.
    pub(super) fn hides_binding(&mut self, frame: Frame<'_>) -> bool {
        if self.binding == ChannelBinding::Passes
            || BackendTag::from(frame.tag) != BackendTag::Authentication
        {
            return false;
        }
        let Some(mechanisms) = sasl::mechanisms_without_binding(frame.body) else {
            return false;
        };
        self.binding = ChannelBinding::Missed;
        originate::authentication_sasl(mechanisms, &mut self.to_client);
        true
    }

    /// Ends the session of a client that the server is about to refuse for what was hidden from it.
    pub(super) fn cannot_bind(&mut self, frame: Frame<'_>) -> bool {
        if self.binding != ChannelBinding::Missed
            || FrontendTag::from(frame.tag) != FrontendTag::Password
        {
            return false;
        }
        // Only the first answer has the flag.
        self.binding = ChannelBinding::Passes;
        if !sasl::misses_binding(frame.body) {
            return false;
        }
        self.fatal(&report::cannot_bind(), CloseReason::Authentication);
        true
    }
}
