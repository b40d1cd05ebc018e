#!/bin/bash
# What `ofl-bench nvme --verify` costs of the throughput: the same runs with it and without, in turns, each first every other
# time, and the median of the ratios for each kind of run. Exit status 1 if one is below 0.9. Wants a quiet machine.
#
#     tools/verify_cost.sh BUILD_DIR DIR [PAIRS]      DIR: on the drive
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | sed '/^set/d; s/^# \{0,1\}//' >&2; exit 2; }
bench=$1/ofl-bench dir=$2 pairs=${3:-9}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

one() {
    "$bench" nvme --dir "$dir" --rw read,write,randread --repeat 1 --json "$work/$1.json" "${@:2}" >"$work/out"
}

for ((i = 0; i < pairs; i++)); do
    if ((i % 2)); then one "with-$i" --verify && one "without-$i"; else one "without-$i" && one "with-$i" --verify; fi
done
python3 - "$work" "$pairs" <<'END'
import json, statistics, sys
work, pairs = sys.argv[1], int(sys.argv[2])
rates = lambda name: [(r["rw"], r["gb_per_s"]["median"]) for r in json.load(open(f"{work}/{name}.json"))["results"]]
ratios = {}
for i in range(pairs):
    for (rw, a), (_, b) in zip(rates(f"with-{i}"), rates(f"without-{i}")):
        ratios.setdefault(rw, []).append(a / b)
worst = 1
for rw, all_ in ratios.items():
    median = statistics.median(all_)
    worst = min(worst, median)
    print(f"{rw:9} --verify has {median:.3f} of the throughput without ({min(all_):.3f}..{max(all_):.3f}, {pairs} pairs)")
sys.exit(worst < 0.9)
END
