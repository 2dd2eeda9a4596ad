"""The bank: many customers behind pgidle, some of them killed; then an audit by one who does not go through it.

Prints one line of JSON: the counts of transactions, of endings and of each anomaly, with the anomalies themselves.
The same seed makes the same customers; what the clock decides stays the clock's.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from multiprocessing.sharedctypes import RawValue
from pathlib import Path

import psycopg2

import customer
from customer import ACCOUNTS, PARTS
from dialects import DIALECTS
from ledger import verdict

INITIAL = 1000
# How long after its limit a transaction may still hold locks, or one call of a customer may last.
GRACE, PATIENCE = 1.5, 15
# The same where servers are stopped and started meanwhile.
GRACE_IN_FAULTS, PATIENCE_IN_FAULTS = 15, 45
# Whoever has waited for so long is not killed any more.
UNUSUAL = 3

SCHEMA = f"""
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT id, {INITIAL} FROM generate_series(0, {ACCOUNTS - 1}) id;
CREATE TABLE journal (token text NOT NULL, account int NOT NULL, delta bigint NOT NULL);
"""
# Who waits for its client for too long, and holds locks meanwhile.
STUCK = """
SELECT a.pid, a.state, a.query, round(extract(epoch FROM clock_timestamp() - a.state_change)::numeric, 1)::text
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.wait_event_type = 'Client'
  AND clock_timestamp() - {since} > make_interval(secs => {limit})
  AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype IN ('relation', 'transactionid', 'tuple'))
"""
HOLDERS = """
SELECT a.pid, a.state, a.query FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype IN ('relation', 'transactionid', 'tuple'))
"""
BALANCES = f"""
SELECT count(*) FROM account
WHERE balance <> {INITIAL} + coalesce((SELECT sum(delta) FROM journal WHERE account = id), 0)
"""


class Bank:
    def __init__(self, options):
        self.options = options
        self.stuck = []
        self.grace, self.patience = (GRACE_IN_FAULTS, PATIENCE_IN_FAULTS) if options.faults else (GRACE, PATIENCE)
        self.folder = tempfile.mkdtemp(prefix="bank-")
        self.auditor = None
        self.ask(SCHEMA)
        self.slots = [self.open(slot, 0) for slot in range(options.sessions)]
        self.killed = 0

    def ask(self, sql):
        deadline = time.time() + self.patience
        while True:
            try:
                if self.auditor is None:
                    self.auditor = psycopg2.connect(**where(self.options, self.options.direct))
                    self.auditor.autocommit = True
                cursor = self.auditor.cursor()
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else None
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                # The server is down, or was.
                self.auditor = None
                if not self.options.faults or time.time() > deadline:
                    raise
                time.sleep(0.1)

    def open(self, slot, generation):
        """Forks a customer, of each dialect in turn."""
        pulse = RawValue("d", 0)
        dialect = list(DIALECTS)[slot % len(DIALECTS)]
        arguments = (where(self.options, self.options.proxy), dialect, self.options, self.folder)
        process = multiprocessing.get_context("fork").Process(
            target=customer.run, args=(*arguments, f"{slot}.{generation}", pulse), daemon=True
        )
        process.start()
        return slot, generation, process, pulse

    def open_for_business(self):
        end = time.time() + self.options.seconds
        next_kill = time.time() + 1
        while time.time() < end:
            time.sleep(0.1)
            self.look()
            if time.time() > next_kill:
                next_kill = time.time() + random.uniform(0.3, 1)
                self.kill(random.randrange(len(self.slots)))

    def kill(self, index):
        """Ends a customer as the kernel does when memory is short."""
        slot, generation, process, pulse = self.slots[index]
        since = pulse.value
        if since and time.time() - since > UNUSUAL:
            return  # Its death would hide that it waits for ever.
        process.kill()
        process.join()
        self.killed += 1
        self.slots[index] = self.open(slot, generation + 1)

    def look(self):
        aged = self.options.mode == "age"
        limit = self.options.limit * (3 if aged else 1) + self.grace
        stuck = self.ask(STUCK.format(since="a.xact_start" if aged else "a.state_change", limit=limit))
        self.stuck += [f"holds locks: {row}" for row in stuck]
        for slot, generation, process, pulse in self.slots:
            # Read once: its customer sets it to 0 at any moment.
            since = pulse.value
            if since and time.time() - since > self.patience:
                self.stuck.append(f"slot {slot}.{generation} waits for an answer: {self.last_seen(slot, generation)}")
                pulse.value = 0
            if process.exitcode is not None:
                self.stuck.append(f"slot {slot}.{generation} ended with {process.exitcode}")

    def last_seen(self, slot, generation):
        """What a customer has written last, and what its server process does."""
        (path,) = Path(self.folder).glob(f"*-{slot}.{generation}.jsonl")
        last = (path.read_text().splitlines() or ["{}"])[-1]
        pid = json.loads(last).get("server_pid") or 0
        return last, self.ask(f"SELECT state, wait_event, query, state_change FROM pg_stat_activity WHERE pid = {pid}")

    def close(self):
        for _, _, process, _ in self.slots:
            process.terminate()
        deadline = time.time() + self.patience
        for slot, generation, process, _ in self.slots:
            process.join(max(0, deadline - time.time()))
            if process.exitcode is None:
                self.stuck.append(f"slot {slot}.{generation} does not come to an end")
                process.kill()
        deadline = time.time() + self.grace
        while (holders := self.ask(HOLDERS)) and time.time() < deadline:
            time.sleep(0.1)
        self.stuck += [f"still holds locks: {row}" for row in holders]

    def audit(self):
        journal = dict(self.ask("SELECT token, count(*) FROM journal GROUP BY token"))
        findings, told, enforced = verdict(self.folder, journal, PARTS)
        findings["stuck"] = self.stuck
        ((unbalanced,),) = self.ask(BALANCES)
        ((total,),) = self.ask("SELECT sum(balance) FROM account")
        findings["unbalanced"] = [f"{unbalanced} accounts"] * (unbalanced > 0)
        findings["unbalanced"] += [f"{total} in all"] * (total != ACCOUNTS * INITIAL)
        return {
            "seed": self.options.seed,
            "told": dict(told),
            "enforced": dict(enforced),
            "killed": self.killed,
            "anomalies": {name: len(cases) for name, cases in findings.items()},
            "cases": {name: cases[:20] for name, cases in findings.items() if cases},
        }


def where(options, address):
    host, port = address.rsplit(":", 1)
    return {"host": host, "port": int(port), "user": "postgres", "database": options.database}


def main():
    parser = argparse.ArgumentParser(prog="bank", description=__doc__)
    parser.add_argument("--direct", required=True, help="HOST:PORT of the server")
    parser.add_argument("--proxy", required=True, help="HOST:PORT of pgidle")
    parser.add_argument("--database", required=True)
    parser.add_argument("--mode", choices=["rollback", "age", "terminate"], required=True)
    parser.add_argument("--limit", type=float, default=0.3, help="seconds; in the mode age the limit is three times this")
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--faults", action="store_true", help="connections are lost and servers stop meanwhile")
    options = parser.parse_args()
    random.seed(options.seed)
    bank = Bank(options)
    bank.open_for_business()
    bank.close()
    print(json.dumps(bank.audit()))
    shutil.rmtree(bank.folder)


main()
