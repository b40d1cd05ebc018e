#!/bin/bash
# Predicted and measured step times, side by side: real configurations on the machine at hand, decode and training,
# several shapes and budgets, on the host device and on a GPU where there is one. A table, the median of the errors
# and the worst; exit 1 if the median is above 10 % or the worst above 25 % of the measured time.
#
# Rates are measured anew before each run, in the same process; what happens on the machine between that and the
# steps is in the error. So it wants a quiet machine: run it alone.
#
#     tools/predict.sh [BUILD [DIR]]     DIR: on the drive to use, default a folder in BUILD
set -euo pipefail

build=${1:-build}
MEDIAN=10 WORST=25
work=$(mktemp -d "${2:-$build}/predict.XXXXXX")
trap 'rm -rf "$work"' EXIT

# field NAME FILE: the value of a key of a report, one key a line.
field() {
    sed -n 's/^ *"'"$1"'": \(.*[^,]\),\{0,1\}$/\1/p' "$2" | head -n 1
}

# one NAME COMMAND OPTION...: runs it, prints a line, and notes the error.
one() {
    local name=$1 report=$work/report.json predicted deviation
    shift
    if ! "$build/ofl-bench" "$@" --report "$report" >"$work/out" 2>&1; then
        echo "$name: $(tail -n 1 "$work/out")" >&2
        exit 1
    fi
    deviation=$(field deviation "$report")
    predicted=$(sed -n '/"predicted": {/,/}/s/^ *"step_s": \(.*[^,]\),\{0,1\}$/\1/p' "$report" | head -n 1)
    awk -v name="$name" -v p="$predicted" -v d="$deviation" -v binds="$(sed -n '/"predicted": {/,/}/s/^ *"binds": "\(.*\)",*$/\1/p' \
        "$report" | head -n 1)" 'BEGIN {
            m = p * (1 + d); e = 100 * (p / m - 1)
            printf "%-44s %10.4f %10.4f %+7.1f  %s\n", name, p, m, e, binds }' | tee -a "$work/table"
}

# A device's runs; small where it computes on the host.
configurations() {
    local device=$1 dir=$work/nvme
    local decode=(decode --device "$device" --prompt 8 --tokens 6 --warmup 3)
    local step=(step --device "$device" --steps 3 --warmup 3)
    mkdir -p "$dir"

    one "$device 300m decode, in memory" "${decode[@]}" --preset 300m --in-memory
    one "$device 300m decode, 280M + 400M" "${decode[@]}" --preset 300m --device-mem 280M --host-mem 400M
    one "$device 300m decode, 280M + 200M + drive" "${decode[@]}" --preset 300m --device-mem 280M --host-mem 200M --nvme "$dir:600M"
    one "$device 300m decode, 128M + 128M + drive" "${decode[@]}" --preset 300m --device-mem 128M --host-mem 128M --nvme "$dir:700M"
    one "$device 300m decode f32, 200M + 64M + drive" "${decode[@]}" --preset 300m --dtype f32 --device-mem 200M --host-mem 64M --nvme "$dir:1300M"
    one "$device 1b decode, 700M + 1700M" "${decode[@]}" --preset 1b --device-mem 700M --host-mem 1700M
    one "$device 20m f32, in memory" "${step[@]}" --preset 20m --dtype f32 --seq 128 --batch 4 --in-memory
    one "$device 20m bf16 clip 0, 64M + 600M" "${step[@]}" --preset 20m --seq 128 --batch 2 --clip 0 --device-mem 64M --host-mem 600M
    one "$device 20m f32, 48M + 32M + drive" "${step[@]}" --preset 20m --dtype f32 --seq 128 --batch 4 --device-mem 48M --host-mem 32M --nvme "$dir:500M"
    one "$device 20m f32 clip 0, 48M + 32M + drive" "${step[@]}" --preset 20m --dtype f32 --seq 128 --batch 1 --clip 0 --device-mem 48M --host-mem 32M --nvme "$dir:500M"
    one "$device 20m bf16 x4, 48M + 64M + drive" "${step[@]}" --preset 20m --seq 64 --batch 1 --accum 4 --device-mem 48M --host-mem 64M --nvme "$dir:600M"
    one "$device 20m bf16, 32M + 16M + drive" "${step[@]}" --preset 20m --seq 32 --batch 1 --device-mem 32M --host-mem 16M --nvme "$dir:600M"
    one "$device 300m bf16, 256M + 256M + drive" "${step[@]}" --preset 300m --seq 64 --batch 1 --steps 1 --warmup 2 --device-mem 256M --host-mem 256M --nvme "$dir:7G"
}

printf '%-44s %10s %10s %7s  %s\n' 'configuration' 'predicted' 'measured' 'error' 'binds'
printf '%-44s %10s %10s %7s\n' '' 's' 's' '%'
configurations host
if "$build/ofl-bench" link --help >/dev/null && [ -e /dev/nvidiactl ]; then
    configurations cuda:0
fi
awk '{ e = substr($0, 67, 8) + 0; print e < 0 ? -e : e }' "$work/table" | sort -g >"$work/errors"
awk -v median_most=$MEDIAN -v worst_most=$WORST '{ e[NR] = $1 }
    END {
        median = NR % 2 ? e[(NR + 1) / 2] : (e[NR / 2] + e[NR / 2 + 1]) / 2
        printf "%d configurations: median error %.1f %%, worst %.1f %%\n", NR, median, e[NR]
        exit !(NR >= 12 && median <= median_most && e[NR] <= worst_most)
    }' "$work/errors"
