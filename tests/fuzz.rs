//! The targets of the fuzzers on the inputs that these have left in `fuzz/corpus`, and on faults that they have found.

#![allow(clippy::print_stdout, reason = "a failing test names its input")]

#[allow(
    unreachable_pub,
    reason = "they are a library of their own for the fuzzers"
)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::PathBuf};

/// Runs a target on every input of its corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        let input = fs::read(&path).expect("an input");
        println!("{}", path.display());
        run(&input);
        count += 1;
    }
    assert!(count > 0, "{folder:?} is empty");
}

macro_rules! replay {
    ($($target:ident),*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), targets::$target);
            }
        )*
    };
}

replay!(
    startup,
    frames,
    messages,
    proxy_header,
    tags,
    session,
    statement,
    grammar,
    audit_line,
    configuration,
    dsn,
    console
);
