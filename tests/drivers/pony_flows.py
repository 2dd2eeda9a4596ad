"""Pony on psycopg2: DISCARD ALL when a connection is given back."""

import pony
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, play
from pony import orm

database = orm.Database(provider="postgres", host=HOST, port=PORT, user=USER, database=DATABASE)


def in_session(flow, body):
    def block():
        with orm.db_session:
            database.execute(INSERT)
            body()

    flow.step("commit", block)


def swallowed_error(flow):
    flow.swallowed(database.execute)
    flow.step("statement", database.execute, LATE)


play(
    pony.__version__,
    {
        "A": lambda flow: in_session(flow, lambda: flow.swallowed(database.execute)),
        "B": lambda flow: in_session(flow, lambda: swallowed_error(flow)),
    },
)
