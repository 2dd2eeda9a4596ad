"""peewee on psycopg2: a nested atomic block is a savepoint."""

import peewee
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play

database = peewee.PostgresqlDatabase(DATABASE, host=HOST, port=PORT, user=USER)


def in_transaction(flow, body):
    def block():
        with database.atomic():
            database.execute_sql(INSERT)
            body()

    flow.step("commit", block)


def late_commit(flow):
    in_transaction(flow, lambda: flow.swallowed(database.execute_sql))


def swallowed_error(flow):
    def body():
        flow.swallowed(database.execute_sql)
        flow.step("statement", database.execute_sql, LATE)

    in_transaction(flow, body)


def nested(flow, late):
    def body():
        try:
            with database.atomic():
                flow.silence(database.execute_sql)
                late()
        except (peewee.DatabaseError, Own) as error:
            if not isinstance(error, Own):
                flow.note("nested", error)

    in_transaction(flow, body)


def own():
    raise Own


play(
    peewee.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "S": lambda flow: nested(flow, lambda: None),
        "R": lambda flow: nested(flow, lambda: database.execute_sql(LATE)),
        "R by the program's own exception": lambda flow: nested(flow, own),
    },
)
