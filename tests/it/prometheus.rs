//! A real Prometheus (Debian's) that scrapes pgidle: its alerts fire, and the dashboard's queries have answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    dba::Dba,
    end, in_repository, leashed, observed,
    proxy::{Proxy, http_address},
    server::newest,
    wait_for,
    wire::Client,
};

/// A Prometheus that scrapes one address, with the repository's rules, whose times are a sixtieth of what they are.
struct Prometheus {
    child: Child,
    port: u16,
    _folder: TempDir,
}

/// Times of config/alerts.yml, and what they are here: what is awaited a minute is awaited a second.
const SCALED: [(&str, &str); 4] = [
    ("for: 1m\n", "for: 1s\n"),
    ("for: 30s\n", "for: 500ms\n"),
    ("transaction_seconds > 60", "transaction_seconds > 1"),
    ("transaction_seconds > 900", "transaction_seconds > 15"),
];

impl Prometheus {
    fn scraping(address: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rules = fs::read_to_string(in_repository("config/alerts.yml")).unwrap();
        for (long, short) in SCALED {
            assert!(rules.contains(long), "{long:?} is in no rule");
            rules = rules.replace(long, short);
        }
        fs::write(folder.path().join("alerts.yml"), rules).unwrap();
        let config = folder.path().join("prometheus.yml");
        let settings = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs:\n- job_name: pgidle\n  static_configs: [{{targets: ['{address}']}}]\n"
        );
        fs::write(&config, settings).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = leashed("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; run `make setup`"));
        let mut prometheus = Self {
            child,
            port,
            _folder: folder,
        };
        wait_for("Prometheus", || {
            let over = prometheus.child.try_wait().unwrap();
            assert!(over.is_none(), "prometheus: {over:?}; run `make setup`");
            prometheus.get("/-/ready").map(drop)
        });
        prometheus
    }

    /// The body of an answer, where there is one.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let fine = head.split(' ').nth(1) == Some("200");
        (fine || body.contains("\"error\"")).then(|| body.to_owned())
    }

    /// The samples that answer a query now.
    fn query(&self, expr: &str) -> Vec<Value> {
        let escaped: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}")).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{expr}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    fn firing(&self, alert: &str) -> bool {
        let alert = format!(r#"ALERTS{{alertname="{alert}",alertstate="firing"}}"#);
        !self.query(&alert).is_empty()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Every query of the dashboard, as Grafana asks it when nothing is picked.
fn queries() -> Vec<String> {
    let file = fs::read_to_string(in_repository("config/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&file).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$job", ".*").replace("$instance", ".*");
        query.replace("$__rate_interval", "5s")
    });
    queries.collect()
}

/// One session holds up another one's ALTER TABLE, and a client asks for a server that is not there.
#[test]
fn alerts_fire_and_the_dashboard_has_answers() {
    let database = newest().database();
    let dsn = observed::dsn(&database, "postgres");
    let settings = format!(
        "[http]\naddress = '127.0.0.1:0'\n[observer]\ndsn = '{dsn}'\n\
         [[rule]]\nname = 'all'\nidle = {{ log = '100ms' }}\nblocking = {{ log = '100ms' }}\n"
    );
    let proxy = Proxy::with_rules(&database, &settings);
    let prometheus = Prometheus::scraping(&http_address(&proxy));
    assert!(!prometheus.firing("PgidleIdleInTransaction"));
    let mut stuck = Client::connect_with(proxy.endpoint(), &[("application_name", "report.py")]);
    stuck.begin("INSERT INTO t VALUES (71, 'x')");
    let waits = Dba::new(&database).alters_table();
    for alert in ["PgidleIdleInTransaction", "PgidleBlockedByIdleTransaction"] {
        wait_for(alert, || prometheus.firing(alert).then_some(()));
    }
    let queries = queries();
    assert!(queries.len() > 25, "{queries:?}");
    for query in &queries {
        // What has not happened has no samples, and where nothing did there is nothing to divide by.
        if !query.contains("release_refused") {
            wait_for(query, || {
                (!prometheus.query(query).is_empty()).then_some(())
            });
        }
    }
    let by_application = queries.iter().find(|query| query.starts_with("topk(10"));
    let [top] = <[Value; 1]>::try_from(prometheus.query(by_application.unwrap())).unwrap();
    assert_eq!(top["metric"]["application_name"], "report.py");
    stuck.run("ROLLBACK");
    waits.join().unwrap();
    for alert in ["PgidleIdleInTransaction", "PgidleBlockedByIdleTransaction"] {
        wait_for("the end of an alert", || {
            (!prometheus.firing(alert)).then_some(())
        });
    }
}

#[test]
fn the_dashboard_is_what_its_script_writes() {
    let script = in_repository("scripts/dashboard.py");
    let written = Command::new("python3").arg(script).output().unwrap();
    let expected = String::from_utf8(written.stdout).unwrap();
    let file = fs::read_to_string(in_repository("config/dashboard.json")).unwrap();
    assert!(file == expected, "run `make dashboard`");
}
