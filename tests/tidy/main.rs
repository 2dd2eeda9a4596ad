//! The house rules that a program can check: who imports whom, which floors are pure, how files open and how long they
//! are, and that the documents name only what exists.
//!
//! Each rule is a function from one file's path and text to complaints. It is run on the whole tree, and on a sample
//! that breaks it, so that no rule can pass because it looks at nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod features;
mod glossary;
mod imports;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use imports::floor;

/// The longest file: in `src` all of its lines count, its tests too; elsewhere comments and blank lines do not.
const LONGEST_FILE: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "manager", "misc",
];

/// Folders that mean something on one machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tmp", "/wt"),
];

struct File {
    /// Relative to the repository, with slashes.
    path: String,
    text: String,
}

/// A rule: complaints about one file.
type Rule = fn(&File) -> Vec<String>;

/// Every text file of the repository but what builds leave behind.
fn tree() -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if ["target", ".git", ".cache", "__pycache__"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let text = String::from_utf8(fs::read(&path).unwrap()).ok()?;
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap();
            Some(File {
                path: path.replace('\\', "/"),
                text,
            })
        })
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with every complaint about the tree, and where the rule finds nothing wrong with the `bad` sample.
fn enforce(rule: Rule, bad: &[(&str, &str)]) {
    for &(path, text) in bad {
        let sample = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        assert!(!rule(&sample).is_empty(), "the rule accepts {path}: {text}");
    }
    let complaints: Vec<_> = tree().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The module at the top of `src` that a source file belongs to.
fn top_module(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let first = rest.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// Whether a source file holds the unit tests of its module and nothing else.
fn is_unit_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Source without comment lines, and without unit tests: modules that are written there, not those that are declared.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = lines.peek().filter(|next| next.starts_with("mod "));
        if line == "#[cfg(test)]" && module.is_some_and(|module| module.ends_with(" {")) {
            lines.by_ref().find(|line| *line == "}");
            continue;
        }
        let line = line.split(" // ").next().unwrap_or(line);
        if !line.trim().is_empty() && !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Whether a name stands in the text as a whole word.
fn names(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word)
    })
}

fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

fn opens_with_its_purpose(file: &File) -> Vec<String> {
    let purpose = file
        .text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//! "));
    if file.path.ends_with(".rs") && purpose.is_none_or(|purpose| purpose.len() < 10) {
        return vec![format!(
            "{}: opens without a `//!` that says what it is for",
            file.path
        )];
    }
    Vec::new()
}

#[test]
fn every_source_file_opens_with_its_purpose() {
    enforce(
        opens_with_its_purpose,
        &[
            ("src/a.rs", "use std::fs;"),
            ("benches/b.rs", ""),
            ("src/c.rs", "//! Stub."),
        ],
    );
}

fn is_short(file: &File) -> Vec<String> {
    let (lines, what) = if file.path.starts_with("src/") {
        (file.text.lines().count(), "lines")
    } else {
        (code(&file.text).lines().count(), "lines of code")
    };
    if file.path.ends_with(".rs") && lines > LONGEST_FILE {
        return vec![format!(
            "{}: {lines} {what}, over {LONGEST_FILE}",
            file.path
        )];
    }
    Vec::new()
}

#[test]
fn no_file_is_long() {
    let tested = format!(
        "fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{}}}\n\nfn g() {{}}\n",
        "f();\n".repeat(LONGEST_FILE)
    );
    let comments = "//! Stub.\n".repeat(LONGEST_FILE + 1);
    let functions = "fn f() {}\n".repeat(LONGEST_FILE + 1);
    enforce(
        is_short,
        &[
            ("src/a.rs", &functions),
            ("src/a.rs", &comments),
            ("src/a.rs", &tested),
            ("src/a/tests.rs", &functions),
            ("tests/it/a.rs", &functions),
        ],
    );
    assert_eq!(
        code(&tested),
        "fn f() {}\nfn g() {}\n",
        "unit tests are no code"
    );
}

fn has_a_telling_name(file: &File) -> Vec<String> {
    let empty = |part: &str| EMPTY_NAMES.contains(&part.strip_suffix(".rs").unwrap_or(part));
    if file.path.ends_with(".rs") && file.path.split('/').any(empty) {
        return vec![format!("{}: a name that says nothing", file.path)];
    }
    Vec::new()
}

#[test]
fn every_module_has_a_telling_name() {
    enforce(
        has_a_telling_name,
        &[
            ("src/util.rs", ""),
            ("src/proxy/types.rs", ""),
            ("tests/it/common/server.rs", ""),
        ],
    );
}

fn is_of_no_machine(file: &File) -> Vec<String> {
    MACHINE_PATHS
        .iter()
        .filter(|path| file.text.contains(**path))
        .map(|path| {
            format!(
                "{}: names {path}, which exists on one machine only",
                file.path
            )
        })
        .collect()
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    enforce(
        is_of_no_machine,
        &[("README.md", concat!("See /wo", "rk/main."))],
    );
}

fn dependencies_have_reasons(file: &File) -> Vec<String> {
    if file.path != "Cargo.toml" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let mut in_dependencies = false;
    let mut previous = "";
    for line in file.text.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies
            && line.contains('=')
            && !line.starts_with('#')
            && !previous.starts_with("# ")
        {
            complaints.push(format!(
                "Cargo.toml: no reason above `{}`",
                identifier(line)
            ));
        }
        previous = line;
    }
    complaints
}

#[test]
fn every_dependency_has_its_reason() {
    enforce(
        dependencies_have_reasons,
        &[
            (
                "Cargo.toml",
                "[dependencies]\n# Bytes.\nbytes = \"1\"\nanyhow = \"1\"\n",
            ),
            ("Cargo.toml", "[dev-dependencies]\ntempfile = \"3\"\n"),
        ],
    );
}

fn targets_have_paths(file: &File) -> Vec<String> {
    if file.path != "Cargo.toml" {
        return Vec::new();
    }
    let targets = file.text.split("\n[").filter(|section| {
        let kinds = ["[test]]", "[bench]]", "[example]]"];
        kinds.iter().any(|kind| section.starts_with(kind))
    });
    targets
        .filter(|section| !section.contains("\npath = "))
        .map(|section| format!("Cargo.toml: no path in [{section}"))
        .collect()
}

/// Cargo looks for a target without a path, and the Dockerfile copies `src` alone: the image could not be built.
#[test]
fn every_target_that_the_image_lacks_has_a_path() {
    enforce(
        targets_have_paths,
        &[(
            "Cargo.toml",
            "[package]\n\n[[bench]]\nname = \"session\"\nharness = false\n",
        )],
    );
}

/// What a document sets in single backticks, outside fenced blocks.
fn quoted(document: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// Whether some file of a module at the top of `src` names the symbol.
fn module_names(module: &str, symbol: &str) -> bool {
    tree()
        .iter()
        .any(|file| top_module(&file.path) == Some(module) && names(&file.text, symbol))
}

fn documents_name_what_exists(file: &File) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let root = root();
    let is_missing = |span: &&str| {
        if span.contains(['…', '*', ' ', '{', '<']) {
            return false;
        }
        let folder = span.split('/').next().unwrap_or_default();
        let is_path = span.ends_with(".rs")
            || (span.contains('/')
                && ["src", "tests", "benches", "config", "scripts"].contains(&folder));
        if is_path {
            return !root.join(span).exists() && !root.join("src").join(span).exists();
        }
        let path = span.trim_end_matches("()");
        path.split_once("::").is_some_and(|(module, rest)| {
            floor(module).is_some() && rest.split("::").any(|symbol| !module_names(module, symbol))
        })
    };
    quoted(&file.text)
        .into_iter()
        .filter(is_missing)
        .map(|span| format!("{}: `{span}` does not exist", file.path))
        .collect()
}

#[test]
fn documents_name_only_what_exists() {
    enforce(
        documents_name_what_exists,
        &[
            ("README.md", "See `src/pool.rs`."),
            ("ARCHITECTURE.md", "The relay (`proxy/pool.rs`) copies."),
            ("ARCHITECTURE.md", "`policy::Pool` decides."),
            (
                "ARCHITECTURE.md",
                "`policy::Ladder::no_such_method()` decides.",
            ),
        ],
    );
    let fine = File {
        path: "README.md".to_owned(),
        text: "`src/policy/ladder.rs`, `policy/ladder.rs` and `policy::Ladder::rungs()`, `std::fs`"
            .to_owned(),
    };
    assert_eq!(documents_name_what_exists(&fine), Vec::<String>::new());
}

/// The text of a document under a heading, up to the next one.
fn under<'a>(document: &'a str, heading: &str) -> &'a str {
    let mut fenced = false;
    let mut from = None;
    let mut at = 0;
    for line in document.split_inclusive('\n') {
        fenced ^= line.starts_with("```");
        let text = line.trim_start_matches('#');
        if !fenced && text.len() < line.len() {
            match from {
                Some(from) => return &document[from..at],
                None if text.trim() == heading => from = Some(at + line.len()),
                None => {}
            }
        }
        at += line.len();
    }
    &document[from.unwrap_or(at)..]
}

/// What stands in backticks in the first column of a table.
fn first_column(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

/// What the method `name` of an enum can give, wherever in `src` it stands.
fn names_of(item: &str) -> BTreeSet<String> {
    let sources = tree();
    let mut names = sources.iter().filter_map(|file| {
        let (_, rest) = file.text.split_once(&format!("impl {item} {{"))?;
        let (_, rest) = rest.split_once("fn name(")?;
        let body = rest.split("\n    }").next()?;
        Some(
            body.split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect(),
        )
    });
    names.next().unwrap_or_default()
}

/// The headings of docs/audit.md whose tables name the values of a field, and the enums that they come from.
const AUDIT_VALUES: &[(&str, &str)] = &[
    ("`kind`", "StuckKind"),
    ("`cause`", "Cause"),
    ("`action`", "Action"),
    ("`outcome` of an incident", "Outcome"),
    ("`position`", "Position"),
    ("`outcome` of a transaction", "TransactionOutcome"),
    ("Why a session ended", "CloseReason"),
];

fn audit_page_has_every_value(file: &File) -> Vec<String> {
    if file.path != "docs/audit.md" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (heading, item) in AUDIT_VALUES {
        let (known, said) = (names_of(item), first_column(under(&file.text, heading)));
        if known.is_empty() || known != said {
            complaints.push(format!(
                "docs/audit.md, {heading}: {said:?}, and `{item}` has {known:?}"
            ));
        }
    }
    complaints
}

#[test]
fn the_page_of_the_audit_has_every_value_and_no_other() {
    enforce(
        audit_page_has_every_value,
        &[(
            "docs/audit.md",
            "### `kind`\n\n| value |\n|---|\n| `idle` |\n| `sleepy` |\n",
        )],
    );
}

/// A heading as GitHub names it in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// The targets of a document's links, outside of fenced blocks.
fn links(document: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut targets = Vec::new();
    for line in document.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            let ends = line.split("](").skip(1);
            targets.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0)));
        }
    }
    targets
}

fn links_resolve(file: &File) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = root().join(Path::new(&file.path).parent().unwrap());
    let is_dead = |target: &&str| {
        if target.contains("://") {
            return false;
        }
        let (path, wanted) = target.split_once('#').unwrap_or((target, ""));
        let text = match path {
            "" => Some(file.text.clone()),
            path => fs::read_to_string(folder.join(path)).ok(),
        };
        let has_heading = |text: String| {
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            headings.any(|line| anchor(line.trim_start_matches('#').trim()) == wanted)
        };
        !text.is_some_and(|text| wanted.is_empty() || has_heading(text))
    };
    links(&file.text)
        .into_iter()
        .filter(is_dead)
        .map(|target| format!("{}: the link {target} leads nowhere", file.path))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    enforce(
        links_resolve,
        &[
            ("README.md", "See [that](docs/no-such-page.md)."),
            ("docs/audit.md", "See [that](../README.md#no-such-heading)."),
            ("docs/audit.md", "See [that](#no-such-heading)."),
        ],
    );
    assert_eq!(anchor("`outcome` of an incident"), "outcome-of-an-incident");
}

/// The tests exist that the last column of a table of promises names, whole or with an ellipsis at an end.
fn named_tests_exist(file: &File) -> Vec<String> {
    if !["SECURITY.md", "docs/faults.md"].contains(&&*file.path) {
        return Vec::new();
    }
    let last = |row: &str| {
        row.trim_end_matches('|')
            .rsplit('|')
            .next()
            .map(str::to_owned)
    };
    let rows = file.text.lines().filter(|line| line.starts_with('|'));
    let cells: String = rows.filter_map(last).collect();
    let is_test = |file: &File| file.path.ends_with(".rs") && file.text.contains("#[test]");
    let code: String = tree()
        .into_iter()
        .filter(is_test)
        .map(|file| file.text)
        .collect();
    let exists = |span: &str| {
        let name = span.rsplit("::").next().unwrap_or_default();
        let line = format!("fn {name}()").replace("fn …", "");
        code.contains(line.strip_suffix("…()").unwrap_or(&line))
    };
    quoted(&cells)
        .into_iter()
        .filter(|span| !span.contains('/') && !exists(span))
        .map(|span| format!("{}: there is no test `{span}`", file.path))
        .collect()
}

#[test]
fn a_promise_names_a_test_that_exists() {
    enforce(
        named_tests_exist,
        &[
            ("SECURITY.md", "| a kind | a promise | `no_such_test` |"),
            (
                "docs/faults.md",
                "| a fault | a promise | `faults::no_such_…` |",
            ),
            (
                "docs/faults.md",
                "| a fault | a promise | `faults::…_no_such_test` |",
            ),
        ],
    );
}
