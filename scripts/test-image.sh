#!/usr/bin/env bash
# Runs the image beside a PostgreSQL, in containers of their own: scripts/test-image.sh IMAGE
set -euo pipefail
image=$1
network=pgidle-$$ server=pgidle-server-$$ proxy=pgidle-proxy-$$
leave() {
    docker rm --force --volumes "$proxy" "$server" >/dev/null 2>&1 || true
    docker network rm "$network" >/dev/null 2>&1 || true
}
trap leave EXIT
fail() { printf 'failed: %s\n' "$*" >&2; docker logs "$proxy" >&2; exit 1; }
# Waits until the image is as it says it is.
becomes() {
    local state
    for _ in $(seq 120); do
        state=$(docker inspect --format '{{.State.Health.Status}}' "$proxy")
        if [ "$state" = "$1" ]; then return; fi
        sleep 1
    done
    fail "it is $state, and not $1"
}

docker network create "$network" >/dev/null
docker run --detach --name "$server" --network "$network" --env POSTGRES_PASSWORD=secret postgres:18 >/dev/null
docker run --detach --name "$proxy" --network "$network" --env PGIDLE_UPSTREAM="$server:5432" \
    --read-only --cap-drop ALL --security-opt no-new-privileges "$image" >/dev/null
becomes healthy
answer=$(docker run --rm --network "$network" --env PGPASSWORD=secret postgres:18 \
    psql --host "$proxy" --port 6432 --username postgres --tuples-only --no-align --command 'SELECT 6 * 7')
[ "$answer" = 42 ] || fail "psql says $answer"
docker stop "$server" >/dev/null
becomes unhealthy
docker stop --time 60 "$proxy" >/dev/null
status=$(docker inspect --format '{{.State.ExitCode}}' "$proxy")
[ "$status" = 0 ] || fail "SIGTERM ends it with status $status"
echo "$image: healthy with a server, unhealthy without, ended by SIGTERM"
