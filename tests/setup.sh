#!/usr/bin/env bash
# Whether scripts/libclang.sh finds what bindgen will load, in made-up folders that stand for the root of a machine.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
unset LIBCLANG_PATH LD_LIBRARY_PATH LIBRARY_PATH
# A machine without llvm-config, but for the cases that speak of it.
export LLVM_CONFIG_PATH=$root/no/llvm-config
readonly debian=usr/lib/x86_64-linux-gnu llvm=usr/lib/llvm-14/lib
failed=0

# library FILE [CLASS]: a file with the head of an ELF library, of this machine's word size or another class.
library() {
    mkdir -p "$root/$(dirname "$1")"
    printf '%b' "\\177ELF\\x0${2:-$(($(getconf LONG_BIT) / 32))}" >"$root/$1"
}

# finds EXPECTED: what is found, relative to the root; the next case begins with an empty root.
finds() {
    local found
    found=$(scripts/libclang.sh "$root" || true)
    if [ "$found" != "${1:+$root/$1}" ]; then
        echo "line ${BASH_LINENO[0]}: found '${found#"$root"/}' instead of '$1'" >&2
        failed=1
    fi
    rm -rf "${root:?}"/*
}

# The rules are those of this version of clang-sys: read its build/common.rs and build/dynamic.rs before changing it.
grep -A1 '^name = "clang-sys"' Cargo.lock | grep -q '"1.9.1"' || { echo "clang-sys has changed" >&2; failed=1; }

finds ""

# Debian with Mesa's LLVM: libclang-cpp alone, by all its names.
library $debian/libclang-cpp.so.14
library $debian/libclang-cpp.so.19.1
library $llvm/libclang-cpp.so
library $llvm/libclang-cpp.so.14
library $llvm/libclangBasic.so
finds ""

# What Debian's libclang1 brings, and its libclang-dev.
library $debian/libclang-cpp.so.14
library $debian/libclang-14.so.1
finds $debian/libclang-14.so.1
library $llvm/libclang.so
finds $llvm/libclang.so
library $llvm/libclang.so.1
finds $llvm/libclang.so.1
library usr/lib64/libclang.so.18.1
finds usr/lib64/libclang.so.18.1
library usr/local/llvm18/lib/libclang.so
finds usr/local/llvm18/lib/libclang.so

# The version decides, then the place.
library usr/local/lib/libclang-9.so
library $llvm/libclang-14.so
finds $llvm/libclang-14.so
library usr/local/lib/libclang.so
library usr/lib/libclang.so
finds usr/local/lib/libclang.so

# Other files of such a name: for another word size, no library at all, a link to nothing, a header.
library $debian/libclang.so.14 3
finds ""
mkdir -p "$root/$debian"
echo text >"$root/$debian/libclang.so"
ln -s nothing "$root/$debian/libclang-14.so"
library $debian/libclang.h
finds ""

# LIBCLANG_PATH is a library or its folder, and the only place.
library opt/clang/libclang.so.1
LIBCLANG_PATH=$root/opt/clang/libclang.so.1 finds opt/clang/libclang.so.1
library opt/clang/libclang.so.1
LIBCLANG_PATH=$root/opt/clang finds opt/clang/libclang.so.1
library $llvm/libclang.so
LIBCLANG_PATH=$root/opt/clang finds ""

# Other variables, and what llvm-config says.
library opt/clang/libclang.so
LD_LIBRARY_PATH=/nowhere:$root/opt/clang finds opt/clang/libclang.so
library opt/clang/libclang.so
LIBRARY_PATH=$root/opt/clang finds opt/clang/libclang.so
library opt/clang/lib64/libclang.so
printf '#!/bin/sh\necho %s/opt/clang\n' "$root" >"$root/llvm-config"
chmod +x "$root/llvm-config"
LLVM_CONFIG_PATH=$root/llvm-config finds opt/clang/lib64/libclang.so

exit $failed
