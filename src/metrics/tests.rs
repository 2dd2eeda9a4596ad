//! What the metrics show of what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::{
    policy::{Action, StuckKind},
    session::{
        Tally,
        damage::{Damage, Waiter},
        event::{Cause, Position, Who},
    },
};

fn snapshot(application_name: &str, position: Position) -> Snapshot {
    Snapshot {
        who: Who {
            user: "app".into(),
            database: "shop".into(),
            application_name: application_name.into(),
            ..Who::default()
        },
        position,
        position_for: Duration::from_secs(7),
        transaction_for: Some(Duration::from_secs(9)),
        statement_count: 0,
        statement: None,
        rule: "default".into(),
        clocks: Vec::new(),
        enforcement: None,
        damage: Some(Arc::new(Damage {
            #[expect(clippy::disallowed_methods, reason = "any time will do")]
            at: std::time::Instant::now(),
            locks: Vec::new(),
            blocked: Some(vec![Waiter::new(8, &[7]); 2]),
            xmin_age: Some(11),
            awaits_standby: None,
        })),
    }
}

fn incident(rule: &str) -> Incident {
    Incident {
        who: Who::default(),
        cause: Cause::Limit {
            rule: rule.into(),
            kind: StuckKind::Idle,
            limit: Duration::from_secs(1),
        },
        action: Action::Release,
        outcome: Outcome::NotReleasable,
        why: Some("a portal is open".into()),
        idle: Duration::from_secs(1),
        waited: None,
        age: None,
        position: Position::IdleInTransaction,
        statements: Vec::new(),
        statement_count: 0,
        damage: None,
    }
}

fn text(metrics: &Metrics, sessions: &[Snapshot]) -> String {
    metrics.render(sessions, &Readings::default()).unwrap()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|one| one == line), "{line}\n{text}");
}

#[test]
fn a_name_with_quotes_backslashes_and_newlines_is_escaped() {
    let metrics = Metrics::new().unwrap();
    let text = text(&metrics, &[snapshot("a\"b\\c\nd", Position::Idle)]);
    has(
        &text,
        r#"pgidle_sessions{application_name="a\"b\\c\nd",database="shop",state="idle",user="app"} 1"#,
    );
}

#[test]
fn many_names_are_one_and_are_counted() {
    let metrics = Metrics::new().unwrap();
    let sessions: Vec<_> = (0..1000)
        .map(|number| snapshot(&format!("job {number:04}"), Position::Idle))
        .collect();
    for _ in 0..2 {
        let text = text(&metrics, &sessions);
        let series = text
            .lines()
            .filter(|one| one.starts_with("pgidle_sessions{"));
        assert_eq!(series.count(), 201);
        has(
            &text,
            r#"pgidle_sessions{application_name="other",database="other",state="idle",user="other"} 800"#,
        );
        has(
            &text,
            r#"pgidle_label_sets_other_total{series="pgidle_sessions"} 800"#,
        );
    }
    // Who is there keeps its name, and who has left makes room.
    let text = text(&metrics, &sessions[150..400]);
    has(
        &text,
        r#"pgidle_sessions{application_name="job 0199",database="shop",state="idle",user="app"} 1"#,
    );
    has(
        &text,
        r#"pgidle_sessions{application_name="other",database="other",state="idle",user="other"} 50"#,
    );
}

#[test]
fn names_are_nobodys_before_the_server_has_let_the_client_in() {
    let metrics = Metrics::new().unwrap();
    let text = text(&metrics, &[snapshot("x", Position::Startup)]);
    has(
        &text,
        r#"pgidle_sessions{application_name="",database="",state="startup",user=""} 1"#,
    );
}

#[test]
fn a_long_name_is_cut_at_a_character() {
    let metrics = Metrics::new().unwrap();
    let text = text(&metrics, &[snapshot(&"ä".repeat(4000), Position::Idle)]);
    assert!(text.contains(&format!("\"{}\"", "ä".repeat(31))), "{text}");
}

#[test]
fn many_rules_are_one() {
    let metrics = Metrics::new().unwrap();
    for rule in 0..600 {
        metrics.incident(&incident(&format!("rule {rule}")));
    }
    let text = text(&metrics, &[]);
    has(
        &text,
        r#"pgidle_incidents_total{action="release",kind="idle",outcome="not_releasable",rule="other"} 100"#,
    );
    has(
        &text,
        r#"pgidle_label_sets_other_total{series="pgidle_incidents_total"} 100"#,
    );
    has(
        &text,
        r#"pgidle_release_refused_total{reason="a portal is open"} 600"#,
    );
}

#[test]
fn the_worst_session_is_shown() {
    let metrics = Metrics::new().unwrap();
    let mut sessions = [
        snapshot("x", Position::IdleInTransaction),
        snapshot("y", Position::Running),
    ];
    sessions[1].position_for = Duration::from_secs(100);
    let text = text(&metrics, &sessions);
    has(&text, "pgidle_longest_idle_in_transaction_seconds 7");
    has(&text, "pgidle_oldest_transaction_seconds 9");
    has(&text, "pgidle_blocked_sessions 4");
    has(&text, "pgidle_xmin_age 11");
}

#[test]
fn what_others_count_is_taken_over() {
    let metrics = Metrics::new().unwrap();
    metrics.traffic().add(crate::session::Side::Client, 5);
    metrics.traffic().add(crate::session::Side::Client, 6);
    let mut readings = Readings {
        audit_dropped: 3,
        observer_up: Some(true),
        blocked_seconds: 1.5,
    };
    for observer_up in [Some(true), Some(false), None, Some(true)] {
        readings.observer_up = observer_up;
        let text = metrics.render(&[], &readings).unwrap();
        has(&text, "pgidle_audit_dropped_total 3");
        has(&text, "pgidle_blocked_seconds_total 1.5");
        has(&text, r#"pgidle_bytes_total{direction="to_server"} 11"#);
        let up = observer_up.map(|up| format!("pgidle_observer_up {}", u8::from(up)));
        match up {
            Some(line) => has(&text, &line),
            None => assert!(!text.contains("observer_up"), "{text}"),
        }
    }
}

#[test]
fn every_reason_and_outcome_counts_from_zero_and_is_listed_once() {
    let metrics = Metrics::new().unwrap();
    let text = text(&metrics, &[]);
    for outcome in TransactionOutcome::ALL {
        has(
            &text,
            &format!(
                "pgidle_transactions_total{{outcome=\"{}\"}} 0",
                outcome.name()
            ),
        );
    }
    for error in UpstreamError::ALL {
        has(
            &text,
            &format!(
                "pgidle_upstream_errors_total{{reason=\"{}\"}} 0",
                error.name()
            ),
        );
    }
    let reasons: BTreeSet<_> = CloseReason::ALL.map(CloseReason::name).into();
    assert_eq!(reasons.len(), CloseReason::ALL.len());
}

/// What docs/metrics.md says there is: each series, and its labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page
        .lines()
        .filter_map(|row| row.strip_prefix("| `pgidle_"));
    let series = rows.filter_map(|row| row.split('`').next()).map(|series| {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').map(str::to_owned);
        (format!("pgidle_{name}"), labels.collect())
    });
    series.collect()
}

#[test]
fn the_page_has_every_series_and_no_other() {
    let metrics = Metrics::new().unwrap();
    metrics.incident(&incident("x"));
    let readings = Readings {
        observer_up: Some(true),
        ..Readings::default()
    };
    let text = metrics
        .render(&[snapshot("x", Position::Idle)], &readings)
        .unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let there: BTreeSet<_> = lines
        .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect();
    assert_eq!(there, documented().into_keys().collect());
    let labels = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let labels = rest.split("\",").filter_map(|pair| pair.split('=').next());
        let mut labels: BTreeSet<_> = labels.map(str::to_owned).collect();
        let name = match labels.remove("le") {
            true => name.trim_end_matches("_bucket"),
            false => name,
        };
        Some((name.to_owned(), labels))
    };
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    for (name, labels) in samples
        .filter_map(labels)
        .filter(|(_, labels)| !labels.is_empty())
    {
        assert_eq!(documented()[&name], labels, "{name}");
    }
}

/// Every label that a query matches or groups by, and the series that it is about.
fn labels_of(query: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let series = named(query);
    let mut labels = Vec::new();
    for (at, _) in query.match_indices('{') {
        let name = query[..at].rsplit(|c| !is_name(c)).next().unwrap();
        let matchers = query[at + 1..].split('}').next().unwrap();
        // Values have no commas in them.
        for matcher in matchers.split(',') {
            let label = matcher.trim().split(['=', '!']).next().unwrap();
            labels.push((label.to_owned(), [name.to_owned()].into()));
        }
    }
    for grouping in ["by (", "without (", "on ("] {
        for (at, _) in query.match_indices(grouping) {
            let names = query[at + grouping.len()..].split(')').next().unwrap();
            labels.extend(
                names
                    .split(',')
                    .map(|name| (name.trim().to_owned(), series.clone())),
            );
        }
    }
    labels
}

/// Every series that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let series = words.filter(|word| word.starts_with("pgidle_"));
    series.map(str::to_owned).collect()
}

#[test]
fn alerts_name_only_series_that_exist() {
    let alerts = named(include_str!("../../config/alerts.yml"));
    assert!(alerts.len() > 7, "{alerts:?}");
    let there = documented();
    let unknown: Vec<_> = alerts
        .iter()
        .filter(|&name| !there.contains_key(name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_dashboard_names_only_series_and_labels_that_exist() {
    let file = include_str!("../../config/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(file).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let there = documented();
    let mut shown = BTreeSet::new();
    for target in targets.flatten() {
        let (query, legend) = (target["expr"].as_str(), target["legendFormat"].as_str());
        let query = query.unwrap();
        let mut labels = labels_of(query);
        let in_legend = legend.unwrap().split("{{").skip(1);
        labels.extend(
            in_legend.map(|rest| (rest.split("}}").next().unwrap().to_owned(), named(query))),
        );
        for (label, series) in labels {
            let of_prometheus = ["job", "instance", "le"].contains(&&*label);
            let exists = |name: &String| {
                let name = name.trim_end_matches("_bucket");
                let labels = there
                    .get(name)
                    .unwrap_or_else(|| panic!("{name} does not exist"));
                of_prometheus || labels.contains(&label)
            };
            assert!(series.iter().all(exists), "{label}: {query}");
        }
        shown.extend(
            named(query)
                .iter()
                .map(|name| name.trim_end_matches("_bucket").to_owned()),
        );
    }
    let unseen: Vec<_> = there.keys().filter(|&name| !shown.contains(name)).collect();
    assert!(unseen.is_empty(), "nobody sees {unseen:?}");
}

#[test]
fn handles_count_in_the_same_series() {
    let metrics = Metrics::new().unwrap();
    let handle = metrics.clone();
    handle.closed(CloseReason::ServerIo);
    let text = text(&metrics, &[]);
    has(
        &text,
        r#"pgidle_sessions_closed_total{reason="server_io"} 1"#,
    );
    has(&text, r#"pgidle_upstream_errors_total{reason="lost"} 1"#);
}

#[test]
fn totals_are_kept_by_database_up_to_a_bound() {
    let metrics = Metrics::new().unwrap();
    metrics.traffic().add(crate::session::Side::Client, 7);
    let tally = Tally {
        transactions: 1,
        queries: 2,
        in_transaction_ns: 3_000_000,
        busy_ns: 1_000_000,
    };
    // Two threads.
    for _ in 0..2 {
        metrics.traffic_of("shop").unwrap().count(&tally);
    }
    let totals = metrics.totals();
    assert_eq!(totals[&None].bytes_from_clients, 7);
    let shop = totals[&Some("shop".into())];
    assert_eq!((shop.transactions, shop.queries), (2, 4));
    assert_eq!(
        (shop.in_transaction, shop.busy),
        (Duration::from_millis(6), Duration::from_millis(2))
    );
    let named =
        (0..200).filter(|number| metrics.traffic_of(&format!("database {number}")).is_some());
    assert_eq!(named.count(), MOST_DATABASES - 1);
    assert!(metrics.traffic_of("shop").is_some());
}
