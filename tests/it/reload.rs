//! Limits that change under a session that is stuck: by a reload, and by another application_name.

use serde_json::Value;

use crate::support::{
    dba::Dba,
    observed::{dsn, observed, observing},
    proxy::Proxy,
    server::{newest, on_every_server},
    wait_for,
    wire::Client,
};

const INSERT: &str = "INSERT INTO t VALUES (2, 'two')";

fn rule(limits: &str) -> String {
    format!("[[rule]]\nname = \"all\"\n{limits}\n")
}

/// The first incident with this action and outcome.
fn incident(proxy: &Proxy, action: &str, outcome: &str) -> Value {
    proxy.audit_line(&[
        ("event", "incident"),
        ("action", action),
        ("outcome", outcome),
    ])
}

/// When pgidle wrote the last line with this text into its log.
fn logged_at(proxy: &Proxy, text: &str) -> jiff::Timestamp {
    let log = proxy.log();
    let line = log.lines().rfind(|line| line.contains(text)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    line["timestamp"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_reload_that_adds_a_rollback_ends_who_is_stuck_under_log() {
    on_every_server(|server| {
        let database = server.database();
        let proxy = Proxy::with_rules(&database, &rule("idle = { log = '100ms' }"));
        let mut client = Client::connect(proxy.endpoint());
        client.begin(INSERT);
        incident(&proxy, "log", "logged");

        proxy.change_rules(&rule("idle = { rollback = '1s' }"));
        let ended = incident(&proxy, "rollback", "rolled_back");
        assert_eq!(ended["server_pid"], client.server_pid());
        let milliseconds = |field: &str| ended[field].as_f64().unwrap();
        assert!(milliseconds("idle_ms") >= 1000.0, "{ended}");
        let at: jiff::Timestamp = ended["time"].as_str().unwrap().parse().unwrap();
        let after = at
            .duration_since(logged_at(&proxy, "\"reloaded"))
            .as_millis();
        assert!(after <= 1200, "{after} ms after the reload: {ended}");
        assert_eq!(
            Dba::new(&database).locked_relations(client.server_pid()),
            "0"
        );
        assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    });
}

#[test]
fn a_client_that_says_who_it_is_after_a_reload_has_the_new_rules() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, &rule("idle = { rollback = '1h' }"));
    let mut client = Client::anonymous(proxy.endpoint());
    proxy.change_rules(&rule("idle = { rollback = '200ms' }"));
    client.say_who(proxy.endpoint(), &[]);
    assert!(client.until_ready().ends_with("Z I"));
    client.begin(INSERT);
    incident(&proxy, "rollback", "rolled_back");
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
}

#[test]
fn a_rule_that_matches_the_new_application_name_ends_the_transaction() {
    let rules = "[[rule]]\nname = 'a'\nmatch = { application_name = 'a*' }\nage = { log = '100ms' }\n\
                 [[rule]]\nname = 'b'\nage = { rollback = '500ms' }\n";
    on_every_server(|server| {
        let proxy = Proxy::with_rules(&server.database(), rules);
        let named = [("application_name", "a1")];
        let mut client = Client::connect_with(proxy.endpoint(), &named);
        client.begin(INSERT);
        assert_eq!(incident(&proxy, "log", "logged")["rule"], "a");
        client.run("SET application_name = 'b1'");
        let ended = incident(&proxy, "rollback", "rolled_back");
        assert_eq!(ended["rule"], "b");
        // The rollback takes SET back.
        let told = client.query("COMMIT");
        assert_eq!(told, "S application_name=a1 / E 25P04 / Z I");
    });
}

#[test]
fn a_reload_goes_on_where_the_ladder_before_has_come_to() {
    let proxy = Proxy::with_rules(&newest().database(), &rule("idle = { notice = '100ms' }"));
    let mut client = Client::connect(proxy.endpoint());
    client.begin(INSERT);
    incident(&proxy, "notice", "noticed");
    proxy.change_rules(&rule(
        "idle = { log = '100ms', notice = '100ms', rollback = '200ms' }",
    ));
    incident(&proxy, "rollback", "rolled_back");
    proxy.change_rules(&rule("idle = { rollback = '200ms', terminate = '300ms' }"));
    incident(&proxy, "terminate", "terminated");
    assert_eq!(
        client.until_closed(),
        "N WARNING 25P03 / E FATAL 25P03 / closed"
    );
    let actions: Vec<_> = proxy
        .incidents()
        .into_iter()
        .map(|line| line["action"].clone())
        .collect();
    assert_eq!(actions, ["notice", "rollback", "terminate"]);
}

#[test]
fn a_reload_ends_what_was_released_and_has_begun_again() {
    let proxy = Proxy::with_rules(&newest().database(), &rule("idle = { release = '100ms' }"));
    let mut client = Client::connect(proxy.endpoint());
    client.begin("SELECT v FROM t");
    incident(&proxy, "release", "released");
    proxy.change_rules(&rule("idle = { rollback = '200ms' }"));
    client.run("SELECT v FROM t");
    incident(&proxy, "rollback", "rolled_back");
    assert_eq!(client.query("SELECT 1"), "E 25P03 / Z E");
}

#[test]
fn a_reload_ends_who_keeps_others_waiting_under_log() {
    let database = newest().database();
    let proxy = observed(&database, "blocking = { log = '0s' }");
    let mut client = Client::connect(proxy.endpoint());
    client.begin(INSERT);
    let alter = Dba::new(&database).alters_table();
    assert_eq!(incident(&proxy, "log", "logged")["kind"], "blocking");
    let limits = "blocking = { log = '0s', rollback = '300ms' }";
    proxy.change_rules(&observing(&dsn(&database, "postgres"), limits));
    incident(&proxy, "rollback", "rolled_back");
    alter.join().unwrap();
    assert_eq!(client.query("COMMIT"), "E 25P03 / Z I");
    assert_eq!(proxy.incidents().len(), 2, "log was not repeated");
}

/// Nothing is possible while it runs; when it has ended the transaction is.
#[test]
fn a_function_that_catches_every_cancel_is_ended_when_it_returns() {
    let database = newest().database();
    let mut dba = Dba::new(&database);
    dba.run(
        "CREATE FUNCTION stubborn(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP \
         BEGIN PERFORM pg_sleep(0.6); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    );
    let proxy = Proxy::with_rules(&database, &rule("age = { rollback = '200ms' }"));
    let mut client = Client::connect(proxy.endpoint());
    client.begin(INSERT);
    client.run("SELECT stubborn(14)");
    let tried = incident(&proxy, "rollback", "not_possible");
    assert!(
        tried["why"].as_str().unwrap().contains("10 cancel"),
        "{tried}"
    );
    incident(&proxy, "rollback", "rolled_back");
    assert_eq!(dba.locked_relations(client.server_pid()), "0");
    assert_eq!(client.query("COMMIT"), "E 25P04 / Z I");
    wait_for("the end", || (proxy.incidents().len() == 2).then_some(()));
}
