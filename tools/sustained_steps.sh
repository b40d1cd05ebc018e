#!/bin/bash
# Shows that `ofl-bench nvme --sustained` finds what a drive does: a loop device is held to one rate after another (blkio
# cgroup, version 1 or 2), and the steps that are found are compared with those that were set: rates within 5 %, times
# within 2 s. Exit status 1 if one is not; 77 where it can't be tried. Wants root, loop devices, a quiet machine and a
# minute.
#
#     tools/sustained_steps.sh BUILD_DIR DIR      DIR: for a file of 4 GiB
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,/^set/p' "$0" | sed '/^set/d; s/^# \{0,1\}//' >&2; exit 2; }
bench=$1/ofl-bench
rates=(120 40 75) seconds=(12 14 12) # MB/s
skip() {
    echo "skipped: $*"
    exit 77
}
[ "$(id -u)" -eq 0 ] || skip "not root"
work=$(mktemp -d "$2/sustained.XXXXXX")
group='' mounted=''
cleanup() {
    [ -z "$mounted" ] || umount "$work/mnt"
    [ -z "$group" ] || rmdir "$group" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

truncate -s 4G "$work/image"
mkfs.ext4 -q -F "$work/image"
mkdir "$work/mnt"
mount -o loop "$work/image" "$work/mnt" 2>"$work/err" || skip "mount -o loop: $(cat "$work/err")"
mounted=1
device=$(stat -c '%Hd:%Ld' "$work/mnt")

if [ -d /sys/fs/cgroup/blkio ]; then
    version=1 group=/sys/fs/cgroup/blkio/ofl-sustained-$$
elif grep -qw io /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    version=2 group=/sys/fs/cgroup/ofl-sustained-$$
else
    skip "no blkio cgroup"
fi
mkdir "$group" 2>/dev/null || { group=''; skip "no cgroup can be made"; }
limit() {
    if [ $version = 1 ]; then
        echo "$device $(($1 * 1000000))" >"$group/blkio.throttle.write_bps_device"
    else
        echo "$device wbps=$(($1 * 1000000))" >"$group/io.max"
    fi
}
limit "${rates[0]}" || skip "no limit can be set"

total=0
for s in "${seconds[@]}"; do total=$((total + s)); done
# The run begins when its file is there: the steps are counted from the first of them on that is found.
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec "$bench" nvme --dir "$work/mnt" --size 1500M --sustained "${total}s" --idle-s 0 --json "$work/report.json"
) >"$work/out" 2>"$work/err" &
child=$!
for ((i = 1; i < ${#rates[@]}; i++)); do
    sleep "${seconds[i - 1]}"
    limit "${rates[i]}"
done
wait $child || { cat "$work/out" "$work/err"; exit 1; }
cat "$work/out"
[ -z "${KEEP:-}" ] || cp "$work/report.json" "$KEEP"
python3 - "$work/report.json" "${rates[*]}" "${seconds[*]}" <<'END'
import json, sys
steps = json.load(open(sys.argv[1]))["sustained"]["steps"]
rates = [float(x) / 1000 for x in sys.argv[2].split()]
seconds = [float(x) for x in sys.argv[3].split()]
good = len(steps) == len(rates)
at = 0
for i, rate in enumerate(rates):
    at += seconds[i]
    if i < len(steps):
        s = steps[i]
        here = abs(s["gb_per_s"] / rate - 1) <= 0.05 and abs(s["end_s"] - at) <= 2
        good &= here
        print(f"set {rate:.3f} GB/s until {at:.0f} s; found {s['gb_per_s']:.4f} ({100 * (s['gb_per_s'] / rate - 1):+.1f} %) until "
              f"{s['end_s']:.1f} s ({s['end_s'] - at:+.1f} s){'' if here else '  NOT WITHIN'}")
if len(steps) != len(rates):
    print(f"{len(steps)} steps were found, {len(rates)} were set")
sys.exit(not good)
END
