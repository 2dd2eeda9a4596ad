//! Who may name whom: the floors of `src`, no circles between the files of a folder, and what the pure floors do without.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, code, enforce, identifier, is_unit_test, names, top_module, tree};

/// Every module at the top of `src`, with its floor: a module may name modules of lower floors only.
const FLOORS: &[(&str, u8)] = &[
    ("wire", 0),
    ("sql", 0),
    ("policy", 0),
    ("session", 1),
    ("config", 1),
    ("line_writer", 1),
    ("prover", 1),
    ("registry", 2),
    ("audit", 2),
    ("metrics", 2),
    ("observer", 2),
    ("recorder", 2),
    ("console", 3),
    ("events", 3),
    ("http", 3),
    ("proxy", 4),
    ("demo", 4),
    ("app", 5),
    ("cli", 5),
    ("log", 5),
    ("service_manager", 5),
    ("signals", 5),
    ("main", 6),
    ("lib", 6),
];

/// Crates that only some modules name: the messages that pgidle sends itself, and PostgreSQL's own parser.
const HOMES: &[(&str, &[&str])] = &[("pgwire", &["wire", "console"]), ("pg_query", &["sql"])];

/// Modules without I/O and clock.
pub(super) const PURE: &[&str] = &["wire", "sql", "policy", "session"];

/// Adds the paths that an import's text names after `prefix`, such as `x::{y, z::W as V}`; returns what follows it.
fn expand<'a>(prefix: &str, text: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let Some(mut rest) = text.strip_prefix('{') else {
        let name = identifier(text);
        let (path, rest) = (format!("{prefix}{name}"), &text[name.len()..]);
        return match rest.strip_prefix("::") {
            Some(below) if !name.is_empty() => expand(&format!("{path}::"), below, found),
            Some(_) | None => {
                found.insert(path);
                rest
            }
        };
    };
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return rest;
        }
        rest = expand(prefix, rest, found);
        // What is left of it is an alias.
        rest = rest.trim_start_matches(|c| c != ',' && c != '}');
        rest = rest.strip_prefix(',').unwrap_or(rest);
        if rest.is_empty() {
            return rest;
        }
    }
}

/// The paths that code names after `start`, which is `crate::`, `super::` or `std::`.
fn paths(code: &str, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices(start) {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            expand("", &code[at + start.len()..], &mut found);
        }
    }
    found
}

/// The first names of those paths.
fn imports(code: &str, start: &str) -> BTreeSet<String> {
    let paths = paths(code, start);
    paths
        .iter()
        .map(|path| identifier(path).to_owned())
        .collect()
}

pub(super) fn floor(module: &str) -> Option<u8> {
    let found = FLOORS.iter().find(|(name, _)| *name == module);
    found.map(|&(_, floor)| floor)
}

fn imports_go_down(file: &File) -> Vec<String> {
    let Some(module) = top_module(&file.path) else {
        return Vec::new();
    };
    let Some(own) = floor(module) else {
        return vec![format!(
            "{}: `{module}` has no floor in tests/tidy/imports.rs",
            file.path
        )];
    };
    let code = code(&file.text);
    let mut complaints: Vec<_> = imports(&code, "crate::")
        .into_iter()
        .filter(|other| other != module && floor(other).is_some_and(|floor| floor >= own))
        .map(|other| format!("{}: `{module}` may not name `crate::{other}`", file.path))
        .collect();
    let is_top = match file.path.matches('/').count() {
        1 => true,
        2 => file.path.ends_with("/mod.rs"),
        _ => false,
    };
    if code.contains("super::super::") || (is_top && names(&code, "super")) {
        complaints.push(format!(
            "{}: say `crate::`, not `super::`, to leave a module",
            file.path
        ));
    }
    complaints
}

#[test]
fn imports_only_go_down() {
    enforce(
        imports_go_down,
        &[
            ("src/wire/frame.rs", "use crate::session::Session;"),
            (
                "src/wire/frame.rs",
                "fn f(action: &crate::policy::Action) {}",
            ),
            (
                "src/audit/mod.rs",
                "use crate::{\n    policy::{Action, Kind},\n    proxy,\n};",
            ),
            ("src/proxy/relay.rs", "use crate::demo::run;"),
            ("src/session/mod.rs", "use super::proxy;"),
            ("src/session/state.rs", "use super::super::proxy;"),
            ("src/pool.rs", "//! A module that is not in the table."),
        ],
    );
    let found = paths(
        "use crate::{a::{x, y as Y}, b,};\ncrate::c::d(); crate::E",
        "crate::",
    );
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        ["E", "a::x", "a::y", "b", "c::d"]
    );
}

/// The rows of a table of floors: each module in backticks, with its floor.
fn floor_table(text: &str) -> BTreeSet<(&str, u8)> {
    let mut rows = BTreeSet::new();
    let lines = text.lines().map(|line| line.trim_start_matches("//! "));
    let table = lines.skip_while(|line| *line != "| floor | modules |");
    for line in table.take_while(|line| line.starts_with('|')).skip(2) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let floor = cells.next().and_then(|floor| floor.parse().ok());
        let modules = cells.next().unwrap_or_default().split('`').skip(1);
        rows.extend(
            modules
                .step_by(2)
                .zip(std::iter::repeat(floor.unwrap_or(u8::MAX))),
        );
    }
    rows
}

fn floor_table_is_true(file: &File) -> Vec<String> {
    if !["ARCHITECTURE.md", "src/lib.rs"].contains(&file.path.as_str()) {
        return Vec::new();
    }
    let (said, held) = (floor_table(&file.text), FLOORS.iter().copied().collect());
    said.symmetric_difference(&held)
        .map(|(module, floor)| {
            format!(
                "{}: `{module}` on floor {floor}: the table and that of the tidy test differ",
                file.path
            )
        })
        .collect()
}

#[test]
fn the_documents_have_the_table_of_floors() {
    let table = |rows: &str| format!("| floor | modules |\n|---|---|\n{rows}");
    let wrong = table("| 0 | `wire`, `sql` |\n| 1 | `policy` |\n");
    let in_code = wrong.replace('|', "//! |").replace("//! |//! |", "//! ||");
    enforce(
        floor_table_is_true,
        &[
            ("ARCHITECTURE.md", "No table."),
            ("ARCHITECTURE.md", &wrong),
            ("src/lib.rs", &in_code),
        ],
    );
    assert_eq!(
        floor_table(&wrong),
        BTreeSet::from([("wire", 0), ("sql", 0), ("policy", 1)])
    );
}

/// What a source file's module is called, from the crate's root: `session::state` for `src/session/state.rs`.
fn module_path(path: &str) -> Option<String> {
    let module = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let module = module.strip_suffix("/mod").unwrap_or(module);
    Some(module.replace('/', "::"))
}

/// For each module in a folder: the modules beside it that it or what is below it names. The folder's own `mod.rs`
/// names all of them and is left out.
fn neighbours(files: &[File]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: Vec<_> = files
        .iter()
        .filter(|file| !is_unit_test(&file.path))
        .filter_map(|file| Some((module_path(&file.path)?, code(&file.text))))
        .collect();
    let exists: BTreeSet<_> = modules.iter().map(|(module, _)| module.as_str()).collect();
    let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
    for (module, code) in &modules {
        let mut named = paths(code, "crate::");
        for path in paths(code, "super::") {
            let (mut above, mut path) = (module.as_str(), path.as_str());
            loop {
                above = above.rsplit_once("::").map_or("", |(above, _)| above);
                let Some(rest) = path.strip_prefix("super::") else {
                    break;
                };
                path = rest;
            }
            named.insert(format!("{above}::{path}"));
        }
        let folders = module.match_indices("::").map(|(at, _)| &module[..at + 2]);
        for folder in folders {
            // The module of this folder that a path names, or leads through.
            let of_folder = |path: &str| {
                let name = identifier(path.strip_prefix(folder)?);
                Some(format!("{folder}{name}"))
            };
            let own = of_folder(module).unwrap_or_default();
            let others = named.iter().filter_map(|path| of_folder(path));
            let others = others.filter(|other| *other != own && exists.contains(other.as_str()));
            edges.entry(own.clone()).or_default().extend(others);
        }
    }
    edges
}

fn no_circle_in_a_folder(files: &[File]) -> Vec<String> {
    let edges = neighbours(files);
    let reaches = |from: &String, to: &String| {
        let mut seen = BTreeSet::from([from]);
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            for other in edges.get(module).into_iter().flatten() {
                if other == to {
                    return true;
                }
                if seen.insert(other) {
                    next.push(other);
                }
            }
        }
        false
    };
    let named = edges
        .iter()
        .flat_map(|(module, others)| others.iter().map(move |other| (module, other)));
    named
        .filter(|(module, other)| reaches(other, module))
        .map(|(module, other)| format!("`{module}` names `{other}`, which leads back to it"))
        .collect()
}

#[test]
fn no_modules_of_a_folder_form_a_circle() {
    let sample = |files: &[(&str, &str)]| {
        let file = |&(path, text): &(&str, &str)| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        no_circle_in_a_folder(&files.iter().map(file).collect::<Vec<_>>()).len()
    };
    let relay = ("src/proxy/relay.rs", "use super::{Worker, tls::Tls};");
    let by_crate = [
        "use crate::proxy::relay::Relay;",
        "use crate::{config, proxy::{cancel, relay::Relay}};",
        "fn f() { super::relay::run() }",
    ];
    for tls in by_crate {
        assert_eq!(sample(&[relay, ("src/proxy/tls.rs", tls)]), 2, "{tls}");
    }
    let deep = ("src/proxy/tls/client.rs", "use super::super::relay;");
    assert_eq!(sample(&[relay, ("src/proxy/tls/mod.rs", ""), deep]), 2);
    let third = ("src/proxy/cancel.rs", "use super::relay;");
    let tls = ("src/proxy/tls.rs", "use super::cancel;");
    assert_eq!(sample(&[relay, tls, third]), 3);
    let module = (
        "src/proxy/mod.rs",
        "use self::relay::run; use crate::proxy::tls;",
    );
    let down = (
        "src/proxy/tls.rs",
        "use super::Worker;\n\n#[cfg(test)]\nmod tests {\n    use super::super::relay;\n}",
    );
    assert_eq!(sample(&[module, relay, down]), 0);
    let complaints = no_circle_in_a_folder(&tree());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn core_is_pure(file: &File) -> Vec<String> {
    let is_core = top_module(&file.path).is_some_and(|module| PURE.contains(&module));
    if !is_core || is_unit_test(&file.path) {
        return Vec::new();
    }
    let code = code(&file.text);
    let std = imports(&code, "std::");
    let modules = ["env", "fs", "io", "process", "thread"];
    let words = [
        "tokio",
        "tracing",
        "Instant::now",
        "SystemTime",
        "TcpStream",
        "UdpSocket",
    ];
    modules
        .into_iter()
        .filter(|&module| std.contains(module))
        .map(|module| format!("std::{module}"))
        .chain(
            words
                .iter()
                .filter(|word| names(&code, word))
                .map(|&word| word.to_owned()),
        )
        .map(|word| format!("{}: names `{word}`: no I/O, clock or log here", file.path))
        .collect()
}

#[test]
fn wire_sql_policy_and_session_have_no_io_and_no_clock() {
    enforce(
        core_is_pure,
        &[
            ("src/wire/frame.rs", "use tokio::io::AsyncRead;"),
            ("src/session/mod.rs", "    tracing::debug!(\"state\");"),
            ("src/policy/rule.rs", "let now = Instant::now();"),
            (
                "src/policy/rule.rs",
                "use std::{\n    sync::Arc,\n    thread,\n};",
            ),
            (
                "src/session/mod.rs",
                "#[cfg(test)]\nmod tests;\n\nuse tokio::time::Instant;",
            ),
        ],
    );
}

fn names_what_is_elsewhere(file: &File) -> Vec<String> {
    let Some(module) = top_module(&file.path) else {
        return Vec::new();
    };
    let code = code(&file.text);
    HOMES
        .iter()
        .filter(|(word, homes)| !homes.contains(&module) && names(&code, word))
        .map(|(word, homes)| format!("{}: `{word}` is named only in {homes:?}", file.path))
        .collect()
}

#[test]
fn some_crates_are_named_in_their_homes_only() {
    enforce(
        names_what_is_elsewhere,
        &[
            ("src/proxy/relay.rs", "use pgwire::messages::Query;"),
            ("src/session/state.rs", "pg_query::parse(text)"),
        ],
    );
}
