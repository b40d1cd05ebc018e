#!/usr/bin/env bash
# show's stripe: two ext4 file systems on loop devices, throttled to known rates; what ofl-bench
# reads and writes from each alone, and striped over both. Run under unshare -m, as root.
#   tools/show_stripe.sh BUILD_DIR WORK_DIR
# shellcheck disable=SC2317  # cleanup is called by the trap
set -euo pipefail
build=$1 work=$2
cgroup=/sys/fs/cgroup/blkio/ofl-show-$$
failed=0

cleanup() {
    rmdir "$cgroup" 2>/dev/null || true
    umount -l "$work/a" "$work/b" 2>/dev/null || true
    rm -f "$work/a.img" "$work/b.img"
}
trap cleanup EXIT

# A file system of 2 GiB on a loop device, which goes with its mount.
device_of() { cat "/sys/block/$(basename "$(findmnt -n -o SOURCE "$1")")/dev"; }
for name in a b; do
    fallocate -l 2G "$work/$name.img"
    mkfs.ext4 -q -F "$work/$name.img"
    mkdir "$work/$name"
    mount -o loop "$work/$name.img" "$work/$name"
    losetup --direct-io=on "$(findmnt -n -o SOURCE "$work/$name")" 2>/dev/null || true
done
mkdir "$cgroup"

limit() { # directory, bytes per second
    local way
    for way in read write; do echo "$(device_of "$1") $2" >"$cgroup/blkio.throttle.${way}_bps_device"; done
}

# Prints GB/s of reading or writing in the directories.
rate() { # mode, directories...
    local dirs=() dir mode=$1
    shift
    for dir; do dirs+=(--dir "$dir"); done
    # shellcheck disable=SC2016
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" "$build/ofl-bench" nvme "${dirs[@]}" \
        --rw "$mode" --size 256M --time-s 3 --repeat 3 --json "$work/stripe.json" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
    jq '.results[0].gb_per_s.median' "$work/stripe.json"
}

for slow in 200000000 20000000; do
    limit "$work/a" 200000000
    limit "$work/b" $slow
    for mode in read write; do
        a=$(rate $mode "$work/a")
        b=$(rate $mode "$work/b")
        both=$(rate $mode "$work/a" "$work/b")
        shares=$(jq -r '[.results[0].paths[] | .bytes] | "\(.[0]*100/add|round) : \(.[1]*100/add|round)"' "$work/stripe.json")
        awk -v m="$mode" -v a="$a" -v b="$b" -v c="$both" -v s="$shares" 'BEGIN {
            printf "stripe: %s %.3f and %.3f GB/s alone, both %.3f: %.2f of the sum, shares %s\n", m, a, b, c, c / (a + b), s
            exit c < 0.9 * (a + b)}' || failed=1
    done
done
exit $failed
