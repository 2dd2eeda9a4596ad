//! Nothing hangs: whatever the server does with what pgidle says to it, a session that is stuck is ended.

use std::time::Duration;

use crate::support::{
    dba::Dba,
    frontend::{bind, execute, flush, parse, sync},
    let_pass,
    proxy::Proxy,
    server::on_every_server,
    wire::Client,
};

/// The statement timeout of a portal that is not finished is noticed when the next message comes, be it a Flush.
#[test]
fn an_error_that_answers_nothing_leaves_the_limits_in_force() {
    on_every_server(|server| {
        let database = server.database();
        let rules = "[[rule]]\nname = 'all'\nstalled = { rollback = '1s' }";
        let proxy = Proxy::with_rules(&database, rules);
        let mut dba = Dba::new(&database);
        let mut client = Client::connect(proxy.endpoint());
        client.begin("LOCK TABLE t");
        client.run("SET LOCAL statement_timeout = '200ms'; SAVEPOINT a");
        client.send(
            &[
                parse("", "SELECT generate_series(1, 9)"),
                bind("", "", &[]),
                execute("", 2),
                flush(),
            ]
            .concat(),
        );
        assert_eq!(client.until(b's'), "1 / 2 / D 1 / D 2 / s");
        let_pass(Duration::from_millis(400));
        client.send(&flush());
        assert_eq!(client.until(b'E'), "E 57014");
        client.send(&[execute("", 0), flush()].concat());
        assert_eq!(proxy.rolled_back(client.server_pid())["kind"], "stalled");
        dba.value("SELECT count(*) FROM t");
        assert_eq!(client.ask(&[sync()]), "Z E");
        assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    });
}
