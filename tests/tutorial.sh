#!/bin/bash
# Proves that docs/tutorial.md is true: each excerpt is in examples/mlp.c word by word, and each command prints what
# is written below it. What depends on the machine's speed (MiB that moved, if any did, seconds, what was waited for)
# is not compared. A changed excerpt, command or output is noticed: each is planted in a copy.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash tutorial

# parse TUTORIAL FOLDER: its blocks of C as FOLDER/excerpt.N, of other blocks the commands (behind "$ ") as
# FOLDER/command.N, and what is below each as FOLDER/wanted.N.
parse() {
    mkdir "$2"
    awk -v folder="$2" '
        /^```/ { inside = !inside; c = $0 == "```c"; excerpts += inside && c; next }
        inside && c { print >(folder "/excerpt." excerpts); next }
        inside && /^\$ / { file = folder "/wanted." ++commands; print substr($0, 3) >(folder "/command." commands); printf "" >file; next }
        inside { print >file }' "$1"
}

# What is the same on each machine.
steady() {
    sed -E 's/\b0\.0 MiB/no bytes/g; s/[0-9]+\.[0-9] MiB/N MiB/g; s/stall [0-9]+\.[0-9]+ s$/stall N s/
        s/^(most of it for )layer [0-9] [a-z_.]+: [a-z ]+$/\1TENSOR: REASON/' "$1"
}

# judge FOLDER: a line for each excerpt that is not in the example, and each command that printed something else when
# it was run ($work/run/got.N).
judge() {
    local file n source
    source=$'\n'$(<examples/mlp.c)$'\n'
    for file in "$1"/excerpt.*; do
        [[ $source == *$'\n'"$(<"$file")"$'\n'* ]] || echo "not in examples/mlp.c: $(head -n 1 "$file")"
    done
    [ -d "$work/run" ] || return
    for file in "$1"/command.*; do
        n=${file##*.}
        cmp -s "$file" "$work/told/command.$n" || echo "not run: $(<"$file")"
        cmp -s <(steady "$1/wanted.$n") <(steady "$work/run/got.$n") || {
            echo "another output of: $(<"$file")"
            diff <(steady "$1/wanted.$n") <(steady "$work/run/got.$n")
        }
    done
}

# planted SCRIPT: what judge says of the tutorial once sed has changed it.
planted() {
    rm -rf "$work/planted"
    sed -E "$1" docs/tutorial.md >"$work/planted.md"
    ! cmp -s "$work/planted.md" docs/tutorial.md || complain "nothing to change: $1"
    parse "$work/planted.md" "$work/planted"
    [ -n "$(judge "$work/planted")" ] || complain "not noticed: $1"
}

accept() {
    local words
    words=$(judge "$work/told")
    [ -z "$words" ] || complain "docs/tutorial.md: $words"
}

# Every command, in a folder that has the example's source and a liboffload that pkg-config finds.
run_commands() {
    local n
    mkdir "$work/run" "$work/run/here" "$work/pkgconfig"
    cp examples/mlp.c "$work/run/here"
    sed "s|@LIBDIR@|$bin|; s|^includedir=.*|includedir=$PWD/include|; s|@VERSION@|0|; s|@[A-Z]*@||" offload.pc.in >"$work/pkgconfig/offload.pc"
    for ((n = 1; ; n++)); do
        [ -e "$work/told/command.$n" ] || break
        # shellcheck disable=SC2016  # of the other shell
        limited env PKG_CONFIG_PATH="$work/pkgconfig" LD_LIBRARY_PATH="$bin" bash -c \
            'cd "$1" && . "$2" 2>&1' run "$work/run/here" "$work/told/command.$n"
        cp "$work/out" "$work/run/got.$n"
    done
}

parse docs/tutorial.md "$work/told"
if [ -n "${OFL_TEST_LIGHT-}" ]; then
    skipped+=('a build without sanitizers, for the commands')
elif ! command -v cc pkg-config >"$work/found" || [ "$(wc -l <"$work/found")" -lt 2 ]; then
    skipped+=('cc and pkg-config, for the commands')
else
    run_commands
fi
accept
[ "$(wc -l <examples/mlp.c)" -lt 250 ] || complain "docs/tutorial.md: examples/mlp.c has 250 lines or more"

planted 's/^static void check\(int err\)$/static void check(int error)/'
planted 's/^    run_loss\(\);$/&\n/'
planted '/^        exit\(1\);$/d'
if [ -d "$work/run" ]; then
    planted 's/^(step 40 loss [0-9.]*)[0-9]$/\1x/'
    planted 's/624640 bytes/624641 bytes/'
    planted 's/drive read 200.* MiB, written/drive read 0.0 MiB, written/'
    planted '/^the same losses$/d'
    planted 's/^\$ mkdir scratch/$ mkdir scratches/'
fi
finish
