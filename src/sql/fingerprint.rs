//! Statement text without its literals, and the fingerprint that statements of one shape share.
//!
//! Both take their time and belong on the audit writer's thread.

use std::{borrow::Cow, ops::Range};

use pg_query::protobuf::Token;

use super::grammar;

/// The text with `$1`, `$2`, … in place of every literal, numbered on from the parameters that it has, and without
/// comments, which may hold anything.
///
/// Works on tokens and not on the syntax tree, so that one rule covers utility statements and texts with syntax errors
/// too. A text that breaks off inside a literal, such as one that was cut after a bound, ends in `…` before it.
/// `None` when nothing can be given without risk: where a backslash stands before a quote, it depends on
/// `standard_conforming_strings` what is a literal.
pub fn normalise(text: &str) -> Option<String> {
    let scanned = Scanned::new(text)?;
    let parameters = scanned
        .pieces
        .iter()
        .filter(|piece| piece.kind == Kind::Parameter);
    let numbers = parameters.filter_map(|piece| scanned.token(piece).get(1..)?.parse().ok());
    let mut last = numbers.max().unwrap_or(0_u32);
    let normalised = scanned.rewrite(|_| {
        last = last.saturating_add(1);
        format!("${last}").into()
    });
    let trimmed = normalised.trim();
    Some(if scanned.kept.len() < text.len() {
        format!("{trimmed} …")
    } else {
        trimmed.to_owned()
    })
}

/// PostgreSQL's fingerprint of a statement, in hexadecimal: the same for texts that differ only in literals, spacing
/// and comments. `None` when the text does not parse, or where [`normalise`] gives nothing.
pub fn fingerprint(text: &str) -> Option<String> {
    let scanned = Scanned::new(text)?;
    if scanned.kept.len() < text.len() {
        return None;
    }
    // The fingerprint of a utility statement depends on its literals (a password!) unless all are the same.
    let uniform = scanned.rewrite(Cow::Borrowed);
    Some(grammar::fingerprint(&uniform).ok()?.hex)
}

/// A text, or its beginning, with its tokens.
struct Scanned<'a> {
    kept: &'a str,
    pieces: Vec<Piece>,
}

impl<'a> Scanned<'a> {
    /// `None` when it is uncertain what is a literal.
    fn new(text: &'a str) -> Option<Self> {
        let (kept, pieces) = longest_scan(text)?;
        let scanned = Self { kept, pieces };
        let uncertain = |piece: &Piece| {
            let token = scanned.token(piece);
            matches!(piece.kind, Kind::Literal(_))
                && token.starts_with('\'')
                && token.contains("\\'")
        };
        let is_certain = !scanned.pieces.iter().any(uncertain);
        is_certain.then_some(scanned)
    }

    fn token(&self, piece: &Piece) -> &'a str {
        &self.kept[piece.range.clone()]
    }

    /// The text with something else in place of each literal, given a literal that could stand there, and with spaces
    /// in place of comments: they divide tokens, too.
    fn rewrite(&self, mut literal: impl FnMut(&'static str) -> Cow<'static, str>) -> String {
        let mut text = String::with_capacity(self.kept.len());
        let mut copied = 0;
        for piece in &self.pieces {
            let substitute = match piece.kind {
                Kind::Literal(other) => literal(other),
                Kind::Comment => " ".into(),
                Kind::Parameter | Kind::Other => continue,
            };
            text.push_str(&self.kept[copied..piece.range.start]);
            text.push_str(&substitute);
            copied = piece.range.end;
        }
        text.push_str(&self.kept[copied..]);
        text
    }
}

/// A token: what it is to us, and where it stands.
struct Piece {
    kind: Kind,
    range: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With a literal that can stand wherever this one can (`x` is an escape character that UESCAPE takes).
    Literal(&'static str),
    Comment,
    Parameter,
    Other,
}

/// The longest beginning of a text that PostgreSQL's scanner takes and that ends before a quote, a dollar or a
/// comment, or the whole text; with its tokens. A beginning has the tokens of the whole but for its last one, and
/// that is never the half of a literal: the scanner refuses a literal that does not end.
fn longest_scan(text: &str) -> Option<(&str, Vec<Piece>)> {
    let mut kept = text;
    for _ in 0..MAX_SCANS {
        if let Some(pieces) = scan(kept) {
            return Some((kept, pieces));
        }
        let last_opening = kept.rfind(['\'', '"', '$']).max(kept.rfind("/*"))?;
        kept = &kept[..last_opening];
    }
    None
}

fn scan(text: &str) -> Option<Vec<Piece>> {
    let tokens = grammar::scan_tokens(text);
    let pieces = tokens.ok()?.into_iter().map(|token| {
        let range = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
        text.get(range.clone())?;
        let kind = match Token::try_from(token.token) {
            Ok(Token::Sconst) => Kind::Literal("'x'"),
            Ok(Token::Usconst) => Kind::Literal("U&''"),
            Ok(Token::Bconst) => Kind::Literal("B'1'"),
            Ok(Token::Xconst) => Kind::Literal("X'1'"),
            Ok(Token::Fconst) => Kind::Literal("1.0"),
            Ok(Token::Iconst) => Kind::Literal("1"),
            Ok(Token::SqlComment | Token::CComment) => Kind::Comment,
            Ok(Token::Param) => Kind::Parameter,
            _ => Kind::Other,
        };
        Some(Piece { kind, range })
    });
    pieces.collect()
}

/// How many openings are tried from the end of a text that breaks off.
const MAX_SCANS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(normalise(text).as_deref(), expected, "{text}");
    }

    #[test]
    fn literals_become_parameters() {
        check("", Some(""));
        check(" \n", Some(""));
        check(
            "SELECT * FROM t WHERE a = 'x' AND b > -1.5e3",
            Some("SELECT * FROM t WHERE a = $1 AND b > -$2"),
        );
        check("SELECT $2, 'x', $1", Some("SELECT $2, $3, $1"));
        check(
            "SELECT E'a\\'b', U&'\\0061', B'01', X'ff', N'n', $$d$$, $t$ $$ $t$",
            Some("SELECT $1, $2, $3, $4, N$5, $6, $7"),
        );
        check("SELECT 'a'\n  'b', \"q'1'\"", Some("SELECT $1, \"q'1'\""));
        check(
            "SELECT /* 'x' */ 1 -- secret\n, 2",
            Some("SELECT   $1  \n, $2"),
        );
        check("SELECT 'é', ü FROM t", Some("SELECT $1, ü FROM t"));
        check(
            "ALTER ROLE a PASSWORD 'secret'",
            Some("ALTER ROLE a PASSWORD $1"),
        );
        check("SELEC 'secret' FORM 3", Some("SELEC $1 FORM $2"));
        check("DO $$ BEGIN PERFORM 'secret'; END $$", Some("DO $1"));
    }

    #[test]
    fn a_text_that_breaks_off_shows_no_half_literal() {
        check("SELECT a, 'secr", Some("SELECT a, …"));
        check("SELECT a, 'it''s secr", Some("SELECT a, $1 …"));
        check("SELECT $$ secr", Some("SELECT $ …"));
        check("SELECT E'a\\'secr", Some("SELECT E …"));
        check("SELECT 1 /* secr", Some("SELECT $1 …"));
        check("SELECT \"na", Some("SELECT …"));
        check("INSERT INTO t VALUES (12", Some("INSERT INTO t VALUES ($1"));
    }

    #[test]
    fn what_depends_on_standard_conforming_strings_is_not_shown() {
        check("SELECT 'x\\'secret', 'y\\'more'", None);
        check("SELECT '\\d+'", Some("SELECT $1"));
    }

    #[test]
    fn one_fingerprint_for_one_shape() {
        for (a, b) in [
            (
                "SELECT a FROM t WHERE b = 1",
                "select a  from t where b = 'x' -- c",
            ),
            (
                "SELECT U&'d!0061' UESCAPE '!', X'ff', B'0', 1.5",
                "SELECT U&'a' UESCAPE '#', X'0', B'1', 2e9",
            ),
            ("ALTER ROLE a PASSWORD 'one'", "ALTER ROLE a PASSWORD 'two'"),
            (
                "COMMENT ON TABLE t IS 'one'",
                "COMMENT ON TABLE t IS $$two$$",
            ),
            ("FETCH 10 FROM c", "FETCH 20 FROM c"),
        ] {
            assert!(fingerprint(a).is_some(), "{a}");
            assert_eq!(fingerprint(a), fingerprint(b), "{a}");
        }
        let one = fingerprint("SELECT a FROM t WHERE b = 1");
        assert_eq!(
            one,
            pg_query::fingerprint("SELECT a FROM t WHERE b = 1", 0, 0)
                .map(|f| f.hex)
                .ok()
        );
        assert_ne!(one, fingerprint("SELECT c FROM t WHERE b = 1"));
        assert_eq!(fingerprint("SELEC 1"), None);
        assert_eq!(fingerprint("SELECT a FROM t WHERE b = 'cut"), None);
    }

    /// Every `Z` stands where it must not be shown.
    const SHAPES: &[&str] = &[
        "INSERT INTO t VALUES ('ZZZ', 'ZZZ')",
        "SELECT E'a\\'ZZZ', \"x\" FROM t /* ZZZ */ WHERE a = $1",
        "SELECT $tag$ ZZZ ' ZZZ $tag$, 'it''s ZZZ'",
        "SELECT 'a' -- ZZZ '\n 'ZZZ'",
        "SELECT U&'ZZZ' UESCAPE '!', U&\"x\"",
        "SELECT 'x\\', ZZZ, 'ZZZ\\' ZZZ'",
        "DO $$ BEGIN RAISE 'ZZZ'; END $$; SELECT 'ZZZ'",
    ];

    proptest! {
        #[test]
        fn no_cut_leaks(shape in prop::sample::select(SHAPES), cut in any::<prop::sample::Index>()) {
            let text = &shape[..cut.index(shape.len() + 1)];
            if let Some(normalised) = normalise(text) {
                prop_assert!(!normalised.contains('Z'), "{} from {}", normalised, text);
            }
        }

        #[test]
        fn no_text_panics(text in "[ '\"$a1\\\\/*;é\n-]{0,24}") {
            normalise(&text);
            fingerprint(&text);
        }
    }
}
