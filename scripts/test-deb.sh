#!/usr/bin/env bash
# Installs, upgrades, removes and purges the package in a Debian that has nothing but its base, and runs what is installed:
# scripts/test-deb.sh SUITE PACKAGE
set -euo pipefail
suite=$1 package=$(realpath "$2")
readonly mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
[ "$(id -u)" -eq 0 ] || { echo "a bare Debian is made and entered by root: run  sudo make test-deb" >&2; exit 1; }
PATH=$PATH:/usr/sbin:/sbin
folder=$(mktemp -d)
root=$folder/debian
running=
leave() {
    [ -z "$running" ] || kill -KILL "$running" || true
    if mountpoint -q "$root/proc"; then umount "$root/proc"; fi
    rm -rf --one-file-system "$folder"
}
trap leave EXIT

fail() { printf 'failed: %s\n' "$*" >&2; exit 1; }
inside=(chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
as_pgidle=("${inside[@]}" setpriv --reuid=pgidle --regid=pgidle --clear-groups)
# expect WORDS... -- COMMAND...: that what the command prints is those words.
expect() {
    local wanted=() found
    while [ "$1" != -- ]; do wanted+=("$1"); shift; done
    shift
    found=$("$@" 2>&1) || true
    [ "$found" = "${wanted[*]}" ] || fail "$*: '$found' instead of '${wanted[*]}'"
}

debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$folder/log" 2>&1 || { tail -5 "$folder/log"; exit 1; }
mount -t proc proc "$root/proc"
cp "$package" "$root/first.deb"
version=$(dpkg-deb -f "$package" Version)

# The next version, whose configuration has changed too.
dpkg-deb -R "$package" "$folder/next"
sed -i "s/^Version: .*/Version: $version+next/" "$folder/next/DEBIAN/control"
echo '# Of the next version.' >>"$folder/next/etc/pgidle/pgidle.toml"
dpkg-deb --root-owner-group -b "$folder/next" "$root/next.deb" >/dev/null

apt=("${inside[@]}" apt-get -q -y -o Dpkg::Use-Pty=0 -o "Dpkg::Options::=--force-confdef" --no-install-recommends)
install() { "${apt[@]}" install "$1" >"$folder/log" 2>&1 || { tail -20 "$folder/log"; fail "install $1"; }; }
"${inside[@]}" apt-get -q update >/dev/null 2>&1 || fail "apt-get update"

echo "install"
install /first.deb
expect "pgidle ${version%-*}" -- "${inside[@]}" pgidle --version
expect "root pgidle 640" -- "${inside[@]}" stat -c '%U %G %a' /etc/pgidle/pgidle.toml
expect "root pgidle 750" -- "${inside[@]}" stat -c '%U %G %a' /etc/pgidle
"${inside[@]}" getent passwd pgidle | grep -q ':/nonexistent:/usr/sbin/nologin$' || fail "the user pgidle"
for file in usr/lib/systemd/system/pgidle.service usr/share/pgidle/{pgidle.schema.json,alerts.yml,dashboard.json} \
    usr/share/bash-completion/completions/pgidle usr/share/zsh/vendor-completions/_pgidle \
    usr/share/fish/vendor_completions.d/pgidle.fish; do
    [ -s "$root/$file" ] || fail "$file is not there"
done
# A minimal Debian is told to leave manual pages out.
content=$(dpkg-deb -c "$package")
for page in man1/pgidle.1 man1/pgidle-{serve,check,demo,health}.1 man5/pgidle.toml.5; do
    [[ $content == *"./usr/share/man/$page.gz"* ]] || fail "$page is not in the package"
done
expect "/etc/pgidle/pgidle.toml: ok, 1 rules with the built-in one" -- \
    "${as_pgidle[@]}" pgidle check --config /etc/pgidle/pgidle.toml
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/pgidle.service" ] || fail "it is started before it is configured"

echo "run as its user"
# At a port of its own: this Debian shares the network with the machine.
"${as_pgidle[@]}" pgidle serve --config /etc/pgidle/pgidle.toml --listen 127.0.0.1:0 2>"$folder/log" &
running=$!
for _ in $(seq 600); do
    if grep -q 'listen' "$folder/log"; then break; fi
    kill -0 $running 2>/dev/null || { cat "$folder/log"; fail "it has ended by itself"; }
    sleep 0.1
done
grep -q 'listen' "$folder/log" || fail "it does not listen within a minute"
kill -TERM $running
status=0
wait $running || status=$?
running=
[ $status = 0 ] || { cat "$folder/log"; fail "SIGTERM ends it with status $status"; }

echo "upgrade, with a configuration that was changed here"
sed -i 's/^drain_timeout = .*/drain_timeout = "7s"/' "$root/etc/pgidle/pgidle.toml"
install /next.deb
expect "$version+next" -- "${inside[@]}" dpkg-query -W -f '${Version}' pgidle
expect 'drain_timeout = "7s"' -- "${inside[@]}" grep '^drain_timeout' /etc/pgidle/pgidle.toml
expect "root pgidle 640" -- "${inside[@]}" stat -c '%U %G %a' /etc/pgidle/pgidle.toml
[ -e "$root/etc/pgidle/pgidle.toml.dpkg-dist" ] || fail "the configuration of the next version is not beside it"

echo "remove"
"${apt[@]}" remove pgidle >"$folder/log" 2>&1 || { cat "$folder/log"; fail "remove"; }
[ ! -e "$root/usr/bin/pgidle" ] || fail "the program is left"
expect 'drain_timeout = "7s"' -- "${inside[@]}" grep '^drain_timeout' /etc/pgidle/pgidle.toml

echo "purge"
mkdir -p "$root/var/log/pgidle"
touch "$root/var/log/pgidle/audit.jsonl"
"${apt[@]}" purge pgidle >"$folder/log" 2>&1 || { cat "$folder/log"; fail "purge"; }
for left in etc/pgidle var/log/pgidle usr/share/pgidle; do
    [ ! -e "$root/$left" ] || fail "$left is left: $(ls -R "$root/$left")"
done
echo "$suite: installed, run, upgraded, removed and purged"
