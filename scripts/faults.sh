#!/usr/bin/env bash
# Runs the tests that need a network and mounts of their own, in namespaces: root may make them, and so may an ordinary
# user where the kernel lets ordinary users have a user namespace.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

fail() { printf '[faults] %s\n' "$*" >&2; exit 1; }

enter=(unshare --net --mount)
[ "$(id -u)" -eq 0 ] || enter=(unshare --user --map-current-user --keep-caps --net --mount)
"${enter[@]}" true || fail "no namespaces: run this as root, or allow them to ordinary users by
  sudo sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0
(the kernel has one of the two, if any), or start the container with
  docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined --device /dev/net/tun"
{ : <>/dev/net/tun; } 2>/dev/null || fail "/dev/net/tun cannot be opened: run  sudo modprobe tun && sudo chmod 666 /dev/net/tun
or start the container with  docker run --device /dev/net/tun"

cargo test --locked --test it --no-run
exec "${enter[@]}" sh -c 'ip link set lo up && exec "$@"' sh \
    cargo test --locked --offline --test it in_a_namespace -- --ignored --test-threads 1
