// What a user of a Node.js driver sees who comes too late: late.mjs pg|postgres commit|statement|rollback.
// It speaks on its standard streams as tests/python/late.py does.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [driver, situation] = process.argv.slice(2);
const require = createRequire(`${process.env.NODE_DRIVERS}/`);
const insert = (id) => `INSERT INTO t VALUES (${id}, 'row')`;
const identity = "SELECT pg_backend_pid() AS pid";

function stuck() {
  console.log("stuck");
  const lines = createInterface({ input: process.stdin });
  return new Promise((resolve) => lines.once("line", () => (lines.close(), resolve())));
}

async function attempt(doIt) {
  try {
    await doIt();
    return { error: null, sqlstate: null };
  } catch (error) {
    const sqlstate = /^[0-9A-Z]{5}$/.test(error.code) ? error.code : null;
    const code = sqlstate || !error.code ? "" : ` ${error.code}`;
    return { error: error.constructor.name + code, sqlstate };
  }
}

async function withPg() {
  const { Client } = require("pg");
  const client = new Client();
  client.on("error", () => {}); // Without a listener the loss of a connection ends the process.
  await client.connect();
  const pid = async () => (await client.query(identity)).rows[0].pid;
  const before = await pid();
  await client.query("BEGIN");
  await client.query(insert(2));
  await stuck();
  const statements = { commit: "COMMIT", rollback: "ROLLBACK", statement: insert(3) };
  const seen = await attempt(() => client.query(statements[situation]));
  await attempt(() => client.query("ROLLBACK"));
  const usable = await pid().then((after) => after === before, () => false);
  return { ...seen, usable };
}

async function withPostgres() {
  const sql = require("postgres")({ max: 1, database: process.env.PGDATABASE, onnotice: () => {} });
  const pid = async () => (await sql.unsafe(identity))[0].pid;
  const before = await pid();
  class OnPurpose extends Error {}
  const seen = await attempt(async () => {
    await sql
      .begin(async (transaction) => {
        await transaction.unsafe(insert(2));
        await stuck();
        if (situation === "statement") await transaction.unsafe(insert(3));
        if (situation === "rollback") throw new OnPurpose();
      })
      .catch((error) => {
        if (!(error instanceof OnPurpose)) throw error;
      });
  });
  const usable = await pid().then((after) => after === before, () => false);
  return { ...seen, usable };
}

console.log(JSON.stringify(await (driver === "pg" ? withPg() : withPostgres())));
process.exit();
