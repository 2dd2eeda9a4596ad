//! A naive PostgreSQL backend and a naive driver: what the machine in between is judged by.
//!
//! Statements are words: `INSERT 7` and `COPY 7 FROM STDIN` write the token 7, `VACUUM 7` and `CALL 7` do and commit it
//! by themselves outside of a block, `FAIL` fails, `SLEEP` runs until it is woken or cancelled, `DOZE` ignores two cancels
//! first. Where there is a standby, a commit waits for it until it is woken, or cancelled. A release of what cannot be
//! given back is a breach.

mod act;
mod client;
mod savepoints;
mod server;

pub(super) use self::{
    act::{Act, Eager, End, NAMED, Statement},
    client::Client,
    server::Server,
};

/// Takes the first whole message off a stream.
pub(super) fn take_frame(stream: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&[tag, a, b, c, d], _) = stream.split_first_chunk()?;
    let end = 1 + usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
    if stream.len() < end {
        return None;
    }
    let body = stream[5..end].to_vec();
    stream.drain(..end);
    Some((tag, body))
}

fn strings(body: &[u8]) -> Vec<String> {
    let parts = body.split(|&byte| byte == 0);
    parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

fn number(text: &str) -> u32 {
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Whether a statement ends the block.
fn exits(text: &str) -> bool {
    is_exit(text) && !text.starts_with("ROLLBACK TO")
}

fn is_exit(text: &str) -> bool {
    text.starts_with("COMMIT") || text.starts_with("ROLLBACK")
}
