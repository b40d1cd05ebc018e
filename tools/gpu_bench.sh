#!/bin/bash
# make gpu-bench: what the GPU of this machine does, in about twenty minutes, or part by part: the link (ofl-bench
# link), a training step in device memory (ofl-bench step), PyTorch's step of the same shape
# (tools/gpu_reference.py), a step of a 7B model under budgets, and generation with a 100B one.
# One command, without network; libraries may come from OFL_SYSROOT.
#
#     tools/gpu_bench.sh BUILD_DIR      parts: OFL_GPU_PARTS='link step reference offload decode'
#
# Writes bench/results/DATE-GPU-COMMIT.json (OFL_RESULTS: another folder): machine, commit, date,
# and for each part its command, exit status, seconds and report. A part that fails or takes too
# long is recorded, and the others run; then the exit status is 1.
#
# OFL_BENCH_PRESET, OFL_BENCH_BATCH, OFL_BENCH_SEQ: shape and step, ours and PyTorch's.
# OFL_BENCH_CHECK: the share of plain copies that the link has to reach. OFL_BENCH_LINK_ARGS,
# _STEP_ARGS, _REFERENCE_ARGS, _OFFLOAD_ARGS, _DECODE_ARGS: more options of a part, or others.
# OFL_BENCH_DIR: where the store of the last two lies (the build folder). OFL_PYTHON: a python3
# that has torch. OFL_COMMIT: where there is no repository to ask.
set -uo pipefail

# shellcheck source=tools/gpu_env.sh
. "$(dirname "$0")/gpu_env.sh"
parts=${OFL_GPU_PARTS:-link step reference offload decode}
preset=${OFL_BENCH_PRESET:-1b}
batch=${OFL_BENCH_BATCH:-4}
seq=${OFL_BENCH_SEQ:-2048}
results=${OFL_RESULTS:-bench/results}
for part in $parts; do
    case $part in
    link | step | reference | offload | decode) ;;
    *)
        say "$part: no such part"
        exit 2
        ;;
    esac
done
require_gpu
build_all all
mkdir -p "$results" || exit 1
work=$(mktemp -d "$build/gpu-bench.XXXXXX")
store=${OFL_BENCH_DIR:-$work/store}
child=
trap 'rm -rf "$work"' EXIT
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; say "interrupted: no results"; exit 130' INT TERM
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
failed=0

# ---- JSON ----------------------------------------------------------------------

# A string; null if it is empty.
text() {
    if [ -z "$1" ]; then
        printf null
    else
        printf '"%s"' "$(printf %s "$1" | tr -d '\000-\010\013-\037' | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g')"
    fi
}

commit() {
    local id=${OFL_COMMIT-}
    if [ -z "$id" ] && id=$(git rev-parse --short=12 HEAD 2>/dev/null); then
        [ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || id+=-dirty
    fi
    printf %s "${id:-unknown}"
}

smi() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }

machine() {
    local nvcc
    nvcc=$("$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")" --version 2>/dev/null |
        sed -n 's/.*release [^,]*, V//p')
    printf '{"kernel": %s, "processor": %s, "cores": %d, "memory_kib": %s, "gpu": %s, "gpu_memory": %s, ' \
        "$(text "$(uname -sr)")" "$(text "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)")" "$(nproc)" \
        "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)" "$(text "$gpu")" "$(text "$(smi memory.total)")"
    printf '"driver": %s, "link": %s, "nvcc": %s}' "$(text "$(smi driver_version)")" \
        "$(text "$(smi pcie.link.gen.max,pcie.link.width.max)")" "$(text "$nvcc")"
}

# ---- parts ------------------------------------------------------------------------

# part NAME LIMIT_S COMMAND...: the command writes $work/NAME.json. Its last line of words is kept
# if it fails.
part() {
    local name=$1 limit=$2 start=$SECONDS status=0 words=''
    shift 2
    say "$name: at most $limit s: $*"
    timeout -k 5 "$limit" "$@" >"$work/$name.out" 2> >(tee "$work/$name.err" >&2) &
    child=$!
    wait "$child" || status=$?
    child=
    cat "$work/$name.out" >&2
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        words="no end after $limit s"
    elif [ "$status" -ne 0 ]; then
        sleep 0.1 # for tee
        words=$(tail -n 1 "$work/$name.err")
    fi
    # A report of a failed --check is whole, and wanted.
    [ -s "$work/$name.json" ] || printf null >"$work/$name.json"
    [ "$status" -eq 0 ] || {
        failed=$((failed + 1))
        say "$name failed ($status): $words"
    }
    # Of paths only what is of the project.
    local command=${*//$work\//}
    command=${command//$build\//}
    record "$name" "$status" $((SECONDS - start)) "$words" "${command//$PWD\//}"
}

record() { # name, status, seconds, words, command
    {
        printf '    %s: {"status": %s, "seconds": %d, "error": %s, "command": %s, "report": ' "$(text "$1")" "$2" "$3" \
            "$(text "$4")" "$(text "$5")"
        cat "$work/$1.json"
        printf '}'
    } >"$work/$1.part"
}

skip() { # name, why
    say "$1: skipped: $2"
    printf null >"$work/$1.json"
    record "$1" null 0 "$2" ''
}

run_link() {
    # shellcheck disable=SC2086
    part link 130 "$build/ofl-bench" link --check "${OFL_BENCH_CHECK:-0.97}" --json "$work/link.json" \
        ${OFL_BENCH_LINK_ARGS-}
}

run_step() {
    # shellcheck disable=SC2086
    part step 120 "$build/ofl-bench" step --preset "$preset" --batch "$batch" --seq "$seq" --dtype bf16 \
        --warmup 2 --steps 6 --in-memory --report "$work/step.json" ${OFL_BENCH_STEP_ARGS-}
}

run_reference() {
    local python=${OFL_PYTHON:-python3}
    if ! "$python" -c 'import torch' 2>/dev/null; then
        skip reference "$python has no torch"
        return
    fi
    "$build/ofl-bench" step --preset "$preset" --save-config "$work/config.json" || return
    # shellcheck disable=SC2086
    part reference 150 "$python" tools/gpu_reference.py --config "$work/config.json" --batch "$batch" \
        --seq "$seq" --json "$work/reference.json" ${OFL_BENCH_REFERENCE_ARGS-}
}

# Full-parameter AdamW of 7B: 121 GB of state and 18 GB of activations, of which RAM and drive hold all; the
# device works on what is in use.
run_offload() {
    mkdir -p "$store"
    # shellcheck disable=SC2086
    part offload 570 "$build/ofl-bench" step --preset 7b --seq 2048 --accum 16 --dtype bf16 --steps 2 --warmup 1 \
        --device-mem 24G --host-mem 96G --nvme "$store:36G" --report "$work/offload.json" \
        ${OFL_BENCH_OFFLOAD_ARGS-}
}

# 201 GB of weights over the GPU's memory, four fifths of RAM, and the drive: the less of it the better.
run_decode() {
    local device host drive
    device=$(($(smi memory.free | tr -dc 0-9) - 4096))
    host=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 4 / 5 / 1024))
    drive=$((192 - (device + host) / 1024 + 24)) # GiB; 192 are the weights
    [ $drive -ge 8 ] || drive=8
    mkdir -p "$store"
    # shellcheck disable=SC2086
    part decode 420 "$build/ofl-bench" decode --preset 100b --tokens 3 --warmup 1 --device-mem "${device}M" \
        --host-mem "${host}M" --nvme "$store:${drive}G" --report "$work/decode.json" ${OFL_BENCH_DECODE_ARGS-}
}

say "$gpu; commit $(commit); parts: $parts"
for name in $parts; do
    "run_$name"
done
slug=$(tr '[:upper:] /_' '[:lower:]---' <<<"$gpu" | tr -cd 'a-z0-9.-')
file=$results/${date%%T*}-$slug-$(commit).json
{
    printf '{\n  "program": "gpu-bench",\n  "date": %s,\n  "commit": %s,\n  "machine": %s,\n  "parts": {\n' \
        "$(text "$date")" "$(text "$(commit)")" "$(machine)"
    first=1
    for name in $parts; do
        [ -n "$first" ] || printf ',\n'
        first=
        cat "$work/$name.part"
    done
    printf '\n  }\n}\n'
} >"$work/all.json"
mv "$work/all.json" "$file" || exit 1
say "wrote $file after $SECONDS s"
[ "$failed" -eq 0 ]
