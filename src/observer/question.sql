-- What the observer asks: about the sessions $1, and about everyone on the server who waits.
--
-- A row of pg_stat_activity for each session, one of pg_locks for each lock that they hold, and one for each process that
-- waits for another. pg_blocking_pids does not know all of these: SERIALIZABLE READ ONLY DEFERRABLE has a function of its
-- own, the replay of a standby is no backend, and some waits are not for locks. Where PostgreSQL does not tell who is in
-- the way, `suspects` are all those who can be.
--
-- pg_blocking_pids needs the lock manager for itself for a moment, so it is asked about those who wait, and nobody else.
-- Of relations in other databases only the number can be known.
WITH sessions AS MATERIALIZED (
    SELECT unnest($1::int4[]) AS pid
), activity AS MATERIALIZED (
    -- `leader` stands for a whole parallel group, as in pg_blocking_pids.
    SELECT a.pid, coalesce(a.leader_pid, a.pid) AS leader, a.datname, a.usename, a.application_name, a.query,
        a.backend_type, a.state, a.backend_xmin, a.wait_event, pg_encoding_to_char(d.encoding)::text AS encoding
    FROM pg_stat_activity a LEFT JOIN pg_database d ON d.oid = a.datid
    WHERE a.pid <> pg_backend_pid()
), locks AS MATERIALIZED (
    SELECT * FROM pg_locks
    WHERE NOT granted OR locktype <> 'virtualxid' AND pid IN (SELECT pid FROM sessions)
), for_locks AS MATERIALIZED (
    SELECT l.pid, l.locktype, l.database, l.relation, l.mode, l.waitstart,
        CASE
            -- On a standby only the replay asks for this mode, and it waits for everyone who has any.
            WHEN pg_is_in_recovery() AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' THEN (
                SELECT array_agg(h.pid) FROM pg_locks h
                WHERE h.locktype = 'relation' AND h.database = l.database AND h.relation = l.relation
                    AND h.granted AND h.pid <> l.pid
            )
            ELSE b.pids
        END AS blocked_by,
        -- Process 0 stands for prepared transactions, each of which holds a lock on its transaction id.
        CASE WHEN 0 = ANY (b.pids) THEN (
            SELECT array_agg(h.mode || ' ' || x.gid)
            FROM pg_prepared_xacts x
                JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = x.transaction
                JOIN pg_locks h USING (virtualtransaction)
            WHERE own.pid IS NULL AND own.granted AND h.pid IS NULL AND h.granted
                AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
                    IS NOT DISTINCT FROM
                    (l.locktype, l.database, l.relation, l.page, l.tuple, l.transactionid, l.classid, l.objid, l.objsubid)
        ) END AS prepared
    FROM locks l CROSS JOIN LATERAL (SELECT pg_blocking_pids(l.pid) AS pids) b
    WHERE NOT l.granted
), for_others AS MATERIALIZED (
    SELECT a.pid, a.wait_event,
        CASE a.wait_event
            WHEN 'SafeSnapshot' THEN pg_safe_snapshot_blocking_pids(a.pid)
            -- The replay waits for old snapshots in one database, or in all: where only one has any, the oldest is
            -- among them.
            WHEN 'RecoveryConflictSnapshot' THEN (
                SELECT array_agg(s.pid) FILTER (WHERE s.age = s.oldest)
                FROM (
                    SELECT pid, datname, age(backend_xmin), max(age(backend_xmin)) OVER () AS oldest FROM activity
                    WHERE backend_xmin IS NOT NULL AND datname IS NOT NULL
                ) s
                HAVING count(DISTINCT s.datname) = 1
            )
        END AS blocked_by,
        CASE
            WHEN a.wait_event = 'RecoveryConflictSnapshot' THEN (
                SELECT array_agg(pid) FROM activity WHERE backend_xmin IS NOT NULL AND datname IS NOT NULL
            )
            WHEN a.wait_event = 'RecoveryConflictTablespace' THEN (
                SELECT array_agg(DISTINCT o.leader)
                FROM activity o JOIN pg_locks h USING (pid)
                WHERE h.locktype = 'virtualxid' AND h.granted AND o.datname IS NOT NULL
            )
            -- A cursor pins a buffer, and has its relation locked.
            WHEN a.wait_event IN ('BufferPin', 'BufferCleanup') THEN (
                SELECT array_agg(DISTINCT o.leader)
                FROM activity o JOIN pg_locks h USING (pid)
                WHERE h.locktype = 'relation' AND h.granted AND o.leader <> a.leader AND o.datname IS NOT NULL
                    AND (pg_is_in_recovery() OR (h.database, h.relation) IN (
                        SELECT v.database, v.relation FROM pg_locks v
                        WHERE v.pid = a.leader AND v.locktype = 'relation' AND v.mode = 'ShareUpdateExclusiveLock'
                    ))
            )
            -- COPY FROM STDIN takes no note of barriers while it waits for data.
            WHEN a.wait_event = 'ProcSignalBarrier' THEN (
                SELECT array_agg(pid) FROM activity WHERE state = 'active' AND wait_event = 'ClientRead'
            )
        END AS suspects
    FROM activity a
    WHERE a.wait_event IN ('SafeSnapshot', 'RecoveryConflictSnapshot', 'RecoveryConflictTablespace', 'BufferPin',
        'BufferCleanup', 'ProcSignalBarrier')
), waiting AS (
    SELECT pid, locktype AS waits_for, database, relation, mode, waitstart, blocked_by, NULL::int4[] AS suspects, prepared
    FROM for_locks
    UNION ALL
    SELECT pid, wait_event, NULL, NULL, NULL, NULL, blocked_by, suspects, NULL FROM for_others
), named AS NOT MATERIALIZED (
    SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
        (SELECT oid FROM pg_database WHERE datname = current_database()) AS database
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
)
SELECT 'session' AS what, pid, datname::text AS database, usename::text AS role, age(backend_xmin) AS xmin_age,
    -- Who may not see the process's state does not see either what it waits for.
    CASE WHEN current_setting('synchronous_standby_names') = '' THEN false
        WHEN state IS NOT NULL THEN coalesce(wait_event = 'SyncRep', false) END AS awaits_standby,
    NULL AS waits_for, NULL AS relation, NULL AS mode, NULL::bool AS fastpath, NULL AS application_name,
    NULL AS backend_type, NULL::bytea AS statement, NULL AS encoding, NULL::int8 AS waiting_us, NULL::int4[] AS blocked_by,
    NULL::int4[] AS suspects, NULL::text[] AS prepared
FROM activity
WHERE pid IN (SELECT pid FROM sessions)
UNION ALL
SELECT 'lock', l.pid, NULL, NULL, NULL, NULL, l.locktype, n.name, l.mode, l.fastpath, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL
FROM locks l LEFT JOIN named n ON n.oid = l.relation AND l.database IN (0, n.database)
WHERE l.granted
UNION ALL
SELECT 'waiter', coalesce(a.leader, w.pid), NULL, s.usename::text, NULL, NULL, w.waits_for, n.name, w.mode, NULL,
    s.application_name, s.backend_type, substr(textsend(s.query), 1, {max_text}), s.encoding,
    (extract(epoch FROM clock_timestamp() - w.waitstart) * 1000000)::int8, w.blocked_by, w.suspects, w.prepared
FROM waiting w
    LEFT JOIN activity a ON a.pid = w.pid
    LEFT JOIN activity s ON s.pid = a.leader
    LEFT JOIN named n ON n.oid = w.relation AND w.database IN (0, n.database)
