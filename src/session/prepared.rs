//! The texts behind the names of the extended protocol: which statement does this portal run?
//!
//! A name counts from the moment when the server has confirmed it, so that a Parse that fails leaves the old text.

use std::collections::HashMap;

use super::pending::Text;

/// Named statements whose text is kept; those beyond keep only what they do to the transaction.
const MAX_TEXTS: usize = 1000;

type Names = HashMap<Box<[u8]>, Text>;

/// Statements and portals of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepared {
    unnamed_statement: Option<Text>,
    /// Whether the unnamed statement was parsed and not yet bound.
    unbound: bool,
    unnamed_portal: Option<Text>,
    statements: Option<Box<Names>>,
    portals: Option<Box<Names>>,
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
    pub(super) fn parsed(&mut self, name: Box<[u8]>, text: Text) {
        let full = self
            .statements
            .as_ref()
            .is_some_and(|names| names.len() >= MAX_TEXTS);
        self.unbound |= name.is_empty();
        let sql = text.sql.filter(|_| !full || name.is_empty());
        let text = Text { sql, ..text };
        set(
            &mut self.unnamed_statement,
            &mut self.statements,
            name,
            text,
        );
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
        set(&mut self.unnamed_portal, &mut self.portals, name, text);
    }

    /// A Close of a statement was confirmed.
    pub(super) fn statement_closed(&mut self, name: &[u8]) {
        remove(&mut self.unnamed_statement, &mut self.statements, name);
    }

    /// A Close of a portal was confirmed.
    pub(super) fn portal_closed(&mut self, name: &[u8]) {
        remove(&mut self.unnamed_portal, &mut self.portals, name);
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
    named: &'a Option<Box<Names>>,
    name: &[u8],
) -> Option<&'a Text> {
    if name.is_empty() {
        return unnamed.as_ref();
    }
    named.as_ref()?.get(name)
}

fn set(unnamed: &mut Option<Text>, named: &mut Option<Box<Names>>, name: Box<[u8]>, text: Text) {
    if name.is_empty() {
        *unnamed = Some(text);
    } else {
        named.get_or_insert_default().insert(name, text);
    }
}

fn remove(unnamed: &mut Option<Text>, named: &mut Option<Box<Names>>, name: &[u8]) {
    if name.is_empty() {
        *unnamed = None;
    } else if let Some(names) = named {
        names.remove(name);
    }
}
