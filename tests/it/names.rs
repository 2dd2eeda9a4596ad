//! What a client calls itself: it may choose among rules by that, and it leaves no limit of an open transaction.

use std::{fs, time::Duration};

use crate::support::{program::pgidle, proxy::Proxy, server::newest, wait_for, wire::Client};

#[test]
fn what_a_client_calls_itself_exempts_nobody() {
    let database = newest().database();
    let proxy = Proxy::rolling_back(&database, "150ms");
    let mut client = Client::connect_with(proxy.endpoint(), &[("replication", "database")]);
    client.run("BEGIN");
    client.hears_nothing_for(Duration::from_millis(400));
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert!(proxy.incidents().is_empty());

    let dump = [("application_name", "pg_dump")];
    let mut from_the_start = Client::connect_with(proxy.endpoint(), &dump);
    from_the_start.run("BEGIN");
    let mut before = Client::connect(proxy.endpoint());
    before.run("SET application_name = 'pg_dump'");
    before.run("BEGIN");
    let mut within = Client::connect(proxy.endpoint());
    within.run("BEGIN");
    within.run("SET application_name = 'pg_dump'");
    for mut client in [from_the_start, before, within] {
        proxy.rolled_back(client.server_pid());
        assert!(client.query("COMMIT").ends_with("E 25P03 / Z I"));
    }
}

#[test]
fn a_role_with_a_name_that_it_has_had_from_the_start_is_exempt_by_a_rule() {
    let database = newest().database();
    let rules = concat!(
        "[[rule]]\nname = \"dumps\"\nmatch = { user = \"postgres\", application_name = \"pg_dump*\" }\nexempt = true\n",
        "[[rule]]\nname = \"strict\"\nidle = { rollback = \"150ms\" }\n",
    );
    let proxy = Proxy::with_rules(&database, rules);
    let dump = [("application_name", "pg_dump")];
    let mut exempt = Client::connect_with(proxy.endpoint(), &dump);
    exempt.run("SET application_name = 'something else'");
    exempt.run("BEGIN");
    exempt.hears_nothing_for(Duration::from_millis(400));
    let mut other = Client::connect(proxy.endpoint());
    other.run("SET application_name = 'pg_dump'");
    other.run("BEGIN");
    proxy.rolled_back(other.server_pid());
    assert_eq!(exempt.query("COMMIT"), "C COMMIT / Z I");
    assert_eq!(other.query("COMMIT"), "E 25P03 / Z I");
}

#[test]
fn no_limit_is_left_by_another_name_while_the_transaction_is_open() {
    let database = newest().database();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgidle.toml");
    let write = |strict: &str| {
        let rules = format!(
            "[[rule]]\nname = \"lax\"\nmatch = {{ application_name = \"lax\" }}\nidle = {{ log = \"1h\" }}\n\
             [[rule]]\nname = \"strict\"\nidle = {{ rollback = \"{strict}\" }}\nage = {{ rollback = \"1h\" }}\n"
        );
        fs::write(&path, rules).unwrap();
    };
    write("400ms");
    let proxy = Proxy::start(&database, &["--config", path.to_str().unwrap()]);
    let mut client = Client::connect(proxy.endpoint());
    client.run("BEGIN");
    client.run("SET application_name = 'lax'");
    let incident = proxy.rolled_back(client.server_pid());
    assert_eq!(
        (&incident["rule"], &incident["application_name"]),
        (&"strict".into(), &"lax".into())
    );
    assert!(client.query("COMMIT").ends_with("E 25P03 / Z I"));

    client.run("SET application_name = 'lax'");
    client.run("BEGIN");
    client.hears_nothing_for(Duration::from_millis(800));
    assert_eq!(
        client.query("COMMIT"),
        "C COMMIT / Z I",
        "under its new name"
    );

    // What the operator changes holds at once.
    client.run("SET application_name = 'other'");
    client.run("BEGIN");
    client.run("SET application_name = 'lax'");
    write("1h");
    assert!(proxy.reload());
    client.hears_nothing_for(Duration::from_millis(800));
    write("1ms");
    assert!(proxy.reload());
    wait_for("the second rollback", || {
        let mut incidents = proxy.incidents();
        incidents.retain(|incident| incident["outcome"] == "rolled_back");
        (incidents.len() == 2).then_some(())
    });
    assert!(client.query("COMMIT").ends_with("E 25P03 / Z I"));
}

#[test]
fn check_warns_of_limits_behind_a_name_that_a_client_chooses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgidle.toml");
    let file = path.to_str().unwrap();
    let rules = concat!(
        "[[rule]]\nname = \"celery\"\nmatch = { application_name = \"celery*\" }\nidle = { log = \"1h\" }\n",
        "[[rule]]\nname = \"everyone\"\nidle = { rollback = \"1min\" }\n",
    );
    fs::write(&path, rules).unwrap();
    let output = pgidle(&["check", "--config", file]);
    assert!(output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = format!("pgidle: warning: {file}:3: rule.match.application_name: ");
    assert!(errors.starts_with(&expected), "{errors}");
    fs::write(&path, rules.replace("application_name", "user")).unwrap();
    let output = pgidle(&["check", "--config", file]);
    assert!(output.status.success() && output.stderr.is_empty());
}
