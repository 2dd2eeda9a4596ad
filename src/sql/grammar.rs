//! The one door to PostgreSQL's scanner and grammar (`pg_query`), which lets one caller in at a time.
//!
//! While the parser runs, `pg_query` points the process's file descriptor 2 at a pipe, without a lock of its own: two
//! callers at once could leave it there. Whoever logs must hold a descriptor of its own, as `main` does.
//!
//! Anyone who may send a statement chooses what is read here, so what that costs is bounded: by [`MAX_PARSED`], which bounds
//! the depth of a syntax tree too, by [`MAX_COMMENTS`], and by a stack of [`PARSER_STACK`] for the thread that calls.
//! A text beyond the bounds is not read, as one with a syntax error.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use pg_query::{ParseResult, Result, protobuf::ScanToken};

/// The longest text that is read, in bytes: twice what sessions keep of a statement, because a fingerprint is made of a text
/// whose literals have been changed.
pub const MAX_PARSED: usize = 8 << 10;

/// How often a comment may open in a text. They nest, and the scanner goes back to the outermost at each opening, so that
/// its time would grow with the square of the depth.
const MAX_COMMENTS: usize = 64;

/// The stack of a thread that calls the grammar, in bytes. It is only reserved.
///
/// Each level of a tree takes a byte of text at least, so that none is deeper than [`MAX_PARSED`], with 8 KiB for each level
/// here: many times the frame of any function that walks through a tree, in a build for tests too.
pub const PARSER_STACK: usize = 64 << 20;

/// The syntax tree; `None` where the text is refused, or not read.
pub(super) fn parse(text: &str) -> Option<ParseResult> {
    read(text, |text| pg_query::parse(text, 0))
}

/// The fingerprint in hexadecimal; `None` where the text is refused, or not read.
pub(super) fn fingerprint(text: &str) -> Option<String> {
    let fingerprint = read(text, |text| pg_query::fingerprint(text, 0, 0))?;
    Some(fingerprint.hex)
}

/// The tokens; `None` where the text is refused, or not read.
pub(super) fn scan_tokens(text: &str) -> Option<Vec<ScanToken>> {
    // `pg_query` makes a slice from a null pointer when there are no tokens.
    if text.chars().all(|c| matches!(c, ' ' | '\t'..='\r')) {
        return Some(Vec::new());
    }
    read(text, pg_query::scan_tokens)
}

/// What `pg_query` makes of a text within the bounds. One on which it panics is a text like those that it refuses: it
/// must not end the thread on which others are read.
fn read<T>(text: &str, by: impl FnOnce(&str) -> Result<T>) -> Option<T> {
    if text.len() > MAX_PARSED || text.matches("/*").count() > MAX_COMMENTS {
        return None;
    }
    let _alone = alone();
    catch_unwind(AssertUnwindSafe(|| by(text))).ok()?.ok()
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// File descriptor 2 is the process's, so the lock is too.
static ALONE: Mutex<()> = Mutex::new(());

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The beginning, the middle and the end of texts that are nested as deep as they have beginnings.
    const NESTED: &[(&str, &str, &str)] = &[
        ("(", "SELECT 1", ")"),
        ("SELECT(", "1", ")"),
        ("SELECT*FROM(", "TABLE t", ")a"),
        ("WITH a AS(", "SELECT 1", ")SELECT 1"),
        ("(", "SELECT 1", ")UNION SELECT 1"),
    ];

    /// The same for expressions.
    const EXPRESSIONS: &[(&str, &str, &str)] = &[
        ("(", "1", ")"),
        ("(", "1,1", ",1)"),
        ("f(", "1", ")"),
        ("-", "a", ""),
        ("- ", "a", ""),
        ("NOT ", "a", ""),
        ("1+(", "1", ")"),
        ("", "1", "+1"),
        ("", "1", " AND 1"),
        ("", "1", "::a"),
        ("", "a", "[1]"),
        ("", "a", "[a"),
        ("", "a", ".a"),
        ("", "a", " COLLATE b"),
        ("", "a", " IS NULL"),
        ("", "1", " UNION SELECT 1"),
        ("", "1", ",1"),
        ("", "a FROM a", ",a"),
        ("", "a FROM a", " JOIN a ON a"),
        ("CASE WHEN a THEN ", "1", " END"),
        ("CASE WHEN ", "a", " THEN 1 END"),
        ("ARRAY[", "1", "]"),
        ("JSON_ARRAY(", "1", ")"),
        ("JSON_OBJECT('a':", "1", ")"),
        ("XMLCONCAT(", "a", ")"),
        ("COALESCE(", "a", ")"),
        ("EXISTS(SELECT ", "a", ")"),
        ("a=ANY(SELECT ", "a", ")"),
        ("a IN(", "1", ")"),
        ("a BETWEEN ", "1", " AND 1"),
        ("/*", "", "*/"),
    ];

    /// As deep as a text of so many bytes can be.
    fn nested(front: &str, &(begin, middle, end): &(&str, &str, &str), bytes: usize) -> String {
        let depth = (bytes - front.len() - middle.len()) / (begin.len() + end.len());
        [front, &begin.repeat(depth), middle, &end.repeat(depth)].concat()
    }

    fn deepest(bytes: usize) -> impl Iterator<Item = String> {
        let queries = NESTED.iter().map(move |parts| nested("", parts, bytes));
        let expressions = EXPRESSIONS.iter();
        queries.chain(expressions.map(move |parts| nested("SELECT ", parts, bytes)))
    }

    /// A stack that is too small would end the whole process.
    #[test]
    fn an_eighth_of_the_stack_is_enough_for_any_text() {
        let read = || {
            for text in deepest(MAX_PARSED) {
                assert!(text.len() + 40 > MAX_PARSED, "{text}");
                drop((parse(&text), fingerprint(&text), scan_tokens(&text)));
            }
        };
        let small = thread::Builder::new().stack_size(PARSER_STACK / 8);
        small.spawn(read).unwrap().join().unwrap();
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_not_read() {
        let spaces = |count| format!("SELECT{}1", " ".repeat(count));
        let comments = |count| format!("{}{}SELECT 1", "/*".repeat(count), "*/ ".repeat(count));
        let read = |text: &str| {
            [
                parse(text).is_some(),
                fingerprint(text).is_some(),
                scan_tokens(text).is_some(),
            ]
        };
        assert_eq!(read(&spaces(MAX_PARSED - 7)), [true; 3]);
        assert_eq!(read(&spaces(MAX_PARSED - 6)), [false; 3]);
        assert_eq!(read(&comments(MAX_COMMENTS)), [true; 3]);
        assert_eq!(read(&comments(MAX_COMMENTS + 1)), [false; 3]);
    }

    #[test]
    fn a_text_on_which_the_parser_panics_is_not_read_and_others_are() {
        let panics = |_: &str| -> Result<()> { panic!("on purpose") };
        assert_eq!(read("SELECT 1", panics), None);
        assert!(parse("SELECT 1").is_some());
    }
}
