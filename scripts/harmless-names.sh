#!/usr/bin/env bash
# Writes to standard output the table src/sql/harmless/names.txt: the names that are harmless on the oldest server that
# pgidle is tested with and on the newest, by the query beside it. Needs what scripts/setup.sh makes.
#
#     scripts/harmless-names.sh > names.new && mv names.new src/sql/harmless/names.txt
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=15
newest=18
sql=$PWD/src/sql/harmless/review.sql
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

cat <<HEADER
# Functions, operators and types of pg_catalog that are harmless: a statement that uses no others and writes nothing by
# itself has no effect that outlives it. What harmless means, and which names are left out why, is said in review.sql.
#
# Made by scripts/harmless-names.sh: the names that the query in review.sql finds on PostgreSQL $oldest and on $newest.
# One a line, with its kind in front, in the order of their bytes; lines that begin with # are not read.
HEADER
LC_ALL=C comm -12 <(names "$oldest") <(names "$newest")
