//! No byte is lost, invented, doubled or moved: what the machine takes comes out as it went in, and where pgidle has a
//! reason to do otherwise, whole messages are left out and messages of its own put in, and nothing else.

use std::collections::BTreeSet;

use super::World;
use crate::session::{Side, discard::Discard, tests::model::take_frame};

/// What counts of a session before it is given bytes.
pub(super) struct Before {
    from: Side,
    undisturbed: bool,
    /// What is due to the other side.
    unsent: Vec<u8>,
    missing: usize,
}

impl World {
    /// Whether nothing gives pgidle a reason to do anything but pass bytes on.
    fn is_undisturbed(&self) -> bool {
        let session = &self.session;
        session.enforcement.is_none()
            && session.deferred_error.is_none()
            && session.released.is_none()
            && session.cancels.sent().is_none()
            && session.discard == Discard::default()
            && !session.client.drops_rest()
            && !session.server.drops_rest()
            && !session.state.phase.is_closing()
    }

    fn missing(&self, from: Side) -> usize {
        match from {
            Side::Client => self.session.client.missing(),
            Side::Server => self.session.server.missing(),
        }
    }

    pub(super) fn conserves(&self, from: Side) -> Before {
        Before {
            from,
            undisturbed: self.is_undisturbed(),
            unsent: self.session.unsent(from.other()).to_vec(),
            missing: self.missing(from),
        }
    }

    /// Looks at what has come of bytes: what passed, and what is now due to the other side.
    pub(super) fn check_conserved(
        &self,
        before: &Before,
        given: &[u8],
        passed: &[u8],
    ) -> Result<(), String> {
        let from = before.from;
        let taken = &given[..given.len() - self.session.kept(from)];
        let unsent = self.session.unsent(from.other());
        let Some(added) = unsent.strip_prefix(&*before.unsent) else {
            return Err(format!(
                "what was due to the {:?} is not any more",
                from.other()
            ));
        };
        let out = [passed, added].concat();
        let undisturbed = before.undisturbed && self.is_undisturbed();
        let between = before.missing == 0 && self.missing(from) == 0;
        if undisturbed && out != taken || between && !is_edited(from, taken, &out) {
            let [taken, out] = [taken, &out].map(String::from_utf8_lossy);
            return Err(format!("bytes of the {from:?}: {taken:?} became {out:?}"));
        }
        Ok(())
    }
}

/// Whether messages are those that went in, in their order, some perhaps left out, and some of pgidle's put in.
fn is_edited(from: Side, taken: &[u8], out: &[u8]) -> bool {
    let taken = frames(taken);
    // How many of those that went in may be dealt with, for all that can be known.
    let mut reached = BTreeSet::from([0]);
    for frame in frames(out) {
        let next = |from: usize| (from..taken.len()).filter(|&index| taken[index] == frame);
        let mut after: BTreeSet<usize> = reached
            .iter()
            .flat_map(|&from| next(from).map(|index| index + 1))
            .collect();
        if is_ours(from, &frame) {
            after.append(&mut reached);
        }
        reached = after;
    }
    !reached.is_empty()
}

fn frames(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = bytes.to_vec();
    std::iter::from_fn(|| take_frame(&mut bytes)).collect()
}

/// Whether pgidle may say this in the place of a side.
fn is_ours(from: Side, (tag, body): &(u8, Vec<u8>)) -> bool {
    let named = body.windows(6).any(|word| word == b"pgidle");
    match from {
        Side::Client => named || matches!(tag, b'S' | b'H' | b'X' | b'C' | b'f'),
        // The errors of the model's server have this text.
        Side::Server if matches!(tag, b'E' | b'N') => {
            !body.windows(7).any(|text| text == b"\0Mtext\0")
        }
        Side::Server => matches!(
            tag,
            b'1' | b'2' | b'3' | b'n' | b't' | b'C' | b'I' | b'V' | b'Z'
        ),
    }
}
