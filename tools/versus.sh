#!/bin/bash
# Two builds in turns: what one does in the time of the other. Training through the tiers (20M parameters, 80 MiB of
# budgets for 307 MiB of state), and the drive. Medians of the pairs' ratios with their range; over 1: the first one
# is faster.
#
#     tools/versus.sh BUILD_DIR OTHER_BUILD_DIR [PAIRS]
#     OFL_VERSUS_DIR: a directory on the drive (default: a new folder below the current one)
set -euo pipefail
trap 'echo "versus: line $LINENO: exit status $?" >&2' ERR

a=${1:?usage: tools/versus.sh BUILD_DIR OTHER_BUILD_DIR [PAIRS]}
b=${2:?usage: tools/versus.sh BUILD_DIR OTHER_BUILD_DIR [PAIRS]}
pairs=${3:-7}
cd "$(dirname "$0")/.."
work=$(mktemp -d "${OFL_VERSUS_DIR:-.}/versus.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat README.md docs/*.md liboffload/*/*.c >"$work/text"

step() { # build -> the median step after two of warm-up, in seconds
    "$1/ofl-finetune" --device host --preset 20m --data "$work/text" --seq 128 --batch 4 --steps 7 --lr 1e-3 --clip 1 \
        --device-mem 48M --host-mem 32M --nvme "$work" --report "$work/report.json" 2>"$work/log" || { cat "$work/log"; exit 1; }
    awk '/"step_s": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); if (++n > 2) print}' "$work/report.json" |
        sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'
}

rate() { # build, mode -> seconds for a GB
    "$1/ofl-bench" nvme --dir "$work" --rw "$2" --size 1G --repeat 1 --time-s 2 --json "$work/nvme.json" >/dev/null 2>"$work/log" || { cat "$work/log"; exit 1; }
    awk '/"gb_per_s"/ {on = 1} on && /"median"/ {gsub(/,/, ""); print 1 / $2; exit}' "$work/nvme.json"
}

turns() { # name, function, arguments...
    local name=$1 of=$2 x y
    shift 2
    : >"$work/ratios"
    for ((i = 0; i < pairs; i++)); do
        if ((i % 2)); then
            y=$($of "$b" "$@") x=$($of "$a" "$@")
        else
            x=$($of "$a" "$@") y=$($of "$b" "$@")
        fi
        awk -v x="$x" -v y="$y" 'BEGIN {print y / x}' >>"$work/ratios"
    done
    sort -g "$work/ratios" | awk -v name="$name" '{v[NR] = $1} END {printf "%-22s %.2f (%.2f to %.2f, %d pairs)\n", name, (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2, v[1], v[NR], NR}'
}

turns 'training, tiers' step
for mode in read write mixed; do turns "nvme, $mode" rate $mode; done
