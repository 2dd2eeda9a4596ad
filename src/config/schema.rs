//! Keeps `config/pgidle.schema.json`, by which editors check a file, true: it is made here, from the tables by which
//! files are read and from what `config/pgidle.toml` says of each key, and it is tried against the reader.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::{
    audit, console, file, http, listen, log, observer,
    reference::{Part, reference},
    rule,
    section::Table,
    tls, upstream,
};
use crate::policy::{Action, LockMode};

/// Every table that a file can have.
pub(super) fn tables() -> Vec<Table> {
    let mut tables = vec![
        file::ROOT,
        listen::TABLE,
        upstream::TABLE,
        tls::TABLE,
        console::TABLE,
        console::USER,
        http::TABLE,
        audit::TABLE,
        observer::TABLE,
        log::TABLE,
        rule::TABLE,
        rule::MATCH,
    ];
    tables.extend(rule::KINDS.map(|(_, table)| table));
    tables
}

/// The examples of the documents: where each stands, and its text.
pub(super) fn examples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap();
    let pages = pages.map(|page| page.unwrap().path());
    let mut examples = Vec::new();
    for page in pages.chain([root.join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        for example in text.split("```toml\n").skip(1) {
            let (example, _) = example.split_once("```").unwrap();
            examples.push((page.display().to_string(), example.to_owned()));
        }
    }
    let deployed = root.join("config/kubernetes/pgidle.toml");
    let text = fs::read_to_string(&deployed).unwrap();
    examples.push((deployed.display().to_string(), text));
    assert!(examples.len() > 10, "{examples:?}");
    examples
}

/// The sample with every key that it shows, those too that are off by default.
pub(super) fn whole_sample() -> String {
    let mut text = String::new();
    for part in reference() {
        text += &match part {
            Part::Text(_) => continue,
            Part::Head { table, repeats, .. } if repeats => format!("[[{table}]]\n"),
            Part::Head { table, .. } => format!("[{table}]\n"),
            Part::Key { name, value, .. } => format!("{name} = {value}\n"),
        };
    }
    text
}

/// What a value is, before what is said about it.
fn form(table: &str, key: &str) -> Value {
    let text = json!({ "type": "string" });
    let name = json!({ "type": "string", "minLength": 1 });
    let flag = json!({ "type": "boolean" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let words = |words: &[&str]| json!({ "type": "string", "enum": words });
    match (table, key) {
        ("", "startup_timeout" | "drain_timeout") | ("upstream", "connect_timeout") => duration(),
        ("" | "rule", "release_timeout") | ("observer", "interval") => positive(),
        ("", "builtin_exemptions")
        | ("listen", "proxy_protocol" | "reuse_port")
        | ("audit", "literals" | "transactions")
        | ("rule", "exempt")
        | ("rule.match", "replication")
        | ("rule.age", "implicit") => flag,
        ("listen", "addresses") => addresses(),
        ("listen", "workers") | ("upstream", "max_sessions") => count,
        ("upstream", "address") => json!({ "oneOf": [address(), addresses()] }),
        ("upstream", "target_session_attrs") => words(&[
            "any",
            "read-write",
            "read-only",
            "primary",
            "standby",
            "prefer-standby",
        ]),
        ("upstream", "pooler") => words(&["none", "session", "transaction"]),
        ("upstream" | "tls", "sslmode") => words(&[
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ]),
        ("upstream", "sslnegotiation") => words(&["postgres", "direct"]),
        ("upstream", "sslrootcert" | "sslcert" | "sslkey")
        | ("tls", "cert" | "key" | "ca")
        | ("console.user", "name" | "password_file")
        | ("audit", "file")
        | ("observer", "dsn")
        | ("rule", "name") => name,
        ("console", "database") => text,
        ("console.user", "role") => words(&["monitor", "admin"]),
        ("console.user", "secret") => {
            json!({ "type": "string", "pattern": r"^SCRAM-SHA-256\$[0-9]+:[^$:]*\$[^$:]+:[^$:]+$" })
        }
        ("http", "address") => json!({ "type": "string", "pattern": r"^$|^[^/\s]+:[0-9]+$" }),
        ("log", "format") => words(&["text", "json"]),
        ("rule.match", "application_name" | "database" | "user") => {
            json!({ "type": "string", "pattern": "^[^!/]|^$" })
        }
        ("rule.match", "client") => {
            json!({ "type": "string", "pattern": r"^unix$|^[0-9.]+(/[0-9]+)?$|^[0-9A-Fa-f:.]+(/[0-9]+)?$" })
        }
        ("rule", "blocking_mode") => words(&LockMode::ALL.map(LockMode::name)),
        ("rule.blocking", _) => duration(),
        (kind, rung) if kind.starts_with("rule.") && is_action(rung) => limit(),
        _ => panic!("{table}.{key}: say here what its values are"),
    }
}

fn is_action(name: &str) -> bool {
    Action::ALL.iter().any(|action| action.name() == name)
}

/// An amount that is not 0, with its unit.
const AMOUNT: &str = r"^\s*(?![0.]*([eE][-+]?[0-9]+)?\s*[a-z]*\s*$)([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*(us|ms|s|min|h|d)\s*$";

/// None, whatever its unit.
const NOTHING: &str = r"^\s*([0]+\.?0*|\.0+)([eE][-+]?[0-9]+)?\s*(us|ms|s|min|h|d)?\s*$";

/// A duration that can be off.
fn duration() -> Value {
    let [amount, nothing] = [AMOUNT, NOTHING].map(|p| json!({ "type": "string", "pattern": p }));
    json!({ "anyOf": [amount, nothing, { "const": 0 }], "examples": EXAMPLES })
}

/// A duration that cannot be off.
fn positive() -> Value {
    json!({ "type": "string", "pattern": AMOUNT, "examples": EXAMPLES })
}

/// A rung, which is switched off by the number 0 alone.
fn limit() -> Value {
    let amount = json!({ "type": "string", "pattern": AMOUNT });
    json!({ "anyOf": [amount, { "const": 0 }], "examples": EXAMPLES })
}

const EXAMPLES: [&str; 4] = ["500ms", "30s", "5min", "2h"];

fn address() -> Value {
    json!({ "type": "string", "pattern": r"^unix:/.+$|^[^/\s]+:[0-9]+$" })
}

fn addresses() -> Value {
    json!({ "type": "array", "minItems": 1, "items": address() })
}

/// What a rung of this name does; the sample says it once for all kinds.
fn rung(name: &str) -> &'static str {
    match name {
        "log" => "When an incident is written.",
        "notice" => "When the client is sent a WARNING too.",
        "release" => {
            "When a transaction that provably only read is ended, to be begun again when the client speaks."
        }
        "rollback" => "When the transaction is ended; the session is kept.",
        "terminate" => "When the connection is closed.",
        "implicit" => "Whether transactions without BEGIN count too.",
        _ => panic!("{name}: say here what it does"),
    }
}

/// Keys of a table that have to be there.
fn required(table: &str) -> &'static [&'static str] {
    match table {
        "rule" => &["name"],
        "console.user" => &["name", "role"],
        _ => &[],
    }
}

/// What the sample says of a key or a head, and the default.
fn said(table: &str, key: &str) -> Map<String, Value> {
    let inner = format!("{table}.{key}");
    let mut said = Map::new();
    for part in reference() {
        match part {
            Part::Key {
                table: of,
                name,
                value,
                is_default,
                about,
            } if of == table && name == key => {
                said.insert("description".to_owned(), about.into());
                if is_default {
                    let document = format!("value = {value}");
                    let read: Value = toml::from_str(&document).unwrap();
                    said.insert("default".to_owned(), read["value"].clone());
                }
                break;
            }
            Part::Head { table, about, .. }
                if table == inner.trim_start_matches('.') && !about.is_empty() =>
            {
                said.insert("description".to_owned(), about.into());
                break;
            }
            Part::Text(_) | Part::Head { .. } | Part::Key { .. } => {}
        }
    }
    said
}

fn object(table: &Table) -> Value {
    let mut properties = Map::new();
    for &key in table.keys {
        let path = format!("{}.{key}", table.name);
        let tables = tables();
        let inner = tables
            .iter()
            .find(|t| t.name == path.trim_start_matches('.'));
        let mut property = match inner {
            Some(inner) if ["rule", "console.user"].contains(&inner.name) => {
                json!({ "type": "array", "items": object(inner) })
            }
            Some(inner) => object(inner),
            None => form(table.name, key),
        };
        let property_map = property.as_object_mut().unwrap();
        property_map.extend(said(table.name, key));
        if rule::KINDS.iter().any(|(_, kind)| kind.name == table.name) {
            property_map.insert("description".to_owned(), rung(key).into());
        }
        properties.insert(key.to_owned(), property);
    }
    let mut object =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required(table.name).is_empty() {
        object["required"] = required(table.name).into();
    }
    object
}

/// The schema, as it is kept.
fn schema() -> Value {
    let mut schema = object(&file::ROOT);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "pgidle.toml".into();
    schema["description"] = "The configuration file of pgidle. `pgidle check` knows more: rules that can never match, ladders out of order, files that are not there.".into();
    schema
}

mod tests {
    use std::fmt::Write as _;

    use expect_test::expect_file;
    use jsonschema::Validator;

    use super::{super::Flags, *};

    fn validator() -> Validator {
        jsonschema::draft7::new(&schema()).unwrap()
    }

    fn parsed(text: &str) -> Value {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn complaints(validator: &Validator, file: &Value) -> String {
        let mut complaints = String::new();
        for error in validator.iter_errors(file) {
            writeln!(complaints, "{}: {error}", error.instance_path()).unwrap();
        }
        complaints
    }

    /// `UPDATE_EXPECT=1 cargo test --lib schema` writes it anew.
    #[test]
    fn the_schema_that_is_kept_is_the_one_that_is_made() {
        let made = serde_json::to_string_pretty(&schema()).unwrap();
        expect_file!["../../config/pgidle.schema.json"].assert_eq(&(made + "\n"));
    }

    #[test]
    fn the_sample_and_every_example_fit() {
        let validator = validator();
        let sample = [("the sample".to_owned(), whole_sample())];
        for (page, text) in examples().into_iter().chain(sample) {
            assert_eq!(complaints(&validator, &parsed(&text)), "", "{page}\n{text}");
        }
    }

    /// Every value of a file, with the keys that lead to it.
    fn paths(value: &Value, here: &[String], found: &mut Vec<Vec<String>>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, v)| (key.clone(), v)).collect(),
            Value::Array(items) => (items.iter().enumerate())
                .map(|(at, v)| (at.to_string(), v))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
        };
        for (key, child) in children {
            let path = [here, &[key]].concat();
            paths(child, &path, found);
            found.push(path);
        }
    }

    /// What the reader says of a file, where it is about this key.
    fn refusal(file: &Value, key: &str) -> Option<String> {
        let text = toml::to_string(file).unwrap();
        let fault = file::read(&text, &Flags::default()).err()?;
        fault.key.filter(|at| at.ends_with(key))?;
        Some(fault.problem)
    }

    /// Where the reader knows what no pattern can say, or one value goes with another.
    fn is_beyond_a_schema(problem: &str) -> bool {
        [
            "an exempt rule",
            "connection string",
            "is not a network",
            "is not an address",
        ]
        .iter()
        .any(|known| problem.contains(known))
    }

    #[test]
    fn the_schema_refuses_what_the_reader_refuses_and_nothing_else() {
        let validator = validator();
        let sample = parsed(&whole_sample());
        let mut found = Vec::new();
        paths(&sample, &[], &mut found);
        assert!(found.len() > 60, "{found:?}");
        let others = json!([
            true, 0, 1, -1, 1.5, "", "x", "!x", "0", "0s", "30", "30s", "1.5 min", "3m", "1min 30s", ".5h", "1e3ms",
            "any", "text", "require", "unix", "10.0.0.0/8", "::1", "127.0.0.1:1", "[::1]:1", "unix:/run/s",
            "ShareLock", [], ["127.0.0.1:1"], ["x"], [1], {}, [{}], { "log": "5s" }, { "unknown": 1 }
        ]);
        let mut refused = 0;
        for path in &found {
            let pointer = format!("/{}", path.join("/"));
            let key = path.iter().rev().find(|key| key.parse::<usize>().is_err());
            for other in others.as_array().unwrap() {
                let mut file = sample.clone();
                *file.pointer_mut(&pointer).unwrap() = other.clone();
                let (reader, schema) =
                    (refusal(&file, key.unwrap()), complaints(&validator, &file));
                let said = format!("{pointer} = {other}: reader {reader:?}, schema {schema:?}");
                match (&reader, schema.is_empty()) {
                    (Some(problem), true) => assert!(is_beyond_a_schema(problem), "{said}"),
                    (None, false) => {
                        // It is about what is in there, or is missing from it.
                        let text = toml::to_string(&file).unwrap();
                        assert!(file::read(&text, &Flags::default()).is_err(), "{said}");
                    }
                    (Some(_), false) => refused += 1,
                    (None, true) => {}
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }

    #[test]
    fn an_unknown_key_fits_nowhere() {
        let validator = validator();
        let sample = parsed(&whole_sample());
        let mut found = vec![Vec::new()];
        paths(&sample, &[], &mut found);
        let mut tried = 0;
        for path in found {
            let mut file = sample.clone();
            let pointer: String = path.iter().flat_map(|key| ["/", key]).collect();
            if let Some(table) = file.pointer_mut(&pointer).unwrap().as_object_mut() {
                table.insert("drian".to_owned(), 1.into());
                assert!(!validator.is_valid(&file), "{pointer}");
                tried += 1;
            }
        }
        assert!(tried >= tables().len(), "{tried}");
    }
}
