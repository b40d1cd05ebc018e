#!/bin/bash
# Proves what `ofl-bench store verify` promises: 0 and the generation for a store that is whole; 1 and each wrong tile
# by its name where it is not, with the generation that still is; --repair goes back to that; 2 for what is no store, is
# in use, or can't be asked; the same in JSON. Nothing is written without --repair.
#
# It can fail: a store with one bit turned over is told from one that is whole.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash store
for program in ofl-bench tests/test_kept_verify; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done

verify() {
    limited "$bin/ofl-bench" store verify "$@"
}

# expect STATUS 'words' arguments...: those words on stdout or stderr.
expect() {
    local wanted=$1 words=$2
    shift 2
    verify "$@"
    [ "$wanted" -ne 2 ] || wanted=$(refusal)
    [ "$status" -eq "$wanted" ] || complain "$*: exit status $status, not $wanted"
    grep -q -e "$words" "$work/out" "$work/err" || complain "$*: no '$words'"
}

make_store() {
    OFL_KEPT_MAKE=$1 "$bin/tests/test_kept_verify" || complain "no store could be made"
}

# flip FILE BYTE: one bit of it.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf '%b' "\\x$(printf '%02x' $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

sum() {
    cat "$work"/run/* | sha256sum
}

# ---- whole ---------------------------------------------------------------------

make_store "$work/run"
before=$(sum)
expect 0 'generation 3: whole: 2 tensors, .* in 6 tiles' "$work/run" --json "$work/whole.json"
grep -q '"whole": true' "$work/whole.json" || complain "the report does not say that it is whole"
[ "$(wc -l <"$work/out")" -eq 2 ] || complain "more than two generations are told of"
cp -a "$work/run" "$work/copy"
expect 0 'generation 3: whole' "$work/copy"
mkdir "$work/empty"
expect 2 'no kept store' "$work/empty"
expect 2 'No such file' "$work/absent"
expect 2 'Not a directory' README.md
verify
[ "$status" -eq "$(refusal)" ] || complain "without a directory: exit status $status"
verify "$work/run" "$work/copy"
[ "$status" -eq "$(refusal)" ] || complain "with two directories: exit status $status"
limited "$bin/ofl-bench" store mend "$work/run"
[ "$status" -eq "$(refusal)" ] || complain "mend: exit status $status"
for option in '' --repair; do
    limited flock "$work/run/store.ofl" "$bin/ofl-bench" store verify "$work/run" $option
    [ "$status" -eq "$(refusal)" ] || complain "a store in use: exit status $status"
    says 'another process, or context, has it' "$work/err" "a store in use"
done
[ "$(sum)" = "$before" ] || complain "something was written"

# ---- not whole ----------------------------------------------------------------------

# The third tile of the first tensor, in slot 0: the last generation's alone.
flip "$work/run/data.ofl" 8200
before=$(sum)
expect 3 'generation 3: tensor.0, tile 2: data.ofl, offset 8192, 4091 bytes' "$work/run" --json "$work/wrong.json"
grep -q 'generation 2: whole' "$work/out" || complain "the generation that is whole is not named"
grep -q -e '--repair makes it the last one' "$work/err" || complain "no way out is named"
grep -q '"tile": 2' "$work/wrong.json" || complain "the report does not name the tile"
grep -q '"whole": false' "$work/wrong.json" || complain "the report says that it is whole"
[ "$(sum)" = "$before" ] || complain "something was written without --repair"
expect 0 'generation 2: whole' "$work/run" --repair
expect 0 'generation 2: whole' "$work/run"
flip "$work/run/data.ofl" 100
expect 3 'no generation is whole' "$work/run"
before=$(sum)
expect 3 'no generation is whole' "$work/run" --repair
[ "$(sum)" = "$before" ] || complain "a store beyond repair was written to"
finish
