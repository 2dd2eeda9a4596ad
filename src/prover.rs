//! Proves that statements only read, on a thread of its own: PostgreSQL's grammar takes its time, works for one caller at
//! a time, and recurses as deep as a text is nested.
//!
//! Every claim is answered. What finds no room, and what the thread cannot answer, is answered as not proven.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use crate::sql::{self, Claim, Proof};

/// Claims that may wait.
const MAX_WAITING: usize = 1024;

/// A handle to the thread. Clones are cheap and feed the same thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Prover(SyncSender<Claimed>);

impl Prover {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> io::Result<Self> {
        let (claims, waiting) = sync_channel(MAX_WAITING);
        thread::Builder::new()
            .name("prover".to_owned())
            .stack_size(sql::PARSER_STACK)
            .spawn(move || run(&waiting, sql::prove))?;
        Ok(Self(claims))
    }

    /// Hands over a claim, without waiting for anything; `answer` is called once with what has come of it, from any
    /// thread.
    pub fn prove(&self, claim: Claim, answer: impl FnOnce(Proof) + Send + 'static) {
        // What is refused, because the queue is full or the thread is gone, answers when it is dropped.
        drop(self.0.try_send(Claimed {
            claim,
            answer: Some(Box::new(answer)),
        }));
    }
}

/// A claim that waits for its answer, and gets one when it is dropped.
struct Claimed {
    claim: Claim,
    answer: Option<Box<dyn FnOnce(Proof) + Send>>,
}

impl Claimed {
    fn answer(&mut self, proof: Proof) {
        if let Some(answer) = self.answer.take() {
            answer(proof);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.answer(Proof::Missing);
    }
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.claim.fmt(f)
    }
}

fn run(waiting: &Receiver<Claimed>, prove: fn(&Claim) -> Proof) {
    for mut claimed in waiting {
        let proof = catch_unwind(AssertUnwindSafe(|| prove(&claimed.claim)));
        claimed.answer(proof.unwrap_or(Proof::Missing));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn claim(text: &str) -> Claim {
        Claim::Each(vec![text.into()])
    }

    fn told(answers: &Sender<Proof>) -> impl FnOnce(Proof) + Send + 'static {
        let answers = answers.clone();
        move |proof| answers.send(proof).unwrap()
    }

    #[test]
    fn each_claim_is_answered_in_its_order() {
        let prover = Prover::start().unwrap();
        let (answers, answered) = channel();
        for text in [
            "SELECT 1",
            "DELETE FROM t",
            "SELECT nextval('s')",
            "TABLE t",
        ] {
            prover.prove(claim(text), told(&answers));
        }
        let proven: Vec<_> = answered.iter().take(4).collect();
        let expected = [true, false, false, true].map(|reads| Proof::Each(vec![reads]));
        assert_eq!(proven, expected);
    }

    #[test]
    fn what_finds_no_room_is_not_proven_and_nobody_waits() {
        let (claims, waiting) = sync_channel(1);
        let prover = Prover(claims);
        let (answers, answered) = channel();
        prover.prove(claim("SELECT 1"), told(&answers));
        prover.prove(claim("SELECT 2"), told(&answers));
        assert_eq!(answered.try_recv(), Ok(Proof::Missing));
        drop(waiting);
        assert_eq!(
            answered.try_recv(),
            Ok(Proof::Missing),
            "the thread is gone"
        );
        prover.prove(claim("SELECT 3"), told(&answers));
        assert_eq!(answered.try_recv(), Ok(Proof::Missing));
    }

    #[test]
    fn an_attempt_that_panics_proves_nothing_and_others_go_on() {
        let (claims, waiting) = sync_channel(2);
        let prover = Prover(claims);
        let (answers, answered) = channel();
        prover.prove(claim("panic"), told(&answers));
        prover.prove(claim("SELECT 1"), told(&answers));
        drop(prover);
        run(&waiting, |claim| {
            assert_ne!(*claim, Claim::Each(vec!["panic".into()]), "on purpose");
            Proof::Each(vec![true])
        });
        let proven: Vec<_> = answered.try_iter().collect();
        assert_eq!(proven, [Proof::Missing, Proof::Each(vec![true])]);
    }
}
