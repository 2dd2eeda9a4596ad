//! The comment in which sqlcommenter libraries say which code a statement comes from: route, controller, traceparent.
//!
//! <https://google.github.io/sqlcommenter/spec/>: `/*key='value',…*/` at the end of the statement, keys and values
//! percent-encoded. Any other comment is none of these, and nothing of it is shown.

use std::collections::BTreeMap;

/// The tags of a statement, by name; `None` when it does not end in such a comment.
pub fn tags(text: &str) -> Option<BTreeMap<String, String>> {
    let text = text.trim_end().trim_end_matches(';').trim_end();
    let (_, comment) = text.strip_suffix("*/")?.rsplit_once("/*")?;
    let mut tags = BTreeMap::new();
    let mut rest = comment.trim();
    loop {
        let (key, after) = rest.split_once("='")?;
        // A quote in a value is written `\'`, where it is not percent-encoded.
        let quotes = after.match_indices('\'').map(|(at, _)| at);
        let end = quotes
            .into_iter()
            .find(|&at| !after.get(..at).is_some_and(|value| value.ends_with('\\')))?;
        let (value, after) = after.split_at(end);
        tags.insert(decoded(key.trim())?, decoded(&value.replace("\\'", "'"))?);
        rest = after.get(1..)?.trim_start();
        if rest.is_empty() {
            return Some(tags);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// A text without its percent-encoding; `None` when it is empty, broken or not UTF-8.
fn decoded(text: &str) -> Option<String> {
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
