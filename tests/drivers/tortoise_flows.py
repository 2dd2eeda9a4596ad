"""Tortoise on asyncpg: a nested transaction is a savepoint."""

import tortoise
from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play
from tortoise.transactions import in_transaction


async def transaction(flow, body):
    """The step `commit` is the end of the block."""
    await tortoise.Tortoise.init(
        db_url=f"asyncpg://{USER}@{HOST}:{PORT}/{DATABASE}", modules={"models": ["__main__"]}
    )

    async def block():
        async with in_transaction() as connection:
            await connection.execute_query(INSERT)
            await body(connection)

    await flow.step("commit", block)
    await tortoise.Tortoise.close_connections()


async def late_commit(flow):
    await transaction(flow, lambda connection: flow.swallowed(connection.execute_query))


async def swallowed_error(flow):
    async def body(connection):
        await flow.swallowed(connection.execute_query)
        await flow.step("statement", connection.execute_query, LATE)

    await transaction(flow, body)


async def nested(flow, late):
    async def body(connection):
        try:
            async with connection._in_transaction() as inner:
                await flow.silence(inner.execute_query)
                await late(inner)
        except Own:
            pass
        except Exception as error:
            flow.note("nested", error)

    await transaction(flow, body)


async def nothing(_):
    pass


async def own(_):
    raise Own


async def released(flow):
    await nested(flow, nothing)


async def left(flow):
    await nested(flow, lambda inner: inner.execute_query(LATE))


async def left_by_own(flow):
    await nested(flow, own)


play(
    tortoise.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "S": released,
        "R": left,
        "R by the program's own exception": left_by_own,
    },
)
