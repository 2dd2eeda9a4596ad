"""SQLAlchemy on psycopg2: server-side results and nested transactions."""

import sqlalchemy
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play


def opened():
    address = sqlalchemy.URL.create(
        "postgresql+psycopg2", username=USER, host=HOST, port=PORT, database=DATABASE
    )
    connection = sqlalchemy.create_engine(address).connect()

    def execute(sql):
        return connection.execute(sqlalchemy.text(sql))

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


def server_side_result(flow):
    connection, execute = opened()
    rows = sqlalchemy.text("SELECT generate_series(1, 10000)")
    result = connection.execution_options(stream_results=True).execute(rows)
    result.fetchone()
    flow.swallowed(execute)
    flow.step("close", result.close)
    flow.step("commit", connection.commit)


def nested(flow, late):
    connection, execute = opened()
    try:
        with connection.begin_nested():
            flow.silence(execute)
            late(execute)
    except (sqlalchemy.exc.DBAPIError, Own) as error:
        if not isinstance(error, Own):
            flow.note("nested", error)
    flow.step("commit", connection.commit)


def own(_):
    raise Own


play(
    sqlalchemy.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "D server-side result closed": server_side_result,
        "S": lambda flow: nested(flow, lambda _: None),
        "R": lambda flow: nested(flow, lambda execute: execute(LATE)),
        "R by the program's own exception": lambda flow: nested(flow, own),
    },
)
