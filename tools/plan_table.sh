#!/bin/bash
# What known machines would do with known models, by the formulas of ofl-bench plan and by its simulator, and beside
# what others have published. Exit 1 if a simulated step is more than 5 % above the formula's, which is the bound of its
# phases: updates that wait for the norm can't run under the backward before it. The column "bound" is over the plain one,
# the busiest part of the machine over the whole step.
#
#     tools/plan_table.sh [BUILD]        takes minutes
set -euo pipefail

build=${1:-build}
MOST=5 # percent above the formula
work=$(mktemp -d "$build/plan_table.XXXXXX")
trap 'rm -rf "$work"' EXIT

# value SECTION KEY: of the last plan's report, one key a line.
value() {
    sed -n '/^  "'"$1"'": {/,/^  }/s/^ *"'"$2"'": "\{0,1\}\([^,"]*\)"\{0,1\},\{0,1\}$/\1/p' "$work/plan.json" | head -n 1
}

plan() { # MACHINE MODEL OPTION...
    "$build/ofl-bench" plan --machine "$1" --model "$2" "${@:3}" --quick --simulate --json "$work/plan.json" >"$work/out" 2>&1
}

# row NAME MACHINE MODEL OPTION...
row() {
    local name=$1 status=0
    shift
    plan "$@" || status=$?
    if [ $status -eq 4 ]; then
        printf '%-10s %-22s does not fit: %s\n' "$1" "$name" "$(sed -n 's/^fits *no: //p' "$work/out" | cut -c 1-120)"
        return
    elif [ $status -ne 0 ]; then
        tail -n 1 "$work/out" >&2
        exit 1
    fi
    awk -v machine="$1" -v name="$name" -v step="$(value estimate step_s)" -v simulated="$(value simulated step_s)" \
        -v bound="$(value simulated bound_s)" -v tokens="$(value estimate tokens)" -v flops="$(value estimate flops_per_s)" \
        -v share="$(value estimate peak_share)" -v binds="$(value estimate binds)" -v by="$(value simulated binds)" 'BEGIN {
            printf "%-10s %-22s %10.4g %10.4g %+7.1f %+7.1f %10.4g %8.1f %6.1f  %s, %s\n", machine, name, step, simulated,
                100 * (simulated / step - 1), 100 * (simulated / bound - 1), tokens / simulated, flops * step / simulated * 1e-12,
                100 * share * step / simulated, binds, by }' | tee -a "$work/rows"
}

printf '%-10s %-22s %10s %10s %7s %7s %10s %8s %6s  %s\n' machine 'model, work' formula simulated formula bound tokens/s TFLOP/s peak 'binds: formula, simulated'
printf '%-10s %-22s %10s %10s %7s %7s %10s %8s %6s\n' '' '' s s % % '' 6P %
for machine in rtx-4090 rtx-5090 a100-80 h100 h200; do
    row '8b, 32 x 1024' $machine 8b --batch 8 --accum 4
    row '13b, 32 x 1024' $machine 13b --batch 8 --accum 4
    row '70b, 64 x 1024' $machine 70b --batch 8 --accum 8
    row '70b, decode' $machine 70b --decode --source
    row '175b, 64 x 1024' $machine 175b --batch 4 --accum 16
done

echo
echo 'beside what others have published, on an RTX 4090 with 256 GB RAM; TFLOP/s of 6P, and of 8P, products computed anew counted:'
published() { # NAME WHAT MODEL OPTION...
    plan rtx-4090 "${@:3}" || { echo "$1: $(tail -n 1 "$work/out")"; return; }
    awk -v name="$1" -v what="$2" -v tokens="$(value estimate tokens)" -v step="$(value simulated step_s)" \
        -v flops="$(value estimate flops_per_s)" -v formula="$(value estimate step_s)" -v by="$(value simulated binds)" 'BEGIN {
            f = flops * formula / step * 1e-12
            printf "  %-28s %8.0f tokens/s, %6.1f TFLOP/s, %6.1f with recomputation; %s binds; published: %s\n", name, tokens / step,
                f, f * 8 / 6, by, what }'
}
published '13b, 32 x 1024' '156 TFLOPS (Fuyou, 13B)' 13b --batch 32
published '175b, 64 x 1024' 'runs (Fuyou, 175B)' 175b --batch 4 --accum 16
published '8b, batch 32 of 1024' '1,791 tokens/s (DeepSpeed, batch 32); 3,142 (RoundPipe, stale by one step)' 8b --batch 32

awk -v most=$MOST '{ n++; above = substr($0, 57, 7) + 0; if (above > most) { bad++; print "above its bound: " $0 } }
    END { printf "%d pairs, %d more than %d %% above the formula\n", n, bad, most; exit !(n >= 20 && bad == 0) }' "$work/rows"
