#!/usr/bin/env python3
"""Compares pgidle with PgBouncer, HAProxy and the plain server on the same work, and prints one Markdown table.

Everything it needs is started and stopped here, in a temporary folder and on loopback ports: a throwaway PostgreSQL, and
before it PgBouncer (session mode), HAProxy (TCP mode, its default of a thread for each core) and pgidle (the release build,
with limits and audit switched on).

Rounds are interleaved (A B C, B C A, ...), and a ratio is taken inside its round before the median is formed, so that the
slow drift of a noisy machine cancels.  CPU is what /proc charges to the proxy's process.  Differences under 10 % want six
rounds; system calls per transaction are the steadiest figure.

    apt-get install postgresql pgbouncer haproxy strace
    cargo build --release && python3 benches/compare.py           # about half an hour
    cargo build --release && python3 benches/compare.py --quick   # a few minutes, noisy
"""
import argparse, contextlib, datetime, os, platform, pwd, re, resource, shutil, signal, socket, statistics, struct
import subprocess, sys, tempfile, threading, time
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICKS = os.sysconf("SC_CLK_TCK")
NAMES = {"direct": "direct", "pgbouncer": "PgBouncer", "haproxy": "HAProxy", "before": "build before", "pgidle": "pgidle"}
INSTALL = "apt-get install postgresql pgbouncer haproxy strace"


class Missing(Exception):
    """A program that is needed is not there."""


@dataclass
class Endpoint:
    """Something that speaks PostgreSQL on a loopback port; `pid` is the proxy's, None for the server itself."""
    name: str
    port: int
    version: str
    pid: int | None = None

    def cpu(self):
        """CPU seconds that the proxy has spent so far, all its threads."""
        if self.pid is None:
            return 0.0
        with open(f"/proc/{self.pid}/stat") as stat:
            return sum(map(int, stat.read().rpartition(")")[2].split()[11:13])) / TICKS

    def rss(self):
        """The proxy's resident memory in bytes."""
        with open(f"/proc/{self.pid}/smaps_rollup") as maps:
            return int(re.search(r"^Rss:\s+(\d+)", maps.read(), re.M)[1]) * 1024


class Wire:
    """The least of a client: trust authentication and simple queries, whose results are only counted."""

    def __init__(self, port):
        self.buffer = memoryview(bytearray(1 << 18))
        self.socket = self.open(port)
        body = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.until(b"Z\0\0\0\5")

    def open(self, port):
        opened = socket.create_connection(("127.0.0.1", port), timeout=120)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def until(self, mark, behind=1):
        """Reads until what came ends in `mark` and `behind` bytes more; returns how many bytes that were."""
        got, tail = 0, b""
        while tail[-len(mark) - behind:len(tail) - behind] != mark:
            count = self.socket.recv_into(self.buffer)
            if count == 0:
                raise ConnectionError(f"closed after {tail[-200:]!r}")
            got += count
            tail = (tail + bytes(self.buffer[max(0, count - 256):count]))[-256:]
        return got

    def query(self, sql):
        self.socket.sendall(b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")
        return self.until(b"Z\0\0\0\5")

    def copy_in(self, megabytes, width):
        """COPY FROM STDIN of rows of `width` bytes, in CopyData messages of about 8 kB."""
        sql = b"COPY sink FROM STDIN\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(sql) + 4) + sql)
        self.until(b"G\0\0\0\t\0\0\1", behind=2)
        data = (b"x" * (width - 1) + b"\n") * (8192 // width)
        block = (b"d" + struct.pack("!i", len(data) + 4) + data) * 16
        blocks = megabytes * 1_000_000 // len(block)
        for _ in range(blocks):
            self.socket.sendall(block)
        self.socket.sendall(b"c\0\0\0\4")
        self.until(b"Z\0\0\0\5")
        return blocks * len(block)

    def close(self):
        self.socket.close()


# ---------------------------------------------------------------------------------------------------- what is started

def find(program, *folders):
    path = shutil.which(program, path=os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin"]))
    if not path:
        raise Missing(f"{program} is not installed; {INSTALL}")
    return path


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+(\.\w+)+", done.stdout + done.stderr)[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """The temporary folder and every process in it.  Run by root, they belong to an ordinary user."""

    def __init__(self, stack, options):
        self.stack, self.options = stack, options
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgidle-bench-", dir="/tmp"))
        self.identity = {}
        if os.geteuid() == 0:
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = names.get("postgres") or names["nobody"]
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        bindir = "/usr/lib/postgresql"
        versions = sorted((v for v in os.listdir(bindir) if v.isdigit()), key=int) if os.path.isdir(bindir) else []
        self.bin = [f"{bindir}/{version}/bin" for version in reversed(versions)]

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def start(self, name, command, port, stop=signal.SIGTERM):
        """Runs a program until the end of the benchmark, and waits until it answers a query on its port."""
        log = self.stack.enter_context(open(self.path(f"{name}.log"), "w"))
        process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, **self.identity)
        self.stack.callback(self.stop, process, stop)
        for _ in range(300):
            with contextlib.suppress(OSError):
                wire = Wire(port)
                wire.query("SELECT 1")
                wire.close()
                return process.pid
            if process.poll() is not None:
                break
            time.sleep(0.1)
        with open(log.name) as text:
            raise RuntimeError(f"{name} does not answer:\n{text.read()[-2000:]}")

    @staticmethod
    def stop(process, how):
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def direct(self):
        initdb, postgres = find("initdb", *self.bin), find("postgres", *self.bin)
        subprocess.run([initdb, "-D", self.path("data"), "-U", "postgres", "--auth=trust", "--no-locale",
                        "--encoding=UTF8", "--no-sync"], check=True, cwd=self.folder, capture_output=True, **self.identity)
        port = free_port()
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder,
                    "max_connections": max(self.options.idle) + 100, "fsync": "off", "full_page_writes": "off",
                    "synchronous_commit": "off", "autovacuum": "off", "shared_buffers": "128MB"}
        self.start("postgres", [postgres, "-D", self.path("data"), *(f"--{k}={v}" for k, v in settings.items())], port,
                   stop=signal.SIGINT)
        wire = Wire(port)
        wire.query("CREATE UNLOGGED TABLE sink (line text)")
        wire.close()
        subprocess.run([find("pgbench", *self.bin), "-i", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres",
                        "postgres"], check=True, capture_output=True)
        return Endpoint("direct", port, "PostgreSQL " + first_line(postgres, "--version"))

    def pgbouncer(self, server):
        program, port = find("pgbouncer"), free_port()
        users = self.write("users.txt", '"postgres" ""\n')
        config = self.write("pgbouncer.ini", f"""
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = session
max_client_conn = 10000
default_pool_size = 10000
server_reset_query =
log_connections = 0
log_disconnections = 0
""")
        pid = self.start("pgbouncer", [program, config], port)
        return Endpoint("pgbouncer", port, "PgBouncer " + first_line(program, "--version"), pid)

    def haproxy(self, server):
        program, port = find("haproxy"), free_port()
        config = self.write("haproxy.cfg", f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen postgres
    bind 127.0.0.1:{port}
    server postgres 127.0.0.1:{server.port}
""")
        pid = self.start("haproxy", [program, "-db", "-f", config], port)
        return Endpoint("haproxy", port, "HAProxy " + first_line(program, "-v"), pid)

    def pgidle(self, server):
        return self.build_of_pgidle("pgidle", self.options.pgidle, server)

    def before(self, server):
        return self.build_of_pgidle("before", self.options.before, server)

    def build_of_pgidle(self, name, built, server):
        port = free_port()
        if not os.access(built, os.X_OK):
            raise Missing(f"{built} is not there; cargo build --release")
        # The build may lie where an ordinary user cannot look.
        program = shutil.copy(built, self.path(name))
        command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{server.port}",
                   "--idle-limit", "1h", "--action", "rollback", "--audit", self.path(f"{name}.jsonl")]
        pid = self.start(name, command, port)
        return Endpoint(name, port, "pgidle " + first_line(program, "--version"), pid)


# --------------------------------------------------------------------------------------------------- what is measured

@dataclass
class Bench:
    """The measurements; each takes an endpoint and returns its figures by name."""
    options: argparse.Namespace
    pgbench_path: str

    def pgbench(self, endpoint, *arguments):
        before = endpoint.cpu()
        done = subprocess.run([self.pgbench_path, "-n", "-S", "-h", "127.0.0.1", "-p", str(endpoint.port), "-U", "postgres",
                               *map(str, arguments), "dbname=postgres sslmode=disable gssencmode=disable"],
                              capture_output=True, text=True)
        count = re.search(r"processed: (\d+)", done.stdout)
        failed = re.search(r"failed transactions: (\d+)", done.stdout)
        if done.returncode or not count or (failed and int(failed[1])):
            raise RuntimeError((done.stderr or done.stdout).strip()[-300:])
        figures = {"tps": float(re.search(r"tps = ([\d.]+)", done.stdout)[1]), "count": int(count[1])}
        if endpoint.pid:
            figures["cpu_us"] = (endpoint.cpu() - before) / figures["count"] * 1e6
        return figures

    def select(self, endpoint, mode, clients):
        return self.pgbench(endpoint, "-M", mode, "-c", clients, "-j", 2, "-T", self.options.seconds)

    def churn(self, endpoint):
        return self.pgbench(endpoint, "-C", "-c", 4, "-j", 2, "-T", self.options.seconds)

    def calls(self, endpoint, clients):
        """System calls for each transaction; slow under strace, but the count is exact."""
        if not endpoint.pid:
            return {}
        with tempfile.NamedTemporaryFile("r") as out:
            trace = subprocess.Popen([find("strace"), "-f", "-c", "-o", out.name, "-p", str(endpoint.pid)],
                                     stderr=subprocess.DEVNULL)
            time.sleep(1)
            done = self.pgbench(endpoint, "-M", "simple", "-c", clients, "-t", 500)["count"]
            trace.send_signal(signal.SIGINT)
            trace.wait(30)
            total = re.search(r"^100\.00\s+\S+\s+(?:\d+\s+)?(\d+)\s+(?:\d+ )?\s*total$", out.read(), re.M)
        return {"calls": int(total[1]) / done} if total else {}

    def large(self, endpoint, how, width):
        """CPU seconds for each GB of a large result, or of a large COPY FROM STDIN."""
        rows = self.options.megabytes * 1_000_000 // width
        result = f"SELECT repeat('x', {width - 11}) FROM generate_series(1, {rows})"
        wire = Wire(endpoint.port)
        wire.query("TRUNCATE sink")
        before, start = endpoint.cpu(), time.perf_counter()
        if how == "copy in":
            moved = wire.copy_in(self.options.megabytes, width)
        else:
            moved = wire.query(result if how == "select" else f"COPY ({result}) TO STDOUT")
        took, cpu = time.perf_counter() - start, endpoint.cpu() - before
        wire.query("TRUNCATE sink")
        wire.close()
        return {"mbps": moved / took / 1e6, **({"cpu_s_gb": cpu / moved * 1e9} if endpoint.pid else {})}

    def neighbour(self, endpoint):
        """How long a small session waits while another has sent 60,000 INSERTs at once, which first wait two seconds for
        a lock: the answers to SELECT 1, in ms."""
        holder, busy, small = (Wire(endpoint.port) for _ in range(3))
        message = lambda tag, body: tag + struct.pack("!i", len(body) + 4) + body
        sync = message(b"S", b"")
        busy.socket.sendall(message(b"P", b"insert\0INSERT INTO sink VALUES ($1)\0\0\0") + sync)
        busy.until(b"Z\0\0\0\5")
        row = message(b"B", b"\0insert\0\0\0\0\1\0\0\0\4text\0\0") + message(b"E", b"\0\0\0\0\0")
        holder.query("BEGIN; LOCK TABLE sink")
        writer = threading.Thread(target=busy.socket.sendall, args=(row * 60_000 + sync,))
        reader = threading.Thread(target=busy.until, args=(b"Z\0\0\0\5",))
        writer.start(), reader.start()
        waits, start = [], time.perf_counter()
        while reader.is_alive():
            if holder and time.perf_counter() - start > 2:
                holder.query("COMMIT")
                holder = holder.close()
            before = time.perf_counter()
            small.query("SELECT 1")
            waits.append((time.perf_counter() - before) * 1e3)
            time.sleep(0.001)
        writer.join()
        small.query("TRUNCATE sink")
        busy.close(), small.close()
        return {"p99": sorted(waits)[len(waits) * 99 // 100], "longest": max(waits)}

    def idle(self, endpoint):
        """Memory for each connection that is idle in a transaction, and the CPU that all of them take by being there."""
        if not endpoint.pid:
            return {}
        few, many = self.options.idle
        wires, points = [], []
        try:
            for want in (few, many):
                while len(wires) < want:
                    wires.append(Wire(endpoint.port))
                    wires[-1].query("BEGIN; SELECT 1")
                time.sleep(2)
                points.append(endpoint.rss())
            before = endpoint.cpu()
            time.sleep(self.options.seconds)
            watched = (endpoint.cpu() - before) / self.options.seconds * 100
        finally:
            for wire in wires:
                wire.close()
            time.sleep(2)
        return {"rss": (points[1] - points[0]) / (many - few), "watch": watched}


@dataclass
class Cell:
    """One measurement and the rows of the table that it fills: label, figure, gates (factor of a peer's, or absolute)."""
    measure: object
    arguments: tuple
    rows: list
    rounds: int | None = None
    samples: list = field(default_factory=list)


def cells(bench):
    few, many = bench.options.idle
    for mode in ("simple", "prepared"):
        for clients in (8, 32):
            what = f"{mode}, {clients} clients"
            yield Cell(bench.select, (mode, clients), [
                (f"CPU per transaction, µs ({what})", "cpu_us", {"pgbouncer": 1.0, "haproxy": 0.9}),
                (f"transactions per second ({what})", "tps", {"pgbouncer": -0.95})])
    yield Cell(bench.calls, (8,), [("system calls per transaction (8 clients)", "calls", {None: 4.9})], rounds=1)
    for how, width, gate in (("select", 100, 0.5), ("select", 8000, 0.5), ("copy out", 100, 0.7), ("copy out", 8000, 0.7),
                             ("copy in", 100, 0.7)):
        yield Cell(bench.large, (how, width), [
            (f"CPU per GB, s ({how}, rows of {width} B)", "cpu_s_gb", {"pgbouncer": gate}),
            (f"MB per second ({how}, rows of {width} B)", "mbps", {})])
    yield Cell(bench.churn, (), [
        ("new connections per second (PgBouncer reuses server connections)", "tps", {"direct": -0.9}),
        ("CPU per new connection, µs", "cpu_us", {"haproxy": 0.85})])
    yield Cell(bench.neighbour, (), [
        ("p99 of SELECT 1 beside 60,000 INSERTs sent at once, ms", "p99", {}),
        ("the longest of them, ms", "longest", {None: 200})])
    yield Cell(bench.idle, (), [
        (f"memory per idle-in-transaction connection, B (slope {few} to {many})", "rss", {None: 2680}),
        (f"CPU of {many} idle-in-transaction sessions, % of a core", "watch", {None: 0.5})], rounds=1)


def run_rounds(cell, endpoints, options):
    for number in range(cell.rounds or options.rounds):
        turn = number % len(endpoints)
        cell.samples.append({})
        for endpoint in endpoints[turn:] + endpoints[:turn]:
            try:
                cell.samples[-1][endpoint.name] = cell.measure(endpoint, *cell.arguments)
            except (RuntimeError, OSError) as error:  # one endpoint's failure must not lose the others' figures
                print(f"! {cell.measure.__name__}{cell.arguments} {endpoint.name}: {error}", file=sys.stderr)


# --------------------------------------------------------------------------------------------------------- the table

def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratio(samples, key, name, peer):
    """Median over the rounds of one endpoint's figure over a peer's in the same round."""
    pairs = [(sample.get(name, {}).get(key), sample.get(peer, {}).get(key)) for sample in samples]
    return median([mine / theirs for mine, theirs in pairs if mine is not None and theirs])


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def gate_of(cell, key, gates):
    """The gates of a row in words, and whether pgidle holds them all (None when that is not measured)."""
    words, holds = [], []
    for peer, factor in gates.items():
        least = factor < 0
        words.append(f"{'≥' if least else '≤'} {abs(factor):g}" + (f" × {NAMES[peer]}" if peer else ""))
        value = ratio(cell.samples, key, "pgidle", peer) if peer \
            else median([sample.get("pgidle", {}).get(key) for sample in cell.samples])
        if value is not None:
            holds.append(value >= -factor if least else value <= factor)
    verdict = all(holds) if holds else None
    return ", ".join(words) + {True: " ✓", False: " ✗", None: ""}[verdict], verdict


def table(measured, endpoints):
    """The Markdown lines, and how many gates do not hold."""
    names = [endpoint.name for endpoint in endpoints]
    peers = [peer for peer in names if peer != "pgidle"] if "pgidle" in names else []
    head = ["what", *(NAMES[name] for name in names), *(f"pgidle ÷ {NAMES[peer]}" for peer in peers), "gate"]
    lines, failed = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 2) + "|---|"], 0
    for cell in measured:
        for label, key, gates in cell.rows:
            figures = [number(median([sample.get(name, {}).get(key) for sample in cell.samples])) for name in names]
            ratios = [number(ratio(cell.samples, key, "pgidle", peer)) for peer in peers]
            words, holds = gate_of(cell, key, gates)
            failed += holds is False
            lines.append("| " + " | ".join([label, *figures, *ratios, words]) + " |")
    return lines, failed


def machine():
    with open("/proc/cpuinfo") as info:
        model = re.search(r"model name\s*: (.*)", info.read())
    return f"{len(os.sched_getaffinity(0))} × {model[1] if model else platform.machine()}, Linux {platform.release()}"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds: shows that it runs, proves nothing")
    parser.add_argument("--rounds", type=int, help="default: 6, quick 2")
    parser.add_argument("--seconds", type=int, help="of each pgbench run; default: 6, quick 2")
    parser.add_argument("--megabytes", type=int, help="of each large result; default: 300, quick 100")
    parser.add_argument("--idle", type=int, nargs=2, metavar=("FEW", "MANY"),
                        help="connections between which the slope of memory is taken; default: 100 2000, quick 50 300")
    usual = ",".join(name for name in NAMES if name != "before")
    parser.add_argument("--endpoints", help=f"default: {usual}, and before with --before")
    parser.add_argument("--only", default=".", help="a regular expression: the rows to measure")
    parser.add_argument("--pgidle", default=os.path.join(ROOT, "target/release/pgidle"), help="default: %(default)s")
    parser.add_argument("--before", metavar="BINARY", help="another build of pgidle, to compare this one with")
    parser.add_argument("--check", action="store_true", help="exit 1 when a gate does not hold")
    options = parser.parse_args()
    options.endpoints = options.endpoints or usual + (",before" if options.before else "")
    usual = {"rounds": 2, "seconds": 2, "megabytes": 100, "idle": [50, 300]} if options.quick \
        else {"rounds": 6, "seconds": 6, "megabytes": 300, "idle": [100, 2000]}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    unknown = set(options.endpoints.split(",")) - set(NAMES)
    if unknown:
        parser.error(f"no such endpoint: {', '.join(unknown)}")
    if "before" in options.endpoints.split(",") and not options.before:
        parser.error("before needs --before BINARY")
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in [name for name in os.environ if name.startswith("PG")]:  # meant for a server of the user's own
        del os.environ[name]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, options)
        server = stage.direct()
        wanted = options.endpoints.split(",")
        endpoints = [server if name == "direct" else getattr(stage, name)(server) for name in NAMES if name in wanted]
        bench = Bench(options, find("pgbench", *stage.bin))
        measured = [cell for cell in cells(bench) if any(re.search(options.only, row[0]) for row in cell.rows)]
        for count, cell in enumerate(measured, 1):
            print(f"{count}/{len(measured)} {cell.rows[0][0]}", file=sys.stderr)
            run_rounds(cell, endpoints, options)
        lines, failed = table(measured, endpoints)
    print(f"{datetime.date.today()}, {machine()}; {', '.join(dict.fromkeys([server.version, *(e.version for e in endpoints)]))}; "
          f"{options.rounds} rounds of {options.seconds} s.\n")
    print("\n".join(lines))
    return 1 if failed and options.check else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Missing, RuntimeError) as problem:
        sys.exit(f"compare.py: {problem}")
