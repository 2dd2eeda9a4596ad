-- The question of a release: may the transaction of the session that asks be ended, and begun again when its client
-- speaks? Comments are not sent. It is bound and run by question.rs, which also reads the answer:
--
--   $1  name[]  names of functions that the statements of the transaction use
--   $2  name[]  names of operators, those included that the grammar stands for
--   $3  name[]  names of types
--   $4  name[]  last fields of column references: x.f may stand for f(x)
--   $5  text    the process id of the server that the session was told of, or `any` where that says nothing
--   $6  text    the name of the portal that this runs in, which is a cursor too
--   $7  bool    whether pg_attribute was read
--
-- The number of rows is the answer, and the rows have no columns: a count is in the CommandComplete, so that no value has
-- to be read in whatever format, encoding or time zone the client has chosen. Each number has a name, in the comment in
-- front of its branch; the first branch that holds decides.
--
-- Everything is named with its schema, operators and types too: search_path is the client's, and may lead to operators
-- that a user has made, which would run here.
WITH held AS (
    -- What has an oid below 16384 is PostgreSQL's own (FirstNormalObjectId).
    SELECT l.locktype, l.mode, l.granted, l.relation, r.relkind, r.relpersistence, r.relrowsecurity
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) l.relation
    WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
), relations AS (
    SELECT h.relation FROM held h WHERE h.relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
), types AS (
    SELECT t.oid, t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        AND t.typtype OPERATOR(pg_catalog.<>) 'e'::pg_catalog."char"
        AND (e.typtype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char") IS NOT TRUE AS is_user_made,
        -- tid, xid, cid and xid8 name places and versions of rows.
        t.oid OPERATOR(pg_catalog.=) ANY ('{27,28,29,5069}'::pg_catalog.oid[]) AS is_place,
        -- What is anyarray, alone or in a row, may be of any type of a user's: casts and output functions run for it.
        t.oid OPERATOR(pg_catalog.=) 2277::pg_catalog.oid
            OR 'c'::pg_catalog."char" OPERATOR(pg_catalog.=) ANY (ARRAY[t.typtype, e.typtype]) AS is_any
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem
), columns AS (
    SELECT t.is_user_made, t.is_any, t.is_place AND h.relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AS is_place
    FROM held h JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) h.relation
    JOIN types t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
    WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
    -- The question itself reads pg_attribute, but not the one column there that matters.
    AND h.relation OPERATOR(pg_catalog.<>) 'pg_catalog.pg_attribute'::pg_catalog.regclass::pg_catalog.oid
    AND (t.is_user_made OR t.is_place OR t.is_any)
), own AS (
    -- Base types that a user has made. No expression is of one: no column is, and no name that is used is that of a
    -- function or a type that could give one. So nothing is ever cast to or from one.
    SELECT t.oid, t.typcategory OPERATOR(pg_catalog.=) 'S'::pg_catalog."char" AS is_string,
        -- Nor does a choice among candidates prefer it, or take a value of another type for it.
        NOT t.typispreferred AND NOT EXISTS (SELECT FROM pg_catalog.pg_cast c
            JOIN pg_catalog.pg_type s ON s.oid OPERATOR(pg_catalog.=) c.castsource
            WHERE c.casttarget OPERATOR(pg_catalog.=) t.oid
            AND c.castcontext OPERATOR(pg_catalog.=) 'i'::pg_catalog."char"
            AND (s.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
                OR s.typtype OPERATOR(pg_catalog.<>) 'b'::pg_catalog."char"
                OR s.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)) AS closed
    FROM pg_catalog.pg_type t
    WHERE t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND t.typtype OPERATOR(pg_catalog.=) 'b'::pg_catalog."char"
    AND t.typelem OPERATOR(pg_catalog.=) 0::pg_catalog.oid
), callables AS (
    SELECT 'f'::pg_catalog."char" AS kind, p.oid, p.proname AS name, p.proargtypes::pg_catalog.oid[] AS types,
        p.provariadic OPERATOR(pg_catalog.=) 0::pg_catalog.oid
            AND p.pronargdefaults OPERATOR(pg_catalog.=) 0::pg_catalog.int2 AND p.proargnames IS NULL AS is_plain
    FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=) ANY ($1)
    UNION ALL
    SELECT o.oprkind, o.oid, o.oprname, ARRAY[o.oprleft, o.oprright], true
    FROM pg_catalog.pg_operator o WHERE o.oprname OPERATOR(pg_catalog.=) ANY ($2)
), meant AS (
    -- What a user has made and may be meant. It is never chosen where one of PostgreSQL's own is a candidate whenever
    -- it is one, and is never dropped before it (func_select_candidate in src/backend/parser/parse_func.c): one with
    -- the same types but where it has closed ones. What stands there can only be a literal without a type, which is
    -- taken for a string if any candidate takes one, and then for text.
    SELECT u.kind FROM callables u
    WHERE u.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND NOT (u.is_plain AND EXISTS (
        SELECT FROM callables s
        WHERE s.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
        AND s.kind OPERATOR(pg_catalog.=) u.kind AND s.name OPERATOR(pg_catalog.=) u.name
        AND s.types OPERATOR(pg_catalog.<>) u.types
        AND pg_catalog.cardinality(s.types) OPERATOR(pg_catalog.=) pg_catalog.cardinality(u.types)
        AND NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(u.types), pg_catalog.unnest(s.types)) a (mine, theirs)
            LEFT JOIN own o ON o.oid OPERATOR(pg_catalog.=) a.mine
            WHERE a.mine OPERATOR(pg_catalog.<>) a.theirs
            AND (o.closed AND (a.theirs OPERATOR(pg_catalog.=) 25::pg_catalog.oid OR NOT o.is_string)) IS NOT TRUE)))
), members AS (
    SELECT m.oid, m.amopfamily AS family, m.amoplefttype AS l, m.amoprighttype AS r FROM pg_catalog.pg_amop m
    UNION ALL
    SELECT m.oid, m.amprocfamily, m.amproclefttype, m.amprocrighttype FROM pg_catalog.pg_amproc m
)
SELECT FROM pg_catalog.generate_series(1, (SELECT CASE
-- 15 other_process: the server process is not the one that the session was told of.
WHEN $5 OPERATOR(pg_catalog.<>) 'any'::pg_catalog.text
    AND pg_catalog.pg_backend_pid()::pg_catalog.text OPERATOR(pg_catalog.<>) $5
    THEN 15
-- 5 isolation: not READ COMMITTED, or DEFERRABLE.
WHEN pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'::pg_catalog.text
    OR pg_catalog.current_setting('transaction_deferrable') OPERATOR(pg_catalog.<>) 'off'::pg_catalog.text
    THEN 5
-- 6 cursor: a cursor is open besides the unnamed portal and ours.
WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors c
    WHERE c.name OPERATOR(pg_catalog.<>) ALL (ARRAY[''::pg_catalog.text, $6]))
    THEN 6
-- 16 prepared_by_sql: a name that was parsed by the protocol stands for another text, where SQL has prepared it again.
WHEN EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql)
    THEN 16
-- 7 lock: it holds more than a transaction does that has read permanent tables without row-level security.
WHEN EXISTS (SELECT FROM held h WHERE (
    h.locktype OPERATOR(pg_catalog.=) 'virtualxid'::pg_catalog.text
    OR h.locktype OPERATOR(pg_catalog.=) 'relation'::pg_catalog.text
        AND h.mode OPERATOR(pg_catalog.=) 'AccessShareLock'::pg_catalog.text AND h.granted
        AND (h.relation OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
            OR h.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,i,I,t}'::pg_catalog."char"[])
            AND h.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog."char"
            AND NOT h.relrowsecurity)) IS NOT TRUE)
    THEN 7
-- 8 user_made_column: a column that it may have read is of a user-made type.
WHEN EXISTS (SELECT FROM columns c WHERE c.is_user_made)
    THEN 8
-- 17 place: a column that it may have read names a place or a version of a row.
WHEN EXISTS (SELECT FROM columns c WHERE c.is_place)
    THEN 17
-- 18 any_type: a column that it may have read has values of any type.
WHEN EXISTS (SELECT FROM columns c WHERE c.is_any)
    OR $7 AND EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN types t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
        WHERE a.atthasmissing AND t.is_user_made)
    THEN 18
-- 9 user_made_index: an index, constraint or statistics runs a user-made function or operator.
WHEN EXISTS (SELECT FROM (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS classid, h.relation AS objid
        FROM relations h
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, c.oid
        FROM relations h JOIN pg_catalog.pg_constraint c ON c.conrelid OPERATOR(pg_catalog.=) h.relation
        UNION ALL
        SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass::pg_catalog.oid, s.oid
        FROM relations h JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid OPERATOR(pg_catalog.=) h.relation
    ) u JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) u.classid
        AND d.objid OPERATOR(pg_catalog.=) u.objid
    WHERE d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND d.refclassid OPERATOR(pg_catalog.=) ANY (ARRAY[
        'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid,
        'pg_catalog.pg_operator'::pg_catalog.regclass::pg_catalog.oid,
        'pg_catalog.pg_opclass'::pg_catalog.regclass::pg_catalog.oid]))
    THEN 9
-- 10 function: a user-made function may be meant by a name.
WHEN EXISTS (SELECT FROM meant m WHERE m.kind OPERATOR(pg_catalog.=) 'f'::pg_catalog."char")
    OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=) ANY ($4)
        AND (p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
            OR p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
            AND p.pronargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2))
    THEN 10
-- 11 operator: a user-made operator may be meant by a name.
WHEN EXISTS (SELECT FROM meant m WHERE m.kind OPERATOR(pg_catalog.<>) 'f'::pg_catalog."char")
    -- NOT (a @> b) may become a call of the operator that says to be the negator of @>.
    OR EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
        AND (o.oprcom OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
            OR o.oprnegate OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid))
    THEN 11
-- 12 type: a user-made type may be meant by a name.
WHEN EXISTS (SELECT FROM pg_catalog.pg_type t
    WHERE t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND (t.typname OPERATOR(pg_catalog.=) ANY ($3)
        OR t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
        AND (t.typname OPERATOR(pg_catalog.=) ANY ($1) OR t.typname OPERATOR(pg_catalog.=) ANY ($4))))
    THEN 12
-- 13 cast: a user-made cast may be looked up.
WHEN EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND NOT EXISTS (SELECT FROM own o
        WHERE o.oid OPERATOR(pg_catalog.=) c.castsource OR o.oid OPERATOR(pg_catalog.=) c.casttarget))
    THEN 13
-- 14 operator_class: sorting, grouping and joining look for members of families of btree (403) and hash (405) by type
-- and operator, and may find a user-made one.
WHEN EXISTS (SELECT FROM members m JOIN pg_catalog.pg_opfamily f ON f.oid OPERATOR(pg_catalog.=) m.family
    WHERE m.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND (f.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
        OR f.opfmethod OPERATOR(pg_catalog.=) ANY ('{403,405}'::pg_catalog.oid[])
        AND NOT (EXISTS (SELECT FROM own o WHERE o.oid OPERATOR(pg_catalog.=) m.l)
            AND EXISTS (SELECT FROM own o WHERE o.oid OPERATOR(pg_catalog.=) m.r))))
    THEN 14
-- 1 read_write, 2 read_only: it may be released, and begins again with the access that it has.
WHEN COALESCE(pg_catalog.current_setting('idle_session_timeout', true), '0'::pg_catalog.text)
        OPERATOR(pg_catalog.=) '0'::pg_catalog.text
    THEN CASE WHEN pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on'::pg_catalog.text
        THEN 2 ELSE 1 END
-- 3 read_write_at_once, 4 read_only_at_once: likewise, but at once: the server would close a session without a transaction.
ELSE CASE WHEN pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on'::pg_catalog.text
    THEN 4 ELSE 3 END
END))
