"""psycopg2: large objects and named cursors end with a request of their own."""

import gc

import psycopg2
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, play


def opened():
    connection = psycopg2.connect(host=HOST, port=PORT, user=USER, dbname=DATABASE)
    cursor = connection.cursor()
    cursor.execute(INSERT)
    return connection, cursor.execute


def late_commit(flow):
    connection, execute = opened()
    flow.swallowed(execute)
    flow.step("commit", connection.commit)


def swallowed_error(flow):
    connection, execute = opened()
    flow.swallowed(execute)
    flow.step("statement", execute, LATE)
    flow.step("commit", connection.commit)


def large_object(flow):
    connection, execute = opened()
    large = [connection.lobject(0, "w")]
    flow.swallowed(execute)
    # Its destructor calls lo_close, and prints what that drew.
    large.clear()
    gc.collect()
    flow.step("commit", connection.commit)


def named_cursor(flow):
    connection, execute = opened()
    cursor = connection.cursor("c")
    cursor.execute("SELECT generate_series(1, 10)")
    flow.swallowed(execute)
    flow.step("close", cursor.close)
    flow.step("commit", connection.commit)


def released_savepoint(flow):
    connection, execute = opened()
    execute("SAVEPOINT a")
    flow.swallowed(execute)
    flow.step("release", execute, "RELEASE a")
    flow.step("commit", connection.commit)


def left_savepoint(flow):
    connection, execute = opened()
    execute("SAVEPOINT a")
    try:
        flow.silence(execute)
        execute(LATE)
    except psycopg2.Error as error:
        flow.note("statement", error)
        flow.step("rollback to", execute, "ROLLBACK TO a")
    flow.step("commit", connection.commit)


play(
    psycopg2.__version__.split()[0],
    {
        "A": late_commit,
        "B": swallowed_error,
        "D large object collected": large_object,
        "D named cursor closed": named_cursor,
        "S": released_savepoint,
        "R": left_savepoint,
    },
)
