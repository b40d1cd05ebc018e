# Parts of tools/show.sh about drives, measured with ofl-bench. Sourced by it: uses its say, verdict,
# work and build. Where the drive is shared with others, figures are medians of interleaved pairs.
# shellcheck shell=bash disable=SC2154,SC2317

# Whether a number is at least, or at most, another.
at_least() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a >= b)}'; }
at_most() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a <= b)}'; }
spread() { jq -r "$1 | \"\\(.median*1000|round/1000) (quartiles \\(.q1*1000|round/1000) to \\(.q3*1000|round/1000))\"" "$2"; }

need_tools() { # part, tools...
    local tool part=$1
    shift
    for tool; do
        command -v "$tool" >/dev/null && continue
        say "$part: skipped" "$tool is not installed: apt-get install $tool"
        return 1
    done
}

# ---- fio, in turns ------------------------------------------------------------------------------
show_nvme() {
    need_tools nvme fio jq || return 0
    local json=$work/nvme.json i rw ratio cpu least ok
    "$build/ofl-bench" nvme --dir "$work" --time-s 1 --compare fio --repeat "${OFL_SHOW_PAIRS:-10}" --json "$json" >"$work/log" 2>&1 ||
        { cat "$work/log"; exit 1; }
    for i in $(seq 0 $(($(jq '.results | length' "$json") - 1))); do
        rw=$(jq -r ".results[$i].rw" "$json")
        ratio=$(jq ".results[$i].fio.ratio.median" "$json")
        cpu=$(jq ".results[$i].fio.cpu_ratio.median" "$json")
        case $rw in rand*) least=0.90 ;; *) least=0.97 ;; esac
        say "nvme: $rw, $(jq ".results[$i].block_bytes" "$json") bytes, depth $(jq ".results[$i].depth" "$json"): speed over fio's" \
            "$(spread ".results[$i].fio.ratio" "$json")"
        say "nvme: $rw: CPU seconds per GB over fio's" "$(spread ".results[$i].fio.cpu_ratio" "$json")"
        ok=0
        at_least "$ratio" $least || ok=1
        case $rw in rand*) ;; *) at_most "$cpu" 1 || ok=1 ;; esac
        verdict "nvme: $rw at least $least of fio" $ok
    done
}

# ---- tensors instead of blocks, and demand behind prefetch --------------------------------------
show_tensors() {
    need_tools tensors jq || return 0
    local json=$work/tensors.json ok=0
    "$build/ofl-bench" nvme --dir "$work" --time-s 1 --tensors mixed --repeat "${OFL_SHOW_PAIRS:-10}" --json "$json" >"$work/log" 2>&1 ||
        { cat "$work/log"; exit 1; }
    say "tensors: 200 of 1 to 16 MiB: speed over plain 1 MiB reads" "$(spread .tensors.ratio "$json")"
    at_least "$(jq .tensors.ratio.median "$json")" 0.95 || ok=1
    verdict "tensors: at least 0.95" $ok
}

show_demand() {
    need_tools demand jq || return 0
    local json=$work/demand.json ok=0
    "$build/ofl-bench" nvme --dir "$work" --demand --json "$json" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    say "demand: 16 MiB alone, p50 and p99" "$(jq -r '.demand.idle_ns | "\(.p50/1e6) and \(.p99/1e6) ms"' "$json")"
    say "demand: 16 MiB behind 1 GiB of prefetch, p50 and p99" "$(jq -r '.demand.busy_ns | "\(.p50/1e6) and \(.p99/1e6) ms"' "$json")"
    at_most "$(jq .demand.p99_ratio "$json")" 3 || ok=1
    verdict "demand: p99 at most 3 times that of an idle drive ($(jq '.demand.p99_ratio*100|round/100' "$json"))" $ok
}

# ---- two drives, one of them slow ---------------------------------------------------------------
# Two loop devices, each throttled by the block cgroup to a rate that the drive below holds easily.
show_stripe() {
    need_tools stripe jq || return 0
    if [ ! -w /sys/fs/cgroup/blkio/cgroup.procs ] || ! [ -e /dev/loop-control ]; then
        say "stripe: skipped" "it takes root, loop devices and a blkio cgroup (version 1)"
        return
    fi
    local status=0
    unshare -m "$BASH" tools/show_stripe.sh "$build" "$work" || status=$?
    verdict "stripe: at least 0.9 of the sum, alike and with one at a tenth" $status
}
