//! What is read from files and from the command line.

use std::{cell::RefCell, fs, path::PathBuf};

use pgidle::{
    audit::schema::Line,
    config::{Source, parse_dsn},
};
use tempfile::NamedTempFile;

/// A line of the audit that can be read is the same when it is written and read again.
pub fn audit_line(data: &[u8]) {
    let Ok(Ok(line)) = str::from_utf8(data).map(str::parse::<Line>) else {
        return;
    };
    let written = serde_json::to_string(&line).expect("a line that was read");
    let again: Line = written.parse().expect("a line that was written");
    assert_eq!(serde_json::to_string(&again).expect("the same"), written);
}

/// A configuration is read, or refused in words that name a line of it.
pub fn configuration(data: &[u8]) {
    thread_local! {
        static FILE: RefCell<NamedTempFile> = RefCell::new(file());
    }
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    // A certificate may be read from any path, and some devices never end.
    if ["dev", "proc", "\\"].iter().any(|part| text.contains(part)) {
        return;
    }
    FILE.with_borrow(|file| {
        fs::write(file.path(), text).expect("a file that can be written");
        let source = Source {
            path: Some(PathBuf::from(file.path())),
            ..Source::default()
        };
        match source.load() {
            Ok(config) => drop(format!("{config:?}")),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// A file in memory, where there is a folder for that: it is written for every input.
fn file() -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new());
    file.expect("a file")
}

/// The observer's connection string.
pub fn dsn(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let dsn = parse_dsn(text);
        drop(dsn.map_err(|problem| assert!(!problem.is_empty())));
    }
}
