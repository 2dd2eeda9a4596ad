"""Steps of a case that are no statements of the client's alone.

A case is a list of texts, so that it can be printed and made smaller. What a text begins with says who does it:
`-- others:` is for somebody else's session, `-- cancel:` for a client that loses its patience. `{place}` and `{version}`
stand for the latest ctid and xmin that the client has read.
"""

import re

OTHERS = "-- others: "
CANCEL = "-- cancel: "
READS_PLACE = re.compile(r"\bctid\b.* FROM")
READS_VERSION = re.compile(r"\bxmin\b.* FROM")


class Memory:
    """The latest place and version that a client has read, and answers without them: they are others on each side."""

    def __init__(self):
        self.forget()

    def forget(self):
        """A transaction has ended, and nobody promises that either stands for the same row in the next."""
        self.known = {"place": "(0,0)", "version": "v0"}

    def filled_in(self, sql):
        for name, value in self.known.items():
            sql = sql.replace("{" + name + "}", value)
        return sql

    def note(self, sql, answer):
        shown = repr(answer)
        for name, reads, form in (
            ("place", READS_PLACE, r"\(\d+,\d+\)"),
            ("version", READS_VERSION, r"v\d+"),
        ):
            if reads.search(sql):
                self.known[name] = ([self.known[name]] + re.findall(form, shown))[-1]
                return re.sub(r"(\\x[0-9a-f]{2}|\\[tnr]|\d)+", "#", shown)
        return answer


def may_differ(step, direct, proxied):
    """What others can do while a transaction is released they could not do directly."""
    return step.startswith(OTHERS) and (direct, proxied) == ("waits", "done")
