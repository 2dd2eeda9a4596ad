//! pgidle inside another program: it is started, reloaded, drained and joined by calls, without signals.

use std::{fs, future, future::Future, path::Path, sync::Arc};

use pgidle::{
    app::{self, App},
    config::{Address, Flags, Source},
    registry::{Command, Order},
    session::{
        Refused, Snapshot,
        event::{Outcome, Position},
    },
};
use tokio::{runtime::Runtime, sync::oneshot};

use crate::support::{Endpoint, PATIENCE, server::newest, wait_for, wire::Client};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What comes of something in time.
fn soon<T>(what: impl Future<Output = T>) -> T {
    let within = async { tokio::time::timeout(PATIENCE, what).await };
    runtime().block_on(within).unwrap()
}

/// Starts pgidle with this configuration file, and says where it is reached.
fn start(file: &Path, database: &Endpoint) -> (App, Endpoint) {
    let upstream = format!("{}:{}", database.host, database.port);
    let source = Source {
        path: Some(file.to_owned()),
        flags: Flags {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            upstream: vec![upstream.parse().unwrap()],
            ..Flags::default()
        },
    };
    let app = App::start(app::load(&source).unwrap(), source).unwrap();
    let [Address::Tcp { host, port }] = app.addresses() else {
        panic!("{:?}", app.addresses());
    };
    let endpoint = database.at(host.as_str(), *port);
    (app, endpoint)
}

#[test]
fn another_program_can_run_it() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgidle.toml");
    fs::write(&file, "").unwrap();
    let (app, endpoint) = start(&file, &database);
    let mut client = Client::connect(&endpoint);
    client.begin("INSERT INTO t VALUES (2, 'two')");

    fs::write(
        &file,
        "[[rule]]\nname = \"new\"\nidle = { rollback = \"100ms\" }\n",
    )
    .unwrap();
    app.reload(None).unwrap();
    let mut direct = Client::connect(&database);
    let state = format!(
        "SELECT state FROM pg_stat_activity WHERE pid = {}",
        client.server_pid()
    );
    wait_for("a rollback", || {
        (direct.value(&state) == "idle in transaction (aborted)").then_some(())
    });
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");

    soon(app.drain(future::pending()));
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    app.join().unwrap();
}

/// Gives a command to the only session; what comes of it follows.
fn order(app: &App, command: fn(Order) -> Command) -> oneshot::Receiver<Result<Outcome, Refused>> {
    let (reply, answer) = oneshot::channel();
    let by = Arc::from("ops");
    let [Snapshot { who, .. }] = &soon(app.registry().snapshots())[..] else {
        panic!("one session was opened");
    };
    let session = app.registry().get(who.session).unwrap();
    session.tell(command(Order { by, reply }));
    answer
}

#[test]
fn a_session_can_be_looked_at_rolled_back_and_ended_by_command() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgidle.toml");
    fs::write(&file, "").unwrap();
    let (app, endpoint) = start(&file, &database);
    let mut client = Client::connect(&endpoint);
    assert_eq!(
        soon(order(&app, Command::Rollback)),
        Ok(Err(Refused::NoTransaction))
    );

    client.begin("INSERT INTO t VALUES (2, 'two')");
    let [stuck] = &soon(app.registry().snapshots())[..] else {
        panic!("one session was opened");
    };
    assert_eq!(stuck.position, Position::IdleInTransaction);
    assert_eq!(stuck.who.server_pid, Some(client.server_pid()));
    assert_eq!(stuck.statement_count, 2);
    assert_eq!(
        soon(order(&app, Command::Rollback)),
        Ok(Ok(Outcome::RolledBack))
    );
    assert_eq!(
        soon(order(&app, Command::Rollback)),
        Ok(Err(Refused::RolledBack))
    );
    assert_eq!(client.query("COMMIT"), "E 57014 / Z I");
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");

    assert_eq!(
        soon(order(&app, Command::Terminate)),
        Ok(Ok(Outcome::Terminated))
    );
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    wait_for("the end of the session", || {
        app.registry().is_empty().then_some(())
    });
    soon(app.drain(future::pending()));
    app.join().unwrap();
}
