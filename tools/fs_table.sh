#!/usr/bin/env bash
# What is said of file systems and drives, beside what is seen of them: a table, as root, on small file systems
# in files that are made and removed.
#   tools/fs_table.sh [--old BUILD] [BUILD_DIR]
# Claimed: I/O goes past the page cache (direct), reserved space is there at every write (reserved), the bytes are
# memory of this machine (memory), a drive below passes the page cache all the same (cached). Seen, of 32 MiB that
# are reserved, written twice on a file system that others have filled, and read into memory that was never
# touched: pages put into the page cache, bytes that found no space, growth of tmpfs, pages of the file behind the
# loop device. --old: also how much faster the store writes on btrfs than with another build, in turns.
# OFL_FS_DIR: where the files are made (/var/tmp). Exit 1 if a claim is false, 77 where it can't be shown.
set -euo pipefail

old=
if [ "${1-}" = --old ]; then
    old=$(realpath "$2")
    shift 2
fi
build=$(realpath "${1:-build}")
judge=$build/tests/test_io_claims
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root, to mount file systems"; exit 77; }
for tool in mkfs.ext4 mkfs.xfs mkfs.btrfs losetup; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is missing (apt-get install e2fsprogs xfsprogs btrfs-progs)"; exit 77; }
done
[ -x "$judge" ] || { echo "$judge is missing: make $judge" >&2; exit 2; }

work=$(mktemp -d "${OFL_FS_DIR:-/var/tmp}/ofl-fs-table-XXXXXX")
stack=() bad=0 shown=0

undo() {
    local i
    for ((i = ${#stack[@]} - 1; i >= 0; i--)); do
        case ${stack[i]} in
        /dev/loop*) losetup -d "${stack[i]}" || true ;;
        /dev/zram*) echo "${stack[i]#/dev/zram}" >/sys/class/zram-control/hot_remove || true ;;
        *) umount "${stack[i]}" || true ;;
        esac
    done
    stack=()
    rm -rf --one-file-system "${work:?}"/*
}
trap 'undo; rmdir "$work"' EXIT

into() { # mount arguments...: the last one is the mount point
    mkdir -p "${!#}"
    mount "$@" || return
    stack+=("${!#}")
}
device=
attach() { # IMAGE [losetup options]
    device=$(losetup --show -f "${@:2}" "$1") || return
    stack+=("$device")
}
overlay() { # TREE: overlayfs whose upper layer lies in TREE
    mkdir -p "$1/upper" "$1/work" "$work/lower"
    into -t overlay overlay -o "lowerdir=$work/lower,upperdir=$1/upper,workdir=$1/work" "$work/over"
}

title() {
    printf '%s\n' "claimed: direct, reserved, memory, cached"
    printf '%-34s %s\n' "" "dir res mem cached | seen"
}
row() { # NAME, arguments of the judge
    local line status=0
    line=$("$judge" "${@:2}") || status=$?
    printf '%-34s %s\n' "$1" "$line"
    shown=$((shown + 1))
    [ "$status" -eq 0 ] || bad=1
}
cant() { printf '%-34s not possible here: %s\n' "$1" "$2"; }

# NAME, whether loop devices are direct, sector, command that makes a file system on $device, mount options
block_file_system() {
    local image=$work/image
    truncate -s 700M "$image"
    attach "$image" --direct-io="$2" --sector-size "$3" 2>/dev/null || { cant "$1" "no such loop device"; undo; return; }
    eval "$4" >/dev/null 2>&1 || { cant "$1" "mkfs fails"; undo; return; }
    into ${5:+-o "$5"} "$device" "$work/m" 2>/dev/null || { cant "$1" "the kernel does not mount it"; undo; return; }
    row "$1" "$work" "$work/m" "$image"
    if [ "${6-}" = compressed ]; then
        mkdir "$work/m/c"
        chattr +c "$work/m/c"
        row "$1, directory with +c" "$work" "$work/m/c" "$image"
    elif [ "${6-}" = over ]; then
        overlay "$work/m"
        row "overlayfs on $1" "$work" "$work/over" "$image"
    fi
    undo
}

shared_file() { # NAME, mkfs.xfs options
    truncate -s 700M "$work/image"
    attach "$work/image" --direct-io=on
    # shellcheck disable=SC2086
    mkfs.xfs -q -f $2 "$device" >/dev/null
    into "$device" "$work/m" 2>/dev/null || { cant "$1" "the kernel does not mount it"; undo; return; }
    head -c 20000001 /dev/urandom >"$work/m/model"
    cp --reflink=always "$work/m/model" "$work/m/copy"
    sync -f "$work/m"
    row "$1, shared file" --read "$work/m/copy"
    undo
}

# shellcheck disable=SC2016
table() {
    title
    block_file_system ext4 on 512 'mkfs.ext4 -q "$device"' '' over
    block_file_system 'xfs, blocks of 4 KiB' on 512 'mkfs.xfs -q -f "$device"' '' over
    shared_file 'xfs, blocks of 4 KiB' ''
    block_file_system 'xfs, blocks of 64 KiB' on 512 'mkfs.xfs -q -f -b size=65536 "$device"' '' over
    shared_file 'xfs, blocks of 64 KiB' '-b size=65536'
    block_file_system btrfs on 512 'mkfs.btrfs -q -f "$device"' '' over
    block_file_system 'btrfs, nodatacow' on 512 'mkfs.btrfs -q -f "$device"' nodatacow over
    block_file_system 'btrfs, compress-force' on 512 'mkfs.btrfs -q -f "$device"' compress-force=zstd compressed
    block_file_system 'btrfs, data dup' on 512 'mkfs.btrfs -q -f -d dup "$device"' '' over
    into -t tmpfs -o size=300m tmpfs "$work/m"
    row tmpfs "$work" "$work/m"
    overlay "$work/m"
    row 'overlayfs on tmpfs' "$work" "$work/over"
    undo
    for sector in 512 4096; do
        block_file_system "ext4, loop, $sector, direct" on $sector 'mkfs.ext4 -q "$device"'
        block_file_system "ext4, loop, $sector, page cache" off $sector 'mkfs.ext4 -q "$device"'
        block_file_system "btrfs, loop, $sector, page cache" off $sector 'mkfs.btrfs -q -f "$device"'
    done
    into -t tmpfs -o size=800m tmpfs "$work/t"
    truncate -s 700M "$work/t/image"
    attach "$work/t/image"
    mkfs.ext4 -q "$device"
    into "$device" "$work/m"
    row 'ext4, loop on tmpfs' "$work" "$work/m"
    undo
    memory_drive
}

# A drive that keeps what is written compressed in memory.
memory_drive() {
    local number
    if ! number=$(cat /sys/class/zram-control/hot_add 2>/dev/null); then
        cant 'ext4 on zram' "no zram"
        return
    fi
    device=/dev/zram$number
    stack+=("$device")
    echo 500M >"/sys/block/zram$number/disksize"
    mkfs.ext4 -q "$device" >/dev/null
    into "$device" "$work/m"
    row 'ext4 on zram' "$work" "$work/m"
    undo
}

# ---- how fast the store's file is written on btrfs ------------------------------------------------
write_rate() { # BUILD
    "$1/ofl-bench" nvme --dir "$work/m" --size 512M --rw write --block 1M --depth 32 --repeat 1 --time-s 1 \
        --json "$work/rate.json" >/dev/null 2>&1
    tr -d '\n' <"$work/rate.json" | grep -oE '"gb_per_s": *\{[^}]*"median": *[0-9.]+' | head -1 | grep -oE '[0-9.]+$'
}

compare() {
    local i new_rate old_rate ratios=()
    truncate -s 4G "$work/image"
    attach "$work/image" --direct-io=on
    mkfs.btrfs -q -f "$device" >/dev/null
    into "$device" "$work/m"
    for i in 1 2 3 4 5; do
        old_rate=$(write_rate "$old")
        new_rate=$(write_rate "$build")
        ratios+=("$(awk -v n="$new_rate" -v o="$old_rate" 'BEGIN { printf "%.1f", n / o }')")
        echo "btrfs, write, pair $i: $new_rate GB/s here, $old_rate GB/s with $old: ${ratios[-1]} times"
    done
    undo
    printf '%s\n' "${ratios[@]}" | sort -n | awk '{ v[NR] = $1 } END { print "median " v[(NR + 1) / 2] " times"; exit v[(NR + 1) / 2] < 5 }' || bad=1
}

table
[ -z "$old" ] || compare
[ "$bad" -eq 0 ] && echo "all $shown true" || echo "FALSE claims above"
exit "$bad"
