"""pg8000: a statement that is closed is a Close and a Sync."""

import pg8000.dbapi
import pg8000.native
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, play

import importlib.metadata


def opened():
    connection = pg8000.dbapi.connect(host=HOST, port=PORT, user=USER, database=DATABASE)
    execute = connection.cursor().execute
    execute(INSERT)
    return connection, execute


def late_commit(flow):
    connection, execute = opened()
    flow.swallowed(execute)
    flow.step("commit", connection.commit)


def swallowed_error(flow):
    connection, execute = opened()
    flow.swallowed(execute)
    flow.step("statement", execute, LATE)
    flow.step("commit", connection.commit)


def statement_closed(flow):
    connection = pg8000.native.Connection(USER, host=HOST, port=PORT, database=DATABASE)
    connection.run("BEGIN")
    connection.run(INSERT)
    statement = connection.prepare("SELECT 1")
    statement.run()
    flow.swallowed(connection.run)
    flow.step("close", statement.close)
    flow.step("commit", connection.run, "COMMIT")


def savepoint(flow, late):
    connection, execute = opened()
    execute("SAVEPOINT a")
    try:
        flow.silence(execute)
        if late:
            execute(LATE)
        flow.step("release", execute, "RELEASE a")
    except pg8000.dbapi.Error as error:
        flow.note("statement", error)
        flow.step("rollback to", execute, "ROLLBACK TO a")
    flow.step("commit", connection.commit)


play(
    importlib.metadata.version("pg8000"),
    {
        "A": late_commit,
        "B": swallowed_error,
        "D statement closed": statement_closed,
        "S": lambda flow: savepoint(flow, False),
        "R": lambda flow: savepoint(flow, True),
    },
)
