//! What real libraries tell a program of a commit whose transaction was ended: each plays its flows through pgidle, and
//! the same flows natively, with a statement that fails in place of the silence. Another connection is the judge.
//!
//! It needs what `scripts/setup-drivers.sh` makes, so it runs by `make drivers-all`, which writes the second table of
//! docs/drivers.md.
//!
//! Flows: A commits late; B swallows another statement's error before it; D lets the library send a request of its own
//! before it; S releases a savepoint before it; R leaves a savepoint by an error before it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde::Deserialize;

use crate::support::{Endpoint, dba::Dba, end, in_repository, proxy::Proxy, server::newest};

/// The library's name in the table, and its program: `{drivers}` is tests/drivers, `{made}` what the script has made.
const LIBRARIES: &[(&str, &str)] = &[
    ("PHP PDO", "php {drivers}/pdo.php"),
    ("PHP pg_query", "php {drivers}/pg_query.php"),
    ("DBD::Pg", "perl {drivers}/dbd_pg.pl"),
    ("tdbc::postgres", "tclsh8.6 {drivers}/tdbc.tcl"),
    ("SOCI", "{made}/bin/soci"),
    ("psqlODBC", "/usr/bin/python3 {drivers}/pyodbc_flows.py"),
    ("ActiveRecord", "ruby {drivers}/activerecord.rb"),
    ("libpqxx", "{made}/bin/libpqxx"),
    ("tokio-postgres", "{examples}/rust_drivers tokio-postgres"),
    ("sqlx", "{examples}/rust_drivers sqlx"),
    ("psycopg2", "{python} {drivers}/psycopg2_flows.py"),
    ("psycopg 3", "{python} {drivers}/psycopg_flows.py"),
    ("asyncpg", "{python} {drivers}/asyncpg_flows.py"),
    ("pg8000", "{python} {drivers}/pg8000_flows.py"),
    (
        "SQLAlchemy on psycopg2",
        "{python} {drivers}/sqlalchemy_flows.py",
    ),
    ("Django on psycopg 3", "{python} {drivers}/django_flows.py"),
    ("peewee on psycopg2", "{python} {drivers}/peewee_flows.py"),
    (
        "Tortoise on asyncpg",
        "{python} {drivers}/tortoise_flows.py",
    ),
    ("aiopg on psycopg2", "{python} {drivers}/aiopg_flows.py"),
    ("Pony on psycopg2", "{python} {drivers}/pony_flows.py"),
    (
        "pgjdbc",
        "java -cp {made}/bin:/usr/share/java/postgresql.jar Pgjdbc",
    ),
    ("lib/pq", "{made}/bin/go pq"),
    ("pgx", "{made}/bin/go pgx"),
    ("node-postgres", "node {drivers}/node.mjs pg"),
    ("postgres.js", "node {drivers}/node.mjs postgres"),
    ("TypeORM", "node {drivers}/node.mjs typeorm"),
    ("Sequelize", "node {drivers}/node.mjs sequelize"),
    ("Knex", "node {drivers}/node.mjs knex"),
    ("pg-promise", "node {drivers}/node.mjs pg-promise"),
    ("Drizzle", "node {drivers}/node.mjs drizzle-orm"),
    ("Kysely", "node {drivers}/node.mjs kysely"),
    ("slonik", "node {drivers}/node.mjs slonik"),
    ("LuaSQL", "lua5.4 {drivers}/luasql.lua"),
    ("libdbi", "{made}/bin/libdbi"),
    ("RPostgreSQL", "Rscript --vanilla {drivers}/rpostgresql.R"),
    ("p1_pgsql", "escript {drivers}/p1_pgsql.escript"),
    ("postgresql-ocaml", "{made}/bin/ocaml"),
];

/// Flows that report a success, as they do natively, of what was rolled back, which no answer of a server's can prevent: the
/// library, the beginning of the flow's name, and why.
const BEYOND_HELP: &[(&str, &str, &str)] = &[
    ("LuaSQL", "", "`commit()` does not look at the answer"),
    (
        "RPostgreSQL",
        "",
        "`dbCommit()` does not look at the answer",
    ),
    (
        "p1_pgsql",
        "",
        "it answers every error by a ROLLBACK of its own",
    ),
    (
        "psqlODBC",
        "B -1",
        "it answers every error by a ROLLBACK of its own",
    ),
    (
        "Django on psycopg 3",
        "B by the ORM",
        "the block ends by ROLLBACK, without an exception",
    ),
    (
        "ActiveRecord",
        "D verify!",
        "it connects anew and commits there",
    ),
];

const COLUMNS: [&str; 5] = ["A", "B", "D", "S", "R"];

const MARKERS: [&str; 2] = [
    "<!-- The table, written by `make drivers-all`. -->\n",
    "<!-- The end of the second table. -->\n",
];

/// The cursors of Node.js leave a batch without Sync between two reads.
const RULES: &str = r#"
[[rule]]
name = "libraries"
idle = { rollback = "300ms" }
stalled = { rollback = "300ms" }
"#;

/// How many programs run at once.
const AT_ONCE: usize = 3;

#[derive(Deserialize)]
struct Offer {
    version: String,
    flows: Vec<String>,
}

/// What a program was told, step by step, and what became of the row.
#[derive(Debug, Deserialize)]
struct Played {
    steps: Vec<(String, Option<String>)>,
    #[serde(default)]
    kept: bool,
}

impl Played {
    /// Whether the commit was reported as a success.
    fn committed(&self) -> bool {
        let mut commits = self.steps.iter().filter(|(step, _)| step == "commit");
        commits
            .next_back()
            .is_some_and(|(_, error)| error.is_none())
    }

    fn is_lie(&self) -> bool {
        self.committed() && !self.kept
    }

    /// What the program was told at which step, as the table has it.
    fn cell(&self) -> String {
        let mut told: Vec<(String, &str)> = Vec::new();
        for (step, error) in &self.steps {
            let Some(error) = error else { continue };
            match told.last_mut() {
                Some((steps, last)) if *last == error => *steps = format!("{steps}, {step}"),
                _ => told.push((step.clone(), error)),
            }
        }
        let mut cell: Vec<_> = told
            .iter()
            .map(|(steps, error)| format!("{steps}: `{error}`"))
            .collect();
        if self.is_lie() {
            cell.push("**commit: no error**".to_owned());
        } else if self.committed() {
            cell.push("commit: kept".to_owned());
        }
        cell.join("; ")
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let made = in_repository(".cache/drivers");
    let examples = Path::new(env!("CARGO_BIN_EXE_pgidle")).with_file_name("examples");
    let places = [
        ("{drivers}", in_repository("tests/drivers")),
        ("{python}", made.join("python/bin/python")),
        ("{examples}", examples),
        ("{made}", made.clone()),
    ];
    let program = places
        .iter()
        .fold(program.to_owned(), |program, (name, place)| {
            program.replace(name, place.to_str().unwrap())
        });
    let mut words = program.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(arguments)
        .env("NODE_DRIVERS", made.join("node"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The library's version and its flows; the error says how to get it.
fn offer(program: &str, database: &Endpoint) -> Result<Offer, String> {
    let missing = |why: &dyn std::fmt::Display| {
        format!("cannot run `{program}`: {why}; run scripts/setup-drivers.sh")
    };
    let mut command = command(program, &[]);
    command.envs(database.environment()).stderr(Stdio::piped());
    let output = command.output().map_err(|error| missing(&error))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| missing(&String::from_utf8_lossy(&output.stderr)))
}

/// Plays a flow on a database of its own: through the proxy, or natively.
fn play(program: &str, flow: &str, proxy: Option<&Proxy>) -> Result<Played, String> {
    let database = newest().database();
    let endpoint = proxy.map_or_else(
        || database.clone(),
        |proxy| database.at(proxy.endpoint().host.clone(), proxy.endpoint().port),
    );
    let mut child = command(program, &[flow])
        .envs(endpoint.environment())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
    let stuck = line();
    if stuck == "stuck" {
        if let Some(proxy) = proxy {
            proxy.audit_line(&[("event", "incident"), ("database", &database.database)]);
        }
        let order = if proxy.is_some() { "go" } else { "fail" };
        drop(writeln!(child.stdin.take().unwrap(), "{order}"));
    }
    let answer = if stuck == "stuck" { line() } else { stuck };
    end(&mut child);
    let mut played: Played =
        serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
    played.kept = Dba::new(&database).sees_row(2);
    Ok(played)
}

/// What all libraries have shown.
#[derive(Default)]
struct Sum {
    flows: AtomicUsize,
    /// Flows that report a success of what is gone: through pgidle, and natively.
    lies: AtomicUsize,
    native_lies: AtomicUsize,
    /// What must not be.
    wrong: Mutex<Vec<String>>,
}

/// Plays all flows of a library; the result is its row of the table.
fn row(name: &str, program: &str, proxy: &Proxy, sum: &Sum) -> String {
    let count =
        |counter: &AtomicUsize, event| counter.fetch_add(usize::from(event), Ordering::Relaxed);
    let complain = |why: String| sum.wrong.lock().unwrap().push(format!("{name}: {why}"));
    let offer = match offer(program, &newest().database()) {
        Ok(offer) => offer,
        Err(why) => {
            complain(why);
            return String::new();
        }
    };
    let mut cells = COLUMNS.map(|_| Vec::new());
    for flow in &offer.flows {
        let (letter, what) = flow.split_at(1);
        let column = COLUMNS.iter().position(|&column| column == letter);
        let (ended, native) = (play(program, flow, Some(proxy)), play(program, flow, None));
        let (ended, native) = match (ended, native) {
            (Ok(ended), Ok(native)) => (ended, native),
            (ended, native) => {
                complain(format!(
                    "flow {flow}: {:?}",
                    ended.err().or_else(|| native.err())
                ));
                continue;
            }
        };
        count(&sum.flows, true);
        count(&sum.lies, ended.is_lie());
        count(&sum.native_lies, native.is_lie());
        let mut beyond_help = BEYOND_HELP.iter();
        let beyond_help =
            beyond_help.any(|(library, start, _)| *library == name && flow.starts_with(start));
        if ended.is_lie() && !(beyond_help && native.committed()) {
            complain(format!("flow {flow}: LIE: {ended:?}; natively: {native:?}"));
        }
        let what = if what.is_empty() {
            String::new()
        } else {
            format!("({}) ", what.trim())
        };
        cells[column.expect("a flow begins with its letter")]
            .push(format!("{what}{}", ended.cell()));
    }
    let cells = cells.map(|cell| format!(" {} |", cell.join("<br>")));
    format!("| {name} {} |{}\n", offer.version, cells.concat())
}

fn table(sum: &Sum) -> String {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, RULES);
    let rows = Mutex::new(vec![String::new(); LIBRARIES.len()]);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, program)) = LIBRARIES.get(index) else {
                        break;
                    };
                    let row = row(name, program, &proxy, sum);
                    rows.lock().unwrap()[index] = row;
                }
            });
        }
    });
    let [flows, lies, native_lies] =
        [&sum.flows, &sum.lies, &sum.native_lies].map(|count| count.load(Ordering::Relaxed));
    let reasons = BEYOND_HELP.iter().map(|(library, flow, why)| {
        format!("- {}: {why}.\n", format!("{library} {flow}").trim_end())
    });
    format!(
        "Of {flows} flows {native_lies} natively report a success of what is gone, and {lies} through pgidle, each for a reason \
         of its own:\n\n{}\n| library | A | B | D | S | R |\n|---|---|---|---|---|---|\n{}",
        reasons.collect::<String>(),
        rows.into_inner().unwrap().concat()
    )
}

#[test]
#[ignore = "it needs some thirty libraries: make drivers-all"]
fn no_library_reports_a_commit_that_was_rolled_back() {
    let sum = Sum::default();
    let table = table(&sum);
    let path = in_repository("docs/drivers.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(MARKERS[0]).unwrap();
    let (_, after) = rest.split_once(MARKERS[1]).unwrap();
    let document = [before, MARKERS[0], &table, MARKERS[1], after].concat();
    fs::write(&path, document).unwrap();
    let wrong = sum.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
