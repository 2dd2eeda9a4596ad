"""aiopg on psycopg2: a nested transaction is a savepoint."""

import importlib.metadata

import aiopg
import psycopg2
from aiopg import IsolationLevel, Transaction
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play


async def opened():
    connection = await aiopg.connect(host=HOST, port=PORT, user=USER, database=DATABASE)
    cursor = await connection.cursor()
    transaction = Transaction(cursor, IsolationLevel.read_committed)
    await transaction.begin()
    await cursor.execute(INSERT)
    return transaction, cursor.execute


async def late_commit(flow):
    transaction, execute = await opened()
    await flow.swallowed(execute)
    await flow.step("commit", transaction.commit)


async def swallowed_error(flow):
    transaction, execute = await opened()
    await flow.swallowed(execute)
    await flow.step("statement", execute, LATE)
    await flow.step("commit", transaction.commit)


async def nested(flow, late):
    transaction, execute = await opened()
    try:
        async with transaction.point():
            await flow.silence(execute)
            await late(execute)
    except (psycopg2.Error, Own) as error:
        if not isinstance(error, Own):
            flow.note("nested", error)
    await flow.step("commit", transaction.commit)


async def nothing(_):
    pass


async def own(_):
    raise Own


async def released(flow):
    await nested(flow, nothing)


async def left(flow):
    await nested(flow, lambda execute: execute(LATE))


async def left_by_own(flow):
    await nested(flow, own)


play(
    importlib.metadata.version("aiopg"),
    {
        "A": late_commit,
        "B": swallowed_error,
        "S": released,
        "R": left,
        "R by the program's own exception": left_by_own,
    },
)
