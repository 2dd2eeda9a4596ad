"""One case: what it consists of, how it is run, and how it is made smaller while it still differs."""

import random
from dataclasses import asdict, dataclass, replace

import psycopg2

from release_cases.catalogue import BASE, BEGIN, EFFECTS, END, PLANTED, PROBES, READS, SUBJECTS
from release_cases.sessions import DIALECTS

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
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND attnum > 0
UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'large object' FROM pg_largeobject_metadata ORDER BY 1
"""


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
        if planted:
            statements.append(PLANTED)
        elif chance.random() < 0.7:
            statements.append(chance.choice(PROBES))
        statements.append(chance.choice(END))
        if near and chance.random() < 0.2:
            statements.append(chance.choice(near))
    return Case(number, chance.choice(list(DIALECTS)), chance.choice(EFFECTS), subjects, tuple(statements))


class Side:
    """A database of its own, and the way to it that is tried: directly, or through pgidle."""

    def __init__(self, where, by, audit=None):
        self.by, self.audit = by, audit
        self.admin = psycopg2.connect(**where)
        self.admin.autocommit = True

    def ask(self, sql):
        cursor = self.admin.cursor()
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None

    def play(self, case):
        """Everything that the client receives, statement by statement, and what the database holds afterwards."""
        self.ask(BASE % case.effect + "".join(SUBJECTS[name].setup for name in case.subjects))
        self.ask("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        session = DIALECTS[case.dialect](self.by)
        heard = [self.step(session, sql) for sql in case.statements]
        self.step(session, "ROLLBACK")
        heard += [session.run(sql) for sql in SESSION_STATE]
        session.close()
        return [*heard, session.notified, *self.leftovers()]

    def step(self, session, sql):
        """Runs a statement, and waits until pgidle has done with the wait that follows it."""
        seen = self.audit and self.audit.count(session.pid)
        answer = session.run(sql)
        if self.audit and session.in_transaction:
            self.audit.wait(session.pid, seen)
        return answer

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
            if direct != proxied:
                return {"at": name, "direct": repr(direct)[:500], "through pgidle": repr(proxied)[:500]}
        return None

    def minimised(self, case):
        """Leaves out statements and subjects while the two still differ; the case that remains, and its difference."""
        found, smaller = None, case
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
