//! What a client meets after its transaction was ended: an error before it can believe anything else, told once.

use std::time::Duration;

use crate::support::{
    dba::Dba,
    frontend::{
        bind, close_statement, describe_statement, execute, flush, function_call, parse, query,
        sync, unnamed,
    },
    proxy::Proxy,
    server::{Server, on_every_server},
    wait_for,
    wire::Client,
};

/// A writer whose transaction, with row 2 in it, has been ended without its knowing.
struct Ended {
    writer: Client,
    dba: Dba,
    proxy: Proxy,
}

impl Ended {
    fn on(server: &Server) -> Self {
        Self::after(server, |_| {})
    }

    /// As [`Ended::on`], where the writer has done something in its session before.
    fn after(server: &Server, prepare: impl FnOnce(&mut Client)) -> Self {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "250ms");
        let mut writer = Client::connect(proxy.endpoint());
        prepare(&mut writer);
        writer.begin("INSERT INTO t VALUES (2, 'two')");
        proxy.rolled_back(writer.server_pid());
        Self {
            writer,
            dba: Dba::new(&database),
            proxy,
        }
    }

    /// The session works, and the row of the ended transaction is absent.
    fn lives_on(mut self) {
        assert_eq!(
            self.writer.query("SELECT v FROM t"),
            "T / D one / C SELECT 1 / Z I"
        );
        assert!(!self.dba.sees_row(2), "a refused row is there");
        let insert = "INSERT INTO t VALUES (3, 'three')";
        let reply = self
            .writer
            .ask(&[query("BEGIN"), query(insert), query("COMMIT")]);
        assert_eq!(reply, "C BEGIN / Z T");
        assert_eq!(self.writer.until_ready(), "C INSERT 0 1 / Z T");
        assert_eq!(self.writer.until_ready(), "C COMMIT / Z I");
        assert!(self.dba.sees_row(3), "an acknowledged row is absent");
        assert_eq!(self.proxy.incidents().len(), 1);
    }
}

#[test]
fn nothing_unsolicited_reaches_the_client() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        ended.writer.hears_nothing_for(Duration::from_millis(200));
    });
}

#[test]
fn a_late_commit_is_an_error() {
    on_every_server(|server| {
        for commit in [
            "COMMIT",
            "commit;",
            "END",
            "/* done */ COMMIT WORK -- now",
            "COMMIT AND NO CHAIN",
        ] {
            let mut ended = Ended::on(server);
            assert_eq!(ended.writer.query(commit), "E 25P03 / Z I", "{commit}");
            ended.lives_on();
        }
    });
}

#[test]
fn the_error_says_what_happened_and_what_to_do() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        ended.writer.query("COMMIT");
        let error = ended.writer.error.take().unwrap();
        assert_eq!(error.field('S'), "ERROR");
        let message = error.field('M');
        assert!(
            message.contains("250 ms") || message.contains("250ms"),
            "the limit is in the message: {message}"
        );
        assert!(!error.field('D').is_empty(), "the rule is in DETAIL");
        assert!(!error.field('H').is_empty(), "the way out is in HINT");
    });
}

#[test]
fn a_late_rollback_sees_nothing() {
    on_every_server(|server| {
        for rollback in ["ROLLBACK", "rollback;", "ABORT", "ROLLBACK AND NO CHAIN"] {
            let mut ended = Ended::on(server);
            assert_eq!(
                ended.writer.query(rollback),
                "C ROLLBACK / Z I",
                "{rollback}"
            );
            ended.lives_on();
        }
    });
}

/// The client asks for the end of its transaction first, and what it asks for after that is a new one.
#[test]
fn a_query_that_begins_with_a_rollback_is_answered_by_the_server() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let reply = ended
            .writer
            .query("ROLLBACK; INSERT INTO t VALUES (4, 'four')");
        assert_eq!(reply, "C ROLLBACK / C INSERT 0 1 / Z I");
        assert!(ended.dba.sees_row(4));
        ended.dba.run("DELETE FROM t WHERE id = 4");
        ended.lives_on();
    });
}

#[test]
fn a_late_rollback_by_extended_protocol_sees_nothing() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let reply = ended.writer.ask(&[unnamed("ROLLBACK"), sync()]);
        assert_eq!(reply, "1 / 2 / C ROLLBACK / Z I");
        ended.lives_on();

        let mut ended = Ended::after(server, |writer| {
            writer.ask(&[parse("r", "ROLLBACK"), parse("old", "SELECT 1"), sync()]);
        });
        let reply = ended.writer.ask(&[
            close_statement("old"),
            bind("", "r", &[]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(reply, "3 / 2 / C ROLLBACK / Z I");
        ended.lives_on();
    });
}

#[test]
fn any_other_statement_is_told_once_and_then_the_server_speaks() {
    on_every_server(|server| {
        for statement in [
            "SELECT 1",
            "INSERT INTO t VALUES (4, 'four')",
            "BEGIN",
            "ROLLBACK TO a",
            "ROLLBACK AND CHAIN",
            "COMMIT; INSERT INTO t VALUES (4, 'four')",
        ] {
            let mut ended = Ended::on(server);
            assert_eq!(
                ended.writer.query(statement),
                "E 25P03 / Z E",
                "{statement}"
            );
            assert_eq!(
                ended.writer.query("SELECT 1"),
                "E 25P02 / Z E",
                "{statement}"
            );
            assert_eq!(ended.writer.query("COMMIT"), "E 25P03 / Z I", "{statement}");
            assert!(!ended.dba.sees_row(4), "{statement}");
            ended.lives_on();
        }
    });
}

#[test]
fn a_batch_is_told_once_and_discarded_up_to_its_sync() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let insert = "INSERT INTO t VALUES (4, 'four')";
        let reply = ended
            .writer
            .ask(&[unnamed(insert), unnamed(insert), sync()]);
        assert_eq!(reply, "E 25P03 / Z E");
        assert_eq!(
            ended.writer.ask(&[unnamed("SELECT 1"), sync()]),
            "E 25P02 / Z E"
        );
        assert_eq!(ended.writer.query("ROLLBACK"), "C ROLLBACK / Z I");
        ended.lives_on();
    });
}

#[test]
fn a_function_call_is_told() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        // int4pl, as `SELECT 1 + 2` calls it.
        assert_eq!(
            ended.writer.ask(&[function_call(177, &["1", "2"])]),
            "E 25P03 / Z E"
        );
        assert_eq!(ended.writer.query("ROLLBACK"), "C ROLLBACK / Z I");
        ended.lives_on();
    });
}

#[test]
fn a_late_commit_by_extended_batch_is_an_error() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let reply = ended.writer.ask(&[unnamed("COMMIT"), sync()]);
        assert_eq!(reply, "1 / 2 / E 25P03 / Z I");
        ended.lives_on();
    });
}

#[test]
fn a_late_commit_by_named_prepared_statement_is_an_error() {
    on_every_server(|server| {
        let mut ended = Ended::after(server, |writer| {
            writer.ask(&[parse("c", "COMMIT"), sync()]);
        });
        let reply = ended
            .writer
            .ask(&[bind("", "c", &[]), execute("", 0), sync()]);
        assert_eq!(reply, "2 / E 25P03 / Z I");
        ended.lives_on();
    });
}

/// pg8000's `commit()`: whoever decides by the first batch tells it nothing.
#[test]
fn a_late_commit_in_three_batches_is_an_error() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        assert_eq!(ended.writer.ask(&[parse("c", "commit"), sync()]), "1 / Z T");
        assert_eq!(
            ended.writer.ask(&[describe_statement("c"), sync()]),
            "t / n / Z T"
        );
        let reply = ended
            .writer
            .ask(&[bind("", "c", &[]), execute("", 0), sync()]);
        assert_eq!(reply, "2 / E 25P03 / Z I");
        ended.lives_on();
    });
}

#[test]
fn a_late_commit_with_an_insert_behind_it_in_one_batch_discards_the_insert() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let insert = "INSERT INTO t VALUES (4, 'four')";
        let reply = ended
            .writer
            .ask(&[unnamed("COMMIT"), unnamed(insert), sync()]);
        assert_eq!(reply, "1 / 2 / E 25P03 / Z I");
        assert!(!ended.dba.sees_row(4));
        ended.lives_on();
    });
}

/// Two requests, so two answers: the second stands on its own, as it would after any COMMIT that fails.
#[test]
fn a_late_commit_with_a_query_behind_it_in_one_packet_refuses_the_commit_only() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let insert = query("INSERT INTO t VALUES (4, 'four')");
        assert_eq!(
            ended.writer.ask(&[query("COMMIT"), insert]),
            "E 25P03 / Z I"
        );
        assert_eq!(ended.writer.until_ready(), "C INSERT 0 1 / Z I");
        assert!(ended.dba.sees_row(4));
        ended.dba.run("DELETE FROM t WHERE id = 4");
        ended.lives_on();
    });
}

#[test]
fn a_late_prepare_transaction_is_an_error() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        assert_eq!(
            ended.writer.query("PREPARE TRANSACTION 'late'"),
            "E 25P03 / Z I"
        );
        assert_eq!(
            ended.dba.value(
                "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
            ),
            "0"
        );
        ended.lives_on();
    });
}

#[test]
fn preparing_and_flushing_tell_nothing_and_the_commit_behind_is_an_error() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        assert_eq!(ended.writer.ask(&[sync()]), "Z T");
        ended.writer.send(&[parse("c", "COMMIT"), flush()].concat());
        assert_eq!(ended.writer.until(b'1'), "1");
        let reply = ended
            .writer
            .ask(&[bind("", "c", &[]), execute("", 0), sync()]);
        assert_eq!(reply, "2 / E 25P03 / Z I");
        ended.lives_on();
    });
}

/// The setting may change on its way: nothing is forwarded for the sake of what follows a quote.
#[test]
fn a_late_commit_is_an_error_where_literals_have_escapes() {
    on_every_server(|server| {
        let setting = "SET standard_conforming_strings = off";
        if !Client::connect(&server.database()).takes(setting) {
            return;
        }
        let mut ended = Ended::after(server, |writer| writer.run(setting));
        let reply = ended.writer.query("COMMIT -- isn't it late");
        assert_eq!(reply, "E 25P03 / Z E");
        assert_eq!(ended.writer.query("ROLLBACK"), "C ROLLBACK / Z I");
        ended.lives_on();
    });
}

/// Where a byte may mean something else, the end of a transaction is not looked for behind it.
#[test]
fn text_that_is_in_doubt_is_told_at_once() {
    on_every_server(|server| {
        let setting = "SET client_encoding = 'SJIS'";
        let mut ended = Ended::after(server, |writer| writer.run(setting));
        let reply = ended.writer.query("COMMIT -- très tard");
        assert_eq!(reply, "E 25P03 / Z E");
        assert_eq!(ended.writer.query("ROLLBACK"), "C ROLLBACK / Z I");
        ended.lives_on();
    });
}

#[test]
fn the_session_survives_with_all_that_is_its_own() {
    on_every_server(|server| {
        let mut ended = Ended::after(server, |writer| {
            writer.run("CREATE TEMP TABLE mine AS SELECT 7 AS n");
            writer.run("SET work_mem = '7MB'");
            writer.run("LISTEN news");
            writer.run("SELECT pg_advisory_lock(7)");
            writer.run("PREPARE by_sql AS SELECT 'prepared'");
            writer.ask(&[parse("by_wire", "SELECT 'parsed'"), sync()]);
        });
        let pid = ended.writer.server_pid();
        assert_eq!(ended.writer.query("ROLLBACK"), "C ROLLBACK / Z I");
        assert_eq!(
            ended.writer.value("SELECT pg_backend_pid()"),
            pid.to_string()
        );
        assert_eq!(ended.writer.value("SELECT n FROM mine"), "7");
        assert_eq!(ended.writer.value("SHOW work_mem"), "7MB");
        assert_eq!(ended.writer.value("EXECUTE by_sql"), "prepared");
        let reply = ended
            .writer
            .ask(&[bind("", "by_wire", &[]), execute("", 0), sync()]);
        assert_eq!(reply, "2 / D parsed / C SELECT 1 / Z I");
        let held =
            format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {pid}");
        assert_eq!(ended.dba.value(&held), "1");
        ended.dba.run("NOTIFY news, 'extra'");
        assert_eq!(ended.writer.until(b'A'), "A news=extra");
        ended.lives_on();
    });
}

/// What was set in the transaction goes with it, and the client hears of it as it does from any ROLLBACK.
#[test]
fn what_was_set_in_the_transaction_goes_with_it() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "150ms");
        let mut client = Client::connect(proxy.endpoint());
        client.run("SET application_name = 'before'");
        assert_eq!(
            client.at_once(&["BEGIN", "SET application_name = 'within'"]),
            "C SET / S application_name=within / Z T"
        );
        proxy.rolled_back(client.server_pid());
        assert_eq!(client.until(b'S'), "S application_name=before");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        assert_eq!(client.value("SHOW application_name"), "before");
    });
}

#[test]
fn savepoints_go_with_the_transaction() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "150ms");
        let mut client = Client::connect(proxy.endpoint());
        client.at_once(&[
            "BEGIN",
            "SAVEPOINT a",
            "INSERT INTO t VALUES (2, 'two')",
            "SAVEPOINT b",
        ]);
        proxy.rolled_back(client.server_pid());
        assert_eq!(client.query("RELEASE a"), "C RELEASE / Z T");
        assert_eq!(client.query("ROLLBACK TO a"), "E 25P03 / Z E");
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        assert!(!Dba::new(&database).sees_row(2));
    });
}

#[test]
fn a_session_can_be_ended_again_and_again() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::rolling_back(&database, "100ms");
        let mut client = Client::connect(proxy.endpoint());
        for round in 1..=3 {
            client.begin("INSERT INTO t VALUES (2, 'two')");
            wait_for("the next rollback", || {
                (proxy.incidents().len() == round).then_some(())
            });
            assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
        }
    });
}

#[test]
fn a_client_that_goes_away_untold_leaves_nothing_behind() {
    on_every_server(|server| {
        let Ended {
            writer, mut dba, ..
        } = Ended::on(server);
        let pid = writer.server_pid();
        drop(writer);
        wait_for("the end of the server's session", || {
            (dba.state(pid) == "gone").then_some(())
        });
    });
}

/// A client that does not wait for the answer to its ROLLBACK, and goes on with a statement too large to be held: what
/// is said to each is about each.
#[test]
fn a_large_statement_sent_with_the_rollback_is_carried_out_after_it() {
    on_every_server(|server| {
        let mut ended = Ended::on(server);
        let large = format!("INSERT INTO t VALUES (3, 'three'){}", " ".repeat(50_000));
        let both = [query("ROLLBACK"), query(&large)].concat();
        ended.writer.send(&both);
        assert_eq!(ended.writer.until_ready(), "C ROLLBACK / Z I");
        assert_eq!(ended.writer.until_ready(), "C INSERT 0 1 / Z I");
        assert!(ended.dba.sees_row(3) && !ended.dba.sees_row(2));
    });
}
