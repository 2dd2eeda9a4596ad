#!/usr/bin/env python3
"""Measures the memory of a connection that is idle in a transaction, with TLS on either leg, both or none.

Everything is started and stopped here, as in compare.py; the figure is the slope between few connections and many.

    cargo build --release && python3 benches/tls.py
"""
import argparse, contextlib, os, ssl, subprocess, sys, time

import compare
from compare import Endpoint, Missing, Stage, Wire, find, free_port, first_line

CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE


class TlsWire(Wire):
    """A client that begins TLS before it begins its session."""

    def open(self, port):
        plain = super().open(port)
        plain.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        if plain.recv(1) != b"S":
            raise RuntimeError("TLS is not offered")
        return CONTEXT.wrap_socket(plain)


def certificate(stage):
    """A certificate that signed itself, and its key, for pgidle and the server."""
    files = stage.path("tls.crt"), stage.path("tls.key")
    subprocess.run([find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/CN=localhost", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    if stage.identity:
        os.chown(files[1], stage.identity["user"], stage.identity["group"])
    return files


def pgidle(stage, server, files, upstream):
    """A proxy that offers TLS to clients, with an sslmode for the server."""
    port = free_port()
    config = stage.write(f"{port}.toml", f"[upstream]\nsslmode = '{upstream}'\n"
                         f"[tls]\nsslmode = 'prefer'\ncert = '{files[0]}'\nkey = '{files[1]}'\n")
    command = [stage.options.pgidle, "serve", "--config", config, "--listen", f"127.0.0.1:{port}",
               "--upstream", f"127.0.0.1:{server.port}"]
    return Endpoint("pgidle", port, first_line(stage.options.pgidle, "--version"), stage.start(str(port), command, port))


def slope(proxy, wire, few, many):
    wires, points = [], []
    for want in (few, many):
        while len(wires) < want:
            wires.append(wire(proxy.port))
            wires[-1].query("BEGIN; SELECT 1")
        time.sleep(2)
        points.append(proxy.rss())
    for opened in wires:
        opened.close()
    return (points[1] - points[0]) / (many - few)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, nargs=2, metavar=("FEW", "MANY"), default=[100, 600], help="default: 100 600")
    parser.add_argument("--pgidle", default=os.path.join(compare.ROOT, "target/release/pgidle"), help="default: %(default)s")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, options)
        server = stage.direct()
        files = certificate(stage)
        wire = Wire(server.port)
        for setting in (f"ssl_cert_file = '{files[0]}'", f"ssl_key_file = '{files[1]}'", "ssl = on"):
            wire.query(f"ALTER SYSTEM SET {setting}")
        wire.query("SELECT pg_reload_conf()")
        wire.close()
        print("| TLS with the client | TLS with the server | memory per connection, KiB |\n|---|---|---:|")
        for upstream in ("disable", "require"):
            for client in (Wire, TlsWire):
                used = slope(pgidle(stage, server, files, upstream), client, *options.idle)
                legs = ["yes" if leg else "no" for leg in (client is TlsWire, upstream == "require")]
                print(f"| {legs[0]} | {legs[1]} | {used / 1024:.1f} |", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Missing, RuntimeError) as problem:
        sys.exit(f"tls.py: {problem}")
