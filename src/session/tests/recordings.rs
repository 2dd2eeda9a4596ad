//! Recordings of real sessions, played as tests.

use std::{env, fs};

use super::script::{Player, replay_now, steps};

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

#[test]
fn the_transcript_of_the_documents_is_true() {
    let page = include_str!("../../../docs/maintaining.md");
    let (_, rest) = page.split_once("```\nC: ").unwrap();
    let (transcript, _) = rest.split_once("```").unwrap();
    let shown = format!("C: {transcript}");
    let mut player = Player::new("idle: log 1s, rollback 2s");
    player.play(&steps(&shown));
    assert_eq!(player.transcript, shown);
}
