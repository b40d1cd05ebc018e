#!/bin/bash
# What calls of the library cost with few and with many tensors and tiles: a table of medians, in nanoseconds, and
# the ratio of the last to the first. With the build of another commit beside it, where its source is at hand.
# Then: how busy the engine thread is while tiles with seals pass through a store; and what solving a plan costs.
#
#     tools/scale.sh BUILD_DIR [OTHER_TREE]    OTHER_TREE: a tree of another commit, built with `make WITH_CUDA=0`
#     OFL_SCALE_DIR: where the store lies (default: a new folder below the current one)
#     OFL_SCALE_CHECK=1: exit 1 where a limit is missed: 3 us and 1.5 times for resident leases, 1.5 times for
#         the others, 5 % for the engine. For a quiet machine.
set -euo pipefail
trap 'echo "scale: line $LINENO: exit status $?" >&2' ERR

build=${1:?usage: tools/scale.sh BUILD_DIR [OTHER_TREE]}
other=${2-}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${OFL_SCALE_DIR:-.}/scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
libs=$(pkg-config --libs libxxhash jansson hwloc numa liburing 2>/dev/null || pkg-config --libs libxxhash jansson)
missed=0

compile() { # tree build program
    # shellcheck disable=SC2086  # several flags
    ${CC:-gcc} -O2 -w -I"$1" "$here/tools/scale.c" "$2/liboffload.a" $libs -lm -pthread -ldl -o "$3"
}

# The least of three runs: what is beyond it is the machine's.
least() { # program measurement n -> the first figure
    local best='' figure
    for _ in 1 2 3; do
        figure=$("$1" "$2" "$3" | cut -d' ' -f1)
        if [ -z "$best" ] || [ "$figure" -lt "$best" ]; then best=$figure; fi
    done
    echo "$best"
}

over() { # figure limit: exit 0 if it is more
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'
}

row() { # measurement, sizes...
    local what=$1 first='' figure ratio line n
    shift
    line=$(printf '%-28s' "$what")
    for n in "$@"; do
        figure=$(least "$work/new" "$what" "$n")
        first=${first:-$figure}
        line+=$(printf '%10s' "$figure")
    done
    ratio=$(awk -v a="$figure" -v b="$first" 'BEGIN { printf "%.2f", a / b }')
    echo "$line$(printf '%10s' "$ratio")"
    if over "$ratio" 1.5; then missed=1; fi
    if [ "$what" = resident ] && over "$first" 3000; then missed=1; fi
    [ -n "$other" ] || return 0
    line=$(printf '%-28s' "  $what, before")
    for n in "$@"; do
        # It grows with the square of them: not waited for for ever.
        figure=$(timeout 60 "$work/old" "$what" "$n" | cut -d' ' -f1) || figure='> 60 s'
        line+=$(printf '%10s' "$figure")
    done
    echo "$line"
}

compile "$here" "$build" "$work/new"
[ -z "$other" ] || compile "$other" "$other/build" "$work/old"
printf '%-28s%10s%10s%10s%10s\n' 'nanoseconds' 100 1,000 100,000 ratio
row resident 100 1000 100000
printf '%-28s%10s%10s%10s%10s\n' '' 1,000 10,000 100,000 ratio
row evict 1000 10000 100000
row create 1000 10000 100000
row tiles 1000 10000 100000
drive=$("$work/new" drive "$work")
echo "$drive"
busy=${drive#*busy, }
if over "${busy% % at*}" 5; then missed=1; fi
if [ -n "$other" ]; then echo "before: $("$work/old" drive "$work")"; fi
echo 'solving a plan, CPU time:'
# shellcheck disable=SC2086  # several flags
${CC:-gcc} -O2 -I"$here" "$here/tools/solve.c" "$build/liboffload.a" $libs -lm -pthread -ldl -o "$work/solve"
"$work/solve"
if [ "$missed" = 1 ] && [ -n "${OFL_SCALE_CHECK-}" ]; then
    echo 'scale: a limit was missed'
    exit 1
fi
