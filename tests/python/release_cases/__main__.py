"""Transactions run twice on a real server, directly and through a pgidle that releases whatever it can.

Between any two statements of the second run pgidle has had the time to release the transaction, and has or has refused
to: its audit file says so. Whatever the client receives, and what the session and the database hold afterwards, has to
be the same. Prints one line of JSON: counts, and the first differences, made as small as is easy.
"""

import argparse
import itertools
import json
import threading
import time

import psycopg2

from release_cases.audit import Audit
from release_cases.case import Pair, Side, make
from release_cases.catalogue import SUBJECTS

WORKERS = 12
SHOWN = 5
# Row-level security does not hold for a superuser.
READER = "DO $$BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END$$"


class Run:
    def __init__(self, options):
        self.options = options
        self.audit = Audit(options.audit)
        self.numbers = itertools.count() if options.only is None else iter([options.only])
        self.end = time.monotonic() + options.seconds
        self.guard = threading.Lock()
        self.cases, self.different, self.smallest, self.failures = 0, 0, [], []

    def database(self, worker, way):
        """Makes a database for one side of one worker."""
        name = f"{self.options.database}_{way}_{worker}"
        self.administer(f"CREATE DATABASE {name}")
        return name

    def administer(self, sql):
        admin = psycopg2.connect(**self.where(self.options.direct, self.options.database))
        admin.autocommit = True
        admin.cursor().execute(sql)
        admin.close()

    def where(self, address, database):
        host, port = address.rsplit(":", 1)
        return {"host": host, "port": int(port), "user": "postgres", "database": database}

    def side(self, worker, way, address, audit=None):
        name = self.database(worker, way)
        return Side(self.where(self.options.direct, name), self.where(address, name), audit)

    def next(self):
        """The number of the next case, while there is time."""
        with self.guard:
            number = next(self.numbers, None)
            enough = number is not None and self.options.cases and number >= self.options.cases
            late = not self.options.cases and time.monotonic() > self.end
            return None if enough or (late and self.options.only is None) or self.failures else number

    def work(self, worker):
        number = None
        try:
            direct = self.side(worker, "direct", self.options.direct)
            pair = Pair(direct, self.side(worker, "proxied", self.options.proxy, self.audit))
            while (number := self.next()) is not None:
                case = make(self.options.seed, number, self.options.planted, self.options.subject)
                difference = pair.difference(case)
                if self.note(difference):
                    self.smallest.append(pair.minimised(case, difference))
        except Exception as error:
            self.failures.append(f"case {number}: {type(error).__name__}: {error}")
            raise

    def note(self, difference):
        """Counts a case; whether its difference is one of those that are shown."""
        with self.guard:
            self.cases += 1
            self.different += difference is not None
            return difference is not None and self.different <= SHOWN

    def report(self):
        outcomes = self.audit.outcomes
        released = outcomes.pop("released", 0)
        return {
            "seed": self.options.seed,
            "cases": self.cases,
            "released": released,
            "refused": outcomes.total(),
            "refused because of": dict(outcomes.most_common()),
            "differences": self.different,
            "smallest": self.smallest,
            "failures": self.failures,
        }


def main():
    parser = argparse.ArgumentParser(prog="release_cases", description=__doc__)
    parser.add_argument("--direct", required=True, help="HOST:PORT of the server")
    parser.add_argument("--proxy", required=True, help="HOST:PORT of pgidle")
    parser.add_argument("--database", required=True)
    parser.add_argument("--audit", required=True, help="pgidle's audit file")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=0, help="so many cases, however long they take")
    parser.add_argument("--only", type=int, help="the case of this number")
    parser.add_argument("--subject", choices=SUBJECTS, help="cases about this alone")
    parser.add_argument("--planted", action="store_true", help="with a statement that differs as documented")
    options = parser.parse_args()
    run = Run(options)
    run.administer(READER)
    workers = [threading.Thread(target=run.work, args=(worker,)) for worker in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps(run.report()))


main()
