//! The cost of following the wire: a result of many rows in chunks of several sizes, and one transaction after another.
//!
//! `cargo bench --bench session`. What a whole session costs, sockets included, is `benches/compare.py`'s to say.

use std::{sync::Arc, time::Instant};

use divan::{Bencher, black_box, counter::BytesCount};
use pgidle::{
    policy::Limits,
    session::{Session, SessionParams, Side, Wants},
};

fn main() {
    divan::main();
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("a short body");
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// A session that has become ready; the time stands still, as no limit is set.
fn session() -> (Session, Instant) {
    #[expect(clippy::disallowed_methods, reason = "a bench has no caller to ask")]
    let now = Instant::now();
    let mut session = Session::new(SessionParams::default(), Arc::new(Limits::default()), now);
    session
        .handle_read(Side::Server, &frame(b'Z', b"I"), now)
        .expect("a frame");
    (session, now)
}

#[divan::bench(args = [512, 4096, 65_536])]
fn rows_of_100_bytes(bencher: Bencher<'_, '_>, chunk: usize) {
    let (mut session, now) = session();
    session
        .handle_read(Side::Client, &frame(b'Q', b"SELECT\0"), now)
        .expect("a frame");
    let rows = frame(b'D', &[b'x'; 95]).repeat(10_000);
    bencher
        .counter(BytesCount::of_slice(&rows))
        .bench_local(|| {
            let mut start = 0;
            while start < rows.len() {
                let end = (start + chunk).min(rows.len());
                let passed = session
                    .handle_read(Side::Server, &rows[start..end], now)
                    .expect("frames");
                start += passed.len();
                // The part of a header that was kept is a part of the next chunk.
                drop(session.take_kept(Side::Server));
            }
        });
}

/// Plays a request and its answer.
fn round(session: &mut Session, now: Instant, request: &[u8], answer: &[u8]) {
    for (from, bytes) in [(Side::Client, request), (Side::Server, answer)] {
        assert!(matches!(session.wants_read(from), Wants::Bytes(_)));
        let passed = session.handle_read(from, black_box(bytes), now);
        assert!(passed.expect("frames").len() == bytes.len());
        assert!(!session.wants_write(from.other()));
    }
}

#[divan::bench]
fn a_simple_select(bencher: Bencher<'_, '_>) {
    let (mut session, now) = session();
    let request = frame(
        b'Q',
        b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;\0",
    );
    let answer = [
        frame(b'T', &[0; 28]),
        frame(b'D', &[0; 8]),
        frame(b'C', b"SELECT 1\0"),
        frame(b'Z', b"I"),
    ]
    .concat();
    bencher.bench_local(|| round(&mut session, now, &request, &answer));
}

#[divan::bench]
fn a_prepared_select(bencher: Bencher<'_, '_>) {
    let (mut session, now) = session();
    let parse = [frame(b'P', b"p\0SELECT 1\0\0\0"), frame(b'S', b"")].concat();
    round(
        &mut session,
        now,
        &parse,
        &[frame(b'1', b""), frame(b'Z', b"I")].concat(),
    );
    let request = [
        frame(b'B', b"\0p\0\0\0\0\0\0\0"),
        frame(b'E', b"\0\0\0\0\0"),
        frame(b'S', b""),
    ]
    .concat();
    let answer = [
        frame(b'2', b""),
        frame(b'D', &[0; 8]),
        frame(b'C', b"SELECT 1\0"),
        frame(b'Z', b"I"),
    ]
    .concat();
    bencher.bench_local(|| round(&mut session, now, &request, &answer));
}

#[divan::bench]
fn a_transaction_of_three_statements(bencher: Bencher<'_, '_>) {
    let (mut session, now) = session();
    let steps = [
        ("BEGIN\0", "BEGIN\0", "T"),
        ("UPDATE t SET a = 1\0", "UPDATE 1\0", "T"),
        ("COMMIT\0", "COMMIT\0", "I"),
    ];
    let steps = steps.map(|(sql, tag, status)| {
        let answer = [frame(b'C', tag.as_bytes()), frame(b'Z', status.as_bytes())].concat();
        (frame(b'Q', sql.as_bytes()), answer)
    });
    bencher.bench_local(|| {
        for (request, answer) in &steps {
            round(&mut session, now, request, answer);
        }
    });
}
