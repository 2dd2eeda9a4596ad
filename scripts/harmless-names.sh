#!/usr/bin/env bash
# Writes to standard output the table src/sql/harmless.txt: the names that are harmless on the oldest server that
# pgidle is tested with and on the newest. Needs what scripts/setup.sh makes.
#
#     scripts/harmless-names.sh > src/sql/harmless.txt
set -euo pipefail
cd "$(dirname "$0")/.."
sql=$PWD/scripts/harmless-names.sql
scratch=$(mktemp -d)
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT

# Root must not run PostgreSQL.
run() { if [ "$(id -u)" -eq 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi; }

# Single-user mode: no port, no socket, and nothing to stop afterwards.
names() {
    local bin data=$scratch/$1
    bin=$(readlink -f .cache/servers)/node_modules/postgresql-$1/native/bin
    mkdir "$data"
    [ "$(id -u)" -ne 0 ] || chown nobody "$data"
    run "$bin/initdb" --no-sync --locale=C --encoding=UTF8 -A trust -U postgres -D "$data" >/dev/null
    # -j: a statement ends with a semicolon and an empty line.
    { grep -v '^--' "$sql"; echo; } | (cd "$scratch" && run "$bin/postgres" --single -j -D "$data" template1) \
        | sed -n 's/^\t 1: ?column? = "\(.*\)"\t(typeid.*$/\1/p' | LC_ALL=C sort
}

LC_ALL=C comm -12 <(names 15) <(names 18)
