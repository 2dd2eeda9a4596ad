//! Functions, operators and types of PostgreSQL's own that cannot write, lock, notify, or run code that is not its own.
//!
//! `review.sql` says which they are, and of which exceptions why; `scripts/harmless-names.sh` runs it and makes
//! `names.txt`.

use std::sync::LazyLock;

const NAMES: &str = include_str!("names.txt");

/// A kind and a name each, in the order of the file.
static TABLE: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| table(NAMES));

/// Whether everything in `pg_catalog` of this kind (`function`, `operator` or `type`) and name is harmless.
pub(super) fn is_harmless(kind: &str, name: &str) -> bool {
    TABLE.binary_search(&(kind, name)).is_ok()
}

fn table(names: &str) -> Vec<(&str, &str)> {
    let lines = names.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_wholly_read() {
        assert!(TABLE.is_sorted_by(|a, b| a < b), "a binary search needs it");
        let lines = NAMES.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(TABLE.len(), lines.count());
        for (kind, name) in TABLE.iter() {
            assert!(["function", "operator", "type"].contains(kind), "{kind}");
            assert!(is_harmless(kind, name), "{kind} {name}");
        }
    }

    #[test]
    fn a_name_is_known_by_its_kind_and_whole() {
        assert!(is_harmless("function", "lower"));
        assert!(is_harmless("operator", "#>"));
        for (kind, name) in [
            ("type", "lower"),
            ("function", "lowe"),
            ("function", "nextval"),
            ("function", ""),
            ("#", "Functions,"),
        ] {
            assert!(!is_harmless(kind, name), "{kind} {name}");
        }
    }
}
