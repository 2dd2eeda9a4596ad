//! What the lexer and PostgreSQL's own grammar make of the same text, case by case and for random texts.

use pg_query::{
    NodeEnum,
    protobuf::{Node, TransactionStmtKind},
};
use proptest::prelude::*;

use super::*;

const CASES: &[(&str, Control)] = &[
    ("BEGIN", Control::Begin),
    ("begin transaction read only", Control::Begin),
    (
        "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE NOT DEFERRABLE",
        Control::Begin,
    ),
    ("BEGIN READ ONLY,", Control::Other),
    ("BEGIN, READ ONLY", Control::Other),
    ("BEGIN ISOLATION LEVEL SNAPSHOT", Control::Other),
    ("START", Control::Other),
    ("BEGIN; SELECT 1", Control::BeginThen),
    (
        "begin;; insert into t values ('; commit'); /* ; */ select 1;",
        Control::BeginThen,
    ),
    ("BEGIN; SELECT 1; COMMIT; SELECT 2", Control::Other),
    ("BEGIN; ROLLBACK TO a", Control::Other),
    ("BEGIN; SELECT E'\\''; COMMIT; --'", Control::Other),
    ("BEGIN; DO $$ ; $$", Control::BeginThen),
    ("BEGIN SELECT 1", Control::Other),
    ("COMMIT", Control::Commit),
    ("cOmMiT;;", Control::Commit),
    ("/* a /* b */ */ commit", Control::Commit),
    ("/* a /* b */ commit", Control::Other),
    ("/***/commit/**/", Control::Commit),
    ("/*/ commit", Control::Other),
    ("commit--x", Control::Commit),
    ("commit -- x\n;", Control::Commit),
    ("commit -- x\r;", Control::Commit),
    ("-- x\n\t\x0b\x0c COMMIT", Control::Commit),
    ("END WORK", Control::Commit),
    ("END TRANSACTION AND NO CHAIN", Control::Commit),
    ("COMMIT AND CHAIN", Control::CommitAndChain),
    ("COMMIT AND", Control::Doubtful),
    ("COMMIT AND NO", Control::Doubtful),
    ("COMMIT WORK TRANSACTION", Control::Doubtful),
    ("COMMITX", Control::Other),
    ("COMMIT1", Control::Other),
    ("COMMIT$", Control::Other),
    ("COMMIT\u{e9}", Control::Other),
    ("\u{a0}COMMIT", Control::Other),
    ("COMMIT /* \u{e9} */", Control::Commit),
    ("\"COMMIT\"", Control::Other),
    ("'COMMIT'", Control::Other),
    ("COMMIT +", Control::Doubtful),
    ("COMMIT /* open", Control::Doubtful),
    ("COMMIT; SELECT 1", Control::Doubtful),
    ("COMMIT PREPARED 'x'", Control::Doubtful),
    ("PREPARE TRANSACTION 'x'", Control::PrepareTransaction),
    ("prepare transaction'it''s';", Control::PrepareTransaction),
    ("PREPARE TRANSACTION 'a\\'", Control::PrepareTransaction),
    (
        "PREPARE TRANSACTION 'a' -- b\n 'c'\r'd'",
        Control::PrepareTransaction,
    ),
    ("PREPARE TRANSACTION 'a' 'b'", Control::Doubtful),
    ("PREPARE TRANSACTION 'a' /*\n*/ 'b'", Control::Doubtful),
    ("PREPARE TRANSACTION 'x", Control::Doubtful),
    ("PREPARE TRANSACTION x", Control::Doubtful),
    ("PREPARE x AS SELECT 1", Control::Doubtful),
    ("ROLLBACK", Control::Rollback),
    (" ;; Rollback ; ", Control::Rollback),
    ("; ROLLBACK", Control::Rollback),
    ("ABORT AND NO CHAIN", Control::Rollback),
    ("ROLLBACK WORK AND CHAIN", Control::RollbackAndChain),
    ("ROLLBACK; SELECT 1", Control::RollbackThen),
    ("ROLLBACK;;/* */;COMMIT;", Control::RollbackThen),
    ("ROLLBACK SELECT 1", Control::Doubtful),
    ("ROLLBACK AND CHAIN; SELECT 1", Control::Doubtful),
    ("ROLLBACK PREPARED 'x'", Control::Doubtful),
    ("ROLLBACK TO a", Control::RollbackTo),
    ("ROLLBACK TO\"a\"\"b\"", Control::RollbackTo),
    ("ROLLBACK WORK TO SAVEPOINT a", Control::RollbackTo),
    ("ROLLBACK TO SAVEPOINT", Control::RollbackTo),
    ("ROLLBACK TO", Control::Doubtful),
    ("ROLLBACK TO \"\"", Control::Doubtful),
    ("ROLLBACK TO a; SELECT 1", Control::Doubtful),
    ("ABORT TO a", Control::Doubtful),
    ("SAVEPOINT a", Control::Savepoint),
    ("SAVEPOINT \u{e9}", Control::Savepoint),
    ("SAVEPOINT savepoint", Control::Savepoint),
    ("SAVEPOINT", Control::Other),
    ("SAVEPOINT a b", Control::Other),
    ("RELEASE a", Control::Release),
    ("RELEASE SAVEPOINT a", Control::Release),
    ("RELEASE SAVEPOINT", Control::Release),
    ("RELEASE", Control::Other),
    ("", Control::Other),
    (" ; ", Control::Other),
    ("-- COMMIT", Control::Other),
    ("SELECT 1", Control::Other),
    ("SET x = 1", Control::Other),
    ("/* x */ select 1", Control::Other),
];

fn classify(text: &[u8], lexing: Lexing) -> Control {
    outline(text, true, lexing).control()
}

/// What PostgreSQL's own grammar says; `None` when it refuses the text.
fn by_grammar(text: &str) -> Option<(usize, Vec<Controlling>)> {
    let tree = pg_query::parse(text, 0).ok()?.protobuf;
    let statements = tree.stmts.iter().map(|raw| raw.stmt.as_ref());
    let controls = statements.enumerate().filter_map(|(index, statement)| {
        let (control, savepoint) = by_node(statement?);
        (control != Control::Other).then_some(Controlling {
            index,
            control,
            savepoint,
        })
    });
    Some((tree.stmts.len(), controls.collect()))
}

fn by_node(node: &Node) -> (Control, Option<Identifier>) {
    use TransactionStmtKind as Kind;
    let Some(NodeEnum::TransactionStmt(statement)) = &node.node else {
        return (Control::Other, None);
    };
    let control = match (statement.kind(), statement.chain) {
        (Kind::TransStmtBegin | Kind::TransStmtStart, _) => Control::Begin,
        (Kind::TransStmtCommit, false) => Control::Commit,
        (Kind::TransStmtCommit, true) => Control::CommitAndChain,
        (Kind::TransStmtRollback, false) => Control::Rollback,
        (Kind::TransStmtRollback, true) => Control::RollbackAndChain,
        (Kind::TransStmtSavepoint, _) => Control::Savepoint,
        (Kind::TransStmtRelease, _) => Control::Release,
        (Kind::TransStmtRollbackTo, _) => Control::RollbackTo,
        (Kind::TransStmtPrepare, _) => Control::PrepareTransaction,
        (Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared | Kind::Undefined, _) => {
            Control::Other
        }
    };
    let name = statement.savepoint_name.as_bytes();
    // `U&"…"` in the soup.
    let known = !name.is_empty() && name.is_ascii() && name != b"escaped";
    (control, known.then(|| Identifier(name.into())))
}

/// What we say, in the grammar's terms.
fn by_us(text: &str) -> (usize, Vec<Controlling>) {
    match outline(text.as_bytes(), true, Lexing::default()) {
        Outline::List(list) => (list.count, list.controls.clone()),
        Outline::One(Control::Other | Control::Doubtful) => (1, Vec::new()),
        Outline::One(control) => {
            let only = Controlling {
                index: 0,
                control,
                savepoint: None,
            };
            (1, vec![only])
        }
        Outline::Unknown => panic!("{text:?} is unknown"),
    }
}

/// Whether a failed transaction lets the first statement through.
fn ends_first(text: &str) -> bool {
    let tree = pg_query::parse(text, 0).ok();
    tree.and_then(|tree| tree.protobuf.stmts.first()?.stmt.clone())
        .is_some_and(|node| {
            let Some(NodeEnum::TransactionStmt(statement)) = &node.node else {
                return false;
            };
            use TransactionStmtKind as Kind;
            matches!(
                statement.kind(),
                Kind::TransStmtCommit
                    | Kind::TransStmtPrepare
                    | Kind::TransStmtRollback
                    | Kind::TransStmtRollbackTo
            )
        })
}

/// Agrees with the grammar wherever that accepts the text.
fn agrees(text: &str) -> Result<(), String> {
    let ours = by_us(text);
    let control = classify(text.as_bytes(), Lexing::default());
    if control == Control::Other && ends_first(text) {
        return Err(format!(
            "{text:?} may end a transaction, and is {control:?}"
        ));
    }
    let fine = match by_grammar(text) {
        Some(theirs) => ours == theirs,
        None => matches!(
            control,
            Control::Other
                | Control::Doubtful
                | Control::RollbackThen
                | Control::BeginThen
                | Control::Savepoint
                | Control::Release
                | Control::RollbackTo
        ),
    };
    if fine {
        Ok(())
    } else {
        Err(format!(
            "{text:?}: {ours:?}, by the grammar {:?}",
            by_grammar(text)
        ))
    }
}

#[test]
fn savepoints_have_the_names_that_the_server_gives_them() {
    let long = "x".repeat(70);
    for (text, expected) in [
        ("SAVEPOINT Abc", Some("abc")),
        ("SAVEPOINT \"Abc\"", Some("Abc")),
        ("RELEASE \"a\"\"b\"", Some("a\"b")),
        ("RELEASE SAVEPOINT", Some("savepoint")),
        ("rollback to savepoint Savepoint;", Some("savepoint")),
        (&format!("SAVEPOINT {long}"), Some(&long[..63])),
        (&format!("SAVEPOINT \"{long}\""), Some(&long[..63])),
        ("SAVEPOINT \u{e9}", None),
        ("SAVEPOINT U&\"\\0061\"", None),
        ("SAVEPOINT U&\"!0061\" UESCAPE '!'", None),
    ] {
        let outline = outline(text.as_bytes(), true, Lexing::default());
        let (control, name) = outline.statement(0);
        assert_ne!(control, Control::Other, "{text}");
        let name = name.map(|name| str::from_utf8(&name.0).unwrap());
        assert_eq!(name, expected, "{text}");
    }
}

#[test]
fn lists_are_divided_as_the_server_divides_them() {
    for text in [
        "SELECT 1; ROLLBACK; BEGIN",
        "SELECT ';'; SAVEPOINT a; SELECT $$;$$; SELECT $a$; $b$ $$; $a$; RELEASE a",
        "SELECT E'\\';'; COMMIT; SELECT '\\'; COMMIT",
        "SELECT U&'\\0061;'; SELECT b'1' /* ; /* ; */ */; COMMIT -- ;",
        "SELECT 'a' -- ;\n ';b'; END",
        "SELECT a$b$ FROM t; SELECT -$a$;$a$; ABORT",
        "SELECT 1 +-- ;\n 2; SELECT 1 */**/ 2; ROLLBACK TO a; ;; SAVEPOINT \"x;\"",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE 1 WHEN 1 THEN 2 END; END; COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT a END; SELECT atomic end; SELECT 1 case; END; COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN (CASE b WHEN 1 THEN 2 END) END end; END; COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC END; COMMIT",
        "create or replace procedure begin() begin atomic select 1 as end; select x.case from x; end; COMMIT AND CHAIN",
        "CREATE FUNCTION f(atomic int) RETURNS int LANGUAGE sql AS 'select 1'; COMMIT",
        "DO $$ begin; commit; end $$; PREPARE TRANSACTION $$x$$; PREPARE TRANSACTION E'x'",
        "PREPARE TRANSACTION U&'x' UESCAPE '!'; PREPARE x AS SELECT 1; COMMIT PREPARED 'x'",
        ";;",
        "-- nothing",
    ] {
        assert!(by_grammar(text).is_some(), "{text}");
        agrees(text).unwrap();
    }
    let many = "SAVEPOINT a;".repeat(MAX_CONTROLS + 1);
    let many = outline(many.as_bytes(), true, Lexing::default());
    assert_eq!(many.count(), None);
}

#[test]
fn cases_and_the_grammar_agree() {
    for &(text, expected) in CASES {
        assert_eq!(
            classify(text.as_bytes(), Lexing::default()),
            expected,
            "{text:?}"
        );
        agrees(text).unwrap();
    }
}

#[test]
fn the_end_of_a_text_that_is_cut_is_not_known() {
    let long = "BEGIN; SAVEPOINT a; SELECT 1; COMMIT";
    for (cut, statements, control) in [
        (0, 0, Control::Doubtful),
        (2, 0, Control::Doubtful),
        (5, 0, Control::Doubtful),
        (7, 1, Control::BeginThen),
        (18, 1, Control::BeginThen),
        (20, 2, Control::BeginThen),
        (36, 3, Control::BeginThen),
    ] {
        let outline = outline(&long.as_bytes()[..cut], false, Lexing::default());
        let Outline::List(list) = &outline else {
            panic!("{outline:?}");
        };
        assert_eq!(
            (list.count, outline.count(), outline.control()),
            (statements, None, control),
            "{cut}"
        );
    }
    let front = outline(b"SELECT 1; COMM", false, Lexing::default());
    assert_eq!(front.control(), Control::Other);
}

#[test]
fn what_the_settings_make_uncertain_is_other() {
    let off = Lexing {
        standard_conforming_strings: false,
        ..Lexing::default()
    };
    let sjis = Lexing {
        client_only_encoding: true,
        ..Lexing::default()
    };
    for (text, lexing, expected) in [
        (&b"COMMIT /* x */;"[..], off, Control::Commit),
        (b"COMMIT -- it's", off, Control::Doubtful),
        (b"PREPARE TRANSACTION 'x'", off, Control::Doubtful),
        (b"ROLLBACK; SELECT $1", off, Control::RollbackThen),
        (b"ROLLBACK; SELECT E'\\n'", off, Control::RollbackThen),
        (b"ROLLBACK /* it's */; SELECT 1", off, Control::Doubtful),
        (b"SELECT 'it''s'; COMMIT", off, Control::Other),
        (
            b"ROLLBACK; SELECT '\\'; COMMIT; '",
            off,
            Control::RollbackThen,
        ),
        (b"BEGIN; SELECT '\\'; COMMIT; '", off, Control::BeginThen),
        (b"ROLLBACK TO \"a\"", off, Control::RollbackTo),
        (b"COMMIT -- it's", sjis, Control::Commit),
        (b"COMMIT -- \x83\x5c", sjis, Control::Doubtful),
        (b"ROLLBACK; SELECT '\x83\x5c'", sjis, Control::RollbackThen),
        (b"SELECT '\x83\x5c'; COMMIT", sjis, Control::Other),
        (b"COMMIT -- \xff\xfe", Lexing::default(), Control::Commit),
    ] {
        assert_eq!(classify(text, lexing), expected, "{}", text.escape_ascii());
    }
}

#[test]
fn statements_are_told_apart_by_the_settings() {
    let off = Lexing {
        standard_conforming_strings: false,
        ..Lexing::default()
    };
    for (text, on_count, off_count) in [
        (&br"SELECT '\'; COMMIT; SELECT '"[..], 3, 1),
        (br"SELECT '\\'; COMMIT", 2, 2),
        (br"SELECT E'\''; COMMIT", 2, 2),
        (br"SELECT $$\'$$; COMMIT", 2, 2),
        (b"COMMIT -- it's", 1, 1),
    ] {
        let count = |lexing| outline(text, true, lexing).count();
        assert_eq!(
            (count(Lexing::default()), count(off)),
            (Some(on_count), Some(off_count)),
            "{}",
            text.escape_ascii()
        );
    }
}

#[test]
fn encodings_by_postgresqls_names() {
    for name in [
        "SJIS",
        "Shift_JIS",
        "SHIFT_JIS_2004",
        "Windows-932",
        "big5",
        "GBK",
        "UHC",
        "GB18030",
        "JOHAB",
    ] {
        assert!(is_client_only_encoding(name.as_bytes()), "{name}");
    }
    for name in [
        "UTF8",
        "EUC_JP",
        "EUC_JIS_2004",
        "LATIN1",
        "SQL_ASCII",
        "WIN1252",
        "",
    ] {
        assert!(!is_client_only_encoding(name.as_bytes()), "{name}");
    }
}

const SOUP: &[&str] = &[
    "BEGIN",
    "start",
    "Transaction",
    "WORK",
    "COMMIT",
    "end",
    "ROLLBACK",
    "Abort",
    "TO",
    "SAVEPOINT",
    "release",
    "PREPARE",
    "PREPARED",
    "AND",
    "no",
    "CHAIN",
    "ISOLATION",
    "LEVEL",
    "READ",
    "ONLY",
    "write",
    "COMMITTED",
    "repeatable",
    "SERIALIZABLE",
    "NOT",
    "DEFERRABLE",
    "a",
    "\"b\"",
    "\"",
    "'x'",
    "'",
    "''",
    "/*",
    "*/",
    "/* c */",
    "--",
    "-- d\n",
    "\n",
    "\r",
    "\t",
    "\x0b",
    "\x0c",
    ";",
    ";",
    ",",
    "$$",
    "$1",
    "1",
    "e'x'",
    "U&\"escaped\"",
    "(",
    ")",
    ".",
    "AS",
    "CREATE",
    "FUNCTION f()",
    "ATOMIC",
    "CASE",
    "\\",
    "\u{e9}",
    "SELECT 1",
    "*",
    "/",
    "-",
];

fn soup() -> impl Strategy<Value = String> {
    let token = prop::sample::select(SOUP);
    let glue = prop::sample::select(vec!["", " ", " ", " ", ";", "/**/"]);
    prop::collection::vec((token, glue), 0..9).prop_map(|parts| {
        parts
            .into_iter()
            .flat_map(|(token, glue)| [token, glue])
            .collect()
    })
}

/// One of the cases with some soup put in somewhere.
fn nearly() -> impl Strategy<Value = String> {
    (
        prop::sample::select(CASES),
        any::<prop::sample::Index>(),
        soup(),
    )
        .prop_map(|((base, _), place, insert)| {
            let places: Vec<_> = base
                .char_indices()
                .map(|(at, _)| at)
                .chain([base.len()])
                .collect();
            let (before, after) = base.split_at(*place.get(&places));
            format!("{before}{insert}{after}")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn token_soup_agrees_with_the_grammar(text in soup()) {
        agrees(&text).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn what_is_nearly_control_agrees_with_the_grammar(text in nearly()) {
        agrees(&text).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
        classify(&text, Lexing::default());
    }
}
