WITH held AS (
    SELECT l.locktype, l.mode, l.granted, l.database, l.relation, r.relkind, r.relpersistence, r.relrowsecurity
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) l.relation
    WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
), relations AS (
    SELECT h.relation FROM held h WHERE h.relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
)
SELECT FROM pg_catalog.generate_series(1, (SELECT CASE
WHEN pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'::pg_catalog.text
    THEN 5
WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors c
    WHERE c.name OPERATOR(pg_catalog.<>) ALL (ARRAY[''::pg_catalog.text, 'pgidle_release'::pg_catalog.text]))
    THEN 6
WHEN EXISTS (SELECT FROM held h WHERE (
    h.locktype OPERATOR(pg_catalog.=) 'virtualxid'::pg_catalog.text
    OR h.locktype OPERATOR(pg_catalog.=) 'relation'::pg_catalog.text
        AND h.mode OPERATOR(pg_catalog.=) 'AccessShareLock'::pg_catalog.text AND h.granted
        AND (h.relation OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
            OR h.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,i,I,t}'::pg_catalog."char"[])
            AND h.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog."char"
            AND NOT h.relrowsecurity)) IS NOT TRUE)
    THEN 7
WHEN EXISTS (SELECT FROM relations h
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) h.relation
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
    LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem
    WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
    AND t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND t.typtype OPERATOR(pg_catalog.<>) 'e'::pg_catalog."char"
    AND (e.typtype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char") IS NOT TRUE)
    THEN 8
WHEN EXISTS (SELECT FROM (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS classid, h.relation AS objid
        FROM relations h
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, c.oid
        FROM relations h JOIN pg_catalog.pg_constraint c ON c.conrelid OPERATOR(pg_catalog.=) h.relation
    ) u JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) u.classid
        AND d.objid OPERATOR(pg_catalog.=) u.objid
    WHERE d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND d.refclassid OPERATOR(pg_catalog.=) ANY (ARRAY[
        'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid,
        'pg_catalog.pg_operator'::pg_catalog.regclass::pg_catalog.oid,
        'pg_catalog.pg_opclass'::pg_catalog.regclass::pg_catalog.oid]))
    THEN 9
WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p
    WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        AND (p.proname OPERATOR(pg_catalog.=) ANY ($1) OR p.proname OPERATOR(pg_catalog.=) ANY ($4))
    OR p.proname OPERATOR(pg_catalog.=) ANY ($4) AND p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
        AND p.pronargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2)
    THEN 10
WHEN EXISTS (SELECT FROM pg_catalog.pg_operator o
    WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND o.oprname OPERATOR(pg_catalog.=) ANY ($2))
    THEN 11
WHEN EXISTS (SELECT FROM pg_catalog.pg_type t
    WHERE t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    AND (t.typname OPERATOR(pg_catalog.=) ANY ($3)
        OR t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
        AND (t.typname OPERATOR(pg_catalog.=) ANY ($1) OR t.typname OPERATOR(pg_catalog.=) ANY ($4))))
    THEN 12
WHEN EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid)
    THEN 13
WHEN EXISTS (SELECT FROM pg_catalog.pg_opclass c
        WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND c.opcdefault
        AND c.opcintype OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
        AND c.opcmethod OPERATOR(pg_catalog.=) ANY ('{403,405}'::pg_catalog.oid[]))
    OR EXISTS (SELECT FROM pg_catalog.pg_amop m
        WHERE m.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        AND m.amopfamily OPERATOR(pg_catalog.<) 16384::pg_catalog.oid)
    THEN 14
WHEN COALESCE(pg_catalog.current_setting('idle_session_timeout', true), '0'::pg_catalog.text)
        OPERATOR(pg_catalog.=) '0'::pg_catalog.text
    THEN CASE WHEN pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on'::pg_catalog.text
        THEN 2 ELSE 1 END
ELSE CASE WHEN pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on'::pg_catalog.text
    THEN 4 ELSE 3 END
END))
