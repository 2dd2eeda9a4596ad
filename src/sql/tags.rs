//! The comment in which sqlcommenter libraries say which code a statement comes from: route, controller, traceparent.
//!
//! <https://google.github.io/sqlcommenter/spec/>: `/*key='value',…*/` at the end of the statement, keys and values
//! percent-encoded. Libraries differ: some put it in front, some write numbers without quotes, and those in Python double
//! each percent sign, for drivers that take it out again only where a statement has parameters. Any other comment is
//! none of these, and nothing of it is shown.

use std::collections::BTreeMap;

/// The tags of a statement, by name; `None` when it neither begins nor ends with such a comment.
pub fn tags(text: &str) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((comment, after)) = rest.strip_prefix("/*").and_then(|c| c.split_once("*/")) {
        tags.extend(pairs(comment).unwrap_or_default());
        rest = after.trim_start();
    }
    let text = rest.trim_end().trim_end_matches(';').trim_end();
    let last = text
        .strip_suffix("*/")
        .and_then(|text| text.rsplit_once("/*"));
    tags.extend(
        last.and_then(|(_, comment)| pairs(comment))
            .unwrap_or_default(),
    );
    (!tags.is_empty()).then_some(tags)
}

/// What is between the signs of a comment; `None` when any of it has another shape.
fn pairs(comment: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = comment.trim();
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start())?;
        let key = decoded(key.trim())?;
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
        if !key.chars().all(is_name) {
            return None;
        }
        pairs.push((key, value));
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(pairs);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// The value at the front, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let len = text.find([',', ' ']).unwrap_or(text.len());
        let (number, after) = text.split_at(len);
        let is_number = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        return (is_number && !number.is_empty()).then(|| (number.to_owned(), after));
    };
    // A quote in a value is written `\'`, where it is not percent-encoded.
    let mut quotes = quoted.match_indices('\'').map(|(at, _)| at);
    let end = quotes.find(|&at| !quoted.get(..at).is_some_and(|value| value.ends_with('\\')))?;
    let (value, after) = (quoted.get(..end)?, quoted.get(end + 1..)?);
    Some((decoded(&value.replace("\\'", "'"))?, after))
}

/// A text without its percent-encoding; `None` when it is empty, broken or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    // No encoding has two percent signs side by side.
    let text = text.replace("%%", "%");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let expected: BTreeMap<_, _> = expected.iter().map(owned).collect();
        assert_eq!(tags(text).unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn the_specifications_example() {
        check(
            "SELECT * FROM FOO /*action='%2Fparam*d',controller='index,'framework='spring',\
             traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01',\
             tracestate='congo%3Dt61rcWkgMzE%2Crojo%3D00f067aa0ba902b7'*/",
            &[],
        );
        check(
            "SELECT * FROM FOO /*action='%2Fparam*d',controller='index',framework='spring',\
             traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01',\
             tracestate='congo%3Dt61rcWkgMzE%2Crojo%3D00f067aa0ba902b7'*/;\n",
            &[
                ("action", "/param*d"),
                ("controller", "index"),
                ("framework", "spring"),
                (
                    "traceparent",
                    "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01",
                ),
                ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
            ],
        );
        check(
            "SELECT 1 /* route = 'x' */ /*name='it\\'s', db%20driver='psycopg2%3A3'*/",
            &[("name", "it's"), ("db driver", "psycopg2:3")],
        );
    }

    /// As captured from the libraries, with shorter trace ids.
    #[test]
    fn as_libraries_write_them() {
        let of_driver = [
            ("db_driver", "psycopg:3.3.9"),
            ("dbapi_level", "2.0"),
            ("dbapi_threadsafety", "2"),
            ("driver_paramstyle", "pyformat"),
            ("libpq_version", "180006"),
            ("traceparent", "00-dcfb-a503-03"),
        ];
        // opentelemetry-instrumentation-psycopg 0.66b1, with parameters and without.
        check(
            "SELECT $1 /*db_driver='psycopg%3A3.3.9',dbapi_level='2.0',dbapi_threadsafety=2,driver_paramstyle='pyformat',libpq_version=180006,traceparent='00-dcfb-a503-03'*/",
            &of_driver,
        );
        check(
            "SELECT 2 /*db_driver='psycopg%%3A3.3.9',dbapi_level='2.0',dbapi_threadsafety=2,driver_paramstyle='pyformat',libpq_version=180006,traceparent='00-dcfb-a503-03'*/;",
            &of_driver,
        );
        // google-cloud-sqlcommenter 2.0.0 with psycopg2 and with Django.
        check(
            "SELECT 2; /*db_driver='psycopg2%%3A2.9.13%%20%%28dt%%20dec%%29',dbapi_threadsafety=2,libpq_version=170011*/",
            &[
                ("db_driver", "psycopg2:2.9.13 (dt dec)"),
                ("dbapi_threadsafety", "2"),
                ("libpq_version", "170011"),
            ],
        );
        check(
            "SELECT 1 /*controller='v',framework='django%%3A5.2.19',route='p/%%3Cint%%3Ax%%3E'*/",
            &[
                ("controller", "v"),
                ("framework", "django:5.2.19"),
                ("route", "p/<int:x>"),
            ],
        );
        // django-sqlcommenter 0.1.0, in front and at the end.
        for text in [
            "/*callsite='tags.py:55',controller='it%27s%20a%2C%20b%2A/c',method='GET',route='/p/<int:x>'*/ SELECT 1",
            "SELECT 1 /*callsite='tags.py:55',controller='it%27s%20a%2C%20b%2A/c',method='GET',route='/p/<int:x>'*/",
        ] {
            check(
                text,
                &[
                    ("callsite", "tags.py:55"),
                    ("controller", "it's a, b*/c"),
                    ("method", "GET"),
                    ("route", "/p/<int:x>"),
                ],
            );
        }
        check(
            "/* by hand */ /*a='1'*/ SELECT 1 /*b='2'*/",
            &[("a", "1"), ("b", "2")],
        );
    }

    #[test]
    fn other_comments_are_no_tags() {
        for text in [
            "",
            "*/",
            "SELECT 1",
            "SELECT 1 /* by hand */",
            "SELECT 1 /*a='b*/",
            "SELECT 1 /*a='b',*/",
            "SELECT 1 /*a='%zz'*/",
            "SELECT 1 /*a='%c3'*/",
            "SELECT 1 /*a=b*/",
            "SELECT 1 /*a=1 b='2'*/",
            "SELECT 1 /*a=,b='2'*/",
            "SELECT 1 /*a, b='2'*/",
            "SELECT 1 /*a 'b'='2'*/",
            "/* a='b' and more */ SELECT 1",
            "/*a='b' SELECT 1",
            "SELECT 1 /*a='b'*/ FROM t",
            "SELECT '/*a=''b''*/'",
        ] {
            assert_eq!(tags(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a='%/*,;é\\\\ 2]{0,24}") {
            tags(&text);
            tags(&format!("/*{text}*/"));
        }
    }
}
