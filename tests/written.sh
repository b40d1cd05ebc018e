#!/bin/bash
# Proves what ofl-finetune promises of --max-written: for limits from nothing to enough a run ends with 0 or 5, has written no
# more than that as the kernel counts, and says so; with --store what it says is committed is there, and the run goes on to
# the same bits; without, --out has the model beside it. What can't be is refused, and what is predicted not to fit is told.
#
# It can fail: without the option the same run writes more than the largest limit that stops it.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash written
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

yes 'All that is gold does not glitter, not all those who wander are lost. 0123456789' | head -n 80 >"$work/text"
run=("$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32 --batch 2 --lr 1e-3 --device-mem 8M
    --host-mem 4M --steps 10)
store=$work/store
# What a file system writes for itself counts to whoever happens to be there: half a MiB was seen of a program that wrote
# nothing.
own=$((4 << 20))

# written arguments...: as limited; kernel: bytes that the kernel has counted of the program, 0 where nobody can ask.
measure='import os, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as f:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * 512, file=f)
sys.exit(status)'
written() {
    if command -v python3 >/dev/null; then
        limited python3 -c "$measure" "$work/io" "$@"
        kernel=$(cat "$work/io")
    else
        limited "$@"
        kernel=0
    fi
}

number() {
    sed -n "s/^ *\"$2\": \([0-9]*\),*$/\1/p" "$1" | head -n 1
}

essence() {
    sed -n '/^  "loss": \[/,/^  \]/p; /^  "state_hash"/p' "$1"
}

written "${run[@]}" --nvme "$work" --report "$work/free.json"
wanted "without a limit"
all=$(number "$work/free.json" nvme_write)
[ "$kernel" -eq 0 ] || [ "$kernel" -gt "$((all / 2))" ] || complain "the kernel has $kernel of $all bytes"
[ "$all" -gt $((40 << 20)) ] || complain "the run writes $all bytes: too few to be stopped"

# ---- a scratch store --------------------------------------------------------------

for limit in 65535 1000000 20000000 35000000 $((all / 2)); do
    written "${run[@]}" --nvme "$work" --max-written "$limit"
    [ "$status" -eq 5 ] || complain "--max-written $limit: exit status $status, not 5"
    says '--max-written' "$work/err" "--max-written $limit"
    [ "$kernel" -le $((limit + own)) ] || complain "--max-written $limit: the kernel has $kernel"
done
says 'steps fit what is left' "$work/err" "a prediction beyond the limit"
says 'stopped after step [1-9] of 10, and nothing is kept' "$work/err" "no store"
written "${run[@]}" --nvme "$work" --max-written $((3 * all)) --report "$work/enough.json"
wanted "a limit that is enough"
[ "$(essence "$work/free.json")" = "$(essence "$work/enough.json")" ] || complain "a limit changes results"

written "${run[@]}" --nvme "$work" --max-written $((all / 2 + (8 << 20))) --out "$work/model"
[ "$status" -eq 5 ] || complain "--out: exit status $status, not 5"
says 'model.step-[1-9]* has the model as it is' "$work/err" "--out"
set -- "$work"/model.step-*/model.safetensors
[ -s "$1" ] || complain "no model beside --out"
[ ! -e "$work/model" ] || complain "--out is there"
written "${run[@]}" --nvme "$work" --max-written 1M --out "$work/model"
[ "$status" -eq "$(refusal)" ] || complain "--out beyond the limit: exit status $status"
says '--out alone takes about' "$work/err" "--out beyond the limit"
limited "$bin/ofl-generate" --preset tiny --prompt x --max-written 1M
[ "$status" -ne 0 ] || complain "ofl-generate takes --max-written"

# ---- a kept store -------------------------------------------------------------------

step=0 turns=0
while [ "$step" -lt 10 ] && [ "$turns" -lt 12 ]; do
    written "${run[@]}" --store "$store" --resume --commit-every 2 --max-written 55M --report "$work/kept.json"
    turns=$((turns + 1))
    [ "$kernel" -le $((55 * 1024 * 1024 + own)) ] || complain "turn $turns: the kernel has $kernel"
    if [ "$status" -eq 0 ]; then
        step=10
        continue
    fi
    [ "$status" -eq 5 ] || { complain "turn $turns: exit status $status"; break; }
    now=$(sed -n 's/.*stopped after step \([0-9]*\) of 10, which is committed in.*/\1/p' "$work/err")
    [ "${now:-0}" -gt "$step" ] || { complain "turn $turns: it is not said what is committed"; break; }
    step=$now
done
[ "$step" -eq 10 ] || complain "the run does not come to its end"
[ "$turns" -gt 1 ] || complain "nothing was stopped"
[ "$(essence "$work/free.json")" = "$(essence "$work/kept.json")" ] || complain "stops change results"
finish
