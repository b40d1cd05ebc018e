#!/bin/bash
# Proves that a checkpoint which is written while a program reads it never gives results of two models:
# ofl-generate ends with an error that names the file, its text until then is the first model's; ofl-finetune
# does not start from it. What leaves the bytes alone (other rights, a link, another file renamed over it) is
# no error, and the text is the first model's.
#
# It can fail: the two models' texts are shown to differ, and the change is made while the program stands
# still, after its first token.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
bin=${OFL_BUILD_DIR:-build}
for program in ofl-finetune ofl-generate; do
    [ -x "$bin/$program" ] || { echo "$bin/$program is not built"; exit 1; }
done
bin=$(cd "$bin" && pwd)
work=$(mktemp -d "$bin/sources.XXXXXX")
trap 'rm -rf "$work"' EXIT
failures=0

complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

yes 'All that is gold does not glitter, not all those who wander are lost.' | head -n 100 >"$work/text"
tune=("$bin/ofl-finetune" --device host --data "$work/text" --steps 1 --seq 16 --in-memory)
for seed in 1 2; do
    "${tune[@]}" --preset tiny --seed "$seed" --out "$work/$seed" 2>"$work/err" ||
        { cat "$work/err"; exit 1; }
done
# Less memory than the model has: weights are read again for every token.
generate=("$bin/ofl-generate" --device host --prompt static --max-tokens 200 --temperature 0
    --device-mem 1500K --host-mem 2M)
for seed in 1 2; do
    "${generate[@]}" --model "$work/$seed" >"$work/text.$seed" 2>"$work/err" || complain "model $seed: $(cat "$work/err")"
done
cmp -s "$work/text.1" "$work/text.2" && complain "two models of one text: nothing is shown"
first=$work/model/model.safetensors second=$work/2/model.safetensors

# stopped CHANGE: generates from a copy of the first model, runs CHANGE after the first byte of text; sets
# status, output in $work/out and $work/err. The program may have been faster than the signal: early is set.
stopped() {
    rm -rf "$work/model" "$work/pipe"
    cp -r "$work/1" "$work/model"
    mkfifo "$work/pipe"
    "${generate[@]}" --model "$work/model" >"$work/pipe" 2>"$work/err" &
    local child=$!
    exec 3<"$work/pipe"
    IFS= read -r -N 1 -u 3 byte
    kill -STOP "$child" 2>/dev/null
    early=
    [ "$(sed 's/.*) //; s/ .*//' "/proc/$child/stat" 2>/dev/null)" = T ] || early=1
    "$@"
    kill -CONT "$child" 2>/dev/null
    { printf '%s' "$byte"; cat <&3; } >"$work/out"
    exec 3<&-
    status=0
    wait "$child" || status=$?
}

overwrite() { dd if="$second" of="$first" bs=64K conv=notrunc status=none; }
copy_over() { cp "$second" "$first"; }
shorten() { truncate -s 100000 "$first"; }
lengthen() { printf more >>"$first"; }
rights() { chmod 400 "$first"; }
hard_link() { ln "$first" "$work/model/link"; }
rename_over() { cp "$second" "$first.new" && mv "$first.new" "$first"; }
remove() { rm "$first"; }

for change in overwrite copy_over shorten lengthen; do
    for _ in $(seq 20); do
        stopped $change
        [ -n "$early" ] || break
    done
    [ -z "$early" ] || { complain "$change: the program was always faster"; continue; }
    [ "$status" -eq 3 ] || complain "$change: exit status $status: $(cat "$work/err")"
    grep -q "$first: the file changed while it was open" "$work/err" || complain "$change: $(cat "$work/err")"
    # Up to the newline that ends it, the text is the beginning of the first model's.
    bytes=$(($(stat -c %s "$work/out") - 1))
    cmp -s -n "$bytes" "$work/out" "$work/text.1" || complain "$change: the text is not the first model's"
done
for change in rights hard_link rename_over remove; do
    stopped $change
    [ "$status" -eq 0 ] || complain "$change: exit status $status: $(cat "$work/err")"
    cmp -s "$work/out" "$work/text.1" || complain "$change: the text is not the first model's"
done

# Written again and again while it is loaded. A run that no write fell into is right to end well.
cp -r "$work/1" "$work/loaded"
(while [ ! -e "$work/enough" ]; do
    dd if="$work/1/model.safetensors" of="$work/loaded/model.safetensors" bs=64K conv=notrunc status=none
    sleep 0.002
done) &
writer=$!
seen=
for _ in $(seq 50); do
    "${tune[@]}" --model "$work/loaded" 2>"$work/err" && continue
    seen=1
    break
done
touch "$work/enough"
wait "$writer"
[ -n "$seen" ] || complain "ofl-finetune loads a model that is being written"
grep -q "loaded/model.safetensors: \(it is being written\|the file changed while it was open\)" "$work/err" ||
    complain "ofl-finetune: $(cat "$work/err")"

[ "$failures" -eq 0 ]
