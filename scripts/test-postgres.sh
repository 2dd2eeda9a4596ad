#!/usr/bin/env bash
# Runs PostgreSQL's own suites (pg_regress and isolation) directly and through pgidle, and compares test by test: what
# passes directly must pass through a pgidle whose rules have limits that nobody reaches, and through one that releases
# every transaction that it can after a millisecond, but for the tests named in `documented`.
#
# Sources come from the Debian mirrors that apt is configured with, and are built once, in the cache beside the servers
# of the tests. Neither apt's settings nor its lists are touched.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly package=postgresql-15
# Tests that may differ where transactions are released, for the reasons in docs/release.md.
readonly documented='detach-partition-concurrently-[1-4]|reindex-concurrently|stats|timeouts|truncate-conflict'
cache=$(dirname "$(readlink -f .cache/servers)")
tree="$cache/$package-suites"
pgidle=$PWD/target/debug/pgidle

say() { printf '[test-postgres] %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        runuser -u "$(id -un postgres 2>/dev/null || echo nobody)" -- "$@"
    else
        "$@"
    fi
}

# Downloads the newest source that the mirrors have: fetch FOLDER
fetch() {
    local apt="$1/apt" file version
    mkdir -p "$apt/lists/partial" "$apt/parts"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" > "$apt/parts/$(basename "$file")"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed 's/^deb /deb-src /' "$file" > "$apt/parts/$(basename "$file" .list).list"
    done
    local options=(-qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=/dev/null
        -o "Dir::Etc::sourceparts=$apt/parts" -o "Dir::State::lists=$apt/lists")
    apt-get "${options[@]}" update
    for version in $(apt-cache "${options[@]}" showsrc "$package" | sed -n 's/^Version: //p' | sort -rV); do
        if (cd "$1" && apt-get "${options[@]}" source --download-only "$package=$version") 2>"$1/fetch.log"; then
            say "the source of $package $version"
            return
        fi
    done
    fail "the source of $package cannot be had from the mirrors that apt is configured with: $(cat "$1/fetch.log")"
}

build() {
    rm -rf "$tree"
    mkdir -p "$tree/source"
    fetch "$tree"
    tar -xf "$tree"/postgresql-15_*.orig.tar.* --strip-components=1 -C "$tree/source"
    say "building in $tree"
    (
        cd "$tree/source"
        # PostgreSQL makes its generated headers only where make was not called by make (src/Makefile.global.in).
        unset MAKELEVEL MAKEFLAGS MFLAGS
        ./configure --quiet --prefix="$tree/install" --without-readline --without-zlib CFLAGS=-O0
        local part
        make -s -j2 >/dev/null
        make -s install >/dev/null
        for part in regress isolation; do
            make -s -C "src/test/$part" >/dev/null
        done
    ) >"$tree/build.log" 2>&1 || fail "the build failed: $tree/build.log"
    touch "$tree/.complete"
}

# Runs both suites on a server of their own: suites direct|through|released
suites() {
    local folder="$work/$1" port
    as_server mkdir -p "$folder"
    as_server "$tree/install/bin/initdb" -D "$folder/data" -U postgres -A trust --no-sync --no-locale -E UTF8 >/dev/null
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    as_server "$tree/install/bin/pg_ctl" -D "$folder/data" -l "$folder/server.log" -w -s \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" start
    running=("$folder/data")
    if [ "$1" != direct ]; then
        "$pgidle" serve --config "$work/$1.toml" --audit "$work/$1.audit" --listen 127.0.0.1:0 --upstream "127.0.0.1:$port" \
            2>"$work/$1.log" &
        proxy=$!
        for _ in $(seq 100); do
            port=$(sed -n 's/.*listening.* address=127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/$1.log")
            [ -z "$port" ] || break
            sleep 0.1
        done
        [ -n "$port" ] || fail "pgidle does not listen: $(cat "$work/$1.log")"
    fi
    local suite program schedule launcher
    for suite in regress:pg_regress:parallel_schedule isolation:pg_isolation_regress:isolation_schedule; do
        IFS=: read -r suite program schedule <<<"$suite"
        as_server mkdir -p "$folder/$suite"
        launcher=()
        [ "$1/$suite" != released/regress ] || launcher=(--launcher="$work/thinking")
        # A test that fails is counted below.
        (cd "$tree/source/src/test/$suite" && as_server "./$program" --inputdir=. --outputdir="$folder/$suite" \
            --dlpath=. --bindir="$tree/install/bin" --schedule="$schedule" --max-connections=20 "${launcher[@]}" \
            --host=127.0.0.1 --port="$port" --user=postgres) >"$work/$1.$suite.log" 2>&1 || true
        sed -nE 's/^(test| +)? *([a-z0-9_-]+) +\.\.\. (ok|FAILED).*/\3 \2/p' "$work/$1.$suite.log" | sort >"$work/$1.$suite"
        say "$1: $suite: $(grep -c '^ok' "$work/$1.$suite" || true) passed, $(grep -c '^FAILED' "$work/$1.$suite" || true) failed"
    done
    stop
}

stop() {
    [ -z "$proxy" ] || { kill "$proxy" 2>/dev/null && wait "$proxy" 2>/dev/null || true; }
    [ ${#running[@]} -eq 0 ] || as_server "$tree/install/bin/pg_ctl" -D "${running[0]}" -m immediate -s stop || true
    proxy='' running=()
}

main() {
    command -v apt-get >/dev/null || fail "the sources come by Debian's apt-get, which is not here"
    umask 022
    [ -e "$tree/.complete" ] || build
    cargo build --locked --quiet
    work=$(mktemp -d)
    chmod 777 "$work"
    proxy='' running=()
    trap 'stop; rm -rf "$work"' EXIT
    cat >"$work/through.toml" <<'TOML'
[[rule]]
name = "never"
idle = { log = "1h", rollback = "1h" }
failed = { log = "1h", rollback = "1h" }
stalled = { log = "1h", rollback = "1h" }
age = { log = "1h", rollback = "1h", implicit = true }
TOML
    cat >"$work/released.toml" <<'TOML'
[[rule]]
name = "readers"
idle = { release = "1ms" }
TOML
    # Lets a psql think for 5 ms after each statement, which would else be idle for too short a time.
    cat >"$work/thinking" <<'SH'
#!/bin/sh
perl -ne 'BEGIN { $| = 1 } print; select undef, undef, undef, 0.005 if /;\s*$/' | "$@"
SH
    chmod 755 "$work/thinking"
    suites direct
    suites through
    suites released
    say "released: $(grep -c '"outcome":"released"' "$work/released.audit") times," \
        "refused: $(grep -c '"outcome":"not_releasable"' "$work/released.audit") times"
    local suite way lost=0
    for suite in regress isolation; do
        [ "$(grep -c '^ok' "$work/direct.$suite" || true)" -gt 50 ] \
            || { cat "$work/direct.$suite.log"; fail "$suite: nearly nothing passes directly"; }
        for way in through released; do
            # Passes directly, and not through pgidle.
            if comm -23 <(grep '^ok' "$work/direct.$suite") <(grep '^ok' "$work/$way.$suite") \
                | if [ $way = released ]; then grep -vxE "ok ($documented)"; else grep .; fi; then
                cat "$work/$way/$suite/regression.diffs" 2>/dev/null || tail -n 20 "$work/$way.$suite.log"
                lost=1
            fi
        done
    done
    [ $lost -eq 0 ] || fail "the tests above pass directly and not through pgidle"
    say "whatever passes directly passes through pgidle, but for what release is documented to show"
}

main
