"""The drivers that customers speak through, each with the habits that make it a dialect of its own.

A dialect has `begin`, `execute`, `copy`, `commit`, `rollback` and `close`; `linger` is a place for thinking in the
middle of the protocol, where the dialect has one.
"""

import asyncio
import logging
import random
import threading

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2

from wire import FLUSH, SYNC, ServerError, Wire, parse, query, run

# A pipeline whose connection is closed under it says so in the log.
logging.getLogger("psycopg").setLevel(logging.ERROR)
COPY = "COPY journal (token, account, delta) FROM STDIN"


def lines(rows):
    return ["\t".join(map(str, row)) + "\n" for row in rows]


class Slow:
    """A file that thinks before each line."""

    def __init__(self, rows, think):
        self.lines, self.think = lines(rows), think

    def read(self, _size=-1):
        return next(iter(self), "")

    def __iter__(self):
        while self.lines:
            self.think()
            yield self.lines.pop(0)


class DbApi:
    """What the drivers of Python's DB-API have in common: the first statement opens a transaction."""

    def __init__(self, connection):
        self.connection = connection

    def begin(self):
        pass

    def execute(self, sql):
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None

    def commit(self):
        self.connection.commit()

    def rollback(self):
        self.connection.rollback()

    def close(self):
        self.connection.close()


class Psycopg2(DbApi):
    """Simple queries; now and then somebody cancels from another thread."""

    def __init__(self, where):
        super().__init__(psycopg2.connect(**where))

    def copy(self, rows, think):
        self.connection.cursor().copy_expert(COPY, Slow(rows, think))

    def linger(self, think):
        """A cancel that comes at any moment of a think time."""
        cancel = threading.Timer(random.uniform(0, 0.4), self.cancel)
        cancel.start()
        think()
        cancel.join()

    def cancel(self):
        try:
            self.connection.cancel()
        except psycopg2.Error:
            pass  # The connection was closed meanwhile: its owner will notice.


class Psycopg(DbApi):
    """Extended queries, every statement prepared by name at once."""

    def __init__(self, where):
        database = {"dbname": where["database"]}
        others = {key: value for key, value in where.items() if key != "database"}
        super().__init__(psycopg.connect(**database, **others, prepare_threshold=0))

    def copy(self, rows, think):
        with self.connection.cursor().copy(COPY) as copy:
            for line in lines(rows):
                copy.write(line)
                think()


class PsycopgPipeline(Psycopg):
    """Pipelines: what is fetched is flushed, other answers stay with the server, and only the end is Synced."""

    pipeline = None

    def begin(self):
        self.pipeline = self.connection.pipeline()
        self.pipeline.__enter__()

    def execute(self, sql):
        cursor = self.connection.cursor()
        cursor.execute(sql)
        if sql.startswith("SELECT"):
            return cursor.fetchone()
        if random.random() < 0.5:
            self.connection.execute("SELECT 1").fetchone()

    def leave(self):
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            pipeline.__exit__(None, None, None)

    def copy(self, rows, think):
        for token, account, delta in rows:
            self.execute(f"INSERT INTO journal VALUES ('{token}', {account}, {delta})")
        think()

    def commit(self):
        self.connection.commit()
        self.leave()

    def rollback(self):
        try:
            self.leave()
        except psycopg.Error:
            pass  # What failed in the pipeline is raised once more at its end.
        self.connection.rollback()


class Pg8000(DbApi):
    """Three batches for each statement, COMMIT included."""

    def __init__(self, where):
        super().__init__(pg8000.dbapi.connect(**where))

    def copy(self, rows, think):
        self.connection.cursor().execute(COPY, stream=Slow(rows, think))


class Asyncpg:
    """Statements prepared and cached, COPY by Execute, transactions as objects."""

    def __init__(self, where):
        self.loop = asyncio.new_event_loop()
        self.connection = self.run(asyncpg.connect(**where))
        self.transaction = None

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def begin(self):
        self.transaction = self.connection.transaction()
        self.run(self.transaction.start())

    def execute(self, sql):
        return self.run(self.connection.fetchrow(sql))

    def copy(self, rows, think):
        async def source():
            for line in lines(rows):
                yield line.encode()
                think()

        self.run(self.connection.copy_to_table("journal", source=source(), columns=["token", "account", "delta"]))

    def commit(self):
        # A transaction whose commit has failed is over, and cannot be rolled back.
        transaction, self.transaction = self.transaction, None
        self.run(transaction.commit())

    def rollback(self):
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self.run(transaction.rollback())

    def close(self):
        self.connection.terminate()
        self.loop.run_until_complete(asyncio.sleep(0))


class Raw:
    """Whatever the protocol allows, by turns: simple, extended, batches that are never Synced before the end."""

    def __init__(self, where):
        self.wire = Wire(where)
        self.habit, self.synced = "simple", True
        self.wire.send(parse("commit", "COMMIT") + SYNC)
        self.wire.until(b"Z")

    def begin(self):
        self.habit = random.choice(["simple", "extended", "unsynced", "implicit"])
        self.synced = True
        if self.habit == "implicit":
            return
        self.execute("BEGIN")

    def execute(self, sql):
        if self.habit in ("unsynced", "implicit"):
            self.synced = False
            self.wire.send(parse("", sql) + run() + FLUSH)
            return self.wire.until(b"C", b"E")
        self.wire.send(query(sql) if self.habit == "simple" else parse("", sql) + run() + SYNC)
        return self.wire.until(b"Z")

    def copy(self, rows, think):
        if self.habit in ("unsynced", "implicit"):
            for token, account, delta in rows:
                self.execute(f"INSERT INTO journal VALUES ('{token}', {account}, {delta})")
            return
        self.wire.send(query(COPY))
        self.wire.until(b"G", b"Z")
        for line in lines(rows):
            self.wire.send(b"d" + (len(line) + 4).to_bytes(4) + line.encode())
            think()
        self.wire.send(b"c\0\0\0\4")
        self.wire.until(b"Z")

    def linger(self, think):
        """A request that is half sent, a result that is not read, or a cancel at any moment."""
        habit = random.choice(["half", "unread", "cancel"])
        if self.habit in ("unsynced", "implicit") or habit == "cancel":
            cancel = threading.Timer(random.uniform(0, 0.4), self.cancel)
            cancel.start()
            think()
            cancel.join()
        elif habit == "half":
            request = query("SELECT 1")
            self.wire.send(request[:7])
            think()
            self.wire.send(request[7:])
            self.wire.until(b"Z")
        else:
            self.wire.send(query("SELECT repeat('x', 10000) FROM generate_series(1, 2000)"))
            think()
            self.wire.until(b"Z")

    def cancel(self):
        try:
            self.wire.cancel()
        except OSError:
            pass

    def commit(self):
        habit = random.choice(["query", "unnamed", "named"])
        if self.habit == "implicit":
            self.wire.send(SYNC)
            self.wire.until(b"Z")
            self.synced = True
            return
        if not self.synced or habit == "unnamed":
            self.wire.send(parse("", "COMMIT") + run() + SYNC)
        elif habit == "query":
            self.wire.send(query("COMMIT"))
        else:
            self.wire.send(run("commit") + SYNC)
        self.synced = True
        self.wire.until(b"Z")
        if self.wire.tags != ["COMMIT"]:
            raise AssertionError(f"COMMIT was answered by {self.wire.tags} and no error")

    def rollback(self):
        if not self.synced:
            self.synced = True
            self.wire.send(parse("", "ROLLBACK") + run() + SYNC)
            try:
                self.wire.until(b"Z")
            except ServerError:
                pass  # A batch that has failed skips to its Sync.
        self.habit = "simple"
        self.execute("ROLLBACK")

    def close(self):
        self.wire.close()


DIALECTS = {
    "psycopg2": Psycopg2,
    "psycopg": Psycopg,
    "psycopg-pipeline": PsycopgPipeline,
    "pg8000": Pg8000,
    "asyncpg": Asyncpg,
    "raw": Raw,
}
