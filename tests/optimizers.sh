#!/bin/bash
# Proves what --optimizer promises in ofl-finetune and ofl-bench plan: every method learns, gives the same bits in memory
# and in the smallest budgets, F32 and BF16, clipped and not, and as adapters; takes the states that it needs and no
# more; and a kept run goes on with the method that it was begun with, and with no other.
#
# It can fail: two methods are shown to end in other states.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash optimizers
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }
export OFL_PROFILE_DIR=$work/profiles
mkdir "$work/profiles" "$work/drive"
for ((i = 0; i < 400; i++)); do echo "line $((i * i % 97)) of text, and $i more"; done >"$work/text"

train() {
    limited "$bin/ofl-finetune" --preset tiny --data "$work/text" --seq 32 --quiet --seed 5 "$@"
}

# field NAME FILE: the value of a key of a report. Reports have one key a line.
field() {
    sed -n 's/^ *"'"$1"'": \(.*[^,]\),\{0,1\}$/\1/p' "$2" | head -n 1
}

small=(--device-mem 3M --host-mem 2M --nvme "$work/drive:64M")
declare -A rate=([adamw]=1e-3 [adam]=1e-3 [sgd]=0.05 [lion]=1e-4) hash
bf16=f32
for method in adamw adam sgd lion; do
    if [ $bf16 = f32 ]; then bf16=bf16 clip=1; else bf16=f32 clip=0; fi
    options=(--optimizer "$method" --lr "${rate[$method]}" --steps 6 --dtype "$bf16" --clip "$clip")
    train "${options[@]}" --in-memory --report "$work/memory.json"
    wanted "$method in memory"
    train "${options[@]}" "${small[@]}" --report "$work/small.json"
    wanted "$method in small budgets"
    hash[$method]=$(field state_hash "$work/memory.json")
    [ -n "${hash[$method]}" ] || complain "$method: no state_hash in the report"
    [ "${hash[$method]}" = "$(field state_hash "$work/small.json")" ] || complain "$method: other states in small budgets"
    [ "$(field optimizer "$work/small.json")" = "\"$method\"" ] || complain "$method: the report names another optimizer"
    train --optimizer $method --lr "${rate[$method]}" --steps 40 --in-memory --report "$work/long.json"
    wanted "$method, 40 steps"
    python3 - "$work/long.json" <<'PY' || complain "$method: 40 steps do not lower the loss by a tenth"
import json, sys
loss = json.load(open(sys.argv[1]))["loss"]
sys.exit(not sum(loss[-5:]) < 0.9 * sum(loss[:5]))
PY
done
[ "$(printf '%s\n' "${hash[@]}" | sort -u | wc -l)" -eq 4 ] || complain 'two methods end in the same states'

# One moment less: what the store holds is 4 bytes for each of 0.99 M parameters smaller, and more steps fit.
for method in adamw lion; do
    train --optimizer $method --steps 1 "${small[@]}" --dry-run
    wanted "dry run of $method"
    sed -n 's/.*NVMe \([0-9.]*\) MiB at rest.*/\1/p' "$work/out" >"$work/rest.$method"
done
awk -v a="$(cat "$work/rest.adamw")" -v b="$(cat "$work/rest.lion")" 'BEGIN { exit !(a - b > 2.5 && a - b < 5) }' ||
    complain "at rest on NVMe: adamw $(cat "$work/rest.adamw") MiB, lion $(cat "$work/rest.lion")"

# Kept runs.
for method in sgd lion; do
    train --optimizer $method --lr "${rate[$method]}" --steps 8 "${small[@]:0:4}" --store "$work/whole.$method" --report "$work/whole.json"
    wanted "$method, kept"
    train --optimizer $method --lr "${rate[$method]}" --steps 3 "${small[@]:0:4}" --store "$work/run.$method"
    wanted "$method, kept, in part"
    train --optimizer $method --lr "${rate[$method]}" --steps 8 --device-mem 4M --host-mem 3M --store "$work/run.$method" --resume --report "$work/run.json"
    wanted "$method, resumed"
    [ "$(field state_hash "$work/whole.json")" = "$(field state_hash "$work/run.json")" ] || complain "$method: other states once resumed"
    train --optimizer adamw --steps 9 "${small[@]:0:4}" --store "$work/run.$method" --resume
    [ "$status" -eq "$(refusal)" ] || complain "$method resumed with adamw: exit status $status"
    grep -q "optimizer is \"adamw\", and \"$method\" in the run" "$work/err" || complain "$method resumed with adamw: no reason"
done

limited "$bin/ofl-finetune" --preset tiny --data "$work/text" --optimizer adagrad
[ "$status" -eq 64 ] || complain "--optimizer adagrad: exit status $status"
grep -q 'adamw, adam, sgd or lion' "$work/err" || complain '--optimizer adagrad: no list of those that there are'
limited "$bin/ofl-bench" plan --model 7b --machine rtx-4090 --quick --optimizer lion
wanted plan
grep -q '; lion$' "$work/out" || complain 'plan does not name the optimizer'
finish
