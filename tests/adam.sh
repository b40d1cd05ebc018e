#!/bin/bash
# Proves what `ofl-bench adam` promises: figures in memory and out of core, in text and in JSON; out of core the bytes that
# the states need and no more, under the budget; other programs that can't be had, and what can't be, are refused by name.
# Speeds are not judged.
#
# It can fail: another method is shown to move other bytes.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash adam
[ -x "$bin/ofl-bench" ] || { complain "$bin/ofl-bench is not built"; finish; }
export OFL_PROFILE_DIR=$work/profiles
mkdir "$work/profiles" "$work/drive"

adam() {
    limited "$bin/ofl-bench" adam "$@"
}

# refuse STATUS 'words of the message' arguments...
refuse() {
    local code=$1 words=$2
    shift 2
    adam "$@"
    [ "$status" -eq "$code" ] || complain "$*: exit status $status, not $code"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
}

# field NAME FILE: the value of a key of a report. Reports have one key a line.
field() {
    sed -n 's/^ *"'"$1"'": \(.*[^,]\),\{0,1\}$/\1/p' "$2" | head -n 1
}

# about NAME LEAST MOST: a field over the number of parameters.
about() {
    awk -v x="$(field "$1" "$work/report.json")" -v n="$elems" -v least="$2" -v most="$3" 'BEGIN { exit !(x >= least * n && x <= most * n) }' ||
        complain "$1 is $(field "$1" "$work/report.json"), not $2 to $3 times $elems"
}

# ---- in memory ------------------------------------------------------------------

elems=100003 # the last thread's part is shorter
adam --elems $elems --repeats 2 --threads 3 --json "$work/report.json"
wanted 'in memory'
grep -q '^update ' "$work/out" || complain 'in memory: no line of the update'
about bytes_per_update 28 28
adam --elems $elems --repeats 1 --dtype bf16 --optimizer lion --json "$work/report.json"
wanted 'lion, BF16'
about bytes_per_update 22 22
for form in plain avx2 avx512; do
    adam --elems 5000 --repeats 1 --form $form
    if [ "$status" -ne 0 ]; then
        [ $form != plain ] || complain 'plain is not there'
        grep -q 'not on this machine' "$work/err" || complain "$form: no reason"
    fi
done
adam --elems 1024 --repeats 1 --threads 1000
wanted 'more threads than parts'

# ---- other programs -------------------------------------------------------------

refuse 64 'torch, deepspeed' --elems 5000 --compare jax
refuse 64 'adamw only' --elems 5000 --compare torch --optimizer lion
OFL_PYTHON=/bin/false refuse "$(refusal)" 'it did not start' --elems 5000 --compare torch
OFL_PYTHON=$work/absent refuse "$(refusal)" 'OFL_PYTHON' --elems 5000 --compare torch
if "${OFL_PYTHON:-python3}" -c 'import torch' 2>/dev/null; then
    adam --elems $elems --repeats 2 --compare torch --json "$work/report.json"
    wanted 'beside torch'
    grep -q '"version": "torch ' "$work/report.json" || complain 'the report does not name torch'
fi

# ---- out of core ----------------------------------------------------------------

elems=4000000 # 64 MB of weights, gradients and states
adam --elems $elems --tensors 16 --nvme "$work/drive:128M" --host-mem 4M --repeats 2 --json "$work/report.json"
wanted 'out of core'
about read_bytes 11 12.3
about write_bytes 11 12.3
adam --elems $elems --tensors 16 --nvme "$work/drive:128M" --host-mem 4M --repeats 2 --optimizer sgd --clip 1 --json "$work/report.json"
wanted 'sgd, clipped'
about read_bytes 8 12.3 # gradients wait for the norm, and leave host memory
about write_bytes 8 12.3
adam --elems $elems --tensors 16 --nvme "$work/drive:128M" --host-mem 4M --repeats 1 --dtype bf16 --optimizer sgd --json "$work/report.json"
wanted 'sgd, BF16'
about read_bytes 7 8.3
about write_bytes 9 10.3
[ -z "$(ls "$work/drive")" ] || complain "left on the drive: $(ls "$work/drive")"

refuse 64 'leave --nvme out' --nvme "$work/drive" --check
refuse 64 'more than --elems' --nvme "$work/drive" --elems 1024 --tensors 2000
refuse "$(refusal)" 'smaller number, or --nvme' --elems 1000000000000
adam --elems 100000000 --nvme "$work/drive:64M"
[ "$status" -ne 0 ] || complain 'a store that is too small is taken'
finish
