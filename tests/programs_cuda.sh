#!/bin/bash
# Proves that ofl-finetune, ofl-generate and ofl-bench run on a cuda device (the stub driver and a stub
# of cuBLAS; their kernels on the CPU): the same losses, norms and state in every placement, in F32 and BF16,
# with and without clipping; those of the host device within 1e-4 in F32; the same text; and that what is
# missing is named.
#
# It can fail: the comparisons are shown to see another seed.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
bin=$(cd "${OFL_BUILD_DIR:-build}" && pwd)
export OFL_CUDA_DRIVER=$bin/tests/libcuda_stub.so OFL_CUBLAS=$bin/tests/libcublas_stub.so
for file in "$OFL_CUDA_DRIVER" "$OFL_CUBLAS"; do
    [ -e "$file" ] || { echo "$file is not built"; exit 1; }
done
if [[ $(nm -D "$OFL_CUDA_DRIVER") != *__start_emulate_shared* ]]; then
    echo "the stub driver was built without kernels: no C++ compiler"
    exit 77
fi
if [ -n "${TSAN_OPTIONS-}" ]; then
    echo "ThreadSanitizer: five minutes of emulated kernels, which test_cuda_block and others run too"
    exit 77
fi
. tests/script_fixture.bash programs_cuda

run() {
    limited "$bin/$1" "${@:2}"
}

essence() {
    sed -n '/^  "loss": \[/,/^  \]/p; /^  "grad_norm": \[/,/^  \]/p; /^  "state_hash"/p' "$1"
}

losses() {
    sed -n '/^  "loss": \[/,/^  \]/p' "$1" | tr -dc '0-9.e\n-' | grep .
}

# As many losses in both, within 1e-4.
near() {
    paste <(losses "$1") <(losses "$2") |
        awk 'NF != 2 { bad++ } { d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad++ } END { exit NR == 0 || bad > 0 }'
}

yes 'All that is gold does not glitter, not all those who wander are lost. 0123456789' | head -n 50 >"$work/text"
tiny=(ofl-finetune --preset tiny --data "$work/text" --seq 20 --batch 1 --accum 2 --steps 2 --lr 1e-3)

# ---- training ------------------------------------------------------------

dtypes='f32 bf16' clips='0 0.5'
[ -z "${OFL_TEST_LIGHT-}" ] || dtypes=bf16 clips=0.5 # under sanitizers
for dtype in $dtypes; do
    for clip in $clips; do
        what="$dtype, clip $clip"
        run "${tiny[@]}" --dtype "$dtype" --clip "$clip" --in-memory --report "$work/all.json"
        wanted "$what, in memory"
        grep -q '^device cuda:0' "$work/err" || complain "$what: does not say that it runs on the GPU"
        run "${tiny[@]}" --dtype "$dtype" --clip "$clip" --device cuda --device-mem 6M --host-mem 3M --nvme "$work" \
            --report "$work/paged.json"
        wanted "$what, paged"
        cmp -s <(essence "$work/all.json") <(essence "$work/paged.json") ||
            complain "$what: other results than in memory"
    done
done
run "${tiny[@]}" --clip 0.5 --in-memory --report "$work/all.json"
wanted f32
run "${tiny[@]}" --clip 0.5 --in-memory --device host --report "$work/host.json"
wanted host
near "$work/all.json" "$work/host.json" || complain "f32: losses are not those of the host device"
run "${tiny[@]}" --clip 0.5 --in-memory --seed 2 --report "$work/other.json"
wanted 'another seed'
! near "$work/all.json" "$work/other.json" || complain "another seed is not seen"
! cmp -s <(essence "$work/all.json") <(essence "$work/other.json") || complain "another seed is not seen"

# Rows with padding, of which a part is learned, and an evaluation.
printf '{"prompt": "All that is", "completion": " gold"}\n{"prompt": "a", "completion": "b c"}\n' >"$work/rows.jsonl"
rows=(ofl-finetune --preset tiny --data "$work/rows.jsonl" --seq 20 --accum 2 --steps 2 --lr 1e-3 --eval "$work/rows.jsonl")
run "${rows[@]}" --device host --report "$work/host.json"
wanted 'examples on the host'
run "${rows[@]}" --device cuda --device-mem 6M --host-mem 3M --nvme "$work" --report "$work/rows.json"
wanted 'examples'
near "$work/rows.json" "$work/host.json" || complain "examples: losses are not those of the host device"
eval_of() {
    sed -n '/^  "eval": \[/,/^  \]/s/.*"loss": \([0-9.]*\).*/\1/p' "$1"
}
awk -v a="$(eval_of "$work/rows.json")" -v b="$(eval_of "$work/host.json")" 'BEGIN { d = a - b; exit a == "" || d > 1e-4 || d < -1e-4 }' ||
    complain "examples: the evaluation is not that of the host device"

# ---- generating ----------------------------------------------------------

run "${tiny[@]}" --device host --in-memory --out "$work/tuned"
wanted 'a checkpoint'
text=(ofl-generate --model "$work/tuned" --prompt 'All that' --max-tokens 12 --temperature 0)
run "${text[@]}" --device host
wanted 'generate on the host'
cp "$work/out" "$work/text-host"
for budget in '' '--device-mem=3M --host-mem=2M'; do
    # shellcheck disable=SC2086  # several options
    run "${text[@]}" $budget
    wanted "generate $budget"
    cmp -s "$work/out" "$work/text-host" || complain "generate $budget: another text than on the host"
done
run ofl-bench decode --preset tiny --prompt 3 --tokens 2 --warmup 1 --device-mem 3M --host-mem 2M --nvme "$work:8M" \
    --timeline "$work/decode.json"
wanted 'ofl-bench decode'
grep -q '^decode ' "$work/out" || complain "ofl-bench decode prints no figures"
run ofl-bench step --preset tiny --seq 16 --steps 1 --warmup 1 --device-mem 8M --host-mem 8M --nvme "$work:16M" \
    --report "$work/step.json" --timeline "$work/trace.json"
wanted 'ofl-bench step'
for trace in "$work/decode.json" "$work/trace.json"; do
    why=$("$bin/tests/test_timeline" "$trace") || complain "timeline: $why"
done
says 'layer 0 extend' "$work/decode.json" 'the timeline of decode'
says 'layer 0 backward' "$work/trace.json" 'the timeline of step'
grep -q '"share_of_bound"' "$work/step.json" || complain "ofl-bench step reports no bound"

# ---- what is missing -----------------------------------------------------

OFL_CUBLAS=$work/none run "${tiny[@]}"
[ "$status" -eq "$(refusal)" ] || complain "no cuBLAS: exit status $status, not $(refusal)"
grep -q 'cuBLAS.*OFL_CUBLAS' "$work/err" || complain "no cuBLAS"
OFL_CUDA_DRIVER=$work/none run "${tiny[@]}" --device cuda:0
[ "$status" -eq "$(refusal)" ] || complain "no driver: exit status $status, not $(refusal)"
grep -q "CUDA driver $work/none" "$work/err" || complain "no driver"
run "${tiny[@]}" --device cuda:7
[ "$status" -eq "$(refusal)" ] || complain "cuda:7: exit status $status, not $(refusal)"
grep -q 'no such GPU: the driver has 1' "$work/err" || complain "cuda:7"
run "${tiny[@]}" --device-mem 2G --host-mem 4M
[ "$status" -eq "$(refusal)" ] || complain "more than the GPU has: exit status $status, not $(refusal)"
grep -q 'cuda:0 has .* to give' "$work/err" || complain "more than the GPU has"

finish
