#!/usr/bin/env bash
# make demo: fine-tunes a 20M-parameter model on this repository's own text, with budgets that hold
# less than a third of its training state, and generates a sample from the result.
#   tools/demo.sh BUILD_DIR
set -euo pipefail

build=${1:-build}
work=$(mktemp -d "$build/demo-XXXXXX")
trap 'rm -rf "$work"' EXIT

device=48M
host=32M
steps=${OFL_DEMO_STEPS:-24}

find . -path './build*' -prune -o -path './.git' -prune -o -type f \
    \( -name '*.c' -o -name '*.h' -o -name '*.md' \) -print | LC_ALL=C sort | xargs cat >"$work/text"

field() { # name: a number or string of the report
    sed -n 's/^ *"'"$1"'": *"\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p' "$work/report.json" | head -1
}
part() { # object, name
    awk -v object="\"$1\":" -v name="\"$2\":" '$1 == object {on = 1} on && $1 == name {gsub(/,/, "", $2); print $2; exit}' \
        "$work/report.json"
}
mib() { awk -v b="$1" 'BEGIN {printf "%.1f MiB", b / 1048576}'; }

echo "Fine-tuning preset 20m on $(wc -c <"$work/text") bytes of this repository: device $device, host $host, the rest on NVMe."
"$build/ofl-finetune" --preset 20m --data "$work/text" --seq 128 --batch 4 --steps "$steps" --lr 1e-3 --warmup 4 \
    --clip 1 --device-mem "$device" --host-mem "$host" --nvme "$work" --out "$work/model" \
    --report "$work/report.json"

echo
echo "A sample from it:"
"$build/ofl-generate" --model "$work/model" --prompt "static int " --max-tokens 120 --temperature 0.7 --seed 1 \
    --device-mem 24M --host-mem 16M
echo
parameters=$(field parameters)
state=$(field state_bytes)
losses=$(awk '/"loss": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); print}' "$work/report.json")
tokens=$(field tokens)
seconds=$(awk '/"step_s": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); s += $1} END {print s}' "$work/report.json")
row() { printf '%-24s %s\n' "$1" "$2"; }
row "model" "$parameters parameters, f32"
row "training state" "$(mib "$state")"
row "loss" "$(echo "$losses" | head -1 | cut -c1-6) -> $(echo "$losses" | tail -1 | cut -c1-6) in $steps steps"
for tier in device host nvme; do
    row "$tier peak / budget" "$(mib "$(part peak $tier)") / $(mib "$(part budget $tier)")"
done
for link in source_read nvme_read nvme_write device_in device_out; do
    row "moved, $link" "$(mib "$(part moved $link)")"
done
row "tokens/s" "$(awk -v t="$tokens" -v s="$seconds" 'BEGIN {printf "%.0f", t / s}')"
row "stall" "$(awk -v a="$(field stall_s)" -v s="$seconds" 'BEGIN {printf "%.1f s of %.1f s", a, s}')"
