//! Statements as they are shown: without their literals, and with a fingerprint that is the same for all that differ in
//! nothing else.

use std::{collections::HashMap, sync::Arc};

use crate::{
    session::{MAX_TEXT, event::Statement},
    sql::{self, Identifiers},
};

/// The fingerprints of normalised texts seen before: an application repeats itself, and parsing costs most.
#[derive(Debug, Default)]
pub struct Texts(HashMap<Arc<str>, Option<Arc<str>>>);

impl Texts {
    /// A statement's text without its literals, and its fingerprint, each where it can be given.
    pub fn of(&mut self, statement: &Statement) -> (Option<Arc<str>>, Option<Arc<str>>) {
        match &statement.text {
            None => (None, None),
            Some(text) if statement.refused => (Self::shown(text, Identifiers::Hidden), None),
            Some(text) => self.known(text, statement.duration.is_none()),
        }
    }

    /// Normalised text and fingerprint, each where it can be given. Of a text that the server may not have read yet,
    /// words are names only if it could be read.
    pub(super) fn known(
        &mut self,
        text: &str,
        may_be_unread: bool,
    ) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let Some(normalised) = sql::normalise(text, Identifiers::Shown) else {
            return (None, None);
        };
        let (normalised, fingerprint) = match self.0.get_key_value(&*normalised) {
            Some((normalised, fingerprint)) => (Arc::clone(normalised), fingerprint.clone()),
            None => {
                let normalised: Arc<str> = normalised.into();
                let fingerprint: Option<Arc<str>> = sql::fingerprint(text).map(Arc::from);
                self.remember(&normalised, &fingerprint);
                (normalised, fingerprint)
            }
        };
        let is_cut = text.len() + MAX_CHAR > MAX_TEXT;
        if may_be_unread && fingerprint.is_none() && !is_cut {
            return (Self::shown(text, Identifiers::Hidden), None);
        }
        (Some(normalised), fingerprint)
    }

    fn remember(&mut self, normalised: &Arc<str>, fingerprint: &Option<Arc<str>>) {
        if normalised.len() <= MAX_KNOWN_BYTES {
            if self.0.len() >= MAX_KNOWN {
                self.0.clear();
            }
            self.0.insert(Arc::clone(normalised), fingerprint.clone());
        }
    }

    /// A text without the words that may be anything.
    fn shown(text: &str, identifiers: Identifiers) -> Option<Arc<str>> {
        sql::normalise(text, identifiers).map(Arc::from)
    }
}

/// The most bytes of a character: a text is cut before one that does not fit.
const MAX_CHAR: usize = 4;

/// How many normalised texts are remembered, and how long each may be.
const MAX_KNOWN: usize = 1024;
const MAX_KNOWN_BYTES: usize = 4096;
