"""What every Python program in this folder does around its library.

`PROGRAM` alone prints one line of JSON: the library's version, and the flows that it plays.
`PROGRAM FLOW` plays one. Where the silence lies it prints `stuck` and waits for a line: `go`, or `fail`, for which it runs
a statement that fails in place of the silence. At the end it prints one line of JSON: the flow, and for each step what the
program was told: null, or the name of the exception and its SQLSTATE.
"""

import asyncio
import json
import os
import sys

HOST, PORT = os.environ["PGHOST"], int(os.environ["PGPORT"])
USER, DATABASE = os.environ["PGUSER"], os.environ["PGDATABASE"]

INSERT = "INSERT INTO t VALUES (2, 'two')"
LATE = "INSERT INTO t VALUES (3, 'three')"
FAILS = "SELECT 1/0"


class Own(Exception):
    """An exception of the program's, which no database has raised."""


class Flow:
    def __init__(self):
        self.steps = []

    def silence(self, run):
        """The silence, or the statement that fails: what it raises is the caller's."""
        print("stuck", flush=True)
        if sys.stdin.readline().strip() == "fail":
            run(FAILS)

    def swallowed(self, run):
        """The silence, of which the program wants to know nothing."""
        try:
            self.silence(run)
        except Exception:
            pass

    def step(self, name, do, *arguments):
        """Does something and goes on, whatever it raises."""
        try:
            do(*arguments)
        except Exception as error:
            self.note(name, error)
            return False
        self.note(name)
        return True

    def note(self, name, error=None):
        seen = error and [f"{type(error).__name__} {sqlstate(error)}".strip()]
        self.steps.append([name, seen[0] if seen else None])


class AsyncFlow(Flow):
    async def silence(self, run):
        print("stuck", flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if line.strip() == "fail":
            await run(FAILS)

    async def swallowed(self, run):
        try:
            await self.silence(run)
        except Exception:
            pass

    async def step(self, name, do, *arguments):
        try:
            await do(*arguments)
        except Exception as error:
            self.note(name, error)
            return False
        self.note(name)
        return True


def sqlstate(error):
    """The SQLSTATE, of the exception or of one that it was made from."""
    while error is not None:
        for source in (error, getattr(error, "orig", None)):
            state = getattr(source, "sqlstate", None) or getattr(source, "pgcode", None)
            if state is None and source is not None and source.args and isinstance(source.args[0], dict):
                state = source.args[0].get("C")
            if isinstance(state, str) and len(state) == 5:
                return state
        error = error.__cause__ or error.__context__
    return ""


def play(version, flows):
    """Plays the flow that the command line names."""
    if len(sys.argv) == 1:
        print(json.dumps({"version": version, "flows": list(flows)}))
        return
    name = sys.argv[1]
    if asyncio.iscoroutinefunction(flows[name]):
        flow = AsyncFlow()
        asyncio.run(flows[name](flow))
    else:
        flow = Flow()
        flows[name](flow)
    print(json.dumps({"flow": name, "steps": flow.steps}), flush=True)
