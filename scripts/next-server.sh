#!/usr/bin/env bash
# The PostgreSQL that comes next, from Debian's unstable and experimental: scripts/next-server.sh APT-FOLDER [FOLDER]
#
# Prints the version that Debian has now, or unpacks its server, its programs and every library they need, the C library
# too, into FOLDER. Nothing is installed and nobody has to be root: apt works on a folder of its own, and each program
# becomes a script that runs it by its own dynamic linker, so that it is at home on an older system.
set -euo pipefail
apt=$1 folder=${2:-}
readonly mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian} keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly major=19

fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }
{ command -v apt-get && command -v dpkg-deb && [ -e "$keyring" ]; } >/dev/null || fail "PostgreSQL $major is taken from Debian's packages: run this on Debian"

mkdir -p "$apt/lists/partial" "$apt/archives/partial"
: >"$apt/status"
for suite in unstable experimental; do echo "deb [signed-by=$keyring] $mirror $suite main"; done >"$apt/sources.list"
# A mirror that stands still has lists whose time is over; they are signed all the same.
cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$apt";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
APT::Architecture "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
END
export APT_CONFIG=$apt/apt.conf
[ -n "$folder" ] || apt-get update -qq
version=$(apt-cache madison postgresql-$major | awk '{print $3}' | sort -V | tail -1)
[ -n "$version" ] || fail "$mirror has no postgresql-$major in unstable or experimental"
if [ -z "$folder" ]; then
    echo "$version"
    exit
fi

rm -f "$apt"/archives/*.deb
apt-get install -qq -y --download-only {postgresql,postgresql-client}-$major="$version" libpq5="$version" >/dev/null
for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$folder"; done
rm -f "$apt"/archives/*.deb

# A program looks for its files and for its fellows where it seems to have been started: that is where the script is.
programs=$folder/usr/lib/postgresql/$major/bin
mv "$programs" "$programs.elf"
mkdir "$programs"
for program in "$programs.elf"/*; do
    script=$programs/${program##*/}
    cat >"$script" <<END
#!/bin/sh
exec '$folder/usr/lib64/ld-linux-x86-64.so.2' --argv0 '$script' --library-path '$folder/usr/lib/x86_64-linux-gnu' '$program' "\$@"
END
    chmod +x "$script"
done
ln -s "usr/lib/postgresql/$major/bin" "$folder/bin"
