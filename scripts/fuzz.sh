#!/usr/bin/env bash
# Runs the fuzzers: scripts/fuzz.sh SECONDS [TARGET...], each target for so long. Fails at the first crash, whose input is
# kept. What is found gathers in target/fuzz/found/TARGET, and `scripts/fuzz.sh minimise [TARGET...]` takes the least of
# it that covers as much into fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.cache/cargo-fuzz/bin:$PATH

# Those that the core of pgidle is enough for, and those that need all of it.
readonly core=(startup frames messages proxy_header tags session)
readonly program=(statement grammar audit_line configuration dsn console)

# The longest inputs, where the bounds of the target lie beyond those of the fuzzer.
longest() {
    case $1 in
        startup) echo 10200 ;;
        frames) echo 33000 ;;
        statement) echo 300 ;;
        session) echo 600 ;;
        *) echo 4096 ;;
    esac
}

# without_sanitizer SUBCOMMAND...: pgidle has no unsafe code, and without the sanitizer twice as much is tried.
without_sanitizer() {
    local subcommand=$1
    shift
    cargo "+$toolchain" fuzz "$subcommand" --sanitizer none "$@"
}

fuzz() {
    local target=$1 found=target/fuzz/found/$1 log=target/fuzz/$1.log last
    shift
    mkdir -p "$found"
    if ! without_sanitizer run "$@" "$target" "$found" "fuzz/corpus/$target" -- -max_total_time="$seconds" \
        -artifact_prefix="target/fuzz/$target-" -max_len="$(longest "$target")" -timeout=10 -rss_limit_mb=2048 &>"$log"; then
        tail -n 50 "$log" >&2
        printf '%s: a crash, see %s\n' "$target" "$log" >&2
        return 1
    fi
    last=$(grep -a 'DONE  ' "$log" | tail -1)
    read -r executions cov ft inputs size < <(sed -E 's|^#([0-9]+).*cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+)/([^ ]+) .*|\1 \2 \3 \4 \5|' <<<"$last")
    printf '%-14s %12s executions, cov %5s, ft %6s, corpus %5s inputs, %s\n' "$target" "$executions" "$cov" "$ft" "$inputs" "$size"
}

# Counts how often an edge is passed only where the fuzzer itself works: for a corpus one input for each edge is enough.
minimise() {
    local target=$1 found=target/fuzz/found/$1 least=target/fuzz/least
    shift
    rm -rf "$least"
    mkdir -p "$least" "$found" "fuzz/corpus/$target"
    without_sanitizer run "$@" "$target" "$least" "fuzz/corpus/$target" "$found" -- -merge=1 -use_counters=0 \
        -max_len="$(longest "$target")" &>"target/fuzz/$target.log"
    rm -rf "fuzz/corpus/$target"
    mv "$least" "fuzz/corpus/$target"
    printf '%-14s %5s inputs, %s bytes\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
        "$(cat "fuzz/corpus/$target"/* | wc -c)"
}

toolchain=$(scripts/fuzz-toolchain.sh)
seconds=${1:?usage: scripts/fuzz.sh SECONDS|minimise [TARGET...]}
shift
chosen=" ${*:-${core[*]} ${program[*]}} "
work=fuzz
[ "$seconds" != minimise ] || work=minimise
mkdir -p target/fuzz
for target in "${core[@]}"; do
    [[ $chosen != *" $target "* ]] || "$work" "$target"
done
for target in "${program[@]}"; do
    [[ $chosen != *" $target "* ]] || "$work" "$target" --features proxy
done
