"""The protocol by hand: batches without Sync, half-sent requests, results that are not read, cancels at any moment."""

import socket
import struct


class ServerError(Exception):
    """An ErrorResponse; `sqlstate` and `fatal` as it said."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('S')} {fields.get('M')} {fields.get('D', '')}")
        self.sqlstate = fields.get("C")


def message(tag, body=b""):
    return tag + struct.pack("!i", len(body) + 4) + body


def text(value):
    return value.encode() + b"\0"


def query(sql):
    return message(b"Q", text(sql))


def parse(name, sql):
    return message(b"P", text(name) + text(sql) + b"\0\0")


def run(name=""):
    """Bind and Execute."""
    return message(b"B", b"\0" + text(name) + b"\0" * 6) + message(b"E", b"\0" + b"\0" * 4)


FLUSH, SYNC = message(b"H"), message(b"S")


class Wire:
    """A connection that sends what it is given and reads up to a tag."""

    def __init__(self, where):
        self.where = where
        self.socket = self.open()
        parameters = ["user", where["user"], "database", where["database"], ""]
        body = struct.pack("!i", 196608) + b"".join(map(text, parameters))
        self.send(struct.pack("!i", len(body) + 4) + body)
        self.key, self.tags = b"", []
        self.until(b"Z")

    def open(self):
        connection = socket.create_connection((self.where["host"], self.where["port"]))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, data):
        self.socket.sendall(data)

    def read(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError("closed by the server")
            data += more
        return data

    def receive(self):
        tag, length = struct.unpack("!ci", self.read(5))
        return tag, self.read(length - 4)

    def until(self, *wanted):
        """Reads up to one of the tags; the values of the first row, or the error that came on the way."""
        row, error, self.tags = None, None, []
        while True:
            tag, body = self.receive()
            if tag == b"K":
                self.key = body
            elif tag == b"C":
                self.tags.append(body[:-1].decode())
            elif tag == b"D" and row is None:
                row = columns(body)
            elif tag == b"E":
                fields = body.decode().split("\0")
                error = ServerError({field[:1]: field[1:] for field in fields})
            if tag in wanted or (tag == b"E" and b"FATAL" in body):
                if error:
                    raise error
                return row

    def cancel(self):
        """Asks to cancel whatever runs, and waits until the request was taken."""
        with self.open() as connection:
            connection.sendall(struct.pack("!ii", len(self.key) + 8, 80877102) + self.key)
            connection.recv(1)

    def close(self):
        self.socket.close()


def columns(body):
    values, at = [], 2
    while at < len(body):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(body[at : at + length].decode())
        at += max(length, 0)
    return values
