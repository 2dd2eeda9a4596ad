"""psycopg 3: server-side cursors and nested transactions."""

import psycopg
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play


def opened():
    connection = psycopg.connect(host=HOST, port=PORT, user=USER, dbname=DATABASE)
    connection.execute(INSERT)
    return connection


def late_commit(flow):
    connection = opened()
    flow.swallowed(connection.execute)
    flow.step("commit", connection.commit)


def swallowed_error(flow):
    connection = opened()
    flow.swallowed(connection.execute)
    flow.step("statement", connection.execute, LATE)
    flow.step("commit", connection.commit)


def server_side_cursor(flow):
    connection = opened()

    def reads():
        with connection.cursor("c") as cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            flow.swallowed(connection.execute)

    flow.step("close", reads)
    flow.step("commit", connection.commit)


def nested(flow, late):
    connection = opened()
    try:
        with connection.transaction():
            flow.silence(connection.execute)
            late(connection)
    except (psycopg.Error, Own) as error:
        if not isinstance(error, Own):
            flow.note("nested", error)
    flow.step("commit", connection.commit)


def own(_):
    raise Own


play(
    psycopg.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "D server-side cursor closed": server_side_cursor,
        "S": lambda flow: nested(flow, lambda _: None),
        "R": lambda flow: nested(flow, lambda connection: connection.execute(LATE)),
        "R by the program's own exception": lambda flow: nested(flow, own),
    },
)
