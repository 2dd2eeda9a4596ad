//! Texts of the server, from bytes in whatever encoding a database has.
//!
//! PostgreSQL converts what it sends from the encoding of the observer's own database. What other databases wrote into
//! memory that all share, statements and names, it takes to be in that encoding too, and it fails where they are not.
//! So the observer asks for bytes (`client_encoding = SQL_ASCII`) and reads each value by itself: one that cannot be
//! read is not known, and the others are.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// A whole text in the encoding of a database, by the name that PostgreSQL gives it.
pub(super) fn decode<'a>(bytes: &'a [u8], encoding: &str) -> Option<Cow<'a, str>> {
    match encoding {
        _ if bytes.is_ascii() => str::from_utf8(bytes).ok().map(Cow::Borrowed),
        "LATIN1" => Some(encoding_rs::mem::decode_latin1(bytes)),
        // Of SQL_ASCII nothing is known; by far the most is UTF-8, and what is not shows it.
        "UTF8" | "SQL_ASCII" => str::from_utf8(bytes).ok().map(Cow::Borrowed),
        _ => Encoding::for_label(label(encoding)?.as_bytes())?
            .decode_without_bom_handling_and_without_replacement(bytes),
    }
}

/// The beginning of a text that was cut after so many bytes, perhaps in the middle of a character.
pub(super) fn decode_beginning<'a>(bytes: &'a [u8], encoding: &str) -> Option<Cow<'a, str>> {
    (0..MAX_CHARACTER.min(bytes.len() + 1))
        .filter_map(|cut| bytes.get(..bytes.len() - cut))
        .find_map(|kept| decode(kept, encoding))
}

/// The bytes of the longest character in any encoding.
const MAX_CHARACTER: usize = 4;

/// The label that the web has for an encoding of PostgreSQL's, where it has one.
///
/// Source: `pg_enc2name_tbl` in `src/common/encnames.c`, and <https://encoding.spec.whatwg.org/#names-and-labels>.
fn label(encoding: &str) -> Option<&'static str> {
    Some(match encoding {
        "EUC_JP" => "euc-jp",
        "EUC_CN" => "gb2312",
        "EUC_KR" => "euc-kr",
        "LATIN2" => "iso-8859-2",
        "LATIN3" => "iso-8859-3",
        "LATIN4" => "iso-8859-4",
        "LATIN5" => "iso-8859-9",
        "LATIN6" => "iso-8859-10",
        "LATIN7" => "iso-8859-13",
        "LATIN8" => "iso-8859-14",
        "LATIN9" => "iso-8859-15",
        "LATIN10" => "iso-8859-16",
        "ISO_8859_5" => "iso-8859-5",
        "ISO_8859_6" => "iso-8859-6",
        "ISO_8859_7" => "iso-8859-7",
        "ISO_8859_8" => "iso-8859-8",
        "WIN866" => "ibm866",
        "WIN874" => "windows-874",
        "WIN1250" => "windows-1250",
        "WIN1251" => "windows-1251",
        "WIN1252" => "windows-1252",
        "WIN1253" => "windows-1253",
        "WIN1254" => "windows-1254",
        "WIN1255" => "windows-1255",
        "WIN1256" => "windows-1256",
        "WIN1257" => "windows-1257",
        "WIN1258" => "windows-1258",
        "KOI8R" => "koi8-r",
        "KOI8U" => "koi8-u",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_by_its_encoding_or_not_at_all() {
        for (bytes, encoding, text) in [
            (b"plain" as &[u8], "MULE_INTERNAL", Some("plain")),
            (b"caf\xc3\xa9", "UTF8", Some("café")),
            (b"caf\xe9", "UTF8", None),
            (b"caf\xe9", "LATIN1", Some("café")),
            (b"caf\xc3\xa9", "SQL_ASCII", Some("café")),
            (b"caf\xe9", "SQL_ASCII", None),
            (b"\xa4", "LATIN9", Some("€")),
            (b"\x80", "WIN1252", Some("€")),
            (b"\xc6\xfc", "EUC_JP", Some("日")),
            (b"\xc6", "EUC_JP", None),
            (b"\xe9", "EUC_TW", None),
        ] {
            assert_eq!(decode(bytes, encoding).as_deref(), text, "{encoding}");
        }
    }

    #[test]
    fn a_beginning_ends_with_a_whole_character() {
        for (bytes, encoding, text) in [
            (b"" as &[u8], "UTF8", Some("")),
            (b"caf\xc3", "UTF8", Some("caf")),
            (b"\xf0\x9f\x90", "UTF8", Some("")),
            (b"\xc6\xfc\xcb", "EUC_JP", Some("日")),
            (b"caf\xe9 et th\xe9", "UTF8", None),
        ] {
            assert_eq!(
                decode_beginning(bytes, encoding).as_deref(),
                text,
                "{encoding}"
            );
        }
    }

    #[test]
    fn every_label_is_one() {
        for encoding in ["LATIN", "WIN", "KOI8", "EUC_", "ISO_8859_"] {
            for suffix in (1..=10).chain(866..=874).chain(1250..=1258) {
                for name in [
                    format!("{encoding}{suffix}"),
                    format!("{encoding}R"),
                    format!("{encoding}JP"),
                ] {
                    if let Some(label) = label(&name) {
                        assert!(Encoding::for_label(label.as_bytes()).is_some(), "{name}");
                    }
                }
            }
        }
    }
}
