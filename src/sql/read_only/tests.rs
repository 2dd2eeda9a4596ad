//! What is proven, what is refused with which reason, and the names that are told.

use proptest::prelude::*;

use super::*;

fn why(text: &str) -> String {
    reason(read_only([text], false))
}

fn reason(proven: Result<Names, Unproven>) -> String {
    match proven {
        Ok(_) => String::new(),
        Err(Unproven::MayDoMore(why)) => why,
        Err(Unproven::NothingRead) => "nothing read".to_owned(),
    }
}

#[test]
fn what_only_reads_is_proven_and_its_names_are_told() {
    let names = read_only(
        [
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            "WITH c AS (SELECT DISTINCT o.date::date AS d FROM s.orders o JOIN p USING (id) WHERE lower(v) IN ('a')) \
             SELECT count(*) FILTER (WHERE d IS NOT NULL) OVER w, x[1], CASE d WHEN $1 THEN extract(year FROM d) END \
             FROM c, generate_series(1, 2) WITH ORDINALITY WINDOW w AS (ORDER BY d DESC NULLS LAST) \
             UNION ALL VALUES (1, 2, 3) ORDER BY 1 LIMIT 3",
            "SHOW search_path; TABLE t",
        ],
        true,
    )
    .unwrap();
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        list(&names.functions),
        "count extract generate_series lower"
    );
    assert_eq!(list(&names.operators), "=");
    assert_eq!(list(&names.types), "date");
    assert_eq!(list(&names.fields), "date");
}

#[test]
fn every_operator_that_the_grammar_stands_for_is_told() {
    let operators = |text| {
        let names = read_only([text], false).unwrap();
        names.operators.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(operators("SELECT x BETWEEN 1 AND 2"), "< <= > >=");
    assert_eq!(operators("SELECT x NOT IN (1)"), "<>");
    assert_eq!(operators("SELECT x IN (SELECT 1)"), "=");
    assert_eq!(operators("SELECT * FROM a NATURAL JOIN b"), "=");
    assert_eq!(operators("SELECT NULLIF(a, b)"), "=");
    assert_eq!(operators("SELECT a IS DISTINCT FROM b"), "=");
    assert_eq!(operators("SELECT a NOT ILIKE 'b'"), "!~~*");
    assert_eq!(operators("SELECT a SIMILAR TO 'b'"), "~");
    assert_eq!(operators("SELECT 1 < ALL (SELECT 2)"), "<");
    assert_eq!(operators("SELECT a FROM t ORDER BY a USING >"), ">");
    assert_eq!(operators("SELECT 1 OPERATOR(pg_catalog.+) 2"), "+");
}

const REFUSED: &[(&str, &str)] = &[
    ("SELECT set_config('a.b', 'c', true)", "set_config"),
    (
        "SELECT pg_catalog.set_config('a.b', 'c', true)",
        "set_config",
    ),
    ("SELECT ts_rewrite('a'::tsquery, 'SELECT 1')", "ts_rewrite"),
    (
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "query_to_xml",
    ),
    ("SELECT txid_current()", "txid_current"),
    ("SELECT current_setting('a.b')", "current_setting"),
    ("SELECT 1 FROM t ORDER BY random()", "random"),
    ("SELECT 1 LIMIT (SELECT nextval('s'))", "nextval"),
    ("SELECT nextval('s') OVER ()", "nextval"),
    (
        "SELECT count(*) FILTER (WHERE pg_try_advisory_lock(1))",
        "pg_try_advisory_lock",
    ),
    ("SELECT public.lower('A')", "public.lower"),
    ("SELECT 1 OPERATOR(public.+) 2", "public.+"),
    ("SELECT 1::public.d", "public.d"),
    ("SELECT 1::d", "d"),
    ("SELECT CURRENT_SCHEMA", "current_schema"),
    ("SELECT (x).f FROM x", "a field of an expression"),
    ("SELECT * FROM t FOR UPDATE", "a locking clause"),
    (
        "SELECT * FROM (SELECT * FROM t FOR SHARE) s",
        "a locking clause",
    ),
    ("SELECT 1 INTO u", "SELECT INTO"),
    (
        "WITH d AS (DELETE FROM t RETURNING 1) TABLE d",
        "a statement in WITH that is not SELECT",
    ),
    ("SELECT * FROM t TABLESAMPLE system (1)", UNKNOWN),
    (
        "SELECT * FROM unnest(x) AS x (a int)",
        "a function with a list of column types",
    ),
    ("SELECT JSON_SCALAR(1)", UNKNOWN),
    ("SELECT xmlelement(name a)", UNKNOWN),
    (
        "SELECT a.\"f g\" FROM a",
        "a column whose name has unusual characters",
    ),
    ("SELECT 'a\\'", "a backslash"),
    (
        "SELECT (",
        "a statement that the grammar does not take, or that is too large or nested too deep",
    ),
];

#[test]
fn whatever_may_do_more_is_refused_with_a_reason() {
    for &(text, reason) in REFUSED {
        assert_eq!(why(text), reason, "{text}");
    }
    for text in [
        "SAVEPOINT a",
        "ROLLBACK TO a",
        "COMMIT",
        "BEGIN",
        "SET LOCAL a.b = 'c'",
        "INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH c",
        "COPY t TO STDOUT",
        "DO 'x'",
        "CALL p()",
        "EXECUTE s",
        "PREPARE s AS SELECT 1",
        "LOCK t",
        "NOTIFY n",
        "LISTEN n",
        "DISCARD ALL",
        "SET TRANSACTION READ ONLY",
        "CREATE TABLE u AS SELECT 1",
        "SELECT 1; DELETE FROM t",
        "ANALYZE",
        "LOAD 'x'",
    ] {
        assert!(why(text).starts_with("a statement other"), "{text}");
    }
}

#[test]
fn the_begin_is_read_too() {
    let begin = |text: &str| reason(read_only([text, "SELECT 1"], true));
    for text in [
        "BEGIN",
        "START TRANSACTION READ WRITE",
        "begin; select 1",
        "BEGIN NOT DEFERRABLE",
    ] {
        assert_eq!(begin(text), "", "{text}");
    }
    for text in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN READ ONLY ISOLATION LEVEL SERIALIZABLE",
    ] {
        assert_eq!(
            begin(text),
            "an isolation level other than READ COMMITTED",
            "{text}"
        );
    }
    for text in ["SELECT 1; BEGIN", "COMMIT AND CHAIN", "", "SELECT 1"] {
        assert_eq!(begin(text), "its BEGIN was not seen", "{text}");
    }
}

/// Found by running generated transactions with and without release.
#[test]
fn a_transaction_that_has_not_read_can_still_be_set() {
    let proven = read_only(["BEGIN", "SHOW transaction_isolation"], true);
    assert_eq!(proven, Err(Unproven::NothingRead));
}

#[test]
fn columns_that_name_a_place_or_a_version_are_refused_in_every_form() {
    for column in PLACES_AND_VERSIONS {
        for text in [
            format!("SELECT {column} FROM t"),
            format!("SELECT t.{column} FROM t"),
            format!("SELECT s.t.{column} FROM s.t"),
            format!("SELECT db.s.t.{column} FROM s.t"),
            format!("SELECT \"{column}\" FROM t"),
            format!("SELECT 1 FROM t WHERE {column}::text = $1"),
            format!("SELECT 1 FROM t ORDER BY {column}"),
            format!("SELECT 1 FROM t JOIN u ON t.{column} = u.{column}"),
            format!("SELECT x.a FROM (SELECT {column} AS a FROM t) x"),
            format!("WITH x AS (SELECT t.{column} FROM t) TABLE x"),
            format!("SELECT row_to_json(ROW({column})) FROM t"),
            // `f(x)` may stand for `x.f`.
            format!("SELECT {column}(t) FROM t"),
        ] {
            assert_eq!(why(&text), column, "{text}");
        }
        let of_row = format!("SELECT (t).{column} FROM t");
        assert_eq!(why(&of_row), "a field of an expression");
    }
    assert_eq!(why("SELECT tableoid, t.tableoid, t FROM t"), "");
}

#[test]
fn a_table_with_values_of_any_type_is_told() {
    let told = |text| read_only([text], false).unwrap().missing_values;
    assert!(told("SELECT attname FROM pg_attribute"));
    assert!(told(
        "SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.pg_attribute a, t)"
    ));
    assert!(!told("SELECT relname FROM pg_class"));
}

#[test]
fn deep_nesting_is_refused_on_the_stack_of_a_worker_thread() {
    let nest = |open: &str, close: &str| {
        let times = 4000 / (open.len() + close.len());
        format!("SELECT {}1{}", open.repeat(times), close.repeat(times))
    };
    let texts = [
        nest("(", ")"),
        nest("+ ", ""),
        nest("NOT ", ""),
        nest("", "+1"),
        nest("ARRAY[", "]"),
        nest("(SELECT ", ")"),
        nest("abs(", ")"),
        nest("", "::int"),
        nest("CASE WHEN ", " THEN 1 END"),
    ];
    let prove = move || texts.map(|text| read_only([text.as_str()], false).is_err());
    let thread = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(prove)
        .unwrap();
    // Parentheses alone leave no trace in the tree.
    assert_eq!(
        thread.join().unwrap(),
        [false, true, true, true, true, true, true, true, true]
    );
}

#[test]
fn a_claim_is_read_up_to_a_bound() {
    let text = |n: usize| format!("SELECT {n}{}", " ".repeat(4000));
    let texts: Vec<Arc<str>> = (0..100).map(|n| text(n).into()).collect();
    let Proof::Each(reads) = prove(&Claim::Each(texts.clone())) else {
        panic!("not each of them");
    };
    let expected = MAX_CLAIMED / texts[50].len();
    assert_eq!(reads.iter().filter(|reads| **reads).count(), expected);
    assert!(reads.is_sorted_by_key(|reads| !reads) && expected > 60);
}

proptest! {
    #[test]
    fn any_text_is_judged(text in "(SELECT|BEGIN|;|\\(|\\)|x\\.|f|'|,| |\\PC){0,30}") {
        drop(read_only([text.as_str()], false));
    }
}
