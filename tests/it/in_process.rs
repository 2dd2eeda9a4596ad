//! pgidle inside another program: it is started, reloaded, drained and joined by calls, without signals.

use std::{fs, future};

use pgidle::{
    app::{self, App},
    config::{Address, Flags, Source},
};

use crate::support::{PATIENCE, server::newest, wait_for, wire::Client};

#[test]
fn another_program_can_run_it() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgidle.toml");
    fs::write(&file, "").unwrap();
    let upstream = format!("{}:{}", database.host, database.port);
    let source = Source {
        path: Some(file.clone()),
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
    let mut client = Client::connect(&database.at(host.as_str(), *port));
    client.begin("INSERT INTO t VALUES (2, 'two')");

    fs::write(
        &file,
        "[[rule]]\nname = \"new\"\nidle = { rollback = \"100ms\" }\n",
    )
    .unwrap();
    app.reload();
    let mut direct = Client::connect(&database);
    let state = format!(
        "SELECT state FROM pg_stat_activity WHERE pid = {}",
        client.server_pid()
    );
    wait_for("a rollback", || {
        (direct.value(&state) == "idle in transaction (aborted)").then_some(())
    });
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let drained = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, app.drain(future::pending())).await });
    assert_eq!(drained, Ok(()));
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    app.join().unwrap();
}
