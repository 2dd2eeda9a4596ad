//! The ways to wait that are played: the rows of the table in docs/waits.md.

use Place::{Primary, Standby};
use Verdict::{Ends, Leaves};

/// Where the session is that others wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Primary,
    Standby,
}

/// What is expected of `blocking`.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Ends,
    Leaves(&'static str),
}

/// One way to wait. On a standby it is the replay that waits, for the session on the standby, because of what is done on the
/// primary.
pub(super) struct Case {
    /// Who waits, and for what, as the table says it.
    pub(super) who: &'static str,
    pub(super) holds: &'static str,
    pub(super) place: Place,
    /// What the DBA does before, on the primary.
    pub(super) setup: &'static [&'static str],
    /// What the session does before it is idle.
    pub(super) holder: &'static [&'static str],
    /// What others do on the same server, each in a session of its own that stays: a database and statements.
    pub(super) others: &'static [(&'static str, &'static str)],
    /// Those who wait, in this order; on the primary.
    pub(super) waiters: &'static [&'static str],
    /// What the DBA does afterwards.
    pub(super) cleanup: &'static [&'static str],
    pub(super) verdict: Verdict,
    /// The first version that has it.
    pub(super) since: u32,
}

const PLAIN: Case = Case {
    who: "",
    holds: "",
    place: Primary,
    setup: &[],
    holder: &[],
    others: &[],
    waiters: &[],
    cleanup: &[],
    verdict: Ends,
    since: 0,
};

/// A function that waits for a lock where the server holds something for a moment only: in an index, in a parallel worker.
const GATE: &str = "CREATE TABLE gate (); \
    CREATE FUNCTION passes(k int) RETURNS int IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql \
    AS $$ BEGIN PERFORM FROM public.gate; RETURN k; END $$";

pub(super) const CASES: &[Case] = &[
    Case {
        who: "ALTER TABLE",
        holds: "a row of the table read",
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["ALTER TABLE t ADD COLUMN w int"],
        ..PLAIN
    },
    Case {
        who: "SELECT behind that ALTER TABLE",
        holds: "a row of the table read",
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["ALTER TABLE t ADD COLUMN w int", "SELECT FROM t"],
        ..PLAIN
    },
    Case {
        who: "UPDATE of the same row",
        holds: "a row updated",
        holder: &["BEGIN; UPDATE t SET v = 'mine'"],
        waiters: &["UPDATE t SET v = 'theirs'"],
        ..PLAIN
    },
    Case {
        who: "a second UPDATE of the same row",
        holds: "a row updated",
        holder: &["BEGIN; UPDATE t SET v = 'mine'"],
        waiters: &["UPDATE t SET v = 'theirs'", "UPDATE t SET v = 'others'"],
        ..PLAIN
    },
    Case {
        who: "DELETE of a row that two have locked",
        holds: "a row locked FOR SHARE",
        holder: &["BEGIN; SELECT FROM t FOR SHARE"],
        others: &[("postgres", "SELECT FROM t FOR SHARE")],
        waiters: &["DELETE FROM t"],
        ..PLAIN
    },
    Case {
        who: "INSERT of the same key",
        holds: "a row inserted",
        holder: &["BEGIN; INSERT INTO t VALUES (2, 'mine')"],
        waiters: &["INSERT INTO t VALUES (2, 'theirs') ON CONFLICT DO NOTHING"],
        ..PLAIN
    },
    Case {
        who: "INSERT … ON CONFLICT behind one that waits in an index",
        holds: "a table locked that a function in an index reads",
        setup: &[
            GATE,
            "CREATE UNIQUE INDEX ON t (id); CREATE UNIQUE INDEX ON t (passes(id))",
        ],
        holder: &["BEGIN; LOCK TABLE gate"],
        waiters: &[
            "INSERT INTO t VALUES (2) ON CONFLICT (id) DO NOTHING",
            "INSERT INTO t VALUES (2) ON CONFLICT (id) DO NOTHING",
        ],
        ..PLAIN
    },
    Case {
        who: "a GIN index cleaned up behind one that waits in it",
        holds: "a table locked that a function in an index reads",
        setup: &[
            GATE,
            "CREATE TYPE part AS (a int); \
             CREATE FUNCTION cmp(x part, y part) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT public.passes(x.a) - y.a'; \
             CREATE FUNCTION lt(x part, y part) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT public.cmp(x, y) < 0'; \
             CREATE FUNCTION le(x part, y part) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT public.cmp(x, y) <= 0'; \
             CREATE FUNCTION eq(x part, y part) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT public.cmp(x, y) = 0'; \
             CREATE FUNCTION ge(x part, y part) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT public.cmp(x, y) >= 0'; \
             CREATE FUNCTION gt(x part, y part) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT public.cmp(x, y) > 0'; \
             CREATE OPERATOR <# (LEFTARG = part, RIGHTARG = part, FUNCTION = lt); \
             CREATE OPERATOR <=# (LEFTARG = part, RIGHTARG = part, FUNCTION = le); \
             CREATE OPERATOR =# (LEFTARG = part, RIGHTARG = part, FUNCTION = eq); \
             CREATE OPERATOR >=# (LEFTARG = part, RIGHTARG = part, FUNCTION = ge); \
             CREATE OPERATOR ># (LEFTARG = part, RIGHTARG = part, FUNCTION = gt)",
            "CREATE OPERATOR CLASS parts DEFAULT FOR TYPE part USING btree AS OPERATOR 1 <#, OPERATOR 2 <=#, \
             OPERATOR 3 =#, OPERATOR 4 >=#, OPERATOR 5 >#, FUNCTION 1 cmp(part, part)",
            "CREATE TABLE assembled (v part[]); CREATE INDEX gin ON assembled USING gin (v)",
            "INSERT INTO assembled SELECT ARRAY[ROW(g)::part, ROW(g + 1)::part] FROM generate_series(1, 20) g",
        ],
        holder: &["BEGIN; LOCK TABLE gate"],
        waiters: &[
            "SELECT gin_clean_pending_list('gin')",
            "SELECT gin_clean_pending_list('gin')",
        ],
        ..PLAIN
    },
    Case {
        who: "DROP SCHEMA",
        holds: "a table created in the schema",
        setup: &["CREATE SCHEMA s"],
        holder: &["BEGIN; CREATE TABLE s.new ()"],
        waiters: &["DROP SCHEMA s CASCADE"],
        ..PLAIN
    },
    Case {
        who: "CREATE INDEX CONCURRENTLY",
        holds: "another table read, with a snapshot",
        holder: &["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class"],
        waiters: &["CREATE INDEX CONCURRENTLY ON t (v)"],
        ..PLAIN
    },
    Case {
        who: "REINDEX CONCURRENTLY",
        holds: "a row of the table read",
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["REINDEX TABLE CONCURRENTLY t"],
        ..PLAIN
    },
    Case {
        who: "DROP INDEX CONCURRENTLY",
        holds: "a row of the table read",
        setup: &["CREATE INDEX i ON t (v)"],
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["DROP INDEX CONCURRENTLY i"],
        ..PLAIN
    },
    Case {
        who: "DETACH PARTITION CONCURRENTLY",
        holds: "a row of the partitioned table read",
        setup: &[
            "CREATE TABLE whole (id int) PARTITION BY LIST (id)",
            "CREATE TABLE part1 PARTITION OF whole FOR VALUES IN (1)",
        ],
        holder: &["BEGIN; SELECT FROM whole"],
        waiters: &["ALTER TABLE whole DETACH PARTITION part1 CONCURRENTLY"],
        ..PLAIN
    },
    Case {
        who: "a function for the same advisory lock",
        holds: "the lock, for the transaction (`pg_advisory_xact_lock`)",
        holder: &["BEGIN; SELECT pg_advisory_xact_lock(7)"],
        waiters: &["SELECT pg_advisory_xact_lock(7)"],
        verdict: Leaves(
            "it can be the session's lock, which outlives the transaction; `terminate` acts",
        ),
        ..PLAIN
    },
    Case {
        who: "a function for the same advisory lock",
        holds: "the lock, for the session (`pg_advisory_lock`)",
        holder: &["SELECT pg_advisory_lock(7)", "BEGIN; SELECT FROM t"],
        waiters: &["SELECT pg_advisory_xact_lock(7)"],
        verdict: Leaves("the session's lock outlives the transaction; `terminate` acts"),
        ..PLAIN
    },
    Case {
        who: "ALTER TABLE that waits for a prepared transaction too",
        holds: "a row of the table read",
        setup: &["BEGIN; LOCK TABLE t IN ROW SHARE MODE; PREPARE TRANSACTION 'two-phase'"],
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["ALTER TABLE t ADD COLUMN w int"],
        cleanup: &["ROLLBACK PREPARED 'two-phase'"],
        verdict: Leaves("it would wait on for the prepared transaction"),
        ..PLAIN
    },
    Case {
        who: "SELECT whose parallel workers wait",
        holds: "a table locked that a function reads",
        setup: &[
            GATE,
            "CREATE TABLE wide AS SELECT g FROM generate_series(1, 20000) g; ALTER TABLE wide SET (parallel_workers = 2)",
        ],
        holder: &["BEGIN; LOCK TABLE gate"],
        waiters: &[
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; \
             SET parallel_leader_participation = off; SELECT sum(passes(g)) FROM wide",
        ],
        ..PLAIN
    },
    Case {
        who: "ALTER TABLE",
        holds: "a parallel SELECT whose client does not read",
        setup: &[
            "CREATE TABLE wide AS SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g; \
             ALTER TABLE wide SET (parallel_workers = 2)",
        ],
        holder: &[
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
            "unread: SELECT * FROM wide",
        ],
        waiters: &["ALTER TABLE wide ADD COLUMN w int"],
        ..PLAIN
    },
    Case {
        who: "pg_create_logical_replication_slot",
        holds: "a row inserted, anywhere",
        holder: &["BEGIN; INSERT INTO t VALUES (2)"],
        waiters: &["SELECT pg_create_logical_replication_slot('slot', 'pgoutput')"],
        cleanup: &["SELECT pg_drop_replication_slot('slot')"],
        ..PLAIN
    },
    Case {
        who: "REPACK (CONCURRENTLY), in a worker (from 19 on)",
        holds: "a row inserted, anywhere",
        setup: &["CREATE TABLE elsewhere ()"],
        holder: &["BEGIN; INSERT INTO elsewhere DEFAULT VALUES"],
        waiters: &["REPACK (CONCURRENTLY) t"],
        since: 19,
        ..PLAIN
    },
    Case {
        who: "the worker of a subscription",
        holds: "the table locked",
        setup: &[
            "in other: CREATE TABLE t (id int PRIMARY KEY, v text)",
            "in other: CREATE PUBLICATION made FOR TABLE t",
            "in other: SELECT pg_create_logical_replication_slot('subscribed', 'pgoutput')",
            "CREATE SUBSCRIPTION taken CONNECTION '{other}' PUBLICATION made \
             WITH (create_slot = false, slot_name = 'subscribed', copy_data = false)",
        ],
        holder: &["BEGIN; LOCK TABLE t IN SHARE MODE"],
        waiters: &["in other: INSERT INTO t VALUES (2)"],
        cleanup: &[
            "DO $$ BEGIN WHILE (SELECT count(*) FROM t) < 2 LOOP PERFORM pg_sleep(0.01); END LOOP; END $$",
            "DROP SUBSCRIPTION taken",
        ],
        ..PLAIN
    },
    Case {
        who: "BEGIN … SERIALIZABLE, READ ONLY, DEFERRABLE",
        holds: "a serializable transaction that may write",
        holder: &["BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t VALUES (2)"],
        waiters: &[
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SELECT FROM t; COMMIT",
        ],
        ..PLAIN
    },
    Case {
        who: "VACUUM (FREEZE)",
        holds: "a cursor on the page; nobody else has the table locked",
        holder: &["BEGIN; DECLARE c CURSOR FOR SELECT FROM t; FETCH 1 FROM c"],
        waiters: &["VACUUM (FREEZE) t"],
        ..PLAIN
    },
    Case {
        who: "VACUUM (FREEZE)",
        holds: "a cursor on the page; others have the table locked too",
        holder: &["BEGIN; DECLARE c CURSOR FOR SELECT FROM t; FETCH 1 FROM c"],
        others: &[("postgres", "SELECT FROM t")],
        waiters: &["VACUUM (FREEZE) t"],
        verdict: Leaves("PostgreSQL does not tell whose cursor it is; `idle` acts"),
        ..PLAIN
    },
    Case {
        who: "DROP DATABASE, of any other one",
        holds: "COPY FROM STDIN without data",
        setup: &["CREATE DATABASE doomed"],
        holder: &["BEGIN", "COPY t FROM STDIN"],
        waiters: &["DROP DATABASE doomed"],
        verdict: Leaves("PostgreSQL does not tell who has not seen the barrier; `stalled` acts"),
        ..PLAIN
    },
    Case {
        who: "the replay of ALTER TABLE",
        holds: "a row of the table read",
        place: Standby,
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["ALTER TABLE t ADD COLUMN w int"],
        ..PLAIN
    },
    Case {
        who: "SELECT on the standby, behind that replay",
        holds: "a row of the table read",
        place: Standby,
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &[
            "ALTER TABLE t ADD COLUMN w int",
            "on the standby: SELECT FROM t",
        ],
        ..PLAIN
    },
    Case {
        who: "COMMIT with synchronous_commit = remote_apply, behind that replay",
        holds: "a row of the table read",
        place: Standby,
        setup: &[
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
            // Commits wait once the checkpointer has read it too.
            "SELECT pg_sleep(0.2)",
            "CHECKPOINT",
        ],
        holder: &["BEGIN; SELECT FROM t"],
        waiters: &["SET synchronous_commit = remote_apply; ALTER TABLE t ADD COLUMN w int"],
        cleanup: &[
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
        ],
        ..PLAIN
    },
    Case {
        who: "the replay of VACUUM",
        holds: "an old snapshot; all others are in the same database",
        place: Standby,
        holder: &["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class"],
        waiters: &["DELETE FROM t", "VACUUM t"],
        ..PLAIN
    },
    Case {
        who: "the replay of VACUUM",
        holds: "an old snapshot; others are in other databases",
        place: Standby,
        holder: &["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class"],
        others: &[("other", "SELECT FROM pg_class")],
        waiters: &["DELETE FROM t", "VACUUM t"],
        verdict: Leaves(
            "PostgreSQL does not tell in which database the snapshot is in the way; `idle` acts",
        ),
        ..PLAIN
    },
    Case {
        who: "the replay of VACUUM",
        holds: "a cursor on the page; nobody else has any table locked",
        place: Standby,
        setup: &[
            "INSERT INTO t SELECT g FROM generate_series(2, 9) g",
            "DELETE FROM t WHERE id > 5",
        ],
        holder: &["BEGIN; DECLARE c CURSOR FOR SELECT FROM t; FETCH 1 FROM c"],
        waiters: &["VACUUM t"],
        ..PLAIN
    },
    Case {
        who: "the replay of VACUUM",
        holds: "a cursor on the page; others have tables locked",
        place: Standby,
        setup: &[
            "INSERT INTO t SELECT g FROM generate_series(2, 9) g",
            "DELETE FROM t WHERE id > 5",
        ],
        holder: &["BEGIN; DECLARE c CURSOR FOR SELECT FROM t; FETCH 1 FROM c"],
        others: &[("postgres", "SELECT FROM pg_class")],
        waiters: &["VACUUM t"],
        verdict: Leaves("PostgreSQL does not tell whose cursor it is; `idle` acts"),
        ..PLAIN
    },
    Case {
        who: "the replay of DROP TABLESPACE",
        holds: "a cursor with temporary files in it; nobody else is in a transaction",
        place: Standby,
        setup: &[
            "SET allow_in_place_tablespaces = on",
            "CREATE TABLESPACE apart LOCATION ''",
        ],
        holder: &[
            "SET temp_tablespaces = 'apart'; SET work_mem = '64kB'",
            "BEGIN; DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 100000) g ORDER BY g DESC; FETCH 1 FROM c",
        ],
        waiters: &["DROP TABLESPACE apart"],
        ..PLAIN
    },
];

/// What a statement begins with that is for the database `other`, or for the standby.
pub(super) const IN_OTHER: &str = "in other: ";
pub(super) const ON_STANDBY: &str = "on the standby: ";

/// What a statement begins with whose result is not read.
pub(super) const UNREAD: &str = "unread: ";
