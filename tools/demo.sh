#!/usr/bin/env bash
# make demo: trains a model of 1M parameters on this repository's documents, with budgets that hold less than half of what
# its training takes, has it write, and draws what each tier held in four such steps. About two minutes on two cores; OFL_DEMO_STEPS=N: so many steps.
#   tools/demo.sh BUILD_DIR
set -euo pipefail

build=${1:-build}
work=$(mktemp -d "$build/demo-XXXXXX")
trap 'rm -rf "$work"' EXIT

device=6M
host=6M
steps=${OFL_DEMO_STEPS:-450}

find . -path './build*' -prune -o -path './.git' -prune -o -type f -name '*.md' -print | LC_ALL=C sort | xargs cat >"$work/text"

field() { # name: a number or string of the report
    sed -n 's/^ *"'"$1"'": *"\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p' "$work/report.json" | head -1
}
part() { # object, name
    awk -v object="\"$1\":" -v name="\"$2\":" '$1 == object {on = 1} on && $1 == name {gsub(/,/, "", $2); print $2; exit}' \
        "$work/report.json"
}
mib() { awk -v b="$1" 'BEGIN {printf "%.1f MiB", b / 1048576}'; }

echo "Training preset tiny on $(wc -c <"$work/text") bytes of this repository's documents: device $device, host $host, the rest on NVMe."
train=("$build/ofl-finetune" --preset tiny --data "$work/text" --shuffle --seq 256 --batch 2 --accum 4 --lr 3e-3
    --device-mem "$device" --host-mem "$host" --nvme "$work")
"${train[@]}" --steps "$steps" --warmup 30 --schedule cosine --out "$work/model" --report "$work/report.json" 2>&1 |
    awk '/^step [0-9]*[05]0\// || /^predicted .*measured/ || /^ofl-finetune:/ { print; fflush() }'

echo
echo "It writes, by letters, after what it has read:"
"$build/ofl-generate" --model "$work/model" --prompt "The library " --max-tokens 300 --temperature 0.5 --seed 1 \
    --device-mem 4M --host-mem 2M 2>/dev/null
echo
echo
parameters=$(field parameters)
state=$(field state_bytes)
losses=$(awk '/"loss": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); print}' "$work/report.json")
tokens=$(field tokens)
seconds=$(awk '/"step_s": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); s += $1} END {print s}' "$work/report.json")
row() { printf '%-24s %s\n' "$1" "$2"; }
row "model" "$parameters parameters, f32"
row "training takes" "$(mib $((state + $(part model activation_bytes) + $(part model workspace_bytes)))), of that states $(mib "$state")"
mean() { awk '{s += $1} END {printf "%.3f", s / NR}'; }
row "loss, means of ten" "$(echo "$losses" | head -n 10 | mean) -> $(echo "$losses" | tail -n 10 | mean) in $steps steps"
for tier in device host nvme; do
    row "$tier peak / budget" "$(mib "$(part peak $tier)") / $(mib "$(part budget $tier)")"
done
for link in source_read nvme_read nvme_write device_in device_out; do
    row "moved, $link" "$(mib "$(part moved $link)")"
done
row "tokens/s" "$(awk -v t="$tokens" -v s="$seconds" 'BEGIN {printf "%.0f", t / s}')"
row "stall" "$(awk -v a="$(field stall_s)" -v s="$seconds" 'BEGIN {printf "%.1f of %.1f s, %.0f %%", a, s, 100 * a / s}')"

picture=$build/demo.svg
if command -v gnuplot >/dev/null; then
    "${train[@]}" --steps 4 --timeline "$work/timeline.json" --quiet
    "$build/ofl-bench" plot "$work/timeline.json" "$picture"
    row "tiers over four steps" "$picture"
else
    row "tiers over four steps" "no picture: gnuplot is not installed (apt-get install gnuplot-nox)"
fi
