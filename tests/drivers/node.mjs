// The libraries of Node.js, by name: `node node.mjs LIBRARY [FLOW]`.
// The command line and the lines that are printed: flow.py. NODE_DRIVERS is the folder in which they are installed.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.NODE_DRIVERS}/`);
const HOST = process.env.PGHOST, PORT = Number(process.env.PGPORT);
const USER = process.env.PGUSER, DATABASE = process.env.PGDATABASE;
const WHERE = { host: HOST, port: PORT, user: USER, database: DATABASE };
const URL = `postgres://${USER}@${HOST}:${PORT}/${DATABASE}`;
const INSERT = "INSERT INTO t VALUES (2, 'two')", LATE = "INSERT INTO t VALUES (3, 'three')", FAILS = "SELECT 1/0";
const SERIES = "SELECT generate_series(1, 10) AS n";

class Own extends Error {}

// A library: `transaction(body)` opens a transaction, gives the body its handle, and commits when the body is done; of a
// handle, `run(sql)` runs a statement and `nested(body)` runs a body in a nested transaction.
const LIBRARIES = {
  pg: () => byPg(new (require("pg").Client)(WHERE)),

  postgres: () => {
    const db = require("postgres")(URL, { max: 1, onnotice() {} });
    const handle = (tx) => ({
      run: (sql) => tx.unsafe(sql),
      nested: (body) => tx.savepoint((inner) => body(handle(inner))),
      cursor: (body) => body(tx.unsafe(SERIES).cursor(2)[Symbol.asyncIterator]()),
    });
    return { transaction: (body) => db.begin((tx) => body(handle(tx))) };
  },

  knex: () => {
    const db = require("knex")({ client: "pg", connection: WHERE });
    const handle = (tx) => ({
      run: (sql) => tx.raw(sql),
      nested: (body) => tx.transaction((inner) => body(handle(inner))),
    });
    return { transaction: (body) => db.transaction((tx) => body(handle(tx))) };
  },

  typeorm: async () => {
    const { DataSource } = require("typeorm");
    const db = await new DataSource({ type: "postgres", host: HOST, port: PORT, username: USER, database: DATABASE }).initialize();
    const handle = (tx) => ({
      run: (sql) => tx.query(sql),
      nested: (body) => tx.transaction((inner) => body(handle(inner))),
    });
    return { transaction: (body) => db.transaction((tx) => body(handle(tx))) };
  },

  sequelize: () => {
    const { Sequelize } = require("sequelize");
    const db = new Sequelize(URL, { logging: false });
    const handle = (transaction) => ({
      run: (sql) => db.query(sql, { transaction }),
      nested: (body) => db.transaction({ transaction }, (inner) => body(handle(inner))),
    });
    return { transaction: (body) => db.transaction((tx) => body(handle(tx))) };
  },

  "drizzle-orm": () => {
    const { drizzle } = require("drizzle-orm/node-postgres");
    const { sql } = require("drizzle-orm");
    const db = drizzle({ connection: WHERE });
    const handle = (tx) => ({
      run: (text) => tx.execute(sql.raw(text)),
      nested: (body) => tx.transaction((inner) => body(handle(inner))),
    });
    return { transaction: (body) => db.transaction((tx) => body(handle(tx))) };
  },

  kysely: () => {
    const { Kysely, PostgresDialect, CompiledQuery } = require("kysely");
    const db = new Kysely({ dialect: new PostgresDialect({ pool: new (require("pg").Pool)(WHERE) }) });
    return {
      transaction: (body) => db.transaction().execute((tx) => body({ run: (sql) => tx.executeQuery(CompiledQuery.raw(sql)) })),
    };
  },

  slonik: async () => {
    const { createPool, sql } = require("slonik");
    const pool = await createPool(URL);
    // It takes nothing but a template literal, and knows one by its being frozen.
    const query = (text) => sql.unsafe(Object.freeze(Object.assign([text], { raw: Object.freeze([text]) })));
    const handle = (tx) => ({
      run: (text) => tx.query(query(text)),
      nested: (body) => tx.transaction((inner) => body(handle(inner))),
    });
    return { transaction: (body) => pool.transaction((tx) => body(handle(tx))) };
  },

  "pg-promise": () => {
    const db = require("pg-promise")()(WHERE);
    const handle = (tx) => ({
      run: (sql) => tx.query(sql),
      nested: (body) => tx.tx((inner) => body(handle(inner))),
    });
    return { transaction: (body) => db.tx((tx) => body(handle(tx))) };
  },
};

async function byPg(client) {
  await client.connect();
  client.on("error", () => {});
  const handle = {
    run: (sql) => client.query(sql),
    async nested(body) {
      await client.query("SAVEPOINT a");
      try {
        await body(handle);
      } catch (error) {
        await client.query("ROLLBACK TO a");
        throw error;
      }
      await client.query("RELEASE a");
    },
    async cursor(body) {
      const cursor = client.query(new (require("pg-cursor"))(SERIES));
      await body({ next: () => cursor.read(2), return: () => cursor.close() });
    },
  };
  return {
    async transaction(body) {
      await client.query("BEGIN");
      await body(handle);
      await client.query("COMMIT");
    },
  };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const steps = [];

function note(name, error) {
  const state = error?.code ?? error?.parent?.code ?? error?.cause?.code;
  steps.push([name, error ? [error.constructor.name, state].filter(Boolean).join(" ") : null]);
}

async function step(name, act) {
  try {
    await act();
    note(name);
  } catch (error) {
    note(name, error);
  }
}

async function silence(run) {
  console.log("stuck");
  if ((await lines.next()).value === "fail") await run(FAILS);
}

async function swallowed(run) {
  try {
    await silence(run);
  } catch {
    // The program wants to know nothing of it.
  }
}

// The step `commit` is the end of the transaction.
const inTransaction = (library, body) =>
  step("commit", () =>
    library.transaction(async (tx) => {
      await tx.run(INSERT);
      await body(tx);
    }));

const nested = (late) => async (library) =>
  inTransaction(library, async (tx) => {
    try {
      await tx.nested(async (inner) => {
        await silence(inner.run);
        await late(inner);
      });
    } catch (error) {
      if (!(error instanceof Own)) note("nested", error);
    }
  });

const FLOWS = {
  A: (library) => inTransaction(library, (tx) => swallowed(tx.run)),
  B: (library) =>
    inTransaction(library, async (tx) => {
      await swallowed(tx.run);
      await step("statement", () => tx.run(LATE));
    }),
  "D cursor closed": (library) =>
    inTransaction(library, (tx) =>
      tx.cursor(async (rows) => {
        await rows.next();
        await swallowed(async () => {});
        await step("close", () => rows.return());
      })),
  S: nested(async () => {}),
  R: nested((inner) => inner.run(LATE)),
  "R by the program's own exception": nested(async () => {
    throw new Own();
  }),
};
const CURSORS = ["pg", "postgres"];

const [name, flow] = process.argv.slice(2);
if (flow === undefined) {
  const { version } = JSON.parse(require("node:fs").readFileSync(`${process.env.NODE_DRIVERS}/node_modules/${name}/package.json`));
  const plays = Object.keys(FLOWS).filter((flow) =>
    flow.startsWith("D") ? CURSORS.includes(name) : name !== "kysely" || !/^[SR]/.test(flow));
  console.log(JSON.stringify({ version, flows: plays }));
} else {
  await FLOWS[flow](await LIBRARIES[name]());
  console.log(JSON.stringify({ flow, steps }));
}
process.exit();
