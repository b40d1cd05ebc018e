#!/bin/bash
# Proves that a run of ofl-finetune with --store survives SIGKILL at any moment: killed at random moments and gone on
# with until it is done, with other budgets, drives and cores each time, it has the losses, norms, evaluations and state
# of a run that nothing stopped, bit for bit; F32, BF16 and adapters, with clipping, accumulation and a schedule.
#
#     OFL_KILLS=N      so many kills (12; OFL_TEST_FULL=1: 200)
#     OFL_SEED=N       the moments and budgets of that seed
#
# It can fail: a run whose losses differ in one step is seen to be another one, as is one with another seed; and the
# kills count only if the runs were not done before them.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash kill
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

kills=${OFL_KILLS:-$([ -n "${OFL_TEST_FULL-}" ] && echo 200 || echo 12)}
steps=24
[ -z "${OFL_TEST_LIGHT-}" ] || kills=3 steps=12
seed=${OFL_SEED:-$(($(date +%s) % 30000))}
RANDOM=$seed
echo "seed $seed, $kills kills"

program=("$bin/ofl-finetune" --device host)
for _ in $(seq 60); do printf 'All that is gold does not glitter, not all those who wander are lost. %s\n' "$RANDOM"; done >"$work/text"
head -c 900 "$work/text" >"$work/held"

# What must not depend on how often a run was stopped.
essence() {
    sed -n '/^  "loss": \[/,/^  \]/p; /^  "grad_norm": \[/,/^  \]/p; /^  "eval": \[$/,/^  \]/p; /^  "tokens"/p; /^  "state_hash"/p' "$1"
}

# ---- runs ----------------------------------------------------------------------

limited "${program[@]}" --preset tiny --data "$work/text" --seq 16 --steps 1 --out "$work/model"
wanted "a model for adapters"

names=(f32 bf16 lora)
common=(--data "$work/text" --seq 32 --batch 2 --accum 2 --steps "$steps" --lr 1e-3)
f32=(--preset tiny "${common[@]}" --clip 0.5 --schedule cosine --warmup 3)
# shellcheck disable=SC2034  # by name
bf16=(--preset tiny "${common[@]}" --dtype bf16 --clip 1 --shuffle --eval "$work/held" --eval-every 5)
# shellcheck disable=SC2034
lora=(--model "$work/model" "${common[@]}" --lora 4 --lora-dropout 0.1 --clip 1)

# The smallest device budget of each.
declare -A least
for name in "${names[@]}"; do
    declare -n options=$name
    limited "${program[@]}" "${options[@]}" --device-mem 4K --nvme "$work"
    least[$name]=$(sed -n 's/.*smallest workable --device-mem is \([0-9]*\).*/\1/p' "$work/err")
    [ -n "${least[$name]}" ] || complain "$name: the smallest --device-mem is not named"
    limited "${program[@]}" "${options[@]}" --in-memory --report "$work/$name.json"
    wanted "$name, without a stop"
done
mkdir "$work/scratch" "$work/scratch2"

# Budgets, drives and cores of the next go, in command.
choose() {
    local device=${least[$1]}
    command=()
    # A run has the threads that it began with: one that begins on fewer cores has other bits.
    if [ "$begun" -eq 1 ] && [ $((RANDOM % 4)) -eq 0 ]; then command=(taskset -c 0); fi
    command+=("${program[@]}")
    case $((RANDOM % 6)) in
    0) ;;
    1) command+=(--device-mem "$device" --host-mem 2M) ;;
    2) command+=(--device-mem $((device + RANDOM * 64)) --host-mem $((3 + RANDOM % 8))M --nvme "$work/scratch") ;;
    3) command+=(--device-mem 64M --host-mem 32M) ;;
    4) command+=(--device-mem $((2 * device)) --host-mem 2M --nvme "$work/scratch:64M" --nvme "$work/scratch2:64M") ;;
    5) command+=(--device-mem $((device + 12345)) --host-mem 5M --store "$work/store:$((64 + RANDOM % 64))M") ;;
    esac
}

# One go on the store of a run. "end": to its end; else killed so many milliseconds after its start, or its first step.
go() {
    local name=$1 from=$2 ms=${3:-0} child pause
    declare -n options=$name
    choose "$name"
    ran="${command[*]} ${options[*]}, a go until $from $ms"
    : >"$work/err" # what is awaited is not the one before's
    "${command[@]}" "${options[@]}" --store "$work/store" --resume --commit-every "$((1 + RANDOM % 3))" --report "$work/done.json" \
        >"$work/out" 2>"$work/err" &
    child=$!
    [ "$from" != step ] || until_true $child grep -q '^step ' "$work/err"
    if [ "$from" != end ]; then
        printf -v pause '%d.%03d' $((ms / 1000)) $((ms % 1000))
        sleep "$pause"
        kill -KILL $child 2>/dev/null
    fi
    status=0
    wait $child 2>/dev/null || status=$?
    ! grep -q '^committed step' "$work/err" || begun=1
    [ "$status" -eq 0 ] || { [ "$from" != end ] && [ "$status" -eq 137 ]; } || complain "$name: exit status $status"
}

total=0 early=0 fresh=0
# round NAME KILLS: a run with that many kills, or fewer if it is done before.
round() {
    local name=$1 left=$2
    rm -rf "$work/store" "$work/done.json"
    begun=0
    until [ -s "$work/done.json" ] || [ -s "$work/complaints" ]; do
        if [ "$left" -eq 0 ]; then
            go "$name" end
        elif [ $((RANDOM % 4)) -eq 0 ]; then
            go "$name" start $((RANDOM % 1500))
        else
            go "$name" step $((RANDOM % 400))
        fi
        if [ "$status" -ne 137 ] || [ -s "$work/done.json" ]; then continue; fi
        left=$((left - 1)) total=$((total + 1))
        grep -q '^step ' "$work/err" || early=$((early + 1))
        ! grep -q 'nothing was committed' "$work/err" || fresh=$((fresh + 1))
    done
    if ! cmp -s <(essence "$work/$name.json") <(essence "$work/done.json"); then
        complain "$name: other results than without a stop; seed $seed"
        diff <(essence "$work/$name.json") <(essence "$work/done.json") | head -n 20 >&"$said"
    fi
}

for ((n = 0; total < kills; n++)); do
    [ ! -s "$work/complaints" ] || break
    each=$((kills - total))
    [ -n "${OFL_TEST_FULL-}${OFL_KILLS-}" ] || each=$(((kills + 2) / 3))
    round "${names[n % 3]}" "$each"
    [ $((n % 10)) -ne 9 ] || echo "$total kills"
done
echo "$total kills, $early of them before a first step, $fresh before a first commit"

# What is compared can differ.
sed '/"grad_norm": \[/{n;s/[0-9],$/x,/}' "$work/f32.json" >"$work/other.json"
! cmp -s <(essence "$work/f32.json") <(essence "$work/other.json") || complain "another norm is not seen"
limited "${program[@]}" "${f32[@]}" --seed 2 --in-memory --report "$work/other.json"
wanted "another seed"
! cmp -s <(essence "$work/f32.json") <(essence "$work/other.json") || complain "another seed is not seen"
finish
