#!/usr/bin/env bash
# Prints the libclang that bindgen will load, or fails: scripts/libclang.sh [FOLDER TO TAKE FOR /]
#
# The names, the places, what is left out and what is preferred are those of clang-sys, by which bindgen looks
# (build/common.rs and build/dynamic.rs of the version that tests/setup.sh names). In particular libclang-cpp, which
# Mesa's LLVM brings along, is another library, and a library for another word size is none.
set -euo pipefail
export LC_ALL=C
shopt -s nullglob dotglob
root=${1:-}

# The libraries for dlopen in these folders.
in_folders() {
    find -H "$@" -mindepth 1 -maxdepth 1 ! -name '*-cpp.*' \
        '(' -name libclang.so -o -name 'libclang-*.so' -o -name 'libclang.so.*' -o -name 'libclang-*.so.*' ')' 2>/dev/null || true
}

# Every library, in the order of preference.
candidates() {
    if [ -n "${LIBCLANG_PATH+set}" ]; then
        # The variable names a library or its folder, and nothing else is looked at.
        in_folders "$(dirname "$LIBCLANG_PATH")" | grep -Fx "$LIBCLANG_PATH" || in_folders "$LIBCLANG_PATH"
        return
    fi
    local prefix folders=()
    if prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix 2>/dev/null); then
        folders+=("$prefix"/{bin,lib,lib64})
    fi
    IFS=: read -ra variables <<<"${LD_LIBRARY_PATH:-}:${LIBRARY_PATH:-}"
    folders+=("${variables[@]}"
        "$root"/usr/local/llvm*/lib* "$root"/usr/local/lib*/*/* "$root"/usr/local/lib*/* "$root"/usr/local/lib*
        "$root"/usr/lib*/*/* "$root"/usr/lib*/* "$root"/usr/lib*)
    in_folders "${folders[@]}"
}

# Whether a file is an ELF library of this machine's word size: class 1 is 32 bits, class 2 is 64.
class=0$(($(getconf LONG_BIT) / 32))
fits() {
    [ "$(head -c 5 "$1" 2>/dev/null | od -An -tx1)" = " 7f 45 4c 46 $class" ]
}

# The version in a name as text that sorts, a word that is no number being 0.
version() {
    local name=${1##*/} words word
    case $name in
        libclang.so.*) name=${name#libclang.so.} ;;
        libclang-*) name=${name#libclang-} name=${name%???} ;;
        *) return ;;
    esac
    IFS=. read -ra words <<<"$name"
    for word in "${words[@]}"; do
        [[ $word =~ ^[0-9]+$ ]] || word=0
        printf '%010d.' "$((10#$word))"
    done
}

best='' best_version=''
while read -r file; do
    fits "$file" || continue
    found=$(version "$file")
    if [ -z "$best" ] || [[ $found > $best_version ]]; then best=$file best_version=$found; fi
done < <(candidates)
[ -n "$best" ] && echo "$best"
