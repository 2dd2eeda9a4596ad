#!/usr/bin/env bash
# Prints the nightly Rust that the fuzzers are built by, or fails and says how it is installed. FUZZ_TOOLCHAIN takes another.
set -euo pipefail
readonly date=2026-05-20

# A `nightly` of that day is the same.
is_of_that_day() {
    local manifest
    manifest=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/multirust-channel-manifest.toml
    [ -f "$manifest" ] && grep -qx "date = \"$date\"" "$manifest"
}

if [ -n "${FUZZ_TOOLCHAIN:-}" ]; then
    chosen=$FUZZ_TOOLCHAIN
elif ! cargo "+nightly-$date" --version &>/dev/null && is_of_that_day; then
    chosen=nightly
else
    chosen=nightly-$date
fi
if ! cargo "+$chosen" --version &>/dev/null; then
    echo "rustup toolchain install $chosen --profile minimal"
    exit 1
fi
echo "$chosen"
