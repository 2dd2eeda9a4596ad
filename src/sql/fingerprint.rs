//! Statement text without what may be secret, and the fingerprint that statements of one shape share.
//!
//! Both take their time and belong on the audit writer's thread.

use std::{borrow::Cow, ops::Range};

use pg_query::protobuf::{KeywordKind, Token};

use super::{
    grammar,
    words::{self, Word},
};

/// What becomes of the identifiers in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identifiers {
    /// They are names: the server has said so.
    Shown,
    /// They may be columns, or values that should have been quoted as such: the server has not said so yet. Of a query the
    /// names of relations, functions and types are left.
    Unresolved,
    /// They may be anything: the server refused the statement. Of its words only keywords are left.
    Hidden,
}

/// The text with `$1`, `$2`, … in place of every literal, numbered on from the parameters that it has, and without
/// comments, which may hold anything.
///
/// Works on tokens and not on the syntax tree, so that one rule covers utility statements and texts with syntax errors
/// too. What is a name to the grammar and a value to the server (`SET app.key = word`) is a literal here. A text that
/// breaks off inside a literal, such as one that was cut after a bound, ends in `…` before it, and so does a name beyond
/// the length that names have. `None` when nothing can be given without risk (where a backslash stands before a quote, it
/// depends on `standard_conforming_strings` what is a literal), and of a text that is too large or has too many comments.
pub fn normalise(text: &str, identifiers: Identifiers) -> Option<String> {
    let scanned = Scanned::new(text, identifiers)?;
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
/// and comments. `None` when the text does not parse or is too large, or where [`normalise`] gives nothing.
pub fn fingerprint(text: &str) -> Option<String> {
    let scanned = Scanned::new(text, Identifiers::Shown)?;
    if scanned.kept.len() < text.len() {
        return None;
    }
    // The fingerprint of a utility statement depends on its literals (a password!) unless all are the same.
    let uniform = scanned.rewrite(Cow::Borrowed);
    grammar::fingerprint(&uniform)
}

/// A text, or its beginning, with its tokens.
struct Scanned<'a> {
    kept: &'a str,
    pieces: Vec<Piece>,
}

impl<'a> Scanned<'a> {
    /// `None` when it is uncertain what is a literal.
    fn new(text: &'a str, identifiers: Identifiers) -> Option<Self> {
        let (kept, pieces) = longest_scan(text)?;
        let mut scanned = Self { kept, pieces };
        let uncertain = |piece: &Piece| {
            let token = scanned.token(piece);
            matches!(piece.kind, Kind::Literal(_))
                && token.starts_with('\'')
                && token.contains("\\'")
        };
        if scanned.pieces.iter().any(uncertain) {
            return None;
        }
        scanned.find_values(identifiers);
        Some(scanned)
    }

    /// Marks the names that are values as literals: some of them, or all.
    fn find_values(&mut self, identifiers: Identifiers) {
        let said: Vec<_> = (0..self.pieces.len())
            .filter(|&index| self.pieces[index].kind != Kind::Comment)
            .collect();
        let words: Vec<_> = said.iter().map(|&index| self.pieces[index].word).collect();
        let mut value = |index: usize| {
            if let Some(piece) = said.get(index).map(|&index| &mut self.pieces[index])
                && piece.kind == Kind::Name
            {
                piece.kind = Kind::Literal("x");
            }
        };
        match identifiers {
            Identifiers::Shown => words::values(&words, value),
            Identifiers::Unresolved => {
                words::values(&words, &mut value);
                words::unresolved(&words, value);
            }
            Identifiers::Hidden => (0..words.len()).for_each(&mut value),
        }
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
                Kind::Name if piece.range.len() > MAX_NAME => shortened(self.token(piece)).into(),
                Kind::Name | Kind::Parameter | Kind::Other => continue,
            };
            text.push_str(&self.kept[copied..piece.range.start]);
            text.push_str(&substitute);
            copied = piece.range.end;
        }
        text.push_str(&self.kept[copied..]);
        text
    }
}

/// As much of a long name as the server takes: the rest is no name.
fn shortened(name: &str) -> String {
    let (quote, inner) = match name.strip_prefix('"') {
        Some(inner) => ("\"", inner.strip_suffix('"').unwrap_or(inner)),
        None => ("", name),
    };
    let end = inner.floor_char_boundary(MAX_NAME);
    if end == inner.len() {
        return name.to_owned();
    }
    // Half of a doubled quote would end the name.
    let kept = inner[..end].trim_end_matches('"');
    format!("{quote}{kept}…{quote}")
}

/// A token: what it is to us, and where it stands.
struct Piece {
    kind: Kind,
    word: Word,
    range: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With a literal that can stand wherever this one can (`x` is an escape character that UESCAPE takes).
    Literal(&'static str),
    Comment,
    Parameter,
    /// An identifier that is no keyword.
    Name,
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
    let pieces = tokens?.into_iter().map(|scanned| {
        let range = usize::try_from(scanned.start).ok()?..usize::try_from(scanned.end).ok()?;
        text.get(range.clone())?;
        let token = Token::try_from(scanned.token);
        let kind = match token {
            Ok(Token::Sconst) => Kind::Literal("'x'"),
            Ok(Token::Usconst) => Kind::Literal("U&''"),
            Ok(Token::Bconst) => Kind::Literal("B'1'"),
            Ok(Token::Xconst) => Kind::Literal("X'1'"),
            Ok(Token::Fconst) => Kind::Literal("1.0"),
            Ok(Token::Iconst) => Kind::Literal("1"),
            Ok(Token::SqlComment | Token::CComment) => Kind::Comment,
            Ok(Token::Param) => Kind::Parameter,
            Ok(Token::Ident | Token::Uident) => Kind::Name,
            _ => Kind::Other,
        };
        let is_keyword = scanned.keyword_kind() != KeywordKind::NoKeyword;
        let word = Word {
            token: token.unwrap_or(Token::Nul),
            is_name: kind == Kind::Name || is_keyword,
        };
        Some(Piece { kind, word, range })
    });
    pieces.collect()
}

/// How many openings are tried from the end of a text that breaks off.
const MAX_SCANS: usize = 8;

/// The length of names in bytes (`NAMEDATALEN` in `src/include/pg_config_manual.h`, which counts a zero byte too).
const MAX_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let normalised = normalise(text, Identifiers::Shown);
        assert_eq!(normalised.as_deref(), expected, "{text}");
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

    /// Statements with values that are names to the grammar, and how they are shown.
    const VALUES: &[(&str, &str)] = &[
        ("SET app.key = secret", "SET app.key = $1"),
        (
            "SET LOCAL app.key TO secret, \"Secret\", 7",
            "SET LOCAL app.key TO $1, $2, $3",
        ),
        ("set session local = secret", "set session local = $1"),
        ("SET session = secret", "SET session = $1"),
        (
            "SET a.b.c = - 1, secret; SET d TO secret",
            "SET a.b.c = - $1, $2; SET d TO $3",
        ),
        ("SET TIME ZONE secret", "SET TIME ZONE $1"),
        ("SET LOCAL TIME ZONE DEFAULT", "SET LOCAL TIME ZONE DEFAULT"),
        (
            "SET x = on; SET y TO DEFAULT",
            "SET x = on; SET y TO DEFAULT",
        ),
        ("SET ROLE app", "SET ROLE app"),
        ("RESET app.key", "RESET app.key"),
        (
            "ALTER ROLE r SET app.key = secret",
            "ALTER ROLE r SET app.key = $1",
        ),
        (
            "ALTER USER r IN DATABASE d SET app.key TO secret",
            "ALTER USER r IN DATABASE d SET app.key TO $1",
        ),
        (
            "ALTER DATABASE d SET app.key TO secret",
            "ALTER DATABASE d SET app.key TO $1",
        ),
        (
            "ALTER SYSTEM SET app.key = secret",
            "ALTER SYSTEM SET app.key = $1",
        ),
        (
            "ALTER FUNCTION f(int) SET a = secret SET b = secret",
            "ALTER FUNCTION f(int) SET a = $1 SET b = $2",
        ),
        (
            "CREATE FUNCTION f() RETURNS int SET app.key = secret BEGIN ATOMIC UPDATE t SET a = b; END",
            "CREATE FUNCTION f() RETURNS int SET app.key = $1 BEGIN ATOMIC UPDATE t SET a = b; END",
        ),
        (
            "CREATE PROCEDURE p() SET k TO secret AS $$ SELECT 1 $$",
            "CREATE PROCEDURE p() SET k TO $1 AS $2",
        ),
        (
            "COPY t (a, b) FROM STDIN (NULL secret, FORMAT csv, HEADER)",
            "COPY t (a, b) FROM STDIN (NULL $1, FORMAT csv, HEADER)",
        ),
        (
            "COPY (SELECT a b FROM (VALUES (1)) t (a)) TO STDOUT (NULL secret)",
            "COPY (SELECT a b FROM (VALUES ($1)) t (a)) TO STDOUT (NULL $2)",
        ),
        (
            "EXPLAIN (FORMAT json, x secret) SELECT a b FROM t",
            "EXPLAIN (FORMAT json, x $1) SELECT a b FROM t",
        ),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (slot_name = secret)",
            "CREATE SUBSCRIPTION s CONNECTION $1 PUBLICATION p WITH (slot_name = $2)",
        ),
        (
            "CREATE TABLE t WITH (k = secret) AS SELECT a = b FROM c",
            "CREATE TABLE t WITH (k = $1) AS SELECT a = b FROM c",
        ),
        (
            "CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple, k = secret)",
            "CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple, k = $1)",
        ),
        (
            "ALTER SERVER s OPTIONS (SET k 'secret')",
            "ALTER SERVER s OPTIONS (SET k $1)",
        ),
        (
            "CREATE TRIGGER g AFTER UPDATE ON t EXECUTE FUNCTION s.f(secret, 1)",
            "CREATE TRIGGER g AFTER UPDATE ON t EXECUTE FUNCTION s.f($1, $2)",
        ),
        (
            "SET /* a */ app.key /* b */ = /* c */ secret",
            "SET   app.key   =   $1",
        ),
    ];

    #[test]
    fn words_that_are_values_become_parameters() {
        for &(text, expected) in VALUES {
            check(text, Some(expected));
        }
    }

    #[test]
    fn names_stay_where_they_are_names() {
        for text in [
            "UPDATE t SET a = b, c = d WHERE e = f",
            "INSERT INTO t AS u SELECT * FROM v ON CONFLICT (a) DO UPDATE SET a = excluded.a",
            "MERGE INTO t USING u ON a = b WHEN MATCHED THEN UPDATE SET c = d",
            "SELECT a AS b FROM t u JOIN v ON u.c = v.d",
            "WITH x AS (UPDATE t SET a = b RETURNING c) SELECT c FROM x WHERE c = d",
            "ALTER TABLE t RENAME TO u",
            "GRANT SELECT ON t TO r",
            "CREATE VIEW v AS SELECT a FROM t WHERE b = c",
            "SAVEPOINT s",
        ] {
            check(text, Some(text));
        }
    }

    #[test]
    fn of_a_refused_statement_only_keywords_stay() {
        for (text, expected) in [
            ("ALTER ROLE r PASSWORD secret", "ALTER ROLE $1 PASSWORD $2"),
            (
                "ALTER ROLE r PASSWORD \"secret\"",
                "ALTER ROLE $1 PASSWORD $2",
            ),
            (
                "SELECT * FROM t WHERE name = secret AND a = $1",
                "SELECT * FROM $2 WHERE name = $3 AND $4 = $1",
            ),
            ("SETT app.key == U&\"secret\"", "$1 $2.key == $3"),
        ] {
            assert_eq!(
                normalise(text, Identifiers::Hidden).as_deref(),
                Some(expected)
            );
        }
    }

    #[test]
    fn of_a_query_that_is_not_resolved_no_columns_stay() {
        for (text, expected) in [
            (
                "SELECT \"s\", a.b FROM x.t WHERE v = s",
                "SELECT $1, $2.$3 FROM x.t WHERE $4 = $5",
            ),
            ("UPDATE t SET v = s", "UPDATE t SET $1 = $2"),
            (
                "INSERT INTO t (a) VALUES (s)",
                "INSERT INTO t ($1) VALUES ($2)",
            ),
            (
                "SELECT extract(year FROM s)",
                "SELECT extract(year FROM $1)",
            ),
            (
                "SELECT v IS DISTINCT FROM s",
                "SELECT $1 IS DISTINCT FROM $2",
            ),
            (
                "SELECT (SELECT a FROM t), f(s)",
                "SELECT (SELECT $1 FROM t), f($2)",
            ),
            (
                "SELECT x.f(s)::y.z FROM a JOIN b ON c = s",
                "SELECT x.f($1)::y.z FROM a JOIN b ON $2 = $3",
            ),
            (
                "PREPARE p AS SELECT s; EXECUTE p",
                "PREPARE p AS SELECT $1; EXECUTE p",
            ),
            (
                "ALTER TABLE t ADD COLUMN c int",
                "ALTER TABLE t ADD COLUMN c int",
            ),
            ("SET app.key = s", "SET app.key = $1"),
        ] {
            let shown = normalise(text, Identifiers::Unresolved);
            assert_eq!(shown.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn names_have_no_more_than_63_bytes() {
        let long = "n".repeat(70);
        let kept = "n".repeat(63);
        check(&format!("SELECT {long}"), Some(&format!("SELECT {kept}…")));
        check(
            &format!("SELECT \"{long}\""),
            Some(&format!("SELECT \"{kept}…\"")),
        );
        check(
            &format!("SELECT \"{kept}\""),
            Some(&format!("SELECT \"{kept}\"")),
        );
        let quotes = "\"".repeat(80);
        check(&format!("SELECT \"x{quotes}\""), Some("SELECT \"x…\""));
        let euros = "€".repeat(30);
        check(
            &format!("SELECT \"{euros}\""),
            Some(&format!("SELECT \"{}…\"", "€".repeat(21))),
        );
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
            ("SET a.b = one", "SET a.b = two"),
            (
                "COPY t FROM STDIN (NULL one)",
                "COPY t FROM STDIN (NULL two)",
            ),
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
            if let Some(normalised) = normalise(text, Identifiers::Shown) {
                prop_assert!(!normalised.contains('Z'), "{} from {}", normalised, text);
            }
        }

        #[test]
        fn no_text_panics(text in "[ '\"$a1\\\\/*;é\n-]{0,24}") {
            normalise(&text, Identifiers::Shown);
            normalise(&text, Identifiers::Hidden);
            fingerprint(&text);
        }
    }
}
