#!/usr/bin/env bash
# Makes what `make drivers-all` needs beyond `make test`: the libraries of Debian, PyPI and npm that tests/drivers speaks
# through, and its programs in compiled languages.
#
# Root gets Debian's packages installed; an ordinary user is told the one command that does it. What is built and fetched is
# kept in .cache/drivers.
set -euo pipefail
cd "$(dirname "$0")/.."

# What it is for, and the package that has it.
readonly packages=(
    g++ default-jdk-headless golang-go              # compilers
    php-cli php-pgsql                               # PDO, pg_query
    libdbd-pg-perl tcl8.6-tdbc-postgres             # DBD::Pg, tdbc::postgres
    ruby ruby-pg ruby-activerecord                  # ActiveRecord
    libsoci-dev libboost-dev libpqxx-dev libpq-dev  # SOCI, libpqxx
    odbc-postgresql python3-pyodbc                  # psqlODBC
    libpostgresql-jdbc-java                         # pgjdbc
    golang-github-lib-pq-dev golang-github-jackc-pgx-v4-dev
    lua5.4 lua-sql-postgres                         # LuaSQL
    libdbi-dev libdbd-pgsql                         # libdbi
    r-cran-rpostgresql                              # RPostgreSQL
    erlang-base erlang-p1-pgsql                     # p1_pgsql
    ocaml-nox ocaml-findlib libpostgresql-ocaml-dev # postgresql-ocaml
)

say() { printf '[setup-drivers] %s\n' "$*"; }

debian_packages() {
    local name missing=()
    command -v dpkg-query >/dev/null || { say "these libraries come as Debian's packages: ${packages[*]}" >&2; exit 1; }
    for name in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local install="apt-get install -y --no-install-recommends ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || { say "missing: run  sudo $install" >&2; exit 1; }
    say "$install"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
}

# Runs a command only where what it makes is older than what it is made from: newer TARGET SOURCE COMMAND...
newer() {
    local target=$1 source=$2
    shift 2
    [ "$target" -nt "$source" ] && return
    say "making $target"
    "$@"
    touch "$target"
}

python_libraries() {
    rm -rf .cache/drivers/python
    python3 -m venv .cache/drivers/python
    .cache/drivers/python/bin/pip install --quiet --disable-pip-version-check --requirement tests/drivers/requirements.txt
}

node_libraries() {
    mkdir -p .cache/drivers/node
    cp tests/drivers/node/package*.json .cache/drivers/node/
    npm ci --prefix .cache/drivers/node --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
}

# The compiler leaves its files beside the source: it gets a copy.
ocaml_program() {
    mkdir -p .cache/drivers/ocaml
    cp "$1" .cache/drivers/ocaml/flows.ml
    ocamlfind ocamlopt -thread -package postgresql -linkpkg .cache/drivers/ocaml/flows.ml -o "$2"
}

programs() {
    local from=tests/drivers to=.cache/drivers/bin
    mkdir -p "$to"
    newer $to/soci $from/soci.cpp \
        g++ -std=c++17 -I/usr/include/postgresql -o $to/soci $from/soci.cpp -lsoci_core -lsoci_postgresql
    newer $to/libpqxx $from/libpqxx.cpp \
        g++ -std=c++17 -Wno-deprecated-declarations -o $to/libpqxx $from/libpqxx.cpp -lpqxx -lpq
    newer $to/libdbi $from/libdbi.c cc -o $to/libdbi $from/libdbi.c -ldbi
    newer $to/Pgjdbc.class $from/Pgjdbc.java javac -cp /usr/share/java/postgresql.jar -d $to $from/Pgjdbc.java
    newer $to/PgjdbcConsole.class $from/PgjdbcConsole.java \
        javac -cp /usr/share/java/postgresql.jar -d $to $from/PgjdbcConsole.java
    newer $to/ocaml $from/postgresql.ml ocaml_program $from/postgresql.ml $to/ocaml
    newer $to/go $from/go.go \
        env GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$PWD/.cache/drivers/go-build" go build -o $to/go $from/go.go
    newer $to/console $from/console.go \
        env GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$PWD/.cache/drivers/go-build" go build -o $to/console $from/console.go
}

debian_packages
mkdir -p .cache/drivers
newer .cache/drivers/python/bin/python tests/drivers/requirements.txt python_libraries
newer .cache/drivers/node/package.json tests/drivers/node/package-lock.json node_libraries
programs
say "ready: libraries in .cache/drivers"
