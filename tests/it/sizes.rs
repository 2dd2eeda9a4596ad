//! Messages of every size pass in bounded memory.

use crate::support::{
    frontend::{bind, copy_data, copy_done, execute, parse, query, sync},
    proxy::Proxy,
    server::newest,
    wire::Client,
};

/// What a proxy may need more for any message, in KiB.
const BOUND: u64 = 64 * 1024;

/// Holds a conversation through a proxy, and says how much more memory that took at its peak.
fn grows_by(conversation: impl Fn(&mut Client)) -> u64 {
    let proxy = Proxy::rolling_back(&newest().database(), "1min");
    let mut client = Client::connect(proxy.endpoint());
    client.run("SELECT 1");
    let before = proxy.peak_memory_kib();
    conversation(&mut client);
    // The kernel counts by batches: where nothing was needed, the figure may be a little smaller.
    proxy.peak_memory_kib().saturating_sub(before)
}

#[test]
fn a_row_of_a_gigabyte() {
    const LEN: usize = 1_000_000_000;
    let grown = grows_by(|client| {
        // By hundreds, because the server repeats each piece by itself; it takes its time all the same.
        client.be_patient();
        let sql = format!("SELECT repeat(repeat('x', 100), {})", LEN / 100);
        client.send(&query(&sql));
        assert_eq!(client.skip(), (b'T', 27));
        // The number of columns, and the length of the only one.
        assert_eq!(client.skip(), (b'D', 6 + LEN));
        assert_eq!(client.until_ready(), "C SELECT 1 / Z I");
    });
    assert!(grown < BOUND, "{grown} KiB");
}

#[test]
fn a_parameter_and_copy_data_of_300_megabytes() {
    let large = "x".repeat(300_000_000);
    let grown = grows_by(|client| {
        client.be_patient();
        let answer = client.ask(&[
            parse("", "SELECT length($1::text)"),
            bind("", "", &[&large]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(answer, "1 / 2 / D 300000000 / C SELECT 1 / Z I");
        client.send(&query("COPY t FROM STDIN WHERE id < 0"));
        client.until(b'G');
        let answer = client.ask(&[copy_data(&format!("5\t{large}\n")), copy_done()]);
        assert_eq!(answer, "C COPY 0 / Z I");
    });
    assert!(grown < BOUND, "{grown} KiB");
}

/// PostgreSQL 18 reports search_path.
#[test]
fn a_parameter_status_of_a_megabyte() {
    let path: Vec<_> = (0..100_000).map(|n| format!("schema_{n:05}")).collect();
    let path = path.join(", ");
    let grown = grows_by(|client| {
        let answer = client.query(&format!("SET search_path = {path}"));
        assert_eq!(answer, format!("C SET / S search_path={path} / Z I"));
    });
    assert!(path.len() > 1_000_000 && grown < BOUND, "{grown} KiB");
}
