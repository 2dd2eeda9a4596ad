//! Everything that a client can say after its transaction was ended, until it has left the transaction block.

mod commit;
mod refusals;
mod rollback;

use expect_test::Expect;

use super::script::Player;

/// A session whose idle transaction was rolled back, with `prepared` sent before.
fn untold(prepared: &str) -> Player {
    let mut player = Player::new("idle: rollback 1s");
    player.play(prepared);
    player.play("C: Q BEGIN\nS: C BEGIN | Z T\n+1s\nS: C ROLLBACK | C BEGIN | E 22P02 | Z E");
    player.transcript.clear();
    player
}

fn check(transcript: Expect) {
    untold("").check(transcript);
}

/// A session with a savepoint, whose idle transaction was rolled back.
fn untold_in_savepoint() -> Player {
    let mut player = Player::new("idle: rollback 1s");
    player.play(
        "C: Q BEGIN; SAVEPOINT a
         S: C BEGIN | C SAVEPOINT | Z T
         +1s
         S: C ROLLBACK | C BEGIN | E 22P02 | Z E",
    );
    player.transcript.clear();
    player
}
