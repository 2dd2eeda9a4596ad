"""pgidle's audit file as it grows: what became of each wait of each session."""

import json
import threading
import time
from collections import Counter, defaultdict

PATIENCE = 10


class Audit:
    """Follows the file in a thread; incidents are counted by the process id of the session's server."""

    def __init__(self, path):
        self.path = path
        self.outcomes = Counter()
        self.incidents = defaultdict(int)
        self.news = threading.Condition()
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        with open(self.path, encoding="utf-8") as file:
            unfinished = ""
            while True:
                lines = (unfinished + file.read()).split("\n")
                unfinished = lines.pop()
                if lines:
                    self.take(json.loads(line) for line in lines)
                else:
                    time.sleep(0.001)  # A file that grows tells nobody.

    def take(self, lines):
        with self.news:
            for line in lines:
                if line["event"] == "incident":
                    self.outcomes[line["why"] or line["outcome"]] += 1
                    self.incidents[line["server_pid"]] += 1
            self.news.notify_all()

    def count(self, pid):
        """How many incidents the sessions with this process id have had."""
        with self.news:
            return self.incidents[pid]

    def wait(self, pid, count):
        """Waits for more than `count` incidents: each wait in a transaction makes one, released or not."""
        with self.news:
            if not self.news.wait_for(lambda: self.incidents[pid] > count, PATIENCE):
                raise TimeoutError(f"no incident of process {pid} within {PATIENCE} s")
