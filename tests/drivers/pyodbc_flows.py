"""psqlODBC by pyodbc: a savepoint around each statement, and one around what a cursor leaves behind."""

import pyodbc
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, play

# How an error is handled: 0 leaves it to the program, 1 rolls back the transaction, 2 rolls back the statement.
PROTOCOLS = {"-0": "7.4-0", "-1": "7.4-1", "-2": "7.4-2"}


def opened(protocol):
    connection = pyodbc.connect(
        f"Driver={{PostgreSQL Unicode}};Server={HOST};Port={PORT};Uid={USER};Database={DATABASE};"
        f"Protocol={PROTOCOLS[protocol]};UseServerSidePrepare=1"
    )
    connection.execute(INSERT)
    return connection


def run(connection, sql):
    connection.execute(sql)


def late_commit(flow, protocol):
    connection = opened(protocol)
    flow.swallowed(connection.execute)
    flow.step("commit", connection.commit)


def swallowed_error(flow, protocol):
    connection = opened(protocol)
    flow.swallowed(connection.execute)
    flow.step("statement", connection.execute, LATE)
    flow.step("commit", connection.commit)


def cursor_closed(flow, protocol):
    connection = opened(protocol)
    cursor = connection.cursor()
    cursor.execute("SELECT v FROM t WHERE id = ?", 1).fetchall()
    flow.swallowed(connection.execute)
    flow.step("close", cursor.close)
    flow.step("commit", connection.commit)


def flows():
    for protocol in PROTOCOLS:
        yield f"A {protocol}", lambda flow, protocol=protocol: late_commit(flow, protocol)
        yield f"B {protocol}", lambda flow, protocol=protocol: swallowed_error(flow, protocol)
        yield f"D cursor closed {protocol}", lambda flow, protocol=protocol: cursor_closed(flow, protocol)


def version():
    connection = pyodbc.connect(
        f"Driver={{PostgreSQL Unicode}};Server={HOST};Port={PORT};Uid={USER};Database={DATABASE}"
    )
    return connection.getinfo(pyodbc.SQL_DRIVER_VER)


play(version(), dict(flows()))
