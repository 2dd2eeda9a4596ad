"""What a driver's user sees who comes too late: late.py DRIVER commit|statement|rollback.

Opens a transaction, says `stuck`, waits for a line, does the late thing, and answers with one line of JSON: the
exception's class and SQLSTATE (null where there was none), and whether the same session answers afterwards.
"""

import json
import sys

import session


class Pool(session.SqlAlchemy):
    """A connection that goes back to its pool, of one, and is taken out again."""

    def afresh(self):
        engine = self.connection.engine
        self.connection.close()
        self.connection = engine.connect()


class Pipeline(session.DbApi):
    """psycopg 3 in its pipeline mode, with a fetch that flushes."""

    def __init__(self, connection):
        super().__init__(connection)
        self.begin()

    def begin(self):
        self.context = self.connection.pipeline()
        self.pipeline = self.context.__enter__()

    def execute(self, sql):
        cursor = self.connection.execute(sql)
        return cursor.fetchall() if sql.startswith("SELECT") else self.pipeline.sync()

    def afresh(self):
        self.context.__exit__(None, None, None)
        self.rollback()
        self.begin()


def psycopg(**options):
    import psycopg as driver

    where = dict(session.WHERE)
    where["dbname"] = where.pop("database")
    if options.pop("simple", False):
        options["cursor_factory"] = driver.ClientCursor
    return driver.connect(**where, **options)


DRIVERS = {
    "psycopg-simple": lambda: session.DbApi(psycopg(simple=True)),
    "psycopg-extended": lambda: session.DbApi(psycopg(prepare_threshold=0)),
    "psycopg-pipeline": lambda: Pipeline(psycopg()),
    "sqlalchemy": Pool,
}


def late(connection, situation):
    if situation == "statement":
        connection.execute("INSERT INTO t VALUES (3, 'three')")
    else:
        getattr(connection, situation)()


def attempt(do, *arguments):
    """The class and the SQLSTATE of what was raised."""
    try:
        do(*arguments)
    except Exception as error:
        state = session.sqlstate(error)
        return type(error).__name__, state if len(state) == 5 else None
    return None, None


def server_pid(connection):
    return str(connection.execute("SELECT pg_backend_pid()")[0][0])


def lives_on(connection, before):
    """Whether the same session answers after the driver's own way back."""
    attempt(getattr(connection, "afresh", connection.rollback))
    try:
        return server_pid(connection) == before
    except Exception:
        return False


def main():
    driver, situation = sys.argv[1:]
    connection = DRIVERS.get(driver, lambda: session.connect(driver))()
    before = server_pid(connection)
    connection.execute("INSERT INTO t VALUES (2, 'two')")
    print("stuck", flush=True)
    sys.stdin.readline()
    error, sqlstate = attempt(late, connection, situation)
    print(json.dumps({"error": error, "sqlstate": sqlstate, "usable": lives_on(connection, before)}), flush=True)


main()
