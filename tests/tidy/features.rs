//! The core compiles alone: what the package needs when its default feature is off.

use std::{collections::BTreeSet, process::Command};

use super::{File, enforce, imports::PURE};

/// What the core is made of.
const CORE: &[&str] = &[
    "bytes",
    "foldhash",
    "ipnet",
    "memchr",
    "pgwire",
    "thiserror",
];

/// Crates that mean I/O, a runtime, or a C compiler; so do those whose names end in `-sys`.
const NOT_PURE: &[&str] = &[
    "bindgen",
    "cc",
    "cmake",
    "nix",
    "pg_query",
    "pkg-config",
    "ring",
    "rustls",
    "socket2",
    "tokio",
    "tracing",
];

/// The packages that are built for the library with these flags, down to this depth.
fn packages(flags: &[&str], depth: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}", "--depth", depth])
        .args(flags)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{complaints}");
    let listed = String::from_utf8(tree.stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    let others = names.filter(|&name| !name.is_empty() && name != "pgidle");
    others.map(str::to_owned).collect()
}

#[test]
fn the_core_needs_no_runtime_and_no_c_compiler() {
    let impure = |packages: BTreeSet<String>| -> Vec<String> {
        let named = |name: &String| NOT_PURE.contains(&name.as_str()) || name.ends_with("-sys");
        packages.into_iter().filter(named).collect()
    };
    let core = ["--no-default-features"];
    assert_eq!(impure(packages(&core, "100")), Vec::<String>::new());
    assert!(
        packages(&core, "1").iter().eq(CORE),
        "{:?}",
        packages(&core, "1")
    );
    let program = impure(packages(&[], "100"));
    for name in NOT_PURE
        .iter()
        .filter(|name| !["cmake", "pkg-config"].contains(name))
    {
        assert!(
            program.iter().any(|found| found == name),
            "{name} is looked for in vain"
        );
    }
}

fn modules_outside_the_core_need_the_feature(file: &File) -> Vec<String> {
    if file.path != "src/lib.rs" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let mut previous = "";
    for line in file.text.lines() {
        let module = line
            .strip_prefix("pub mod ")
            .and_then(|line| line.strip_suffix(';'));
        if let Some(module) = module
            && PURE.contains(&module) == (previous == "#[cfg(feature = \"proxy\")]")
        {
            complaints.push(format!("src/lib.rs: is `{module}` a part of the core?"));
        }
        previous = line;
    }
    complaints
}

#[test]
fn the_core_is_what_does_no_io() {
    enforce(
        modules_outside_the_core_need_the_feature,
        &[
            ("src/lib.rs", "pub mod wire;\n\npub mod console;\n"),
            ("src/lib.rs", "#[cfg(feature = \"proxy\")]\npub mod wire;\n"),
        ],
    );
}

/// The versions of the fuzzers' build are pinned by a file of their own.
#[test]
fn the_fuzzers_know_every_dependency() {
    let lock = include_str!("../../fuzz/Cargo.lock");
    let (_, entry) = lock.split_once("name = \"pgidle\"\n").unwrap();
    let (entry, _) = entry.split_once("\n]\n").unwrap();
    let names = entry.lines().filter_map(|line| line.strip_prefix(" \""));
    let locked: BTreeSet<_> = names
        .map(|name| name.split(['"', ' ']).next().unwrap().to_owned())
        .collect();
    assert_eq!(
        locked,
        packages(&[], "1"),
        "run `cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null`"
    );
}
