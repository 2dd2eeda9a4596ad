-- The names in pg_catalog of which every overload is harmless on this server: one a line, with its kind in front.
-- scripts/harmless-names.sh runs this on two servers and keeps in names.txt what both have.
--
-- Harmless is what cannot write, lock, notify, or run code that is not PostgreSQL's own. PostgreSQL's label for
-- volatility is not enough for that: the names below `exceptions` are labelled stable or immutable and are left out, but
-- for those below `reviewed`, which were looked at one by one.
WITH exceptions (pattern, reason) AS (VALUES
    ('\_pg\_%', 'helpers of information_schema'),
    ('pg\_%', 'too many to review; those that drivers and tools ask for are let in again below'),
    ('%xml%', 'some run SQL given as text, some read whole tables'),
    ('xpath%', 'with the rest of XML'),
    ('txid\_%', 'read or assign transaction ids, which release changes'),
    ('mxid\_age', 'reads transaction ids, which release changes'),
    ('%\_setting', 'reads what set_config may have changed for the transaction'),
    ('set\_config', 'changes settings'),
    ('current\_schema%', 'creates the schema for temporary tables when search_path begins with it'),
    ('ts\_%', 'run text search parsers and dictionaries, which may be user-made; ts_rewrite and ts_stat run SQL'),
    ('%\_to\_tsvector', 'run text search parsers and dictionaries'),
    ('%to\_tsquery', 'run text search parsers and dictionaries'),
    ('to\_tsvector', 'runs text search parsers and dictionaries'),
    ('tsmatchsel', 'with text search'),
    ('convert%', 'run conversions between encodings, which may be user-made'),
    ('json%\_populate\_record%', 'make values of a row type, which may be user-made'),
    ('json%\_to\_record%', 'make values of types that the caller names'),
    ('satisfies\_hash\_partition', 'runs the hash functions of a partition key, which may be user-made'),
    ('fmgr\_%', 'validators of function bodies'),
    ('%\_validator', 'validators'),
    ('%\_handler', 'handlers'),
    ('%send', 'output functions that nobody calls by name'),
    ('lo\_%', 'large objects'),
    ('lo%', 'large objects, and some functions that are let in again below'),
    ('nextval', 'sequences'), ('setval', 'sequences'), ('currval', 'sequences'), ('lastval', 'sequences'),
    ('dblink%', 'other servers')
), reviewed (name, reason) AS (VALUES
    ('pg_backend_pid', 'a number that is the session''s'), ('pg_postmaster_start_time', 'a time that is the server''s'),
    ('pg_char_to_encoding', 'a table in the program'), ('pg_encoding_to_char', 'a table in the program'),
    ('pg_client_encoding', 'reads client_encoding, of which the server reports every change'),
    ('pg_collation_for', 'looks at the type of its argument'), ('pg_typeof', 'looks at the type of its argument'),
    ('pg_column_size', 'looks at the length of its argument'), ('pg_size_pretty', 'writes out a number'),
    ('pg_conversion_is_visible', 'reads catalogues'), ('pg_function_is_visible', 'reads catalogues'),
    ('pg_opclass_is_visible', 'reads catalogues'), ('pg_operator_is_visible', 'reads catalogues'),
    ('pg_table_is_visible', 'reads catalogues'), ('pg_type_is_visible', 'reads catalogues'),
    ('pg_get_userbyid', 'reads catalogues'), ('pg_has_role', 'reads catalogues'),
    ('pg_my_temp_schema', 'names the schema for temporary tables if there is one, and makes none'),
    ('quote_literal', 'in SQL, and names what it calls with the schema'),
    ('quote_nullable', 'in SQL, and names what it calls with the schema'),
    ('textanycat', 'in SQL, and is what || is for text'), ('anytextcat', 'in SQL, and is what || is for text'),
    ('log', 'a logarithm'), ('log10', 'a logarithm'),
    ('lower', 'of strings and ranges'), ('lower_inc', 'of ranges'), ('lower_inf', 'of ranges')
), functions AS (
    SELECT p.proname::text AS name, p.oid,
        p.provolatile IN ('i', 's') AND NOT p.prosecdef AND p.prokind IN ('f', 'a', 'w')
        -- A body in quotes looks its names up when it runs; the few that are let in name theirs with the schema.
        AND (l.lanname IN ('internal', 'c') OR l.lanname = 'sql'
            AND (p.prosqlbody IS NOT NULL OR p.proname IN (SELECT r.name FROM reviewed r)))
        AND (p.proname IN (SELECT r.name FROM reviewed r) OR p.proname LIKE 'pg\_lsn%'
            OR NOT EXISTS (SELECT FROM exceptions e WHERE p.proname LIKE e.pattern))
        AS harmless,
        p.prorettype <> ALL ('{trigger,event_trigger,internal,cstring}'::regtype[])
        AND NOT p.proargtypes::oid[] && '{internal,cstring}'::regtype[]::oid[] AS callable
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid < 16384 AND p.pronamespace = 'pg_catalog'::regnamespace
)
SELECT 'function ' || name FROM functions GROUP BY name HAVING bool_and(harmless) AND bool_or(callable)
UNION
SELECT 'operator ' || o.oprname FROM pg_operator o LEFT JOIN functions f ON f.oid = o.oprcode
WHERE o.oid < 16384 GROUP BY o.oprname HAVING bool_and(coalesce(f.harmless, false))
UNION
SELECT 'type ' || t.typname FROM pg_type t
WHERE t.oid < 16384 AND t.typnamespace = 'pg_catalog'::regnamespace
    AND t.typtype IN ('b', 'r', 'm') AND t.typcategory <> 'A' AND t.typname NOT LIKE 'pg\_%' AND t.typname <> 'xml';
