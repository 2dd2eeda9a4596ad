//! The statements and portals that the server has been sent and not yet confirmed, by name.
//!
//! A client may send thousands of messages before it reads an answer; what a name stands for is found without a search
//! through all of them.

use super::{names::Names, text::Text};

/// How many requests that are not answered make a name, and what the newest of them makes it stand for.
#[derive(Clone, Debug)]
struct Newest {
    requests: usize,
    text: Text,
}

/// Names that requests in the queue make.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    unnamed: Option<Newest>,
    named: Option<Box<Names<Newest>>>,
}

impl InFlight {
    /// Notes a request that makes a name.
    pub(super) fn sent(&mut self, name: &[u8], text: &Text) {
        let newest = if name.is_empty() {
            self.unnamed.as_mut()
        } else {
            self.named.get_or_insert_default().get_mut(name)
        };
        let made = Newest {
            requests: newest.as_ref().map_or(1, |newest| newest.requests + 1),
            text: text.clone(),
        };
        match newest {
            Some(newest) => *newest = made,
            None if name.is_empty() => self.unnamed = Some(made),
            None => drop(self.named.get_or_insert_default().insert(name.into(), made)),
        }
    }

    /// Notes that a request which makes a name is answered, or will not be.
    pub(super) fn done(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = self.unnamed.take().and_then(Newest::without_one);
        } else if let Some(named) = &mut self.named
            && let Some(newest) = named.remove(name)
        {
            if let Some(newest) = newest.without_one() {
                named.insert(name.into(), newest);
            }
            if named.is_empty() {
                self.named = None;
            }
        }
    }

    /// What the name will stand for when everything is confirmed; `None` where no request makes it.
    pub(super) fn newest(&self, name: &[u8]) -> Option<&Text> {
        let newest = if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.as_ref()?.get(name)
        };
        newest.map(|newest| &newest.text)
    }

    /// The server may read the texts in another way than we did.
    pub(super) fn doubt_texts(&mut self) {
        let named = self.named.iter_mut().flat_map(|named| named.values_mut());
        for newest in self.unnamed.iter_mut().chain(named) {
            newest.text.doubt();
        }
    }
}

impl Newest {
    fn without_one(self) -> Option<Self> {
        let requests = self.requests - 1;
        (requests > 0).then_some(Self { requests, ..self })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn text(sql: &str) -> Text {
        Text {
            sql: Some(Arc::from(sql)),
            ..Text::UNKNOWN
        }
    }

    #[test]
    fn a_name_stands_for_the_newest_request_until_the_last_one_is_done() {
        for name in [&b""[..], b"s"] {
            let mut in_flight = InFlight::default();
            let newest = |in_flight: &InFlight| in_flight.newest(name)?.sql.clone();
            in_flight.sent(name, &text("a"));
            in_flight.sent(b"other", &text("x"));
            in_flight.sent(name, &text("b"));
            assert_eq!(newest(&in_flight).as_deref(), Some("b"));
            in_flight.done(name);
            assert_eq!(newest(&in_flight).as_deref(), Some("b"));
            in_flight.done(name);
            assert_eq!(newest(&in_flight), None);
            in_flight.done(b"other");
            assert!(in_flight.named.is_none(), "memory is kept for nothing");
        }
    }
}
