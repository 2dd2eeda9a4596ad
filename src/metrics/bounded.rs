//! A bound on how many label sets a series can have.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
};

/// The label sets that have come so far: the first ones keep their names, the others share one.
#[derive(Debug)]
pub(super) struct Bounded {
    hasher: RandomState,
    most: usize,
    admitted: HashSet<u64>,
    /// Some of those that were not, so that each is counted once.
    refused: HashSet<u64>,
}

/// Whether a label set keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fits {
    /// It does.
    Yes,
    /// It does not, and came for the first time.
    Newly,
    /// It does not.
    No,
}

impl Bounded {
    pub(super) fn new(most: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            most,
            admitted: HashSet::new(),
            refused: HashSet::new(),
        }
    }

    pub(super) fn admits(&mut self, labels: &[&str]) -> Fits {
        let set = self.hasher.hash_one(labels);
        if self.admitted.contains(&set) {
            return Fits::Yes;
        }
        if self.admitted.len() < self.most {
            self.admitted.insert(set);
            return Fits::Yes;
        }
        if self.refused.len() >= MOST_REFUSED {
            self.refused.clear();
        }
        match self.refused.insert(set) {
            true => Fits::Newly,
            false => Fits::No,
        }
    }
}

/// How many label sets are known to have been refused; beyond that they are forgotten, and count anew.
const MOST_REFUSED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_keep_their_names() {
        let mut bounded = Bounded::new(2);
        assert_eq!(bounded.admits(&["a", "bc"]), Fits::Yes);
        assert_eq!(bounded.admits(&["ab", "c"]), Fits::Yes);
        assert_eq!(bounded.admits(&["abc", ""]), Fits::Newly);
        assert_eq!(bounded.admits(&["abc", ""]), Fits::No);
        assert_eq!(bounded.admits(&["a", "bc"]), Fits::Yes);
    }
}
