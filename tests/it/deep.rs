//! A statement that is too deep or too large for a parser costs nobody but its own session: that is not released, and its
//! text may be missing in the audit and in its recording.

use std::fs;

use tempfile::NamedTempFile;

use crate::support::{frontend::query, proxy::Proxy, server::newest, wait_for, wire::Client};

/// A busy machine may take long to answer.
const RULES: &str = "[[rule]]\nname = \"readers\"\nrelease_timeout = \"20s\"\n\
    idle = { release = \"300ms\", rollback = \"300ms\" }";

/// The beginning, the middle and the end of a text that is nested as deep as it has beginnings.
const NESTED: [(&str, &str, &str); 12] = [
    ("(", "1", ")"),
    ("(SELECT ", "1", ")"),
    ("CASE WHEN true THEN ", "1", " END"),
    ("- ", "1", ""),
    ("NOT ", "true", ""),
    ("", "1", "+1"),
    ("", "true", " AND true"),
    ("", "1", "::int"),
    ("", "1 IN (1", ",1"),
    ("ARRAY[", "1", "]"),
    ("JSON_ARRAY(", "1", ")"),
    ("/*", "", "*/ 1"),
];

/// As deep as it goes in so many bytes; some are no SQL, which their own session is told.
fn nested((begin, middle, end): (&str, &str, &str), bytes: usize) -> String {
    let depth = bytes.saturating_sub(20) / (begin.len() + end.len());
    let close = if middle.contains('(') { ")" } else { "" };
    [
        "SELECT ",
        &begin.repeat(depth),
        middle,
        &end.repeat(depth),
        close,
    ]
    .concat()
}

/// What sessions keep as a whole, what they cut, and what they do not even hold back.
fn statements() -> Vec<String> {
    let mut statements: Vec<String> = [4_000, 30_000]
        .into_iter()
        .flat_map(|bytes| NESTED.into_iter().map(move |parts| nested(parts, bytes)))
        .collect();
    // The server's own parser gives up on these at once.
    statements.extend([0, 1, 2].map(|index| nested(NESTED[index], 16 << 20)));
    statements.push(format!("SELECT length('{}')", "(".repeat(16 << 20)));
    statements.push(format!("SELECT 1 IN (1{})", ",1".repeat(1 << 19)));
    statements
}

#[test]
fn a_statement_too_deep_or_too_large_costs_its_own_session_a_refusal_at_most() {
    let (folder, config) = (tempfile::tempdir().unwrap(), NamedTempFile::new().unwrap());
    fs::write(config.path(), RULES).unwrap();
    let [folder, config] = [folder.path(), config.path()].map(|path| path.to_str().unwrap());
    let database = newest().database();
    let proxy = Proxy::start(&database, &["--config", config, "--record", folder]);
    let statements = statements();
    let mut stuck: Vec<Client> = Vec::new();
    for statement in &statements {
        let mut client = Client::connect(proxy.endpoint());
        client.be_patient();
        client.run("BEGIN");
        client.send(&query(statement));
        stuck.push(client);
    }
    let answers: Vec<String> = stuck.iter_mut().map(Client::until_ready).collect();
    let open = answers.iter().filter(|answer| answer.ends_with("Z T"));
    let open = open.count();
    assert!(open > 12, "{answers:?}");

    // Another session is released meanwhile, as ever.
    let mut neighbour =
        Client::connect_with(proxy.endpoint(), &[("application_name", "neighbour")]);
    neighbour.at_once(&["BEGIN", "SELECT v FROM t"]);
    let released = proxy.audit_line(&[("event", "incident"), ("application_name", "neighbour")]);
    assert_eq!(released["outcome"], "released", "{released}");
    assert_eq!(
        neighbour.query("SELECT v FROM t"),
        "T / D one / C SELECT 1 / Z T"
    );
    assert_eq!(neighbour.query("COMMIT"), "C COMMIT / Z I");

    wait_for("every open transaction's end", || {
        let ended = proxy.incidents().into_iter().filter(|incident| {
            let outcome = incident["outcome"].as_str().unwrap();
            assert!(
                ["released", "not_releasable", "rolled_back"].contains(&outcome),
                "{incident}"
            );
            incident["application_name"] != "neighbour" && outcome != "not_releasable"
        });
        (ended.count() >= open).then_some(())
    });
    for (client, answer) in stuck.iter_mut().zip(&answers) {
        let committed = client.query("COMMIT");
        let lies = answer.ends_with("Z E") && committed.starts_with("C COMMIT");
        assert!(committed.ends_with("Z I") && !lies, "{answer}: {committed}");
        assert_eq!(client.query("SELECT 1"), "T / D 1 / C SELECT 1 / Z I");
    }
    wait_for("a line for every transaction", || {
        let lines = proxy.audit();
        let transactions = lines.iter().filter(|line| line["event"] == "transaction");
        (transactions.count() > statements.len()).then_some(())
    });
}
