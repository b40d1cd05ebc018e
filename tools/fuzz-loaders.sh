#!/bin/bash
# The loaders of model files under libFuzzer, with AddressSanitizer and UndefinedBehaviorSanitizer: builds
# them with clang and runs every target so many times. The last line sums up. Exit 1 if one found something;
# what it found lies in build-clang-fuzzer/corpus/TARGET/.
#
#     tools/fuzz-loaders.sh [RUNS [TARGET...]]     RUNS of each target: 100000; all targets
#                                                  OFL_FUZZ_JOBS=N: so many at once (1 per core)
#                                                  OFL_FUZZ_SEED=N: of the first random number (1)
#
# What earlier runs have found worth keeping is in the corpus, and where the next ones begin.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-100000} build=build-clang-fuzzer
shift || true
program=$build/tests/fuzz/loaders
make --no-print-directory CC=clang SAN=fuzzer WITH_CUDA=0 "$program"
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    read -ra targets <<<"$("$program" 2>&1 | sed -n 's/.*one of //p')"
fi
jobs=${OFL_FUZZ_JOBS:-$(nproc)}
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

fuzz() {
    local target=$1 corpus=$build/corpus/$1 count child
    mkdir -p "$corpus" "$build/tmp"
    export OFL_FUZZ=$target TMPDIR=$build/tmp
    OFL_FUZZ_SEEDS=$corpus "$program" >/dev/null
    # In the background, so that a signal to this script ends it.
    "$program" "$corpus" -runs="$runs" -seed="${OFL_FUZZ_SEED:-1}" -dict=tests/fuzz/words.dict -max_len=16384 \
        -timeout=20 -rss_limit_mb=4096 -artifact_prefix="$corpus/found-" -print_final_stats=1 >"$corpus.log" 2>&1 &
    child=$!
    # shellcheck disable=SC2064  # this child
    trap "kill $child 2>/dev/null; exit 130" INT TERM
    if ! wait "$child"; then
        echo "$target: FAILED, see $corpus.log"
        grep -aE 'ERROR|fuzz:|SUMMARY|runtime error|Test unit written' "$corpus.log" | head -n 5
        return 1
    fi
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus.log")
    echo "$target: $count runs, $(find "$corpus" -type f | wc -l) inputs kept, $(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$corpus.log" | tail -n 1) edges"
    echo "$count" >"$corpus.runs"
}

failed=0 running=0
rm -f "$build"/corpus/*.runs
for target in "${targets[@]}"; do
    if [ $running -ge "$jobs" ]; then
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
while [ $running -gt 0 ]; do
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
done
all=$(cat "$build"/corpus/*.runs 2>/dev/null | awk '{ n += $1 } END { print n + 0 }')
echo "fuzz-loaders: $all runs of ${#targets[@]} targets, $failed failed"
[ $failed -eq 0 ]
