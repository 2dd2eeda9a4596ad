"""What the cases are made of: for each subject the objects that it needs, and statements that use them.

`near` are statements that do more than read, or nearly do; most are there to be refused. What they leave behind without
writing anything is what `EFFECTS` does: a release that should not have been loses it.
"""

from dataclasses import dataclass, field

from release_cases.steps import OTHERS

# One is chosen for each case, as the body of the function effect().
EFFECTS = [
    "SELECT set_config('my.effect', 'done', true)",
    "SELECT set_config('my.effect', 'done', false)",
    "SELECT set_config('transaction_read_only', 'on', true)",
    "INSERT INTO public.log VALUES ('done') RETURNING what",
    "SELECT pg_notify('n', 'done')::text",
    "SELECT pg_advisory_xact_lock(7)::text",
    "SELECT nextval('public.s')::text",
]

BASE = """
DROP FUNCTION IF EXISTS pg_catalog.lower(varchar);
GRANT SELECT ON pg_catalog.pg_cast, pg_catalog.pg_depend, pg_catalog.pg_amop TO PUBLIC;
DROP CAST IF EXISTS (text AS point);
DROP SCHEMA IF EXISTS public, other CASCADE;
CREATE SCHEMA public;
CREATE SCHEMA other;
GRANT ALL ON SCHEMA public, other TO PUBLIC;
CREATE TABLE log (what text);
CREATE SEQUENCE s;
CREATE TABLE t (id int PRIMARY KEY, v text, w varchar(9), n int, d date, j jsonb, b box);
INSERT INTO t VALUES (1, 'one', 'eins', 10, '2001-01-01', '{"a": [1, 2]}', '1,1,0,0'),
    (2, 'two', 'zwei', 20, '2002-02-02', '{"b": null}', '2,2,0,0'), (3, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE FUNCTION effect() RETURNS text LANGUAGE sql AS $$%s$$;
-- For places where only immutable functions may stand.
CREATE FUNCTION keyed(n int) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$SELECT length(set_config('my.effect', 'keyed', true)) * 0 + n$$;
CREATE FUNCTION checked(anyelement) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$SELECT set_config('my.effect', 'checked', true) IS NOT NULL$$;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
"""

BEGIN = [
    *["BEGIN"] * 20,
    "START TRANSACTION READ WRITE",
    "BEGIN READ ONLY",
    "BEGIN; SELECT 1",
    "SELECT 1; BEGIN; SELECT 2",
    "SELECT set_config('my.effect', 'before', true); BEGIN",
    "SET my.effect = 'before'; BEGIN; SELECT 4",
    "BEGIN DEFERRABLE",
    "BEGIN ISOLATION LEVEL READ UNCOMMITTED",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
]
END = [
    *["COMMIT"] * 2,
    "END",
    "ROLLBACK",
    "ABORT",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "COMMIT; BEGIN; SELECT 3",
]
# What a later statement can see of an effect.
PROBES = [
    "SELECT current_setting('my.effect', true)",
    "SELECT what FROM log ORDER BY 1",
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1",
    "SHOW transaction_read_only",
    "SHOW transaction_deferrable",
    "SHOW transaction_isolation",
    "SHOW search_path",
    "INSERT INTO log VALUES ('late')",
    "SAVEPOINT late",
    "BEGIN",
    "SET TRANSACTION READ ONLY",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION READ WRITE",
    "ROLLBACK TO pgidle_release",
]
# What others do meanwhile: whether it is done or not, no client can tell, and what can be done directly has to be done.
NEUTRAL = [
    "VACUUM FULL pg_catalog.pg_cast",
    "VACUUM FULL pg_catalog.pg_opfamily",
    "VACUUM FULL pg_catalog.pg_statistic_ext",
    "REINDEX TABLE pg_catalog.pg_amproc",
    "REINDEX TABLE t",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE t ADD CHECK (id > 0); ALTER TABLE t DROP CONSTRAINT t_id_check",
]
# The question needs it, and plain statements do not.
LOCKED = "BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE"
# Differs, and is documented to: locks that were held are gone. It shows that the comparison finds a difference.
PLANTED = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 't'::regclass"
READS = [
    "SELECT id, v FROM t ORDER BY id",
    "TABLE t",
    "VALUES (1, 'a'), (2, NULL)",
    "SELECT count(*), max(n), string_agg(v, ',' ORDER BY id) FROM t WHERE v IS NOT NULL",
    "SELECT upper(v) || '!' FROM t ORDER BY length(v), id",
    "SELECT lower(w) FROM t ORDER BY 1",
    "SELECT id FROM t WHERE w = 'eins'",
    "SELECT d::text, extract(year FROM d), to_char(d, 'YYYY') FROM t ORDER BY 1",
    "SELECT j -> 'a', j ->> 'b', jsonb_typeof(j) FROM t ORDER BY id",
    "SELECT sum(n) OVER (ORDER BY id RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
    "SELECT a, a * 2 FROM generate_series(1, 3) a",
    "SELECT x.v, y.n FROM t x JOIN t y USING (id) WHERE x.id BETWEEN 1 AND 2 ORDER BY 1",
    "SELECT x.id FROM t x, t y WHERE x.id = y.id AND x.v LIKE '%o%' ORDER BY 1",
    "SELECT v FROM t UNION SELECT w FROM t ORDER BY 1",
    "SELECT DISTINCT n IS NULL FROM t GROUP BY GROUPING SETS ((n), ()) ORDER BY 1",
    "SELECT CASE id WHEN 1 THEN 'a' ELSE v END, coalesce(v, w), greatest(n, 5) FROM t ORDER BY id",
    "SELECT id FROM t WHERE id = ANY ('{1,2}') AND (id, n) < (3, 30) ORDER BY 1",
    "SELECT EXISTS (SELECT FROM t WHERE n > 15), (SELECT v FROM t WHERE id = 1), ARRAY(SELECT id FROM t ORDER BY 1)",
    "SELECT row_to_json(t) FROM t ORDER BY id",
    "SELECT t FROM t ORDER BY t",
    "SELECT '1'::int + 1, '2001-01-01'::date + 1, 'a' || 'b', 7 % 2, -n FROM t ORDER BY 5",
    "SELECT NOT (b @> '0.5,0.5,0,0') FROM t ORDER BY id",
    "SELECT area(b) FROM t ORDER BY 1",
    "SELECT * FROM t WHERE d <= CURRENT_DATE ORDER BY id",
    "SHOW server_version_num",
    "SHOW search_path",
]


@dataclass
class Subject:
    """Objects (SQL that runs before the case) and statements; those of `prelude` come before any other.

    `stories` are several steps, one after the other.
    """

    setup: str = ""
    safe: list = field(default_factory=list)
    near: list = field(default_factory=list)
    prelude: list = field(default_factory=list)
    stories: list = field(default_factory=list)


ENUM = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE feeling (m mood, ms mood[]); \
INSERT INTO feeling VALUES ('ok', '{sad}'), ('sad', '{ok,sad}');"
ENUM_READS = [
    "SELECT m FROM feeling ORDER BY m",
    "SELECT DISTINCT m, count(*) FROM feeling GROUP BY m ORDER BY 1",
    "SELECT min(m), max(m::text) FROM feeling WHERE m = 'sad' OR m > 'sad'",
    "SELECT x.m FROM feeling x JOIN feeling y ON x.m = y.m ORDER BY 1",
    "SELECT to_json(m), row_to_json(f) FROM feeling f ORDER BY 1::text",
    "SELECT ms FROM feeling ORDER BY ms",
    "TABLE feeling",
]


def shadow(name, argument):
    """A function of a name that PostgreSQL has."""
    return f"CREATE FUNCTION {name}({argument}) RETURNS text LANGUAGE sql AS 'SELECT effect()';"


def operator(name, left, right, result):
    """An operator whose function has the effect."""
    body = {"boolean": "effect() IS NULL", "text": "effect()"}[result]
    function = f"{left}_{right}_{len(name)}_{ord(name[0])}"
    sides = f"LEFTARG = {left}, RIGHTARG = {right}" if left != "prefix" else f"RIGHTARG = {right}"
    arguments = f"{left}, {right}" if left != "prefix" else right
    return f"""
    CREATE FUNCTION {function}({arguments}) RETURNS {result} LANGUAGE sql AS 'SELECT {body}';
    CREATE OPERATOR {name} ({sides}, FUNCTION = {function});"""


# Operators and functions of names that PostgreSQL has, on types of extensions that no statement has a value of: only a
# literal without a type could be taken for one.
NAMES = ["=", "<>", "<", "||", "+", "-", "%", "~", "~~", "->", "@>", "&&", "|/", "@", "!!", "?"]
CALLS = ["lower", "length", "abs", "max", "upper", "concat", "to_json", "date", "count", "quote_literal"]
OPERANDS = ["'1'", "'{}'", "NULL", "v", "w", "n", "d", "j", "b", "'2001-01-01'::date", "'{1}'::int[]"]
LOOKALIKES = (
    "SET search_path = other, public; CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; CREATE EXTENSION IF NOT EXISTS ltree SCHEMA public;"
)
for own, others in ("citext", ["citext", "text"]), ("ltree", ["ltree", "text", "int4", "jsonb"]):
    for left, right in sorted({*((own, other) for other in others), *((other, own) for other in others)}):
        LOOKALIKES += f"""
        CREATE FUNCTION look(l {left}, r {right}) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';"""
        for name in NAMES:
            LOOKALIKES += f"CREATE OPERATOR {name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = look);"
    LOOKALIKES += f"CREATE FUNCTION look({own}) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';"
    for name in ("-", "|/", "@"):
        LOOKALIKES += f"CREATE OPERATOR {name} (RIGHTARG = {own}, FUNCTION = look);"
    for name in CALLS:
        LOOKALIKES += f"CREATE FUNCTION {name}({own}) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';"
LOOKALIKES += "RESET search_path;"

# What a client reads and later uses, and what others do between the two.
PLACES = [
    "SELECT ctid FROM placed WHERE id = 5",
    "SELECT p.ctid FROM public.placed p WHERE p.id = 4",
    "SELECT x.a FROM (SELECT id, ctid AS a FROM placed) x WHERE id = 5",
    "SELECT max(ctid::text) FROM placed WHERE id = 5",
]
VERSIONS = ["SELECT 'v' || xmin::text FROM placed WHERE id = 5", "SELECT 'v' || p.xmin::text FROM placed p WHERE id = 6"]
REWRITES = ["VACUUM FULL placed", "ALTER TABLE placed ALTER COLUMN v TYPE text USING v || ''"]
USES_OF_PLACES = [
    "DELETE FROM placed WHERE ctid = '{place}' RETURNING id",
    "UPDATE placed SET v = 'seen' WHERE ctid = '{place}' RETURNING id",
    "SELECT id FROM placed WHERE ctid = '{place}'",
]
USES_OF_VERSIONS = ["UPDATE placed SET v = 'seen' WHERE 'v' || xmin::text = '{version}' AND id > 4 RETURNING id"]

SUBJECTS = {
    "lookalikes": Subject(
        LOOKALIKES,
        safe=[
            *(f"SELECT {l} {name} {r} FROM t ORDER BY id" for name in NAMES for l in OPERANDS for r in OPERANDS),
            *(f"SELECT {name} {operand} FROM t ORDER BY id" for name in NAMES for operand in OPERANDS),
            *(f"SELECT {name}({operand}) FROM t" for name in CALLS for operand in OPERANDS),
        ],
        prelude=[f"SET search_path = {path}" for path in ("other, public", "public, other", "other, pg_catalog")],
    ),
    "ctes": Subject(
        safe=[
            "WITH c AS (SELECT id FROM t) SELECT max(id) FROM c",
            "WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < 3) SELECT * FROM r",
        ],
        near=[
            "WITH i AS (INSERT INTO log VALUES ('cte') RETURNING what) SELECT what FROM i",
            "WITH u AS (UPDATE t SET n = n + 1 WHERE id = 1 RETURNING n) SELECT n FROM u",
            "WITH c AS MATERIALIZED (SELECT effect() e) SELECT count(*) FROM c",
            "WITH c AS (SELECT 1) INSERT INTO log SELECT 'from a cte' FROM c",
        ],
    ),
    "functions": Subject(
        near=[
            "SELECT v FROM t ORDER BY effect(), id",
            "SELECT v FROM t WHERE effect() IS NOT NULL ORDER BY id",
            "SELECT count(*) FILTER (WHERE effect() IS NULL) FROM t",
            "SELECT sum(n) OVER (PARTITION BY effect()) FROM t",
            "SELECT n FROM t GROUP BY n, effect() HAVING effect() IS NULL ORDER BY 1",
            "SELECT 1 LIMIT (SELECT length(effect()))",
            "VALUES (effect())",
            "SELECT * FROM effect()",
            "SELECT * FROM ROWS FROM (generate_series(1, 2), effect())",
            "SELECT x.* FROM t, LATERAL (SELECT effect()) x",
            "SELECT nextval('s')",
            "SELECT last_value FROM s",
            "SELECT gen_random_uuid() IS NOT NULL",
            "SELECT public.effect()",
        ],
    ),
    "defaults": Subject(
        "CREATE TABLE filled (id int, v text DEFAULT effect());",
        safe=["TABLE filled"],
        near=["INSERT INTO filled (id) VALUES (1)", "UPDATE filled SET v = DEFAULT"],
    ),
    "implicit cast": Subject(
        "CREATE FUNCTION to_point(text) RETURNS point LANGUAGE sql AS $$SELECT point(length(effect()), 0)$$;"
        "CREATE CAST (text AS point) WITH FUNCTION to_point(text) AS IMPLICIT;",
        safe=["SELECT '(1,2)'::point", "SELECT area(box('0,0', point(1, 1)))"],
        near=["SELECT v::point::text FROM t", "SELECT box(v, v)::text FROM t", "SELECT point(v)::text FROM t"],
    ),
    "cast to json": Subject(
        ENUM + "CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS 'SELECT to_json(effect())';"
        "CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);",
        safe=ENUM_READS,
    ),
    "row cast to json": Subject(
        "CREATE FUNCTION t_json(t) RETURNS json LANGUAGE sql AS 'SELECT to_json(effect())';"
        "CREATE CAST (t AS json) WITH FUNCTION t_json(t);",
        safe=["SELECT to_json(t) FROM t ORDER BY id", "SELECT json_agg(x) FROM t x"],
    ),
    "views": Subject(
        "CREATE VIEW restless AS SELECT id, effect() e FROM t; CREATE VIEW calm AS SELECT id FROM t;",
        near=[
            "SELECT id FROM calm ORDER BY id",
            "SELECT id, e FROM restless ORDER BY id",
            "SELECT count(*) FROM restless",
        ],
    ),
    "domains": Subject(
        "CREATE DOMAIN small AS int CHECK (checked(value)); CREATE TABLE boxed (d small); INSERT INTO boxed VALUES (1);"
        "CREATE DOMAIN date AS text CHECK (checked(value));",
        safe=["SELECT '2001-01-01'::date::text"],
        near=["SELECT 5::small", "SELECT d FROM boxed", "SELECT CAST('6' AS public.small)", "SELECT '1'::public.date"],
        prelude=["SET search_path = public, pg_catalog"],
    ),
    "triggers": Subject(
        "CREATE TABLE watched (id int); CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM effect(); RETURN new; END$$;"
        "CREATE TRIGGER a BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION act();"
        "CREATE CONSTRAINT TRIGGER b AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION act();",
        safe=["TABLE watched"],
        near=["INSERT INTO watched VALUES (1)", "SET CONSTRAINTS ALL IMMEDIATE"],
    ),
    "rules": Subject(
        "CREATE TABLE ruled (id int); CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT effect();",
        safe=["TABLE ruled"],
        near=["INSERT INTO ruled VALUES (1)"],
    ),
    "tables made": Subject(
        near=[
            "SELECT id INTO made FROM t",
            "CREATE TABLE made AS TABLE t",
            "SELECT count(*) FROM made",
            "DROP TABLE IF EXISTS made",
            "ALTER TABLE t ADD COLUMN added int",
            "TRUNCATE log",
        ],
    ),
    "explain": Subject(
        near=[
            "EXPLAIN (COSTS OFF) SELECT v FROM t",
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) INSERT INTO log VALUES ('explained')",
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT effect()",
        ],
    ),
    "blocks of code": Subject(
        "CREATE PROCEDURE proc() LANGUAGE sql AS $$INSERT INTO log VALUES ('called')$$;"
        "CREATE PROCEDURE ends() LANGUAGE plpgsql AS $$BEGIN COMMIT; END$$;",
        near=[
            "DO $$BEGIN PERFORM effect(); END$$",
            "DO $$BEGIN RAISE NOTICE 'said'; END$$",
            "DO $$BEGIN RAISE EXCEPTION 'failed'; EXCEPTION WHEN raise_exception THEN NULL; END$$",
            "CALL proc()",
            "CALL ends()",
        ],
    ),
    "cursors": Subject(
        near=[
            "DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id",
            "DECLARE c SCROLL CURSOR FOR TABLE t",
            "FETCH 1 FROM c",
            "MOVE ALL IN c",
            "CLOSE c",
            "CLOSE ALL",
        ],
    ),
    "holdable cursors": Subject(
        near=[
            "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id",
            "FETCH 1 FROM h",
            "FETCH BACKWARD 1 FROM h",
            "CLOSE h",
        ],
        prelude=["DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id"],
    ),
    "temporary tables": Subject(
        safe=["SELECT count(*) FROM tmp"],
        near=[
            "CREATE TEMP TABLE tmp (a int) ON COMMIT DELETE ROWS",
            "CREATE TEMP TABLE gone (a int) ON COMMIT DROP",
            "INSERT INTO tmp VALUES (1)",
            "SELECT count(*) FROM gone",
            "SELECT current_schemas(true)::text LIKE '%pg_temp%'",
        ],
        prelude=["CREATE TEMP TABLE tmp (a int) ON COMMIT DELETE ROWS", "SET search_path = pg_temp, public"],
    ),
    "advisory locks": Subject(
        near=[
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_xact_lock(2)",
            "SELECT pg_try_advisory_xact_lock_shared(3)",
            "SELECT pg_advisory_unlock(1)",
            "SELECT pg_advisory_unlock_all()",
        ],
        prelude=["SELECT pg_advisory_lock(1)"],
    ),
    "settings": Subject(
        near=[
            "SET LOCAL my.effect = 'local'",
            "SET my.effect = 'session'",
            "SET LOCAL search_path = other",
            "SET LOCAL standard_conforming_strings = off",
            "RESET my.effect",
            "SELECT set_config('my.effect', 'called', true)",
            "SELECT pg_catalog.set_config('my.effect', 'called', false)",
            "SELECT current_setting('my.effect', true)",
            "SHOW my.effect",
            "SET LOCAL ROLE reader",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "DISCARD PLANS",
            "RESET ALL",
        ],
        prelude=[
            "SET my.effect = 'before'",
            "SET default_transaction_deferrable = on",
            "SET default_transaction_read_only = on",
        ],
    ),
    "isolation": Subject(
        near=["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SET TRANSACTION READ ONLY, DEFERRABLE"],
        prelude=[
            "SET default_transaction_isolation = 'repeatable read'",
            "SET default_transaction_isolation = 'serializable'",
        ],
    ),
    "row locks": Subject(
        near=[
            "SELECT id FROM t WHERE id = 1 FOR UPDATE",
            "SELECT id FROM t ORDER BY id FOR KEY SHARE SKIP LOCKED",
            "SELECT count(*) FROM (SELECT FROM t FOR SHARE) s",
            "LOCK TABLE t IN ACCESS SHARE MODE",
            "LOCK TABLE t IN SHARE MODE",
        ],
    ),
    "savepoints": Subject(
        near=[
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "RELEASE a",
            "SAVEPOINT b; INSERT INTO log VALUES ('b')",
            "SAVEPOINT pgidle_release",
            "ROLLBACK TO pgidle_release",
            "RELEASE pgidle_release",
        ],
    ),
    # The first two rows are gone: where the table is written anew, each of the others moves, and has a new version.
    "places and versions": Subject(
        "CREATE TABLE placed (id int, v text); INSERT INTO placed SELECT id, 'x' FROM generate_series(1, 8) id;"
        "DELETE FROM placed WHERE id < 3;",
        safe=["SELECT v FROM placed WHERE id = 5", "SELECT id, placed FROM placed ORDER BY id"],
        near=[*PLACES, *VERSIONS],
        stories=[
            (read, OTHERS + rewrite, use)
            for reads, uses in ((PLACES, USES_OF_PLACES), (VERSIONS, USES_OF_VERSIONS))
            for read in reads
            for rewrite in REWRITES
            for use in uses
        ],
    ),
    "values of any type": Subject(
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; CREATE TABLE terms (id int);"
        "INSERT INTO terms VALUES (1), (2); ALTER TABLE terms ADD COLUMN w citext DEFAULT 'term'; ANALYZE terms;"
        "CREATE FUNCTION term_json(citext) RETURNS json LANGUAGE sql AS 'SELECT to_json(effect())';"
        "CREATE CAST (citext AS json) WITH FUNCTION term_json(citext);",
        safe=["SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"],
        near=[
            "SELECT to_json(most_common_vals) FROM pg_stats WHERE tablename = 'terms' AND attname = 'w'",
            "SELECT json_agg(s.most_common_vals) FROM pg_catalog.pg_stats s WHERE s.tablename = 'terms'",
            "SELECT count(row_to_json(s)) FROM pg_stats s WHERE tablename = 'terms'",
            "SELECT to_json(stavalues1) FROM pg_statistic WHERE starelid = 'terms'::regclass AND staattnum = 2",
            "SELECT to_json(attmissingval) FROM pg_attribute WHERE attrelid = 'terms'::regclass AND atthasmissing",
            "SELECT count(row_to_json(a)) FROM pg_attribute a WHERE attrelid = 'terms'::regclass AND attnum = 2",
        ],
    ),
    "revoked rights": Subject(
        "REVOKE SELECT ON pg_catalog.pg_cast, pg_catalog.pg_depend, pg_catalog.pg_amop FROM PUBLIC;",
        prelude=["SET ROLE reader"],
    ),
    "planner settings": Subject(
        prelude=[
            "SET work_mem = '64kB'; SET hash_mem_multiplier = 1",
            "SET enable_nestloop = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_sort = off",
            "SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off",
            "SET jit = on; SET jit_above_cost = 0; SET plan_cache_mode = force_generic_plan",
            "SET max_parallel_workers_per_gather = 4; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0",
        ],
    ),
    "messages": Subject(
        prelude=["SET log_statement = 'all'; SET client_min_messages = 'log'"],
        near=["SET client_min_messages = 'log'", "DO $$BEGIN RAISE NOTICE 'said'; END$$"],
    ),
    "statements by name": Subject(
        safe=["SELECT v FROM t WHERE id = 1"],
        near=[
            "PREPARE q AS SELECT set_config('my.effect', 'prepared', true)",
            "PREPARE r(int) AS SELECT v FROM t WHERE id = $1",
            "EXECUTE q",
            "EXECUTE r(1)",
            "DEALLOCATE q",
            "DEALLOCATE ALL",
            "DISCARD ALL",
            "SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY 1",
        ],
        prelude=["PREPARE q AS SELECT effect()", "SET plan_cache_mode = force_generic_plan"],
    ),
    "partitions": Subject(
        "CREATE TABLE p (a int, v text) PARTITION BY RANGE (a);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (5) TO (9); INSERT INTO p VALUES (1, 'x'), (6, 'y');"
        "CREATE TABLE h (v text) PARTITION BY HASH (v);"
        "CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
        safe=[
            "SELECT v FROM p WHERE a = 6",
            "SELECT count(*) FROM p1",
            "SELECT * FROM h WHERE v = 'x'",
            "SELECT x.v FROM p x JOIN p USING (a) ORDER BY 1",
        ],
        near=["ALTER TABLE p DETACH PARTITION p2", "INSERT INTO p VALUES (2, 'z')"],
        prelude=["SET enable_partition_pruning = off", "SET constraint_exclusion = on"],
    ),
    "partition key with a function": Subject(
        "CREATE TABLE k (a int) PARTITION BY RANGE ((keyed(1) + a));"
        "CREATE TABLE k1 PARTITION OF k FOR VALUES FROM (0) TO (9);"
        "INSERT INTO k VALUES (1);",
        safe=["SELECT a FROM k WHERE a = 1", "SELECT a FROM k1 WHERE a = 1", "TABLE k"],
        prelude=["SET constraint_exclusion = on"],
    ),
    "materialised views": Subject(
        "CREATE MATERIALIZED VIEW kept AS SELECT id, v FROM t;",
        safe=["TABLE kept", "SELECT v FROM kept WHERE id = 2"],
        near=["REFRESH MATERIALIZED VIEW kept"],
    ),
    "row-level security": Subject(
        "CREATE TABLE guarded (id int) PARTITION BY LIST (id);"
        "CREATE TABLE guarded1 PARTITION OF guarded FOR VALUES IN (1);"
        "INSERT INTO guarded VALUES (1); CREATE POLICY p ON guarded USING (effect() IS NOT NULL);"
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT ALL ON guarded TO PUBLIC;",
        safe=["SELECT id FROM guarded", "SELECT count(*) FROM guarded1"],
        prelude=["SET ROLE reader"],
    ),
    "enums": Subject(ENUM, safe=ENUM_READS, near=["SELECT 'sad'::mood", "SELECT 'ok'::public.mood > 'sad'"]),
    "operator class of an enum": Subject(
        ENUM
        + "".join(operator(name, "mood", "mood", "boolean") for name in ("<%", "<=%", "=%", ">=%", ">%"))
        + "CREATE FUNCTION mood_cmp(mood, mood) RETURNS int LANGUAGE sql AS 'SELECT length(effect()) * 0';"
        "CREATE OPERATOR CLASS moody DEFAULT FOR TYPE mood USING btree AS"
        " OPERATOR 1 <%, OPERATOR 2 <=%, OPERATOR 3 =%, OPERATOR 4 >=%, OPERATOR 5 >%,"
        " FUNCTION 1 mood_cmp(mood, mood);",
        safe=ENUM_READS,
    ),
    "operator class of a row": Subject(
        "CREATE TABLE r (a int); INSERT INTO r VALUES (1), (2);"
        + "".join(operator(name, "r", "r", "boolean") for name in ("<%", "<=%", "=%", ">=%", ">%"))
        + "CREATE FUNCTION r_cmp(r, r) RETURNS int LANGUAGE sql AS 'SELECT length(effect()) * 0';"
        "CREATE OPERATOR CLASS rows DEFAULT FOR TYPE r USING btree AS"
        " OPERATOR 1 <%, OPERATOR 2 <=%, OPERATOR 3 =%, OPERATOR 4 >=%, OPERATOR 5 >%, FUNCTION 1 r_cmp(r, r);",
        safe=["SELECT DISTINCT r FROM r", "SELECT r.a FROM r ORDER BY r, 1", "TABLE r"],
    ),
    "operator class of PostgreSQL's operators": Subject(
        "CREATE FUNCTION box_cmp(box, box) RETURNS int LANGUAGE sql AS 'SELECT length(effect()) * 0';"
        "CREATE OPERATOR CLASS boxes FOR TYPE box USING btree AS OPERATOR 1 pg_catalog.<, OPERATOR 2 pg_catalog.<=,"
        " OPERATOR 3 pg_catalog.=, OPERATOR 4 pg_catalog.>=, OPERATOR 5 pg_catalog.>, FUNCTION 1 box_cmp(box, box);",
        safe=["SELECT id FROM t ORDER BY b USING <, 1", "SELECT id FROM t WHERE ROW(b) < ROW(b) ORDER BY 1"],
    ),
    "support function of a family": Subject(
        "CREATE FUNCTION within(text, text, text, boolean, boolean) RETURNS boolean LANGUAGE sql AS"
        " 'SELECT effect() IS NULL';"
        "ALTER OPERATOR FAMILY text_ops USING btree ADD"
        " FUNCTION 3 (text, text) within(text, text, text, boolean, boolean);",
        safe=["SELECT count(*) OVER (ORDER BY v RANGE BETWEEN 'a' PRECEDING AND CURRENT ROW) FROM t"],
    ),
    "negator of PostgreSQL's operator": Subject(
        "CREATE FUNCTION outside(box, box) RETURNS boolean LANGUAGE sql AS 'SELECT effect() IS NULL';"
        "CREATE OPERATOR !@> (LEFTARG = box, RIGHTARG = box, FUNCTION = outside, NEGATOR = OPERATOR(pg_catalog.@>));",
        safe=["SELECT NOT (b @> '0.5,0.5,0,0'::box) FROM t ORDER BY id"],
    ),
    "generated columns": Subject(
        "CREATE TABLE made_up (a int, b int GENERATED ALWAYS AS (keyed(a)) STORED); INSERT INTO made_up VALUES (1);",
        safe=["TABLE made_up", "SELECT b FROM made_up WHERE a = 1"],
        near=["INSERT INTO made_up VALUES (2)"],
    ),
    "indexes on expressions": Subject(
        "CREATE TABLE i (a int, v text); INSERT INTO i VALUES (1, 'x'); CREATE INDEX ON i ((keyed(1) + a));"
        "CREATE TABLE i2 (a int); CREATE INDEX ON i2 (a) WHERE keyed(1) > 0;"
        "CREATE TABLE i3 (v text); CREATE INDEX ON i3 (lower(v)); INSERT INTO i3 VALUES ('X');",
        safe=["SELECT v FROM i WHERE a = 1", "SELECT count(*) FROM i2", "SELECT v FROM i3 WHERE lower(v) = 'x'"],
        near=["INSERT INTO i VALUES (2, 'y')"],
    ),
    "statistics on expressions": Subject(
        "CREATE TABLE st (a int, b int); INSERT INTO st VALUES (1, 2);"
        "CREATE STATISTICS ss ON (keyed(1) + a), b FROM st;",
        safe=["SELECT b FROM st WHERE a = 1", "SELECT count(*) FROM st GROUP BY a"],
    ),
    "constraints": Subject(
        "CREATE TABLE bound (a int CHECK (keyed(1) + a > 0)); INSERT INTO bound VALUES (1);"
        "CREATE TABLE inherits () INHERITS (bound);",
        safe=["SELECT a FROM bound WHERE a > 0", "SELECT count(*) FROM inherits WHERE a = 1"],
        prelude=["SET constraint_exclusion = on"],
    ),
    "functions that shadow": Subject(
        shadow("lower", "varchar")
        + shadow("length", "varchar")
        + shadow("other.length", "text")
        + shadow("other.to_char", "date, text"),
        safe=[
            "SELECT lower(w) FROM t ORDER BY 1",
            "SELECT pg_catalog.lower(w) FROM t ORDER BY 1",
            "SELECT length(v), length(w) FROM t ORDER BY 1",
        ],
        prelude=["SET search_path = other, public, pg_catalog", "SET search_path = public, pg_catalog"],
    ),
    "functions in pg_catalog": Subject(
        "CREATE FUNCTION pg_catalog.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';",
        safe=["SELECT lower(w) FROM t ORDER BY 1", "SELECT pg_catalog.lower(w) FROM t ORDER BY 1"],
    ),
    "aggregates that shadow": Subject(
        "CREATE FUNCTION other.larger(int, int) RETURNS int LANGUAGE sql AS 'SELECT length(public.effect())';"
        "CREATE AGGREGATE other.max(int) (SFUNC = other.larger, STYPE = int);",
        safe=["SELECT max(n) FROM t", "SELECT max(n) OVER () FROM t"],
        prelude=["SET search_path = other, public, pg_catalog"],
    ),
    "operators that shadow": Subject(
        operator("=", "varchar", "varchar", "boolean") + operator("-", "prefix", "varchar", "text")
        + operator("||", "varchar", "varchar", "text") + operator("~~", "varchar", "text", "boolean"),
        safe=[
            "SELECT id FROM t WHERE w = 'eins'",
            "SELECT id FROM t WHERE w IN ('eins', 'zwei')",
            "SELECT w || w FROM t ORDER BY 1",
            "SELECT id FROM t WHERE w LIKE 'e%'",
            "SELECT - w FROM t",
            "SELECT x.w FROM t x NATURAL JOIN t y ORDER BY 1",
            "SELECT id FROM t WHERE w OPERATOR(pg_catalog.=) 'eins'",
            "SELECT NULLIF(w, 'eins') FROM t ORDER BY 1",
        ],
        prelude=["SET search_path = public, pg_catalog"],
    ),
    "attribute notation": Subject(
        shadow("f", "t") + shadow("g", "text"),
        near=[
            "SELECT x.f FROM t x ORDER BY 1",
            "SELECT (t).f FROM t ORDER BY 1",
            "SELECT x.g FROM lower('A') x",
            "SELECT x.nextval FROM lower('s') x",
        ],
    ),
    "search_path": Subject(
        "CREATE TABLE other.t (id int, v text); INSERT INTO other.t VALUES (9, 'other');",
        safe=["SELECT v FROM t ORDER BY 1", "SELECT v FROM other.t"],
        near=[
            "SET search_path = other",
            "SET LOCAL search_path = other",
            "SELECT replace(current_schema, substring(current_schema, '[0-9]+$'), '')",
            "SET search_path = public",
        ],
    ),
    "notifications": Subject(
        near=[
            "LISTEN n",
            "NOTIFY n, 'said'",
            "UNLISTEN *",
            "SELECT pg_notify('n', 'called')",
            "SELECT pg_listening_channels()",
        ],
        prelude=["LISTEN n"],
    ),
    "errors": Subject(
        near=["SELECT 1/0", "SELECT * FROM missing", "SELECT (", "SELECT 'a'::int", "SELECT 'a\\b'", "SELECT E'a\\'b'"],
    ),
    "catalogues": Subject(
        safe=[
            "SELECT relname, relkind FROM pg_class WHERE relname = 't'",
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 't' ORDER BY 1",
            "SELECT a.attname, format_type(a.atttypid, -1) FROM pg_attribute a WHERE a.attrelid = 't'::regclass",
            "SELECT name, setting FROM pg_settings WHERE name = 'work_mem'",
        ],
        near=[
            "SELECT last_value FROM pg_sequences",
            "SELECT txid_current() > 0",
            "SELECT pg_current_xact_id_if_assigned() IS NULL",
        ],
    ),
    "text search": Subject(
        near=[
            "SELECT to_tsvector('simple', 'a b') @@ 'a'::tsquery",
            "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, effect()::tsquery')",
            "SELECT * FROM ts_stat('SELECT effect()::tsvector')",
            "SELECT query_to_xml('SELECT effect()', true, true, '') IS NULL",
            "SELECT count(*) FROM lower('SELECT effect()::tsvector') x, LATERAL (SELECT x.ts_stat) y",
        ],
    ),
    "foreign tables": Subject(
        "CREATE EXTENSION IF NOT EXISTS file_fdw SCHEMA public; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
        "CREATE FOREIGN TABLE far (line text) SERVER files OPTIONS (program 'echo far');"
        "CREATE TABLE near (line text); INSERT INTO near VALUES ('near'); ALTER FOREIGN TABLE far INHERIT near;",
        safe=["TABLE near", "SELECT line FROM ONLY near"],
        near=["TABLE far"],
    ),
    "polymorphic functions": Subject(
        "CREATE FUNCTION other.upper(anyelement) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';"
        "CREATE FUNCTION concat(VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';"
        "CREATE FUNCTION left(text, int, int DEFAULT 1) RETURNS text LANGUAGE sql AS 'SELECT public.effect()';",
        safe=[
            "SELECT upper(w), concat(v, w) FROM t ORDER BY id",
            "SELECT left(v, 1) FROM t ORDER BY 1",
            "SELECT upper(id) FROM t",
        ],
        prelude=["SET search_path = other, public, pg_catalog"],
    ),
    "large objects": Subject(near=["SELECT lo_from_bytea(0, 'x') > 0", "SELECT lo_unlink(0)"]),
    "copies": Subject(near=["COPY t TO STDOUT", "COPY (SELECT effect()) TO STDOUT", "COPY log FROM STDIN"]),
    "backslashes": Subject(
        near=["SELECT 'a\\'' , effect() --'", "SELECT 'a\\b'"],
        prelude=[
            "SET standard_conforming_strings = off",
            "SET client_encoding = 'SJIS'",
            "SET client_encoding = 'LATIN1'",
        ],
    ),
    "timeouts": Subject(
        prelude=[
            "SET idle_session_timeout = '1h'",
            "SET idle_in_transaction_session_timeout = '1h'",
            "SET statement_timeout = '1h'",
        ],
    ),
    "citext": Subject(
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; CREATE TABLE words (w citext); INSERT INTO words VALUES ('A');"
        "CREATE FUNCTION strpos(citext, text, int) RETURNS text LANGUAGE sql AS 'SELECT effect()';",
        safe=[
            "SELECT max(v), min(w) FROM t WHERE v ~ 'o'",
            "SELECT 'a' = 'A', 'x' LIKE 'X', strpos(v, 'o') FROM t ORDER BY 3",
            "SELECT replace(v, 'o', '0') FROM t ORDER BY 1",
        ],
        near=["SELECT w FROM words WHERE w = 'a'", "SELECT 'A'::citext = 'a'", "SELECT max(w) FROM words"],
    ),
    "hstore": Subject(
        "CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public;",
        safe=[
            "SELECT '{\"a\": 1}'::jsonb -> 'a', j - 'a', j ? 'a' FROM t ORDER BY id",
            "SELECT j || '{\"c\": 1}' FROM t ORDER BY id",
            "SELECT 'a' || 'b' WHERE 'a' <> 'b'",
        ],
        near=["SELECT 'a=>1'::hstore -> 'a'", "SELECT v => w FROM t", "SELECT 'a=>1' -> 'a'"],
    ),
    "ltree": Subject(
        "CREATE EXTENSION IF NOT EXISTS ltree SCHEMA public;",
        safe=["SELECT v || 'x' FROM t WHERE v ~ 'o' ORDER BY 1", "SELECT id FROM t WHERE v > 'a' ORDER BY 1"],
        near=["SELECT 'a.b'::ltree <@ 'a'", "SELECT nlevel('a.b')", "SELECT 'a.b' @ 'a'"],
    ),
}
