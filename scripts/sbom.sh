#!/usr/bin/env bash
# Writes target/pgidle.cdx.json: every package that the program is built of, with version, licence and checksum, as
# CycloneDX. What only tests, fuzzers and the build need is left out; two runs give the same file.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) PATH=$PWD/.cache/cyclonedx/bin:$PATH \
    cargo cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --target all --override-filename pgidle.cdx
mv pgidle.cdx.json target/
python3 - target/pgidle.cdx.json Cargo.lock <<'END'
import json, re, sys
bill = json.load(open(sys.argv[1]))
locked = set(re.findall(r'name = "(.*)"\nversion = "(.*)"', open(sys.argv[2]).read()))
named = {(one["name"], one["version"]) for one in bill["components"]}
assert bill["metadata"]["component"]["name"] == "pgidle", bill["metadata"]["component"]
assert named <= locked, named - locked
assert {"tokio", "pg_query", "rustls", "pgwire"} <= {name for name, _ in named}, named
assert not {"proptest", "sqlx", "divan"} & {name for name, _ in named}, named
print(f"target/pgidle.cdx.json: {len(named)} packages")
END
