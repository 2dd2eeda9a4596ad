//! What is thrown away of the client's messages because the request that they belong to has failed already.

use crate::wire::FrontendTag;

/// Which of the client's next messages are discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Discard(Rest);

/// The rest of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rest {
    #[default]
    Nothing,
    /// Everything up to Sync.
    OfBatch,
    /// CopyData, CopyDone and CopyFail.
    OfCopy,
}

impl Discard {
    /// The batch has failed: everything up to its Sync is discarded.
    pub(super) fn rest_of_batch(&mut self) {
        self.0 = Rest::OfBatch;
    }

    /// The COPY has failed: the rest of its data is discarded.
    pub(super) fn rest_of_copy(&mut self) {
        self.0 = Rest::OfCopy;
    }

    /// Whether the client is believed to be in a batch that has failed.
    pub(super) fn is_in_batch(self) -> bool {
        self.0 == Rest::OfBatch
    }

    /// Whether a message of the client's is discarded; the first one that is not ends the discarding.
    pub(super) fn takes(&mut self, tag: FrontendTag) -> bool {
        let takes = match self.0 {
            Rest::Nothing => false,
            Rest::OfBatch => tag != FrontendTag::Sync && tag != FrontendTag::Terminate,
            Rest::OfCopy => matches!(
                tag,
                FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail
            ),
        };
        if !takes {
            self.0 = Rest::Nothing;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_failed_request_is_discarded_and_nothing_else() {
        use FrontendTag::{Bind, CopyData, CopyDone, Parse, Query, Sync, Terminate};
        let mut discard = Discard::default();
        assert!(!discard.takes(Parse));
        for end in [Sync, Terminate] {
            discard.rest_of_batch();
            assert!(discard.is_in_batch() && discard.takes(Bind) && discard.takes(Query));
            assert!(!discard.takes(end) && !discard.is_in_batch());
            assert!(!discard.takes(Parse));
        }
        discard.rest_of_copy();
        assert!(!discard.is_in_batch() && discard.takes(CopyData) && discard.takes(CopyDone));
        assert!(!discard.takes(Query) && !discard.takes(CopyData));
    }
}
