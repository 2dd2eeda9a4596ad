#!/usr/bin/env python3
"""Measures what the observer costs the server and the proxy while many sessions are idle in a transaction.

Each session holds the 22 locks of a table with 21 indexes; behind them wait an ALTER TABLE and ten SELECTs, so that the
queue of each is eleven long.  Everything is started and stopped here, as in compare.py.

    cargo build --release && python3 benches/observer.py
"""
import argparse, contextlib, os, subprocess, sys, time

import compare
from compare import Endpoint, Missing, Stage, Wire, find, free_port, first_line

RULES = {
    "no observer": ('', 'idle = { log = "1h" }'),
    "observer, nobody due": ("{observer}", 'idle = { log = "1h" }'),
    "observer, all watched": ("{observer}", 'idle = { log = "1h" }\nblocking = { rollback = "1h" }'),
}


def pgidle(stage, server, rules):
    """A proxy of its own for each set of rules."""
    port = free_port()
    observer, ladders = RULES[rules]
    dsn = f'[observer]\ndsn = "host=127.0.0.1 port={server.port} user=postgres dbname=postgres"\n'
    config = stage.write(f"{port}.toml", observer.format(observer=dsn) + f'[[rule]]\nname = "all"\n{ladders}\n')
    command = [stage.options.pgidle, "serve", "--config", config, "--listen", f"127.0.0.1:{port}",
               "--upstream", f"127.0.0.1:{server.port}"]
    return Endpoint("pgidle", port, first_line(stage.options.pgidle, "--version"), stage.start(str(port), command, port))


def ask(stage, server, sql):
    done = subprocess.run([find("psql", *stage.bin), "-XAtq", "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres",
                           "-c", sql], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def measure(stage, server, rules, options):
    proxy = pgidle(stage, server, rules)
    held = [Wire(proxy.port) for _ in range(options.sessions)]
    for wire in held:
        wire.query("BEGIN")
        wire.query("SELECT * FROM wide WHERE id = 1")
    waiting = [Wire(server.port) for _ in range(11)]
    for number, wire in enumerate(waiting):
        sql = "ALTER TABLE wide ADD COLUMN added int" if number == 0 else "SELECT * FROM wide"
        wire.socket.sendall(b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql.encode() + b"\0")
        time.sleep(0.2)
    time.sleep(2)
    pid = ask(stage, server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgidle observer'")
    observer = Endpoint("observer", 0, "", int(pid) if pid else None)
    before = proxy.cpu(), observer.cpu()
    time.sleep(options.seconds)
    spent = [(now - then) / options.seconds * 1000 for now, then in zip((proxy.cpu(), observer.cpu()), before)]
    print(f"| {rules} | {spent[0]:.1f} | {spent[1]:.1f} | {proxy.rss() / 2**20:.1f} |", flush=True)
    for wire in waiting[:1] + held:
        wire.close()
    ask(stage, server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for wire in waiting[1:]:
        wire.close()
    time.sleep(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=20, help="of each measurement; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--pgidle", default=os.path.join(compare.ROOT, "target/release/pgidle"), help="default: %(default)s")
    options = parser.parse_args()
    options.idle = [options.sessions]
    compare.resource.setrlimit(compare.resource.RLIMIT_NOFILE, (8192, compare.resource.getrlimit(compare.resource.RLIMIT_NOFILE)[1]))
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, options)
        options.pgidle = compare.shutil.copy(options.pgidle, stage.path("pgidle"))
        server = stage.direct()
        ask(stage, server, "CREATE TABLE wide (id int)")
        for _ in range(21):
            ask(stage, server, "CREATE INDEX ON wide (id)")
        print(f"{server.version}, {options.sessions} sessions with 22 locks each, a look a second")
        print("\n| | proxy, CPU ms/s | observer's backend, CPU ms/s | proxy, RSS MiB |\n|---|---|---|---|")
        for _ in range(options.rounds):
            for rules in RULES:
                with contextlib.ExitStack() as stage.stack:
                    measure(stage, server, rules, options)


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(str(missing))
