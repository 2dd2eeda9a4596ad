"""One connection of one driver, told on standard input what to do, one order a line.

Orders: `execute SQL`, `commit`, `rollback`, `insert_many ROWS BYTES`, `execute_and_cancel SQL`.
Each is answered by one line: rows as `1|one; 2|two`, `ok`, or `error SQLSTATE`.
The server is named by the environment: PGHOST, PGPORT, PGDATABASE, PGUSER.
"""

import asyncio
import os
import sys

import meanwhile

WHERE = {
    "host": os.environ["PGHOST"],
    "port": int(os.environ["PGPORT"]),
    "user": os.environ["PGUSER"],
    "database": os.environ["PGDATABASE"],
}


class DbApi:
    """A driver of Python's DB-API: a transaction begins with the first statement."""

    def __init__(self, connection, placeholder="%s"):
        self.connection = connection
        self.placeholder = placeholder

    def execute(self, sql):
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def insert_many(self, rows):
        sql = f"INSERT INTO t VALUES ({self.placeholder}, {self.placeholder})"
        self.connection.cursor().executemany(sql, rows)

    def execute_and_cancel(self, sql):
        canceller = meanwhile.when(meanwhile.SLEEPS, self.connection.cancel)
        try:
            return self.execute(sql)
        finally:
            canceller.join()

    def commit(self):
        self.connection.commit()

    def rollback(self):
        self.connection.rollback()


class SqlAlchemy:
    """SQLAlchemy's connection on top of psycopg2."""

    def __init__(self):
        import sqlalchemy

        address = sqlalchemy.URL.create(
            "postgresql+psycopg2",
            username=WHERE["user"],
            host=WHERE["host"],
            port=WHERE["port"],
            database=WHERE["database"],
        )
        self.text = sqlalchemy.text
        self.connection = sqlalchemy.create_engine(address).connect()

    def execute(self, sql):
        result = self.connection.execute(self.text(sql))
        return result.fetchall() if result.returns_rows else []

    def commit(self):
        self.connection.commit()

    def rollback(self):
        self.connection.rollback()


class Asyncpg:
    """asyncpg, with its transaction object opened by the first statement."""

    def __init__(self):
        import asyncpg

        self.loop = asyncio.new_event_loop()
        self.connection = self.run(asyncpg.connect(**WHERE))
        self.transaction = None

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def begin(self):
        if self.transaction is None:
            self.transaction = self.connection.transaction()
            self.run(self.transaction.start())

    def execute(self, sql):
        self.begin()
        return self.run(self.connection.fetch(sql))

    def insert_many(self, rows):
        self.begin()
        self.run(self.connection.executemany("INSERT INTO t VALUES ($1, $2)", rows))

    def commit(self):
        transaction, self.transaction = self.transaction, None
        self.run(transaction.commit())

    def rollback(self):
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self.run(transaction.rollback())


def connect(driver):
    if driver == "psycopg2":
        import psycopg2

        return DbApi(psycopg2.connect(**WHERE))
    if driver == "psycopg":
        import psycopg

        where = dict(WHERE)
        where["dbname"] = where.pop("database")
        return DbApi(psycopg.connect(**where))
    if driver == "pg8000":
        import pg8000.dbapi

        return DbApi(pg8000.dbapi.connect(**WHERE))
    if driver == "asyncpg":
        return Asyncpg()
    if driver == "sqlalchemy":
        return SqlAlchemy()
    raise SystemExit(f"unknown driver {driver}")


def sqlstate(error):
    """SQLSTATE of a driver's exception, or its name where the driver itself complains."""
    error = getattr(error, "orig", None) or error
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is None and error.args and isinstance(error.args[0], dict):
        state = error.args[0].get("C")
    return state or f"{type(error).__name__}: {error}".replace("\n", " ")


def carry_out(session, order):
    verb, _, argument = order.partition(" ")
    if verb == "insert_many":
        rows, size = map(int, argument.split())
        session.insert_many([(number, "x" * size) for number in range(1, rows + 1)])
        return "ok"
    if verb in ("commit", "rollback"):
        getattr(session, verb)()
        return "ok"
    rows = getattr(session, verb)(argument)
    return "; ".join("|".join(str(value) for value in row) for row in rows) or "ok"


def main():
    session = connect(sys.argv[1])
    print("connected", flush=True)
    for line in sys.stdin:
        try:
            answer = carry_out(session, line.rstrip("\n"))
        except Exception as error:
            answer = f"error {sqlstate(error)}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
