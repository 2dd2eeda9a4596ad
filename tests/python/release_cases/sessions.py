"""The dialects in which a case is spoken; each returns everything that the client receives.

Notifications are kept apart: a released transaction does not hold them back, as documented.
"""

import struct
import threading

import psycopg

from bank.wire import FLUSH, SYNC, Wire, message, parse, query, run, text

CANCEL_REQUEST = 80877102
COPY_DATA = message(b"d", b"copied\n") + message(b"c")
DESCRIBE = message(b"D", b"P\0")


class Recorder(Wire):
    """The protocol by hand: answers as a list of messages."""

    def __init__(self, where):
        super().__init__(where)
        self.notified = []

    def ask(self, request):
        self.send(request)
        answer = []
        while True:
            tag, body = self.receive()
            if tag == b"G":
                # In the extended protocol the Sync that followed Execute was ignored.
                self.send(COPY_DATA + (SYNC if request.endswith(SYNC) else b""))
            if tag == b"A":
                self.notified.append(body[4:])  # Behind the process id of who notifies.
            else:
                answer.append((tag.decode(), columns(body) if tag == b"T" else body))
            if tag == b"Z":
                return answer


class Simple:
    """Simple queries."""

    def __init__(self, where):
        self.wire = Recorder(where)
        self.pid = int.from_bytes(self.wire.key[:4])
        self.notified = self.wire.notified
        self.in_transaction = False

    def run(self, sql):
        answer = self.wire.ask(self.request(sql))
        self.in_transaction = answer[-1] == ("Z", b"T")
        return answer

    def run_cancelled(self, sql, patience):
        """Runs a statement, and asks for its end after so many seconds."""
        impatient = threading.Timer(patience, self.cancel)
        impatient.start()
        answer = self.run(sql)
        impatient.join()
        return answer

    def cancel(self):
        with self.wire.open() as connection:
            connection.sendall(struct.pack("!ii", 16, CANCEL_REQUEST) + self.wire.key)
            connection.recv(1)

    def request(self, sql):
        return query(sql)

    @staticmethod
    def parts(sql):
        """What a simple Query may hold several of, and goes as one batch by the extended protocol."""
        return [sql] if "$$" in sql else sql.split("; ")

    def close(self):
        self.wire.send(message(b"X"))
        self.wire.close()


class Unnamed(Simple):
    """The unnamed statement; a text that comes twice in a row is parsed once."""

    last = None

    def request(self, sql):
        return b"".join(map(self.part, self.parts(sql))) + SYNC

    def part(self, sql):
        again, self.last = sql == self.last, sql
        return (b"" if again else parse("", sql)) + bound("")


class Named(Simple):
    """Statements prepared by the protocol under names, and run again and again."""

    def __init__(self, where):
        super().__init__(where)
        self.names = {}

    def request(self, sql):
        return b"".join(map(self.part, self.parts(sql))) + SYNC

    def part(self, sql):
        # A name that was given to what did not parse stays without a statement, and is an error each time.
        known = sql in self.names
        # The first one is what the names of pgidle's own begin with.
        name = self.names.setdefault(sql, f"pgidle_release{len(self.names) or ''}")
        return (b"" if known else parse(name, sql)) + bound(name)


class Described(Simple):
    """A statement that is prepared, described, run and closed, with Flush between, as asyncpg does it."""

    def request(self, sql):
        return b"".join(map(self.part, self.parts(sql))) + SYNC

    def part(self, sql):
        describe, close = (message(tag, b"S" + text("d")) for tag in (b"D", b"C"))
        # What takes data takes nothing else meanwhile.
        closing = b"" if sql.endswith("STDIN") else FLUSH + close
        return parse("d", sql) + describe + FLUSH + bound("d") + closing


class Psycopg:
    """psycopg 3, which prepares every statement at once."""

    def __init__(self, where):
        database = {"dbname": where["database"]}
        others = {key: value for key, value in where.items() if key != "database"}
        self.connection = psycopg.connect(**database, **others, prepare_threshold=0, autocommit=True)
        self.pid = self.connection.info.backend_pid
        self.said, self.notified = [], []
        self.connection.add_notice_handler(lambda notice: self.said.append(str(diagnostics(notice))))
        self.connection.add_notify_handler(lambda notify: self.notified.append((notify.channel, notify.payload)))

    @property
    def in_transaction(self):
        return self.connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS

    def run(self, sql):
        self.said.clear()
        try:
            answer = self.execute(sql)
        except psycopg.Error as error:
            answer = [type(error).__name__, str(error), *diagnostics(error.diag)]
        return [answer, list(self.said), self.connection.info.transaction_status.name]

    def run_cancelled(self, sql, patience):
        impatient = threading.Timer(patience, self.connection.cancel)
        impatient.start()
        answer = self.run(sql)
        impatient.join()
        return answer

    def execute(self, sql):
        cursor = self.connection.cursor()
        if sql.startswith("COPY"):
            with cursor.copy(sql) as copy:
                if sql.endswith("STDIN"):
                    return [copy.write("copied\n")]
                return [bytes(block) for block in copy]
        cursor.execute(sql)
        if not cursor.description:
            return [cursor.statusmessage]
        columns = [(column.name, system_oid(column.type_code)) for column in cursor.description]
        return [cursor.statusmessage, columns, cursor.fetchall()]

    def close(self):
        self.connection.close()


def bound(statement):
    """Bind, Describe and Execute of the unnamed portal."""
    whole = run(statement)
    execute = message(b"E", b"\0" + b"\0" * 4)
    return whole.removesuffix(execute) + DESCRIBE + execute


def columns(description):
    """A RowDescription: names, types and formats."""
    (count,), rest, found = struct.unpack("!h", description[:2]), description[2:], []
    for _ in range(count):
        name, _, rest = rest.partition(b"\0")
        _table, number, oid, size, modifier, form = struct.unpack("!IhIhih", rest[:18])
        found.append((name, number, system_oid(oid), size, modifier, form))
        rest = rest[18:]
    return found


def system_oid(oid):
    """The oids of what users make are others in each run."""
    return min(oid, 16384)


def diagnostics(diag):
    return [diag.severity, diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint]


DIALECTS = {"simple": Simple, "unnamed": Unnamed, "named": Named, "described": Described, "psycopg": Psycopg}
