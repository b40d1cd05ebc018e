#!/bin/bash
# Proves what `ofl-bench plan` promises: figures for known machines, files and this machine, in text and in JSON;
# exit status 4 and what is missing where a model does not fit; what it names as the smallest works, and a little
# less does not; clear messages and exit status 2 for what can't be. And that the benches say before they run what
# they will take. Speeds are not judged.
#
# It can fail: the same question with other budgets is shown to get another answer.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash plan
[ -x "$bin/ofl-bench" ] || { complain "$bin/ofl-bench is not built"; finish; }
export OFL_PROFILE_DIR=$work/profiles
mkdir "$work/profiles" "$work/dir"

plan() {
    limited "$bin/ofl-bench" plan "$@"
}

# refuse 'words of the message' arguments...: exit status 2, that message, nothing printed.
refuse() {
    local words=$1
    shift
    plan "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status, not $(refusal)"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ ! -s "$work/out" ] || complain "$*: printed $(head -n 1 "$work/out")"
}

# field NAME FILE: the value of a key of a report. Reports have one key a line.
field() {
    sed -n 's/^ *"'"$1"'": \(.*[^,]\),\{0,1\}$/\1/p' "$2" | head -n 1
}

# ---- known machines ------------------------------------------------------------

machines='rtx-4090 rtx-5090 a100-80 h100 h200'
[ -z "${OFL_TEST_LIGHT-}" ] || machines=rtx-4090 # arithmetic, of one thread: to a sanitizer all are one
for machine in $machines; do
    plan --model 13b --machine "$machine" --batch 4 --json "$work/$machine.json"
    wanted "13b on $machine"
    for word in machine model fits device host drives moves busy step hides more; do
        grep -q "^$word " "$work/out" || complain "13b on $machine: no line of $word"
    done
    [ "$(field fits "$work/$machine.json")" = true ] || complain "13b on $machine: the report says that it does not fit"
    [ "$(field binds "$work/$machine.json")" != '' ] || complain "13b on $machine: the report does not say what binds"
done
plan --model 70b --machine rtx-4090 --decode --source --quick --json "$work/decode.json"
wanted decode
grep -q '^hides' "$work/out" && complain 'decode: --quick says what would hide'
[ "$(field drive_write_bytes "$work/decode.json")" = 0 ] || complain 'decode: something is written'
plan --model 70b --machine rtx-4090 --decode --source --quick --host-mem 16G --json "$work/less.json"
wanted 'decode with less memory'
[ "$(field drive_read_bytes "$work/less.json")" -gt "$(field drive_read_bytes "$work/decode.json")" ] ||
    complain 'decode with less memory: no more is read'

# ---- what does not fit -----------------------------------------------------------

cat >"$work/small.json" <<'END'
{"name": "small", "like": "rtx-4090", "drives": 0, "host_bytes": 64e9}
END
plan --model 13b --machine "$work/small.json" --json "$work/no.json"
[ "$status" -eq 4 ] || complain "13b on a small machine: exit status $status, not 4"
grep -q '^fits      no: all tensors take' "$work/out" || complain '13b on a small machine: not said what is missing'
least=$(sed -n 's/^host .*(\([0-9]*\) bytes) would do.*/\1/p' "$work/out")
plan --model 13b --machine "$work/small.json" --host-mem "${least:-0}" --quick
wanted 'the host memory that would do'
plan --model 13b --machine "$work/small.json" --host-mem $((${least:-0} - 4194304)) --quick
[ "$status" -eq 4 ] || complain "less host memory than would do: exit status $status, not 4"
plan --model 13b --machine rtx-4090 --device-mem 1G --quick
[ "$status" -eq 4 ] || complain "13b in 1 GiB: exit status $status, not 4"
grep -q 'backward needs' "$work/out" || complain '13b in 1 GiB: not said what needs more'

# ---- this machine, and runs ---------------------------------------------------------

small=(--device host --device-mem 8M --host-mem 8M --nvme "$work/dir")
plan --model tiny --seq 32 --batch 2 "${small[@]}" --nvme-mem 64M --json "$work/this.json"
wanted 'this machine'
[ "$(field name "$work/this.json")" = '"this"' ] || complain 'this machine: has another name'
limited "$bin/ofl-bench" step --preset tiny --seq 32 --batch 2 --steps 2 --warmup 1 "${small[@]}" --report "$work/step.json"
wanted step
grep -q '^predicted .* s a step' "$work/out" || complain 'step: no prediction'
grep -q 'predicted .*: the step took' "$work/out" || complain 'step: not said how far off it was'
field deviation "$work/step.json" | grep -q '[0-9]' || complain 'step: no deviation in the report'
limited "$bin/ofl-bench" decode --preset tiny --tokens 2 --warmup 1 --prompt 4 --device host --device-mem 2M --host-mem 2M \
    --nvme "$work/dir" --report "$work/decoded.json"
wanted decode
grep -q '^predicted .* s a step' "$work/out" || complain 'decode: no prediction'
field deviation "$work/decoded.json" | grep -q '[0-9]' || complain 'decode: no deviation in the report'
left=$(find "$work/dir" -mindepth 1)
[ -z "$left" ] || complain "left $left"

# ---- what can't be ---------------------------------------------------------------------

refuse 'is needed' --machine h100
refuse 'neither a directory' --model 14b --machine h100
refuse 'rtx-4090' --model 13b --machine rtx-4091
refuse 'No such file' --model 13b --machine "$work/none.json"
refuse 'config.json' --model "$work/dir" --machine h100
refuse '2^28 tokens' --model 13b --machine h100 --batch 65536 --seq 8192
refuse '--optimizer' --model 13b --machine h100 --optimizer adagrad
echo '{"like": "h100", "host_bps": -1}' >"$work/bad.json"
refuse 'host_bps of -1' --model 13b --machine "$work/bad.json"
finish
