#!/bin/bash
# make gpu-check: the tests on the GPU of this machine. One command, without network; the
# libraries may come from OFL_SYSROOT (tools/gpu_sysroot.sh).
#
#     tools/gpu_check.sh BUILD_DIR      parts: OFL_GPU_PARTS='suites finetune story sanitizer'
#
# suites: those of the device, of core and of the kernels, with the real driver. finetune: a
# small random model has the same losses and the same hash in every placement, and those of the
# host within 1e-4. sanitizer: memcheck and racecheck over the kernels' suites. The last line is
# "N passed, N failed, N skipped"; exit 1 on failures, or without a GPU.
set -uo pipefail

# shellcheck source=tools/gpu_env.sh
. "$(dirname "$0")/gpu_env.sh"
parts=${OFL_GPU_PARTS:-suites finetune story sanitizer}
passed=0 failed=0 skipped=0
require_gpu
build_all all tests
work=$(mktemp -d "$build/gpu-check.XXXXXX")
trap 'rm -rf "$work"' EXIT
export OFL_TEST_DEVICE=cuda OFL_TEST_DRIVER=real OFL_PROFILE_DIR=$work/profiles
[ -n "${OFL_CUDA_DRIVER-}" ] || export OFL_TEST_GPU=cuda:0 # the suites of kernels
mkdir "$work/profiles"

# result passed|failed|skipped 'what' ['why']
result() {
    printf '%-62s %s\n' "$2" "$1${3:+: $3}"
    case $1 in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) ;;
    *) skipped=$((skipped + 1)) ;;
    esac
}

# ---- suites ------------------------------------------------------------------

# Whatever asks the fixtures for a device; not those that steer the stub, which make check runs.
real_suites() {
    local source name
    for source in tests/test_*.c; do
        name=$(basename "$source" .c)
        case $name in
        test_cuda_driver | test_cuda_emulate | test_core_cuda | test_device_cuda) continue ;;
        test_cuda_*) echo "$name" ;;
        *) ! grep -qE 'fixture_device\(|"tests/(device|llama_cuda)_fixture\.h"' "$source" || echo "$name" ;;
        esac
    done
}

run_suites() {
    local names line
    mapfile -t names < <(real_suites)
    tools/run-tests.sh "$build" "${names[@]}" 2>&1 | tee "$work/suites"
    line=$(tail -n 1 "$work/suites")
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
        skipped=$((skipped + BASH_REMATCH[3]))
    else
        result failed "the suites" "they did not end with a sum"
    fi
}

# ---- end to end ------------------------------------------------------------------

# What must be equal in two reports: every loss, every norm, the hash of the state.
bits() { awk '/"(loss|grad_norm)": \[/ {on = 1} on || /"state_hash"/ {print} on && /\]/ {on = 0}' "$1"; }
losses() { awk '/"loss": \[/ {on = 1; next} on && /\]/ {exit} on {gsub(/[ ,]/, ""); print}' "$1"; }

finetune() { # report, then options
    local report=$1
    shift
    timeout -k 10 300 "$build/ofl-finetune" --preset tiny --data "$work/text" --seq 32 --batch 1 --accum 2 \
        --clip 0.5 --steps "${OFL_GPU_STEPS:-100}" --lr 1e-3 --warmup 10 --weight-decay 0.01 --seed 7 \
        --report "$report" "$@" >"$work/log" 2>&1
}

# Losses of both within 1e-4, of which there are as many.
near() {
    paste <(losses "$1") <(losses "$2") | awk 'NF != 2 {bad++} {d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad++}
        END {exit NR == 0 || bad > 0}'
}

# Device, host, drive; the first in halves of the smallest workable budget, which the program states.
placements="2:4M:y 2:64M:n 3:8M:y 4:2M:y 8:64M:y"

finetune_placements() { # dtype
    local dtype=$1 place device host where min
    if ! finetune "$work/reference.json" --dtype "$dtype" --device cuda:0 --in-memory; then
        result failed "finetune $dtype, in memory" "$(tail -n 1 "$work/log")"
        return
    fi
    result passed "finetune $dtype, in memory"
    finetune "$work/run.json" --dtype "$dtype" --device cuda:0 --device-mem 1 --host-mem 4M --nvme "$work"
    min=$(sed -n 's/.*smallest workable --device-mem is \([0-9]*\) bytes.*/\1/p' "$work/log" | head -n 1)
    if [ -z "$min" ]; then
        result failed "finetune $dtype, placements" "no smallest budget was stated: $(tail -n 1 "$work/log")"
        return
    fi
    for place in $placements; do
        IFS=: read -r device host where <<<"$place"
        device=$((min * device / 2))
        if [ "$where" = y ]; then where=(--nvme "$work"); else where=(); fi
        if ! finetune "$work/run.json" --dtype "$dtype" --device cuda:0 --device-mem "$device" --host-mem "$host" \
            "${where[@]}"; then
            result failed "finetune $dtype, $place" "$(tail -n 1 "$work/log")"
        elif [ "$(bits "$work/reference.json")" = "$(bits "$work/run.json")" ] &&
            grep -q state_hash "$work/run.json"; then
            result passed "finetune $dtype, $place: the bits of in memory"
        else
            result failed "finetune $dtype, $place" "other bits than in memory"
        fi
    done
    [ "$dtype" = f32 ] || return 0
    if finetune "$work/host.json" --dtype "$dtype" --device host --in-memory &&
        near "$work/reference.json" "$work/host.json"; then
        result passed "finetune $dtype: losses of the host within 1e-4"
    else
        result failed "finetune $dtype: losses of the host within 1e-4" "$(tail -n 1 "$work/log")"
    fi
}

run_finetune() {
    local dtype
    if ! "$build/ofl-finetune" --help | grep -q -e '--device='; then
        result skipped finetune "ofl-finetune has no --device"
        return
    fi
    cat README.md docs/*.md >"$work/text"
    for dtype in f32 bf16; do
        finetune_placements "$dtype"
    done
}

# A real checkpoint, if there is one (OFL_SHARED): known losses and a known text.
run_story() {
    local line
    if [ ! -d "${OFL_SHARED:-../shared}/models/story" ]; then
        result skipped story "${OFL_SHARED:-../shared}/models/story is absent"
        return
    fi
    OFL_SHOW_DEVICE=cuda:0 OFL_PYTHON='' tools/show.sh "$build" story >"$work/story" 2>&1
    while read -r line; do
        case $line in
        *' ok') result passed "${line% ok}" ;;
        *FAILED) result failed "${line% FAILED}" ;;
        *) echo "$line" ;;
        esac
    done <"$work/story"
}

# ---- compute-sanitizer ----------------------------------------------------------------

run_sanitizer() {
    local tool source name sanitizer
    sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
    if [ -z "$sanitizer" ]; then
        result skipped compute-sanitizer "it is not installed"
        return
    fi
    for source in tests/test_cuda_*.c; do
        name=$(basename "$source" .c)
        case $name in test_cuda_driver | test_cuda_emulate) continue ;; esac
        for tool in memcheck racecheck; do
            if OFL_TEST_LIGHT=1 timeout -k 10 "${OFL_SANITIZER_LIMIT:-240}" "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "$build/tests/$name" >"$work/sanitizer" 2>&1; then
                result passed "$tool $name"
            elif grep -q 'Device not supported' "$work/sanitizer"; then
                result skipped "$tool $name" "compute-sanitizer does not support this device"
            else
                result failed "$tool $name" "$(grep -m 1 '=========' "$work/sanitizer" || tail -n 1 "$work/sanitizer")"
                tail -n 40 "$work/sanitizer" | sed 's/^/    /'
            fi
        done
    done
}

say "$gpu; parts: $parts"
for part in $parts; do
    case $part in
    suites | finetune | story | sanitizer) "run_$part" ;;
    *)
        say "$part: no such part"
        exit 2
        ;;
    esac
done
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
