//! What counts until the client is authenticated, and is forgotten then: channel binding, what the server is, and how
//! long it all may take.
//!
//! Channel binding is not offered where the client and the server are not the ends of one TLS connection, and a client
//! that takes this for an attack is told the way out before the server refuses it.

use std::time::Instant;

use super::{CloseReason, Session, diagnostics};
use crate::{
    policy::{ServerRole, Target},
    wire::{self, BackendTag, Frame, FrontendTag, originate, sasl},
};

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

/// What is known and asked for while the client authenticates.
#[derive(Clone, Debug)]
pub(super) struct Startup {
    binding: ChannelBinding,
    /// What the server has to be, and what it has said that it is.
    target: Target,
    server_role: ServerRole,
    /// Until when the client has to be authenticated.
    authenticate_by: Option<Instant>,
}

impl Startup {
    pub(super) fn new(
        binding: ChannelBinding,
        target: Target,
        authenticate_by: Option<Instant>,
    ) -> Self {
        Self {
            binding,
            target,
            server_role: ServerRole::default(),
            authenticate_by,
        }
    }

    /// Until when the client has to be authenticated.
    pub(super) fn authenticate_by(&self) -> Option<Instant> {
        self.authenticate_by
    }

    /// The mechanisms that the client is offered in the place of those that the server offers, where channel binding has
    /// to be hidden.
    fn without_binding(&mut self, frame: Frame<'_>) -> Option<Vec<String>> {
        if self.binding == ChannelBinding::Passes
            || BackendTag::from(frame.tag) != BackendTag::Authentication
        {
            return None;
        }
        let mechanisms = sasl::mechanisms_without_binding(frame.body)?;
        self.binding = ChannelBinding::Missed;
        Some(mechanisms)
    }

    /// Whether the server is about to refuse the client for what was hidden from it.
    fn misses_binding(&mut self, frame: Frame<'_>) -> bool {
        if self.binding != ChannelBinding::Missed
            || FrontendTag::from(frame.tag) != FrontendTag::Password
        {
            return false;
        }
        // Only the first answer has the flag.
        self.binding = ChannelBinding::Passes;
        sasl::misses_binding(frame.body)
    }

    /// Takes note of what the server says of itself; once that is all, why it is not what was looked for.
    fn refuses_server(&mut self, frame: Frame<'_>) -> Option<(&'static str, Target)> {
        let tag = BackendTag::from(frame.tag);
        if tag == BackendTag::ParameterStatus
            && let Some((name, value)) = wire::parameter_status(frame.body)
        {
            self.server_role.set_parameter(name, value);
        }
        if tag != BackendTag::ReadyForQuery {
            return None;
        }
        let why = self.target.refuses(self.server_role)?;
        Some((why, self.target))
    }
}

impl Session {
    /// Looks at a frame of a server that has not let the client in; whether it is kept from the client.
    pub(super) fn startup_answered(&mut self, frame: Frame<'_>) -> bool {
        let Some(startup) = self.state.phase.startup_mut() else {
            return false;
        };
        if let Some(mechanisms) = startup.without_binding(frame) {
            originate::authentication_sasl(mechanisms, self.client.output());
            return true;
        }
        let refused = startup.refuses_server(frame);
        if let Some((why, target)) = refused {
            self.fatal(&diagnostics::wrong_server(why, target), CloseReason::Target);
        }
        refused.is_some()
    }

    /// Looks at a frame of a client that authenticates; whether it is kept from the server, and the session ends.
    pub(super) fn startup_fails(&mut self, frame: Frame<'_>) -> bool {
        let Some(startup) = self.state.phase.startup_mut() else {
            return false;
        };
        let fails = startup.misses_binding(frame);
        if fails {
            self.fatal(&diagnostics::cannot_bind(), CloseReason::Authentication);
        }
        fails
    }

    /// Ends a session whose client has taken too long to authenticate.
    pub(super) fn startup_late(&mut self, now: Instant) {
        if self.authenticate_by().is_some_and(|at| at <= now) {
            self.fatal(&diagnostics::login_too_slow(), CloseReason::Authentication);
        }
    }

    /// Until when the client has to be authenticated; `None` once it is.
    pub(super) fn authenticate_by(&self) -> Option<Instant> {
        self.state.phase.startup()?.authenticate_by()
    }
}
