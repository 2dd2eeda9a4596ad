// The drivers of Node.js at pgidle's console, as programs and pools use them. NODE_DRIVERS is the folder with the drivers.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_DRIVERS}/`);
const shown = "SHOW SESSIONS id, tls, state_change, user";

async function nodePostgres() {
  const pg = require("pg");
  const pool = new pg.Pool({ max: 1 });
  for (const binary of [false, true]) {
    const client = await pool.connect();
    await client.query("BEGIN");
    const { rows } = await client.query({ name: `lists ${binary}`, text: "SHOW LISTS", binary });
    await client.query("COMMIT");
    await client.query(shown);
    const { rows: version } = await client.query("SELECT version()");
    const several = await client.query("SHOW VERSION; SHOW RULES");
    console.log("pg", binary, rows.length > 5, version[0].version.startsWith("PostgreSQL 18"), several.length);
    await client.query("SHOW NOTHING").catch((error) => console.log(error.code));
    client.release();
  }
  await pool.end();
}

async function postgresJs() {
  const postgres = require("postgres");
  const sql = postgres({ max: 1, onnotice: () => {} });
  const rows = await sql`SHOW LISTS`;
  await sql.unsafe(shown);
  const begun = await sql.begin((sql) => sql`SHOW RULES name`);
  await sql`SHOW NOTHING`.catch((error) => console.log(error.code));
  console.log("postgres", rows.length > 5, begun.length > 0);
  await sql.end();
}

await nodePostgres();
await postgresJs();
