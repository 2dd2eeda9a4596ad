//! What a state of the world is known by: everything that is in it, with times as they lie before now.
//!
//! The digest is one of the text that `Debug` writes, so that no field can be forgotten in it.

use std::{
    fmt::Write as _,
    hash::{DefaultHasher, Hasher as _},
    time::Instant,
};

use crate::session::tests::world::World;

/// How `Debug` writes an [`Instant`] on Linux.
const INSTANT: &str = "Instant { tv_sec: ";

/// A digest of 128 bits: among a hundred million states two that differ have the same one with a probability of 10⁻²³.
pub(super) fn digest(world: &World, text: &mut String) -> u128 {
    text.clear();
    write!(text, "{world:?}").unwrap();
    let now = nanos(&format!("{:?}", world.now)[INSTANT.len()..]).0;
    let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
    hashers[1].write_u8(1);
    let mut parts = text.split(INSTANT);
    let mut before = parts.next().unwrap_or_default();
    for hasher in &mut hashers {
        hasher.write(before.as_bytes());
    }
    for part in parts {
        let (at, rest) = nanos(part);
        // When a statement was sent that is answered is for reports alone.
        let at = if before.ends_with("Ran { at: ") {
            0
        } else {
            at - now
        };
        for hasher in &mut hashers {
            hasher.write_i128(at);
            hasher.write(rest.as_bytes());
        }
        before = rest;
    }
    let [high, low] = hashers.map(|hasher| u128::from(hasher.finish()));
    high << 64 | low
}

/// Reads the rest of an instant, and what follows it.
fn nanos(text: &str) -> (i128, &str) {
    let (seconds, rest) = text.split_once(", tv_nsec: ").unwrap();
    let (nanos, rest) = rest.split_once(" }").unwrap();
    let [seconds, nanos]: [i128; 2] = [seconds, nanos].map(|number| number.parse().unwrap());
    (seconds * 1_000_000_000 + nanos, rest)
}

/// Times are written as [`digest`] reads them: the same state at another time has the same digest, and half a second
/// later another one.
#[test]
fn a_state_is_the_same_at_any_time() {
    use std::time::Duration;
    let mut texts = [String::new(), String::new()];
    let at = |later: u64| {
        let mut world = World::new("idle: rollback 1s", false);
        world.now = shifted(world.now, later);
        world
    };
    let [one, other] = [at(0), at(500)];
    assert_ne!(digest(&one, &mut texts[0]), digest(&other, &mut texts[1]));
    assert_eq!(digest(&one, &mut texts[0]), digest(&at(0), &mut texts[1]));

    fn shifted(now: Instant, millis: u64) -> Instant {
        now + Duration::from_millis(millis)
    }
}
