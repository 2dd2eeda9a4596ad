"""What each customer was told, line by line in files that outlive a killed process, and what became of it."""

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

# What a customer can know of a transaction; one that is only begun has an unknown outcome.
BEGUN, ACKNOWLEDGED, REFUSED, UNKNOWN = "begun", "acknowledged", "refused", "unknown"


class Ledger:
    """The file of one customer, written so that SIGKILL loses nothing."""

    def __init__(self, folder, name):
        self.name = name
        self.count = 0
        self.pid = None
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        self.file = os.open(Path(folder) / f"{name}.jsonl", flags, 0o600)

    def write(self, what, **fields):
        line = {"what": what, "at": datetime.now(UTC).isoformat(), "server_pid": self.pid, **fields}
        os.write(self.file, (json.dumps(line) + "\n").encode())

    def begin(self, kind):
        """A token that no other transaction has."""
        self.count += 1
        token = f"{self.name}-{self.count}"
        self.write(BEGUN, token=token, kind=kind)
        return token

    def end(self, token, told, why=""):
        self.write(told, token=token, why=why)

    def broken(self, why):
        self.write("broken", why=why)

    def enforced(self, sqlstate):
        self.write("enforced", sqlstate=sqlstate)


def read(folder):
    for path in sorted(Path(folder).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def verdict(folder, journal, parts):
    """Compares what was told with the journal: token → number of rows, `parts` for each transaction."""
    told, kinds, findings = {}, {}, {"lost": [], "ghost": [], "torn": [], "broken": []}
    enforced = Counter()
    for line in read(folder):
        if line["what"] == "broken":
            findings["broken"].append(f"{line['at']} server pid {line['server_pid']}: {line['why']}")
        elif line["what"] == "enforced":
            enforced[line["sqlstate"]] += 1
        else:
            told[line["token"]] = line["what"]
            kinds[line["token"]] = f"{kinds.get(line['token'], '')} {line.get('kind', line.get('why'))}"
    for token, outcome in told.items():
        rows = journal.pop(token, 0)
        case = f"{token}: {outcome},{kinds[token]}, {rows} of {parts} rows"
        if rows not in (0, parts):
            findings["torn"].append(case)
        if outcome == ACKNOWLEDGED and rows == 0:
            findings["lost"].append(case)
        if outcome == REFUSED and rows > 0:
            findings["ghost"].append(case)
    findings["ghost"] += [f"{token}: never to be kept, {rows} rows" for token, rows in journal.items()]
    return findings, Counter(told.values()), enforced
