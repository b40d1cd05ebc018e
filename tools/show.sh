#!/usr/bin/env bash
# make show: runs the claims of docs/results.md that fit in ten minutes, and prints what was seen.
#   tools/show.sh BUILD_DIR [bits|story|cuda|cgroup|direct|refuse|overlap|adam|nvme|tensors|demand|stripe|scale|sim...]
# OFL_SHOW_DEVICE: the device of the programs (host); cuda:0 for bits and story on a GPU.
# OFL_SHOW_FULL=1: bits runs every placement with every setting (a quarter of an hour on two cores).
# Parts are called by name, numbers are left bare.
# shellcheck disable=SC2317,SC2086
set -euo pipefail

build=${1:-build}
shift || true
device_name=${OFL_SHOW_DEVICE:-host}
parts=${*:-story cuda refuse direct cgroup overlap adam tensors demand stripe nvme scale sim bits}
work=$(mktemp -d "$build/show-XXXXXX")
cgroup=
failed=0

cleanup() {
    rm -rf "$work"
    if [ -n "$cgroup" ]; then rmdir "$cgroup" 2>/dev/null || true; fi
}
trap cleanup EXIT

say() { printf '%-58s %s\n' "$1" "$2"; }
verdict() { # text, ok?
    if [ "$2" = 0 ]; then say "$1" ok; else
        say "$1" FAILED
        failed=1
    fi
}
# What must be equal in two reports: every loss, every norm, the hash of the state.
bits() { awk '/"(loss|grad_norm)": \[/ {on = 1} on || /"state_hash"/ {print} on && /\]/ {on = 0}' "$1"; }
number() { # object, name, file
    awk -v object="\"$1\":" -v name="\"$2\":" '$1 == object {on = 1} on && $1 == name {gsub(/,/, "", $2); print $2; exit}' "$3"
}

# shellcheck source=tools/show_nvme.sh
. tools/show_nvme.sh

# ---- 1: the same bits in every placement --------------------------------------------------------
show_bits() {
    local n=0 bad=0 turn=0 dtype accum clip base device host nvme
    local steps=${OFL_SHOW_STEPS:-100}
    local text=$work/text
    cat README.md docs/*.md >"$text"
    # placements: device, host, nvme (y: as much as it takes, n: none, else its SIZE, less than the state). MIN is the smallest workable budget, as the program states it.
    local places="MIN:2M:y MIN:4M:y MIN:16M:y MIN:64M:n 4M:2M:y 4M:8M:y 6M:3M:y 8M:2M:y 8M:64M:n 12M:12M:y 16M:32M:y 64M:2M:y 64M:64M:y MIN:16M:8M 6M:24M:2M"
    for dtype in f32 bf16; do for accum in 1 4; do for clip in 0 0.5; do
        base=(--preset tiny --data "$text" --seq 32 --batch 1 --accum "$accum" --clip "$clip" --dtype "$dtype"
            --steps "$steps" --lr 1e-3 --warmup 10 --weight-decay 0.01 --seed 7)
        "$build/ofl-finetune" --device "$device_name" "${base[@]}" --in-memory --report "$work/ref.json" 2>"$work/log" || { cat "$work/log"; exit 1; }
        bits "$work/ref.json" >"$work/ref"
        [ "$(grep -c . "$work/ref")" -gt $((2 * steps)) ] || { echo "the reference report is incomplete"; exit 1; }
        local min
        min=$("$build/ofl-finetune" --device "$device_name" "${base[@]}" --device-mem 1 --host-mem 2M --nvme "$work" 2>&1 |
            sed -n 's/.*smallest workable --device-mem is \([0-9]*\) bytes.*/\1/p' | head -1) || true # it is refused, and says the number
        [ -n "$min" ] || { echo "no smallest workable budget was stated"; exit 1; }
        local same=0 of=0 at=0 again
        for again in $places MIN:2M:y; do
            # in turns, unless all are wanted: each placement meets two or three of the settings
            at=$((at + 1))
            if [ -z "${OFL_SHOW_FULL:-}" ] && [ $(((at + turn) % 4)) != 0 ]; then continue; fi
            IFS=: read -r device host nvme <<<"$again"
            [ "$device" = MIN ] && device=$min
            # a placement smaller than the smallest is none
            local wanted=$device
            [[ $wanted == *M ]] && wanted=$((${wanted%M} * 1048576))
            [ "$wanted" -ge "$min" ] || device=$min
            local where=()
            [ "$nvme" = y ] && where=(--nvme "$work")
            [[ $nvme == *M ]] && where=(--nvme "$work:$nvme")
            "$build/ofl-finetune" --device "$device_name" "${base[@]}" --device-mem "$device" --host-mem "$host" "${where[@]}" \
                --report "$work/run.json" 2>"$work/log" || { cat "$work/log"; exit 1; }
            bits "$work/run.json" >"$work/run"
            of=$((of + 1)) n=$((n + 1))
            if cmp -s "$work/ref" "$work/run"; then same=$((same + 1)); else bad=$((bad + 1)); fi
            for tier in device host nvme; do
                [ "$(number peak $tier "$work/run.json")" -le "$(number budget $tier "$work/run.json")" ] || bad=$((bad + 1))
            done
        done
        turn=$((turn + 1))
        say "bits: $dtype, accum $accum, clip $clip, $steps steps" "$same of $of placements identical to --in-memory"
    done; done; done
    # a negative control: another seed must not give the same bits
    "$build/ofl-finetune" --device "$device_name" --preset tiny --data "$text" --seq 32 --batch 1 --dtype bf16 --steps 3 --lr 1e-3 --seed 8 \
        --in-memory --report "$work/run.json" 2>/dev/null
    bits "$work/run.json" >"$work/run"
    if cmp -s "$work/ref" "$work/run"; then bad=$((bad + 1)); fi
    verdict "bits: $n runs, every loss, norm and state hash" "$((bad != 0))"
}

# ---- 2: the real checkpoint ---------------------------------------------------------------------
show_story() {
    local shared=${OFL_SHARED:-../shared}
    local model=$shared/models/story data=$shared/data/tinyshakespeare.txt
    if [ ! -d $model ]; then
        say "story: skipped" "$model is absent"
        return
    fi
    "$build/ofl-finetune" --device "$device_name" --model $model --data $data --seq 64 --batch 2 --steps 6 --lr 1e-3 --weight-decay 0 --clip 0 \
        --dtype f32 --device-mem 8M --host-mem 4M --nvme "$work" --report "$work/story.json" --out "$work/story" \
        2>"$work/log" || { cat "$work/log"; exit 1; }
    local ok=0
    awk '/"loss": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); print}' "$work/story.json" |
        paste - <(printf '%s\n' 5.93651 5.74027 5.89122 6.03554 5.26947 6.04676) |
        awk '{d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 || NF != 2) bad = 1; printf "%.5f ", $1} END {print ""; exit bad || NR != 6}' \
            >"$work/losses" || ok=1
    say "story: losses" "$(cat "$work/losses")"
    verdict "story: within 1e-4 of the reference" $ok
    say "story: first gradient norm (3.52978)" "$(awk '/"grad_norm": \[/ {on = 1; next} on {gsub(/[ ,]/, ""); print; exit}' "$work/story.json")"
    "$build/ofl-generate" --device "$device_name" --model $model --prompt "Once upon a time" --max-tokens 24 --temperature 0 \
        --device-mem 8M --host-mem 4M >"$work/said" 2>"$work/log" || { cat "$work/log"; exit 1; }
    ok=0
    tr '\n' ' ' <"$work/said" |
        grep -q ', a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot' || ok=1
    verdict "story: generation at temperature 0" $ok
    if [ -n "${OFL_PYTHON:-}" ]; then
        "$OFL_PYTHON" tools/check_transformers.py "$work/story" $data "$build" && ok=0 || ok=1
        verdict "story: the output loads in transformers, same loss" $ok
        "$OFL_PYTHON" tools/check_training.py $model $data "$build" "$work" 2>"$work/log" && ok=0 || ok=1
        verdict "training: untied, sharded F16, odd shapes, as in PyTorch" $ok
    else
        say "story: the output in transformers" "skipped: set OFL_PYTHON to a Python with torch and transformers"
    fi
}

# ---- 3: a memory cgroup -------------------------------------------------------------------------
show_cgroup() {
    local device=256 host=256 limit
    limit=$(((device + host + 150) * 1048576))
    if [ -w /sys/fs/cgroup/memory ]; then
        cgroup=/sys/fs/cgroup/memory/ofl-show-$$
        mkdir "$cgroup"
        echo $limit >"$cgroup/memory.limit_in_bytes"
    elif [ -w /sys/fs/cgroup/cgroup.subtree_control ] && grep -q memory /sys/fs/cgroup/cgroup.controllers; then
        echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
        cgroup=/sys/fs/cgroup/ofl-show-$$
        mkdir "$cgroup"
        echo $limit >"$cgroup/memory.max"
    else
        say "cgroup: skipped" "making a memory cgroup takes root"
        return
    fi
    local text=$work/text ok=0
    cat README.md docs/*.md >"$text"
    # shellcheck disable=SC2016
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
        "$build/ofl-finetune" --device "$device_name" --preset 300m --data "$text" --seq 64 --batch 2 --accum 2 --steps 2 --lr 1e-4 \
        --device-mem ${device}M --host-mem ${host}M --nvme "$work" --report "$work/big.json" 2>"$work/log" || ok=1
    [ $ok = 0 ] || tail -3 "$work/log"
    local peak
    peak=$(cat "$cgroup/memory.max_usage_in_bytes" 2>/dev/null || cat "$cgroup/memory.peak" 2>/dev/null || echo 0)
    say "cgroup: limit $((limit >> 20)) MiB, peak charged (page cache in it)" "$((peak >> 20)) MiB"
    if [ $ok = 0 ]; then
        say "cgroup: parameters, peaks of device and host" "$(sed -n 's/.*"parameters": *\([0-9]*\).*/\1/p' "$work/big.json" | head -1), $(($(number peak device "$work/big.json") >> 20)) and $(($(number peak host "$work/big.json") >> 20)) MiB"
    fi
    verdict "cgroup: the run ended inside device + host + 150 MiB" $ok
}

# ---- 4: direct I/O ------------------------------------------------------------------------------
show_direct() {
    command -v strace >/dev/null || {
        say "direct: skipped" "strace is not installed"
        return
    }
    local text=$work/text before after ok=0
    cat README.md docs/*.md >"$text"
    strace -f -e trace=openat,open -o "$work/trace" "$build/ofl-finetune" --device "$device_name" --preset tiny --data "$text" --seq 32 --batch 1 \
        --steps 4 --device-mem 6M --host-mem 2M --nvme "$work" 2>/dev/null
    grep -q 'O_DIRECT.*O_TMPFILE\|O_TMPFILE.*O_DIRECT\|O_DIRECT' "$work/trace" || ok=1
    say "direct: opened with O_DIRECT" "$(grep -c O_DIRECT "$work/trace") files"
    before=$(awk '$1 == "Cached:" {print $2}' /proc/meminfo)
    "$build/ofl-finetune" --device "$device_name" --preset 20m --data "$text" --seq 32 --batch 1 --steps 3 --device-mem 48M --host-mem 32M \
        --nvme "$work" --report "$work/direct.json" 2>/dev/null
    after=$(awk '$1 == "Cached:" {print $2}' /proc/meminfo)
    say "direct: bytes through the store" "$((($(number moved nvme_read "$work/direct.json") + $(number moved nvme_write "$work/direct.json")) >> 20)) MiB"
    say "direct: page cache grew by (arenas excluded)" "$(((after - before) >> 10)) MiB"
    [ $(((after - before) >> 10)) -lt 32 ] || ok=1
    verdict "direct: O_DIRECT, and the page cache does not grow" $ok
}

# ---- how much of the traffic is hidden ----------------------------------------------------------
show_overlap() {
    local text=$work/text kind
    git ls-files '*.c' '*.h' '*.md' | LC_ALL=C sort | xargs cat >"$text"
    local base=(--preset 20m --data "$text" --seq 128 --batch 4 --steps 7 --lr 1e-3 --clip 1)
    for _ in 1 2 3 4; do
        for kind in memory tiers; do
            local where=(--in-memory)
            [ $kind = memory ] || where=(--device-mem 48M --host-mem 32M --nvme "$work")
            "$build/ofl-finetune" --device "$device_name" "${base[@]}" "${where[@]}" --report "$work/$kind.json" 2>"$work/log" || { cat "$work/log"; exit 1; }
            # the median step after two of warm-up
            awk '/"step_s": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); if (++n > 2) print}' "$work/$kind.json" |
                sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}' >>"$work/$kind.times"
        done
    done
    paste "$work/memory.times" "$work/tiers.times" | awk '{print $1 / $2}' | sort -g >"$work/ratios"
    say "overlap: speed with a quarter of the state in memory" "$(awk '{v[NR] = $1} END {printf "%.2f of in-memory (median of %d pairs, %.2f to %.2f)", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2, NR, v[1], v[NR]}' "$work/ratios")"
    say "overlap: budgets, state" "80 MiB, $(($(sed -n 's/.*"state_bytes": *\([0-9]*\).*/\1/p' "$work/tiers.json" | head -1) >> 20)) MiB"
}

# ---- optimizer updates -----------------------------------------------------------------------------
show_adam() {
    local dtype
    for dtype in f32 bf16; do
        "$build/ofl-bench" adam --elems 50000000 --dtype "$dtype" --json "$work/adam.json" >"$work/log" || failed=1
        say "adam: 50M parameters in memory, $dtype" "$(sed -n 's/^update .* \([0-9.]*\)$/\1 of a loop over the same bytes/p' "$work/log")"
    done
    "$build/ofl-bench" adam --elems 200000000 --nvme "$work" --host-mem 256M --repeats 2 --json "$work/adam.json" >"$work/log" || failed=1
    say "adam: 200M parameters out of core, 256 MiB of RAM" "$(sed -n -e 's/.*the step takes \(.*\) times that/\1 of what the drive needs/p' "$work/log"), $(sed -n 's/^memory.*, \([0-9.]* bytes for each parameter\).*/\1/p' "$work/log")"
}

# ---- what calls cost, and the core in a simulation ------------------------------------------------
show_scale() {
    local status=0
    OFL_SCALE_DIR=$work OFL_SCALE_CHECK=1 tools/scale.sh "$build" || status=$?
    verdict "scale: calls, tiles and the engine thread" "$status"
}

show_sim() {
    local status=0 line
    line=$(make -s sim SEEDS=20000 B="$build" | grep seeds) || status=$?
    verdict "simulation: $line" "$status"
}

# ---- 5: refusals --------------------------------------------------------------------------------
show_refuse() {
    local ok=0 text=$work/text
    cat README.md >"$text"
    "$build/ofl-finetune" --device "$device_name" --preset tiny --data "$text" --device-mem 1M --host-mem 2M --nvme "$work" 2>"$work/log" && ok=1
    sed 's/^/    /' "$work/log"
    grep -q 'smallest workable' "$work/log" || ok=1
    verdict "refuse: a budget too small (the rest: tests/programs.sh)" $ok
}

# ---- cuda: on the stub driver, kernels on the CPU; with a GPU: make gpu-check -----------------------
show_cuda() {
    local ok line stub
    ok=0
    tools/run-tests.sh "$build" test_cuda_block test_cuda_attention test_cuda_kernels test_cuda_head test_update_cuda \
        test_optimizer_cuda test_device_cuda test_core_cuda test_cuda_emulate programs_cuda.sh >"$work/log" 2>&1 || ok=1
    line=$(tail -n 1 "$work/log")
    [ $ok = 0 ] || cat "$work/log"
    verdict "cuda: kernels, optimizer, model and programs ($line)" $ok
    stub=$(cd "$build/tests" && pwd)
    OFL_CUDA_DRIVER=$stub/libcuda_stub.so OFL_CUBLAS=$stub/libcublas_stub.so OFL_SHOW_DEVICE=cuda:0 OFL_PYTHON='' \
        "$0" "$build" story | grep -v 'in transformers' | sed 's/^story/cuda: story/' || failed=1
}

for part in $parts; do "show_$part"; done
exit $failed
