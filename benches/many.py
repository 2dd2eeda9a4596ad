#!/usr/bin/env python3
"""Measures what looking costs while 10,000 sessions are idle in a transaction: the console, HTTP, and the data path beside it.

A PostgreSQL server with 10,000 processes takes more than 20 GB, so those sessions end at a stand-in that answers as one would;
what pgbench runs meanwhile ends at a real, throwaway server.  PgBouncer (session mode) stands after pgidle and leads each to
its server, by the name of the database.  Texts differ from session to session, and so do half of the application names.

CPU is what /proc charges to pgidle: to all its threads for a scrape, and to those that move bytes (`worker`) for each
transaction of pgbench, with a scrape each second and without in turns.  pgidle needs two descriptors for each session.

    apt-get install postgresql pgbouncer
    cargo build --release && python3 benches/many.py    # three minutes; as root, or after `ulimit -n 20080`
"""
import argparse, contextlib, datetime, multiprocessing, os, re, resource, selectors, shutil, signal, socket, statistics, struct
import subprocess, sys, threading, time
import urllib.request

import compare
from compare import Bench, Endpoint, Missing, Stage, Wire, find, first_line, free_port, machine, median

#: What must hold: SHOW SESSIONS in seconds, a scrape in milliseconds of CPU, the data path with scrapes over without.
GATES = {"show": 1.0, "scrape": 100.0, "path": 1.02}


class Held(Wire):
    """A session that is held open: it shares its buffer with the others of its thread."""
    shared = threading.local()

    def __init__(self, port, number):
        if not hasattr(self.shared, "buffer"):
            self.shared.buffer = memoryview(bytearray(1 << 16))
        self.buffer = self.shared.buffer
        self.socket = self.open(port)
        name = f"app {number % 100}" if number % 2 else f"worker {number}"
        words = ["user", "postgres", "database", "held", "application_name", name, ""]
        body = struct.pack("!i", 196608) + "\0".join(words).encode() + b"\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.until(b"Z\0\0\0\5")
        self.query(f"BEGIN; SELECT {number} AS number, 'of many' AS what")


def message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


def stand_in(listener):
    """A server for sessions that hold a transaction open: it lets everyone in and answers BEGIN, SET and everything else."""
    ready = {status: message(b"Z", status) for status in (b"I", b"T")}
    parameters = {"server_version": "15.0", "client_encoding": "UTF8", "server_encoding": "UTF8", "DateStyle": "ISO, MDY",
                  "TimeZone": "UTC", "standard_conforming_strings": "on", "integer_datetimes": "on"}
    parameter = lambda name, value: message(b"S", name + b"\0" + value + b"\0")
    welcome = message(b"R", struct.pack("!i", 0)) \
        + b"".join(parameter(name.encode(), value.encode()) for name, value in parameters.items()) \
        + message(b"K", struct.pack("!ii", 1, 1)) + ready[b"I"]
    row = message(b"T", struct.pack("!h", 1) + b"n\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)) \
        + message(b"D", struct.pack("!hi", 1, 1) + b"1") + message(b"C", b"SELECT 1\0")

    def answer(text):
        if text.startswith(b"SET"):
            told = b"".join(parameter(*pair) for pair in re.findall(rb"SET (\w+)='([^']*)'", text))
            return told + message(b"C", b"SET\0") + ready[b"I"]
        if text.startswith(b"BEGIN"):
            return message(b"C", b"BEGIN\0") + row + ready[b"T"]
        return row + ready[b"I"]

    ready_for, known = selectors.DefaultSelector(), set()
    ready_for.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready_for.select():
            if key.fileobj is listener:
                ready_for.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(1 << 16)
                if key.fd in known and data[:1] == b"Q":
                    key.fileobj.sendall(answer(data[5:]))
                    continue
                if data and key.fd not in known:
                    known.add(key.fd)
                    key.fileobj.sendall(welcome)
                    continue
            except OSError:
                pass
            known.discard(key.fd)
            ready_for.unregister(key.fileobj)
            key.fileobj.close()


def hold(port, count):
    """Opens so many sessions, from four threads."""
    wires, lock, numbers, failed = [], threading.Lock(), iter(range(count)), []

    def work():
        while not failed:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                wires.append(Held(port, number))
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"after {len(wires)} sessions: {failed[0]}")
    return wires


def workers(pid):
    """CPU seconds of the threads that move bytes, to the nanosecond."""
    spent = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as name:
            if name.read().startswith("worker"):
                with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
                    spent += int(stat.read().split()[0])
    return spent / 1e9


def all_threads(pid):
    spent = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
            spent += int(stat.read().split()[0])
    return spent / 1e9


def fetch(http, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=60) as answer:
        return answer.read()


class Measures:
    def __init__(self, stage, proxy, http, options):
        self.stage, self.proxy, self.http, self.options = stage, proxy, http, options
        self.bench = Bench(options, find("pgbench", *stage.bin))

    def show(self):
        """How long psql takes for the whole table, in seconds."""
        began = time.perf_counter()
        done = subprocess.run([find("psql", *self.stage.bin), "-XAt", "-h", "127.0.0.1", "-p", str(self.proxy.port), "-U",
                               "postgres", "-c", "SHOW SESSIONS", "pgidle"], capture_output=True, text=True, check=True)
        took = time.perf_counter() - began
        lines = done.stdout.count("\n")
        if lines < self.options.sessions:
            raise RuntimeError(f"SHOW SESSIONS has {lines} rows")
        return took

    def scrape(self, path):
        """CPU of one answer in milliseconds, of all threads and of those that move bytes, how long it took, its bytes."""
        before, moving, began = all_threads(self.proxy.pid), workers(self.proxy.pid), time.perf_counter()
        size = len(fetch(self.http, path))
        took = time.perf_counter() - began
        time.sleep(0.05)
        return ((all_threads(self.proxy.pid) - before) * 1e3, (workers(self.proxy.pid) - moving) * 1e3, took * 1e3, size)

    def path(self, scraped):
        """The data path's CPU for each transaction of pgbench, in microseconds."""
        over = threading.Event()

        def scrape():
            while not over.wait(1):
                fetch(self.http, "/metrics")

        thread = threading.Thread(target=scrape)
        if scraped:
            thread.start()
        before = workers(self.proxy.pid)
        try:
            done = self.bench.pgbench(self.proxy, "-M", "prepared", "-c", 8, "-j", 2, "-T", self.options.seconds)
        finally:
            over.set()
        spent = workers(self.proxy.pid) - before
        if scraped:
            thread.join()
        return spent / done["count"] * 1e6


def start(stage, options):
    """The servers, and before them PgBouncer, and before that pgidle; returns pgidle, and the port of its HTTP."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    standing_in = multiprocessing.Process(target=stand_in, args=(listener,), daemon=True)
    standing_in.start()
    stage.stack.callback(standing_in.kill)
    server, bouncer = stage.direct(), free_port()
    config = stage.write("pgbouncer.ini", f"""
[databases]
held = host=127.0.0.1 port={listener.getsockname()[1]}
postgres = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {bouncer}
unix_socket_dir =
auth_type = trust
auth_file = {stage.write("users.txt", '"postgres" ""')}
pool_mode = session
max_client_conn = {options.sessions + 100}
default_pool_size = {options.sessions + 100}
server_reset_query =
server_lifetime = 0
log_connections = 0
log_disconnections = 0
""")
    stage.start("pgbouncer", [find("pgbouncer"), config], bouncer)
    if not os.access(options.pgidle, os.X_OK):
        raise Missing(f"{options.pgidle} is not there; cargo build --release")
    # The build may lie where an ordinary user cannot look.
    program, port, http = shutil.copy(options.pgidle, stage.path("pgidle")), free_port(), free_port()
    command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{bouncer}", "--idle-limit", "1h",
               "--action", "rollback", "--http", f"127.0.0.1:{http}"]
    pid = stage.start("pgidle", command, port)
    versions = f"{server.version}, PgBouncer {first_line(find('pgbouncer'), '--version')}, pgidle {first_line(program, '--version')}"
    return Endpoint("pgidle", port, versions, pid), http


def row(what, value, unit, gate=None):
    verdict = "" if gate is None else f"≤ {gate:g} {'✓' if value <= gate else '✗'}"
    print(f"| {what} | {compare.number(value)} {unit} | {verdict} |", flush=True)
    return gate is not None and value > gate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=8, help="of pgbench, each with and without scrapes; default: %(default)s")
    parser.add_argument("--seconds", type=int, default=4, help="of each pgbench run; default: %(default)s")
    parser.add_argument("--pgidle", default=os.path.join(compare.ROOT, "target/release/pgidle"), help="default: %(default)s")
    parser.set_defaults(idle=[0, 100])
    parser.add_argument("--check", action="store_true", help="exit 1 when a gate does not hold")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    files = 2 * options.sessions + 80
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, hard), max(files, hard)))
    except ValueError:
        raise Missing(f"{files} open files are needed, and {hard} are allowed: `ulimit -n {files}`, or "
                      f"--sessions {(hard - 80) // 2}") from None
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, options)
        proxy, http = start(stage, options)
        empty = proxy.rss()
        began = time.perf_counter()
        wires = hold(proxy.port, options.sessions)
        stack.callback(lambda: [wire.close() for wire in wires])
        print(f"{len(wires)} sessions after {time.perf_counter() - began:.0f} s", file=sys.stderr)
        time.sleep(2)
        print(f"{datetime.date.today()}, {machine()}; {proxy.version}; {options.sessions} sessions idle in a transaction, "
              f"{options.rounds} rounds of {options.seconds} s.\n\n| what | figure | gate |\n|---|---:|---|")
        held, missed = proxy.rss(), 0
        measures = Measures(stage, proxy, http, options)
        row("`/metrics`, the first time: CPU", measures.scrape("/metrics")[0], "ms")
        missed += row("`SHOW SESSIONS` by psql", median([measures.show() for _ in range(5)]), "s", GATES["show"])
        for path in ("/metrics", "/sessions"):
            samples = list(zip(*(measures.scrape(path) for _ in range(9))))
            missed += row(f"`{path}`: CPU", median(samples[0]), "ms", GATES["scrape"])
            row(f"`{path}`: CPU of that on the data path", median(samples[1]), "ms")
            row(f"`{path}`: time", median(samples[2]), "ms")
            row(f"`{path}`: size", median(samples[3]) / 1e6, "MB")
        row("memory of a session, before anyone looks", (held - empty) / options.sessions, "B")
        row("memory of a session, afterwards", (proxy.rss() - empty) / options.sessions, "B")
        pairs = []
        for number in range(options.rounds):
            turns = {scraped: measures.path(scraped) for scraped in ((False, True) if number % 2 else (True, False))}
            pairs.append((turns[True], turns[False]))
        ratios = sorted(with_ / without for with_, without in pairs)
        row("data path: CPU per transaction without scrapes", median([without for _, without in pairs]), "µs")
        row("data path: CPU per transaction with one each second", median([with_ for with_, _ in pairs]), "µs")
        missed += row(f"data path: with ÷ without (from {ratios[0]:.3f} to {ratios[-1]:.3f})", statistics.median(ratios), "",
                      GATES["path"])
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Missing, RuntimeError) as problem:
        sys.exit(f"many.py: {problem}")
