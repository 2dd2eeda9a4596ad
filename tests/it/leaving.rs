//! How sessions end by themselves, and what the log says of it.

use crate::support::{
    Endpoint, dba::Dba, frontend::terminate, program::python, proxy::Proxy, server::newest,
    wait_for, wire::Client,
};

/// What the log says of sessions that ended in another way than by their client's wish.
fn closed(proxy: &Proxy) -> Vec<String> {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains("session closed"));
    lines.map(str::to_owned).collect()
}

/// Cuts a session off from the side of the server, and waits until the log says so: what came before is in it too.
fn cut_off(proxy: &Proxy, database: &Endpoint) -> String {
    let before = closed(proxy).len();
    let client = Client::connect(proxy.endpoint());
    let pid = client.server_pid();
    Dba::new(database).value(&format!("SELECT pg_terminate_backend({pid})"));
    wait_for("the end of the session", || {
        (closed(proxy).len() > before).then(|| closed(proxy).pop().unwrap())
    })
}

#[test]
fn a_client_that_says_terminate_has_left_whoever_closes_first() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let mut client = Client::connect(proxy.endpoint());
    client.send(&terminate());
    assert_eq!(client.until_closed(), "closed");
    // asyncpg waits for the server to close.
    let script = "
import asyncio, asyncpg
async def main():
    connection = await asyncpg.connect()
    await connection.fetch('SELECT 1')
    await connection.close()
asyncio.run(main())
print('closed')
";
    assert_eq!(python(proxy.endpoint(), script), "closed");
    let mut client = Client::connect(proxy.endpoint());
    client.send(&crate::support::frontend::query(
        "SELECT generate_series(1, 100000)",
    ));
    client.send(&terminate());
    drop(client);

    let line = cut_off(&proxy, &database);
    assert!(line.contains("\"reason\":\"server_left\""), "{line}");
    assert_eq!(closed(&proxy).len(), 1, "{}", proxy.log());
}
