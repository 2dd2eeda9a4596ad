"""One case: what it consists of, how it is run, and how it is made smaller while it still differs."""

import random
import time
from dataclasses import asdict, dataclass, replace

import psycopg2

from release_cases.catalogue import (
    BASE,
    BEGIN,
    EFFECTS,
    END,
    LOCKED,
    NEUTRAL,
    PLANTED,
    PROBES,
    READS,
    SUBJECTS,
)
from release_cases.sessions import DIALECTS
from release_cases.steps import CANCEL, OTHERS, Memory, may_differ

# What a session leaves behind in itself.
SESSION_STATE = [
    "SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY 1",
    "SELECT name, statement FROM pg_cursors WHERE is_holdable ORDER BY 1",
    "SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1",
    "SELECT pg_listening_channels()",
    "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r' ORDER BY 1",
    "SELECT count(*) FROM tmp",
    "SELECT current_setting('my.effect', true), current_setting('search_path'), current_user",
    "SHOW standard_conforming_strings",
    "SHOW default_transaction_read_only",
]
TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'm') AND oid >= 16384 AND relpersistence = 'p' ORDER BY 1
"""
OBJECTS = """
SELECT relname || relkind::text FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'other'::regnamespace)
UNION ALL SELECT c.relname || '.' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'large object' FROM pg_largeobject_metadata ORDER BY 1
"""


# Milliseconds for which somebody else waits for a lock.
LOCK_TIMEOUT = 50
# Seconds after which pgidle is at work in a session that says nothing.
BUSY = 0.02


@dataclass(frozen=True)
class Case:
    number: int
    dialect: str
    effect: str
    subjects: tuple
    statements: tuple


def make(seed, number, planted, subject=None):
    """The same case for the same seed and number; `subject` is the only one it is about, where there is one."""
    chance = random.Random(f"{seed}/{number}")
    subjects = (subject,) if subject else tuple(chance.sample(list(SUBJECTS), chance.choice([0, 1, 1, 2])))
    # Objects of the same name would meet.
    if sum("CREATE TYPE mood" in SUBJECTS[name].setup for name in subjects) > 1:
        subjects = subjects[:1]
    chosen = [SUBJECTS[name] for name in subjects]
    safe = [sql for subject in chosen for sql in subject.safe]
    near = [sql for subject in chosen for sql in subject.near]
    preludes = [sql for subject in chosen for sql in subject.prelude]
    statements = chance.sample(preludes, min(len(preludes), chance.choice([0, 0, 1, 1, 2])))
    for _ in range(chance.randint(1, 3)):
        statements.append(chance.choice(BEGIN))
        daring = chance.random() < 0.6
        for _ in range(chance.randint(1, 5)):
            pool = near if daring and near and chance.random() < 0.4 else chance.choice([safe or READS, READS])
            statements.append(chance.choice(pool))
            if chance.random() < 0.15:
                statements.append(statements[-1])
            statements += meanwhile(chance, [story for subject in chosen for story in subject.stories])
        if planted:
            statements.append(PLANTED)
        elif chance.random() < 0.7:
            statements.append(chance.choice(PROBES))
        statements.append(chance.choice(END))
        if near and chance.random() < 0.2:
            statements.append(chance.choice(near))
    return Case(number, chance.choice(list(DIALECTS)), chance.choice(EFFECTS), subjects, tuple(statements))


def meanwhile(chance, stories):
    """What happens while the client is idle, or loses its patience."""
    luck = chance.random()
    if stories and luck < 0.4:
        return chance.choice(stories)
    if luck < 0.2:
        return [OTHERS + chance.choice(NEUTRAL)]
    if luck > 0.98:
        return [OTHERS + LOCKED, READS[0], OTHERS + "ROLLBACK"]
    if luck > 0.93:
        return [CANCEL + "SELECT pg_sleep(3)"]
    return []


class Side:
    """A database of its own, and the way to it that is tried: directly, or through pgidle."""

    def __init__(self, where, by, audit=None):
        self.by, self.audit = by, audit
        # Seconds after which a client cancels: while pgidle is at work, where the network is slow. Directly it makes no
        # difference, but on a busy machine none may come before its statement.
        self.patience = 0.3 if audit else 1
        self.admin, self.others = psycopg2.connect(**where), psycopg2.connect(**where)
        self.admin.autocommit = self.others.autocommit = True
        self.others.cursor().execute(f"SET lock_timeout = {LOCK_TIMEOUT}")

    def ask(self, sql):
        cursor = self.admin.cursor()
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None

    def play(self, case):
        """Everything that the client receives, statement by statement, and what the database holds afterwards."""
        self.ask(BASE % case.effect + "".join(SUBJECTS[name].setup for name in case.subjects))
        self.ask("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        session, memory = DIALECTS[case.dialect](self.by), Memory()
        following = [*case.statements[1:], ""]
        heard = [self.step(session, memory, *steps) for steps in zip(case.statements, following, strict=True)]
        self.act(OTHERS + "ROLLBACK")
        session.run("ROLLBACK")
        heard += [session.run(sql) for sql in SESSION_STATE]
        session.close()
        return [*heard, session.notified, *self.leftovers()]

    def step(self, session, memory, step, following):
        """Takes a step, and waits until pgidle has done with the wait that follows it, where one does."""
        if step.startswith(OTHERS):
            return self.act(step)
        if not session.in_transaction:
            memory.forget()
        seen = self.audit and self.audit.count(session.pid)
        sql = memory.filled_in(step.removeprefix(CANCEL))
        if step.startswith(CANCEL):
            time.sleep(BUSY)
            answer = session.run_cancelled(sql, self.patience)
        else:
            answer = session.run(sql)
        # Who loses patience does so while pgidle is at work.
        if self.audit and session.in_transaction and not following.startswith(CANCEL):
            self.audit.wait(session.pid, seen)
        return memory.note(step, answer)

    def act(self, step):
        """What somebody else does, who does not wait long for locks."""
        # A driver that speaks in several batches may be asked about in the middle: the locks of that go soon.
        tries = 20 if self.audit and "pg_catalog" in step else 1
        for _ in range(tries):
            try:
                self.others.cursor().execute(step.removeprefix(OTHERS))
                return "done"
            except psycopg2.errors.LockNotAvailable:
                # What it is a part of may have begun with BEGIN.
                self.others.cursor().execute("ROLLBACK")
            except psycopg2.Error as error:
                return error.pgcode
        return "waits"

    def leftovers(self):
        """What the database holds."""
        rows = [(table, self.ask(f"SELECT x::text FROM {table} x ORDER BY 1")) for (table,) in self.ask(TABLES)]
        return [rows, self.ask("SELECT last_value, is_called FROM s"), self.ask(OBJECTS)]


class Pair:
    """A case run on both sides."""

    def __init__(self, direct, proxied):
        self.sides = (direct, proxied)

    def difference(self, case):
        """Where the two differ first: the statement and what was heard on either side; `None` where they do not."""
        ways = [side.play(case) for side in self.sides]
        names = [*case.statements, *SESSION_STATE, "notifications", "rows", "sequence", "objects"]
        for name, direct, proxied in zip(names, *ways, strict=True):
            if direct != proxied and not may_differ(name, direct, proxied):
                return {"at": name, "direct": repr(direct)[:500], "through pgidle": repr(proxied)[:500]}
        return None

    def minimised(self, case, found):
        """Leaves out statements and subjects while the two still differ; the case that remains, and its difference."""
        smaller = case
        while smaller:
            case = smaller
            found = self.difference(case) or found
            smaller = next(filter(self.difference, without_one(case)), None)
        return asdict(case) | {"difference": found}


def without_one(case):
    """The case without one of its statements, the last ones first, or of its subjects."""
    for part in ("statements", "subjects"):
        whole = getattr(case, part)
        for item in reversed(range(len(whole))):
            yield replace(case, **{part: whole[:item] + whole[item + 1 :]})
