//! The texts behind the names of the extended protocol: which statement does this portal run?
//!
//! A name counts from the moment when the server has confirmed it, so that a Parse that fails leaves the old text.

use super::{names::Names, text::Text};

/// Bytes of text that named statements keep; those beyond keep only what they do to the transaction.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Bytes of names, and of what little is kept for each: of a statement beyond them nothing is known.
const MAX_NAME_BYTES: usize = 1 << 20;

/// What a name costs beside its bytes.
const NAME_OVERHEAD: usize = 128;

/// Statements and portals of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepared {
    unnamed_statement: Option<Text>,
    /// Whether the unnamed statement was parsed and not yet bound.
    unbound: bool,
    unnamed_portal: Option<Text>,
    statements: Option<Box<Names<Text>>>,
    portals: Option<Box<Names<Text>>>,
    /// Bytes of text and of names that `statements` keeps.
    text_bytes: usize,
    name_bytes: usize,
}

impl Prepared {
    /// The statement of this name.
    pub(super) fn statement(&self, name: &[u8]) -> Option<&Text> {
        find(&self.unnamed_statement, &self.statements, name)
    }

    /// The statement that the portal of this name runs.
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Text> {
        find(&self.unnamed_portal, &self.portals, name)
    }

    /// The server has confirmed a Parse.
    pub(super) fn parsed(&mut self, name: Box<[u8]>, mut text: Text) {
        if name.is_empty() {
            self.unbound = true;
            self.unnamed_statement = Some(text);
            return;
        }
        self.statement_closed(&name);
        let (name_bytes, text_bytes) = (name.len() + NAME_OVERHEAD, text_bytes(&text));
        if self.name_bytes + name_bytes > MAX_NAME_BYTES {
            return;
        }
        if self.text_bytes + text_bytes > MAX_TEXT_BYTES {
            text.sql = None;
        } else {
            self.text_bytes += text_bytes;
        }
        self.name_bytes += name_bytes;
        self.statements.get_or_insert_default().insert(name, text);
    }

    /// Whether the client has parsed the unnamed statement and not gone on to bind it.
    pub(super) fn waits_for_bind(&self) -> bool {
        self.unbound
    }

    /// The client has sent what replaces the unnamed statement.
    pub(super) fn replaced(&mut self) {
        self.unbound = false;
    }

    /// The server has confirmed a Bind.
    pub(super) fn bound(&mut self, name: Box<[u8]>, text: Text) {
        self.unbound = false;
        if name.is_empty() {
            self.unnamed_portal = Some(text);
        } else {
            self.portals.get_or_insert_default().insert(name, text);
        }
    }

    /// A Close of a statement was confirmed, or a DEALLOCATE.
    pub(super) fn statement_closed(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed_statement = None;
        } else if let Some(names) = &mut self.statements
            && let Some(text) = names.remove(name)
        {
            self.name_bytes -= name.len() + NAME_OVERHEAD;
            self.text_bytes -= text_bytes(&text);
            if names.is_empty() {
                self.statements = None;
            }
        }
    }

    /// A Close of a portal was confirmed.
    pub(super) fn portal_closed(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed_portal = None;
        } else if let Some(names) = &mut self.portals {
            names.remove(name);
        }
    }

    /// What the names of statements cost, in bytes.
    #[cfg(test)]
    pub(super) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// Portals end with their transaction.
    pub(super) fn transaction_ended(&mut self) {
        self.unnamed_portal = None;
        self.portals = None;
    }

    /// The server may have read the texts in another way than we did.
    pub(super) fn doubt_texts(&mut self) {
        let unnamed = [&mut self.unnamed_statement, &mut self.unnamed_portal];
        let named = [&mut self.statements, &mut self.portals];
        let named = named
            .into_iter()
            .flatten()
            .flat_map(|names| names.values_mut());
        for text in unnamed.into_iter().flatten().chain(named) {
            text.doubt();
        }
    }

    /// DISCARD ALL or DEALLOCATE ALL.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }
}

fn find<'a>(
    unnamed: &'a Option<Text>,
    named: &'a Option<Box<Names<Text>>>,
    name: &[u8],
) -> Option<&'a Text> {
    if name.is_empty() {
        return unnamed.as_ref();
    }
    named.as_ref()?.get(name)
}

fn text_bytes(text: &Text) -> usize {
    text.sql.as_deref().map_or(0, str::len)
}
