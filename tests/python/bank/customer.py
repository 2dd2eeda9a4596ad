"""A customer of the bank: transfers money, thinks for about as long as it may, and notes what it was told."""

import os
import random
import signal
import time

from dialects import DIALECTS
from ledger import ACKNOWLEDGED, REFUSED, UNKNOWN, Ledger

ACCOUNTS = 200
# Rows in the journal for each transaction: what left one account and what came to another.
PARTS = 2
# What pgidle says: idle_in_transaction_session_timeout, transaction_timeout.
ENFORCED = ("25P03", "25P04")
# What comes with the end of a connection: admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections.
FAULTS = ("57P01", "57P02", "57P03", "53300")


class Customer:
    """One session after the other, in a process that may be killed at any time."""

    def __init__(self, where, dialect, options, folder, name, pulse):
        random.seed(f"{options.seed}/{name}")
        self.where, self.dialect, self.options = where, dialect, options
        self.ledger = Ledger(folder, f"{dialect}-{name}")
        self.pulse = pulse
        self.stopping = self.committing = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, _signal, _frame):
        self.stopping = True

    def live(self):
        while not self.stopping:
            try:
                self.connect()
            except Exception as error:
                self.session = None
                if self.lost(error):
                    time.sleep(random.uniform(0, 0.2))
                elif state(error) not in ENFORCED:
                    self.ledger.broken(f"connect: {type(error).__name__}: {error}")
            while self.session is not None and not self.stopping:
                self.transfer()
        if self.session is not None:
            self.session.close()

    def connect(self):
        self.session = self.ask(DIALECTS[self.dialect], self.where)
        self.call("begin")
        self.call("execute", "CREATE TEMPORARY TABLE identity AS SELECT pg_backend_pid() AS pid")
        self.ledger.pid = self.identity()
        self.call("commit")

    def identity(self):
        return int(self.call("execute", "SELECT pid FROM identity")[0])

    def call(self, method, *arguments):
        return self.ask(getattr(self.session, method), *arguments)

    def ask(self, question, *arguments):
        """Asks the server something; `pulse` tells the bank since when this lasts."""
        self.pulse.value = time.time()
        try:
            return question(*arguments)
        finally:
            self.pulse.value = 0

    def think(self):
        """Mostly short, often at the limit to the millisecond, sometimes long."""
        pulse, self.pulse.value = self.pulse.value, 0
        limit = self.options.limit
        spans = [(0, limit / 8), (limit * 0.97, limit * 1.03), (limit / 2, limit * 1.5), (limit * 2, limit * 4)]
        ((low, high),) = random.choices(spans, weights=(70, 18, 9, 3))
        time.sleep(random.uniform(low, high))
        self.pulse.value = pulse and time.time()

    def transfer(self):
        giver, taker = random.sample(range(ACCOUNTS), 2)
        amount = random.randint(1, 50)
        ending = random.choices(["commit", "rollback", "leave"], weights=(85, 10, 5))[0]
        detour = random.choice(["none", "none", "savepoint", "failure", "busy", "linger", "lingering commit"])
        token = self.ledger.begin(f"{detour}, {ending}")
        self.committing = False
        try:
            self.call("begin")
            self.move(token, giver, taker, amount)
            self.take(detour, token)
            self.end(token, ending)
        except Exception as error:
            self.refused(token, error)

    def move(self, token, giver, taker, amount):
        changes = [(token, giver, -amount), (token, taker, amount)]
        # In one order, so that few transactions wait for each other in a circle.
        for _, account, delta in sorted(changes, key=lambda change: change[1]):
            self.call("execute", f"UPDATE account SET balance = balance + {delta} WHERE id = {account}")
            self.think()
        if random.random() < 0.3 and self.dialect != "psycopg-pipeline":
            self.call("copy", changes, self.think)
        else:
            for token, account, delta in changes:
                self.call("execute", f"INSERT INTO journal VALUES ('{token}', {account}, {delta})")

    def take(self, detour, token):
        if detour == "savepoint":
            self.call("execute", "SAVEPOINT detour")
            self.call("execute", f"INSERT INTO journal VALUES ('{token}-undone', 0, 0)")
            self.think()
            self.call("execute", "ROLLBACK TO detour")
        elif detour == "failure" and self.dialect not in ("psycopg-pipeline", "raw"):
            self.call("execute", "SAVEPOINT detour")
            try:
                self.call("execute", "SELECT 1/0")
            except Exception as error:
                if state(error) != "22012":
                    raise
            self.think()
            self.call("execute", "ROLLBACK TO detour")
        elif detour == "busy":
            self.call("execute", f"SELECT pg_sleep({random.uniform(0.5, 2) * self.options.limit})")
        elif detour.startswith("linger") and hasattr(self.session, "linger"):
            self.call("linger", self.think)
        self.think()

    def end(self, token, ending):
        if ending == "leave":
            self.session.close()
            self.session = None
            # The last words of some drivers are a ROLLBACK, of none a COMMIT.
            self.ledger.end(token, REFUSED, "left")
        elif ending == "rollback":
            self.call("rollback")
            self.ledger.end(token, REFUSED, "rolled back")
        else:
            self.committing = True
            self.call("commit")
            self.ledger.end(token, ACKNOWLEDGED)

    def refused(self, token, error):
        """Notes what an error means, and goes on as an application does: roll back, or connect anew."""
        sqlstate = state(error)
        if sqlstate in ENFORCED:
            self.ledger.enforced(sqlstate)
        lost = self.lost(error)
        # Without a COMMIT nothing is kept; with one, the last word of a connection says nothing of it.
        unknown = self.committing and (sqlstate is None or lost) or "is unknown" in str(error)
        why = f"{sqlstate} {type(error).__name__}: {error}"
        if isinstance(error, AssertionError):
            self.ledger.broken(why)
        self.ledger.end(token, UNKNOWN if unknown else REFUSED, why)
        if self.options.mode == "terminate" or lost:
            self.session = None
        else:
            self.recover(f"{token}: {why}")

    def lost(self, error):
        """Whether the connection is gone, where that is no wonder."""
        ours = isinstance(error, (AssertionError, TypeError))
        return self.options.faults and state(error) in (None, *FAULTS) and not ours

    def recover(self, why):
        """After one ROLLBACK the same session must work; a machine that is slow may draw the next limit, too."""
        for _ in range(5):
            step = "rollback"
            try:
                self.call("rollback")
                step = "next transaction"
                self.call("begin")
                if self.identity() != self.ledger.pid:
                    self.ledger.broken(f"another session after {why}")
                self.call("commit")
                return
            except Exception as error:
                if self.lost(error):
                    break
                if step == "rollback" or state(error) not in ENFORCED:
                    self.ledger.broken(f"{step}: {state(error)} {type(error).__name__}: {error} AFTER {why}")
                    break
                self.ledger.enforced(state(error))
        self.session = None


def state(error):
    """The SQLSTATE that the server sent; None for what a driver says by itself."""
    found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if found is None and error.args and isinstance(error.args[0], dict):
        found = error.args[0].get("C")
    if found is None and "FATAL" in str(error):
        # libpq keeps the text of a last word, and not its SQLSTATE.
        found = "25P03" if "in transaction" in str(error) or "batch" in str(error) else None
    return None if found and found.startswith("08") else found


def run(*arguments):
    """Lives in a forked process, and ends it without the parent's clean-up."""
    status = 1
    try:
        Customer(*arguments).live()
        status = 0
    finally:
        os._exit(status)
