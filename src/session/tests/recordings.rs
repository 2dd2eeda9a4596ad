//! Recordings of real sessions, played as tests.

use std::{env, fs};

use super::script::replay_now;

#[test]
fn plays_a_recording() {
    let Some(file) = env::var_os("RECORDING") else {
        return;
    };
    let recorded = fs::read_to_string(file).unwrap();
    let replayed = replay_now(&recorded);
    println!("{replayed}");
    assert_eq!(replayed, recorded);
}
