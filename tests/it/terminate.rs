//! The action `terminate`: the session ends with an error that the client can read.

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{copy_data, query},
    proxy::Proxy,
    server::on_every_server,
    wait_for,
    wire::Client,
};

fn terminating(database: &Endpoint) -> Proxy {
    Proxy::start(
        database,
        &["--idle-limit", "150ms", "--action", "terminate"],
    )
}

#[test]
fn the_client_reads_a_fatal_error_and_the_server_is_free() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = terminating(&database);
        let mut dba = Dba::new(&database);
        let mut writer = Client::connect(proxy.endpoint());
        let pid = writer.server_pid();
        writer.begin("INSERT INTO t VALUES (2, 'two')");

        assert_eq!(writer.until_closed(), "E FATAL 25P03 / closed");
        wait_for("the end of the server's session", || {
            (dba.state(pid) == "gone").then_some(())
        });
        assert!(!dba.sees_row(2));
        let incident = proxy.audit_line(&[("event", "incident")]);
        assert_eq!(incident["action"], "terminate");
        assert_eq!(incident["outcome"], "terminated");
    });
}

/// A client that speaks at the moment of its end still finds the reason before the end of the connection.
#[test]
fn a_client_that_speaks_too_late_reads_the_reason() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = terminating(&database);
        let mut writer = Client::connect(proxy.endpoint());
        writer.begin("INSERT INTO t VALUES (2, 'two')");
        proxy.audit_line(&[("outcome", "terminated")]);
        // Whether the bytes can still be sent is the kernel's business; the error is there to be read.
        drop(writer.try_send(&query("COMMIT")));
        assert_eq!(writer.until_closed(), "E FATAL 25P03 / closed");
        assert!(!Dba::new(&database).sees_row(2));
    });
}

#[test]
fn others_are_not_touched() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = terminating(&database);
        let mut idle = Client::connect(proxy.endpoint());
        let mut stuck = Client::connect(proxy.endpoint());
        stuck.run("BEGIN");
        assert_eq!(stuck.until_closed(), "E FATAL 25P03 / closed");
        assert_eq!(idle.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
    });
}

/// The server works on the data that it has, and reads neither a CopyFail nor the end of the connection.
#[test]
fn a_copy_that_waits_for_another_transaction_is_cancelled_first() {
    on_every_server(|server| {
        let database = server.database();
        let mut dba = Dba::new(&database);
        dba.run("CREATE TABLE held ()");
        let mut other = Client::connect(&database);
        other.begin("INSERT INTO t VALUES (2, 'two')");
        for (rule, told) in [
            (
                "stalled = { terminate = '300ms' }",
                "E FATAL 25P03 / closed",
            ),
            ("age = { rollback = '300ms' }", "E 25P04 / Z E"),
            ("stalled = { rollback = '300ms' }", "E 25P03 / Z E"),
        ] {
            let proxy = Proxy::with_rules(&database, &format!("[[rule]]\nname = 'r'\n{rule}\n"));
            let mut writer = Client::connect(proxy.endpoint());
            let pid = writer.server_pid();
            writer.begin("LOCK TABLE held");
            writer.send(&query("COPY t FROM STDIN"));
            let rows: String = (2..4000).map(|id| format!("{id}\tcopied\n")).collect();
            writer.send(&copy_data(&rows));
            let answers = if told.ends_with("closed") {
                writer.until_closed()
            } else {
                writer.until_ready()
            };
            assert!(answers.ends_with(told), "{answers}");
            wait_for("the locks", || {
                (dba.locked_relations(pid) == "0").then_some(())
            });
        }
    });
}
