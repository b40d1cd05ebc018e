#!/bin/bash
# Runs test suites again and again on a busy machine, to find those that fail for the wrong reason.
# Prints a table: runs, failures, tests skipped in the last run, and the longest run, of each suite. The whole
# output of a suite's first failure is kept in BUILD/soak/SUITE. Exit 1 if a run failed.
#
#     tools/soak.sh [OPTION...] [SUITE...]      SUITE: test_x or y.sh; default: all
#
#     --runs N       runs of each suite (50), in turns
#     --load N       busy loops beside them (4)
#     --nice N       niceness of the loops (0)
#     --build DIR    the build (build)
#     --time-zero    each run in a time namespace where the machine has just started (root)
#     --chroot DIR   in a Debian made there by debootstrap with make and gcc only, if it is not there yet: the
#                    tree is copied into it, `make check CHECK=test_sized` installs what is missing, then the suites run
#                    in it. It has no /sys, and no "/" in its list of mounts (root; network)
set -euo pipefail

cd "$(dirname "$0")/.."
runs=50 load=4 loop_nice=0 build=build time_zero=0 root=
usage() {
    sed -n '/^#     tools/,/^#     --chroot/s/^#  \{0,1\}//p' "$0" >&2
    exit 2
}
while [[ ${1-} == --* ]]; do
    case $1 in
    --time-zero) time_zero=1 && shift && continue ;;
    --runs) runs=${2:?} ;;
    --load) load=${2:?} ;;
    --nice) loop_nice=${2:?} ;;
    --build) build=${2:?} ;;
    --chroot) root=${2:?} ;;
    *) usage ;;
    esac
    shift 2
done

# ---- a Debian of its own --------------------------------------------------------

# shellcheck disable=SC2034  # for what is read next
tool=soak
# shellcheck source=tools/debian_root.bash
. tools/debian_root.bash

# The tree without what git ignores, at /src/liboffload there; the builds of a run before stay.
copy_tree() {
    mkdir -p "$root/src/liboffload"
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | tar --null --files-from=- -cf - | tar -xf - -C "$root/src/liboffload"
    find "$root/src/liboffload" -name '.git*' -prune -o -path '*/build*' -prune -o -type f -printf '%P\n' |
        while IFS= read -r file; do [ -e "$file" ] || rm -f "$root/src/liboffload/$file"; done
}

if [ -n "$root" ]; then
    options=(--runs "$runs" --load "$load" --nice "$loop_nice" --build "$build")
    [ $time_zero -eq 0 ] || options+=(--time-zero)
    root_wants debootstrap
    trap root_stop EXIT
    trap 'exit 130' INT TERM
    [ -x "$root/usr/bin/make" ] || { echo "== debootstrap $root" && root_make "$root" make gcc; }
    copy_tree
    echo "== make check CHECK=test_sized in $root"
    root_run "$root" make -C /src/liboffload check CHECK=test_sized B="$build"
    echo "== suites in $root"
    root_run "$root" /src/liboffload/tools/soak.sh "${options[@]}" "$@"
    exit
fi

# ---- suites under load ------------------------------------------------------------

suites=("$@")
if [ ${#suites[@]} -eq 0 ]; then
    for source in tests/test_*.c tests/*.sh; do
        source=${source#tests/}
        suites+=("${source%.c}")
    done
fi
kept=$build/soak
rm -rf "$kept"
mkdir -p "$kept"
loops=()
trap '[ ${#loops[@]} -eq 0 ] || kill "${loops[@]}" 2>/dev/null' EXIT
child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; exit 130' INT TERM
for ((i = 0; i < load; i++)); do
    nice -n "$loop_nice" bash -c 'while :; do :; done' &
    loops+=($!)
done

young=()
run() {
    local now
    if [ $time_zero -eq 1 ]; then
        read -r now _ </proc/uptime
        young=(unshare --time --monotonic "-${now%.*}" --boottime "-${now%.*}" --fork --kill-child=TERM)
    fi
    # In the background, so that a signal to this script is acted on at once.
    "${young[@]}" tools/run-tests.sh "$build" "$1" >"$kept/output" 2>&1 &
    child=$!
    wait "$child"
}

declare -A failed=() skipped=() longest=()
for ((i = 1; i <= runs; i++)); do
    for suite in "${suites[@]}"; do
        start=$SECONDS
        [ ! -t 2 ] || printf '\r\033[Krun %d of %d: %s' "$i" "$runs" "$suite" >&2
        if ! run "$suite"; then
            failed[$suite]=$((${failed[$suite]-0} + 1))
            echo "run $i: $suite failed" >&2
            [ -e "$kept/$suite" ] || cp "$kept/output" "$kept/$suite"
        fi
        skipped[$suite]=$(sed -n 's/^[0-9]* passed, [0-9]* failed, \([0-9]*\) skipped$/\1/p' "$kept/output")
        took=$((SECONDS - start))
        [ $took -le "${longest[$suite]--1}" ] || longest[$suite]=$took
    done
done
[ ! -t 2 ] || printf '\r\033[K' >&2
rm -f "$kept/output"

printf '\n%-26s %6s %6s %8s %10s\n' suite runs failed skipped 'longest, s'
for suite in "${suites[@]}"; do
    printf '%-26s %6d %6d %8s %10d\n' "$suite" "$runs" "${failed[$suite]-0}" "${skipped[$suite]:-?}" "${longest[$suite]}"
done
echo "${#suites[@]} suites, $runs runs each under $load busy loops$([ $time_zero -eq 0 ] || echo ', clocks at zero'): ${#failed[@]} suites failed"
[ ${#failed[@]} -eq 0 ] || { echo "their first failures are in $kept"; exit 1; }
rmdir "$kept"
