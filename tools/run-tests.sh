#!/bin/bash
# Runs the tests of one build: the program of every tests/test_*.c (cmocka), and every
# tests/*.sh (exit 0: passed; 77: skipped, its last line of output says why; else failed;
# it finds the build in OFL_BUILD_DIR). One line for each, the output of what failed, the
# reasons of what was skipped. The last line is "N passed, N failed, N skipped".
# Exit 1 on failures, or if nothing ran.
#
#     tools/run-tests.sh BUILD_DIR [NAME...]      CHECK=pattern: only tests whose name contains it
#                                                 OFL_TEST_JOBS=N: so many at once (1)
#
# NAME is test_x or y.sh: only these.
# A crash, a program that gets nowhere (tools/limit.sh says when) and one that ends before its last
# test are failures.
set -euo pipefail

cd "$(dirname "$0")/.."
export OFL_BUILD_DIR=${1:?usage: tools/run-tests.sh BUILD_DIR [NAME...]}
export OFL_PROFILE_DIR=$OFL_BUILD_DIR/profiles # tests leave nothing in the user's cache
export LC_ALL=C
# Threads of OpenBLAS wait for each other in a busy loop: where other programs have the cores, ten times as long as one
# thread takes. And sums of one thread are the same on every machine.
export OPENBLAS_NUM_THREADS=1
pattern=${CHECK-}
names=" ${*:2} "

jobs=${OFL_TEST_JOBS:-1}
[ -d "$OFL_BUILD_DIR/tests" ] || { echo "run-tests: no tests are built in $OFL_BUILD_DIR: make tests" >&2; exit 1; }
# In the build, not in a TMPDIR that may be full or not there.
work=$(mktemp -d "$OFL_BUILD_DIR/run-tests.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

# ---- one test, in a subshell of its own ------------------------------------------
# Its output is in $output, the reasons of what it skipped in $reasons; $work/NAME.text is what will be
# printed of it, and $work/NAME.counts, written last, the numbers passed, failed and skipped.

# Runs "$@" under the limit; sets status, seconds and processor. In the background, so that a signal
# to this script is acted on at once.
limited() {
    local start=${EPOCHREALTIME/./} ms child
    tools/limit.sh "$@" >"$output" 2>&1 </dev/null &
    child=$!
    # shellcheck disable=SC2064  # this child
    trap "kill $child 2>/dev/null; exit 130" INT TERM
    status=0
    wait "$child" || status=$?
    ms=$(((${EPOCHREALTIME/./} - start) / 1000))
    printf -v seconds '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10))
    processor
}

# Sets processor to what the children of this subshell took of it: the test, and its limit. In a $(...) the shell
# would begin to count anew.
processor() {
    local word rest ms=0
    times >"$output.times"
    # The second line, as in "0m1.234s 0m0.567s".
    for word in $(tail -n 1 "$output.times"); do
        rest=${word#*m} rest=${rest%s}
        ms=$((ms + ${word%m*} * 60000 + 10#${rest/./}))
    done
    rm -f "$output.times"
    printf -v processor '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10))
}

# Reads the output of a cmocka program; prints the numbers of tests announced, passed, failed
# and skipped, then the test that never ended. Writes the skipped ones to $reasons, each with
# the last other line that it printed. The summary after the tests repeats names: left out.
count() {
    awk -v reasons="$reasons" '
    /\[==========\] Running [0-9]+ test/ { sub(/.*Running /, ""); announced += $1; listing = 0; next }
    /\[==========\] [0-9]+ test/ { listing = 1; next }
    listing { next }
    /\[ RUN      \]/ { sub(/.*\[ RUN      \] /, ""); running = $0; why = ""; next }
    /\[       OK \]/ { passed++; running = ""; next }
    /\[  FAILED  \]/ { failed++; running = ""; next }
    /\[  SKIPPED \]/ { skipped++; print running (why == "" ? "" : ": " why) >reasons; running = ""; next }
    NF { why = $0 }
    END { print announced + 0, passed + 0, failed + 0, skipped + 0, running }' "$output"
}

# Judges test $1: passed, failed, skipped, a remark.
report() {
    local name=$1 p=$2 f=$3 s=$4 remark=$5 verdict=ok
    [ "$s" -eq 0 ] || verdict="ok, $s skipped"
    [ "$p" -gt 0 ] || [ "$s" -eq 0 ] || verdict=skipped
    [ "$f" -eq 0 ] || verdict=FAILED
    {
        printf '%5d %9s %9s  %s%s\n' $((p + f + s)) "$seconds" "$processor" "$verdict" "${remark:+: $remark}"
        [ ! -s "$reasons" ] || sed 's/^/    skipped /' "$reasons"
        [ "$f" -eq 0 ] || sed "s/^/    $name: /" "$output"
    } >"$work/$name.text"
    echo "$p $f $s" >"$work/$name.part"
    mv "$work/$name.part" "$work/$name.counts"
}

ended() {
    case $status in
    124) tail -n 1 "$output" ;;
    *)
        if [ "$status" -gt 128 ]; then
            echo "ended by SIG$(kill -l $((status - 128)))"
        else
            echo "exit status $status"
        fi
        ;;
    esac
}

run_program() {
    local name=$1 announced p f s unfinished remark=
    limited "$OFL_BUILD_DIR/tests/$name"
    read -r announced p f s unfinished < <(count)
    if [ "$f" -eq 0 ] && [ "$status" -ne 0 ]; then
        f=1
        remark="$(ended)${unfinished:+ in $unfinished}"
    elif [ $((p + f + s)) -lt "$announced" ] || [ "$announced" -eq 0 ]; then
        f=$((f + 1))
        remark="$((p + f - 1 + s)) of $announced tests ran${unfinished:+, $unfinished did not end}: $(ended)"
    fi
    report "$name" "$p" "$f" "$s" "$remark"
}

run_script() {
    local name=$1
    limited "tests/$name"
    case $status in
    0) report "$name" 1 0 0 '' ;;
    77)
        sed '/^$/d' "$output" | tail -n 1 >"$reasons"
        report "$name" 0 0 1 ''
        ;;
    *) report "$name" 0 1 0 "$(ended)" ;;
    esac
}

run() {
    local name=$1
    output=$work/$name.output reasons=$work/$name.reasons
    : >"$reasons"
    case $name in
    *.sh) run_script "$name" ;;
    *) run_program "$name" ;;
    esac
    rm -f "$output" "$reasons"
}

# ---- all of them -------------------------------------------------------------------

# Those that take longest, so that at the end no core waits for one of them.
longest='cuda.sh programs.sh programs_cuda.sh keep.sh kill.sh test_families bench.sh test_optimizer test_cuda_attention data.sh memory.sh
    scripts.sh prompts.sh sources.sh test_simulate test_device_cuda plan.sh adapters.sh test_cuda_kernels test_cuda_head
    test_estimate'

passed=0 failed=0 skipped=0 shown=0 named=-1
all=()
take() {
    if [[ $1 == *"$pattern"* ]] && { [ "$names" = '  ' ] || [[ $names == *" $1 "* ]]; } && [[ " ${all[*]-} " != *" $1 "* ]]; then
        all+=("$1")
    fi
}

for name in $longest; do
    # One that is renamed is missed here, not skipped.
    [ -e "tests/$name" ] || [ -e "tests/$name.c" ] || { echo "run-tests: $name, of the longest, is not there" >&2; exit 1; }
    [ "$jobs" -eq 1 ] || take "$name"
done
for source in tests/test_*.c tests/*.sh; do
    name=${source#tests/}
    [ ! -e "$source" ] || take "${name%.c}"
done

# Prints what has ended, in the order of their start, and the name of the first that has not.
show() {
    local name p f s
    while [ $shown -lt ${#all[@]} ]; do
        name=${all[shown]}
        [ $named -eq $shown ] || printf '%-30s' "$name"
        named=$shown
        [ -e "$work/$name.counts" ] || return 0
        read -r p f s <"$work/$name.counts"
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
        cat "$work/$name.text"
        rm -f "$work/$name.text"
        shown=$((shown + 1))
    done
}

running=0
for name in "${all[@]}"; do
    if [ $running -ge "$jobs" ]; then
        wait -n || true
        running=$((running - 1))
    fi
    show
    run "$name" &
    running=$((running + 1))
done
while [ $running -gt 0 ]; do
    show
    wait -n || true
    running=$((running - 1))
done
show
# A test whose judge was killed has no counts.
if [ $shown -lt ${#all[@]} ]; then
    echo "FAILED: ${all[shown]} was not judged"
    failed=$((failed + 1))
fi

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
