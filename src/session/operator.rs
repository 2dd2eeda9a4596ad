//! What the operator wants of a session: that it ends, sooner or later.

/// The end that is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operator {
    /// Whether the session ends as soon as no transaction is open.
    drains: bool,
    /// Whether it ends as soon as that can be done with care, whatever is open in it.
    insists: bool,
}

impl Operator {
    pub(super) fn drain(&mut self) {
        self.drains = true;
    }

    pub(super) fn insist(&mut self) {
        self.insists = true;
    }

    /// Whether the session ends as soon as no transaction is open.
    pub(super) fn drains(self) -> bool {
        self.drains
    }

    /// Whether the session ends as soon as that can be done with care, whatever is open in it.
    pub(super) fn insists(self) -> bool {
        self.insists
    }
}
