"""asyncpg: a nested transaction is a savepoint. What it sends unasked is Close and Sync, which is no statement."""

import asyncpg
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play


async def opened():
    connection = await asyncpg.connect(host=HOST, port=PORT, user=USER, database=DATABASE)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(INSERT)
    return connection, transaction


async def late_commit(flow):
    connection, transaction = await opened()
    await flow.swallowed(connection.execute)
    await flow.step("commit", transaction.commit)


async def swallowed_error(flow):
    connection, transaction = await opened()
    await flow.swallowed(connection.execute)
    await flow.step("statement", connection.execute, LATE)
    await flow.step("commit", transaction.commit)


async def nested(flow, late):
    connection, transaction = await opened()
    try:
        async with connection.transaction():
            await flow.silence(connection.execute)
            await late(connection)
    except (asyncpg.PostgresError, Own) as error:
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
    await nested(flow, lambda connection: connection.execute(LATE))


async def left_by_own(flow):
    await nested(flow, own)


play(
    asyncpg.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "S": released,
        "R": left,
        "R by the program's own exception": left_by_own,
    },
)
