#!/bin/bash
# Proves what ofl-finetune does with data: examples of which a part is learned are normalized by the tokens that carry
# loss, whatever the micro-batches; padding changes nothing; --eval tells the loss of what is not trained on, and
# changes nothing; --show-data prints the rows; text goes through little memory; what is no data is refused by name.
#
# It can fail: examples of different lengths in one order and in another give other losses, as the mean of means would.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash data
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

run() {
    limited "$bin/ofl-finetune" --device host "$@"
}

# refuse 'words of the message' arguments...: exit status 2, and that message.
refuse() {
    local words=$1
    shift
    run --preset tiny "$@" --report "$work/refused.json"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status, not $(refusal)"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ ! -e "$work/refused.json" ] || complain "$*: left a report"
}

# The numbers of an array of a report, on a line.
list() {
    sed -n "/^  \"$1\": \[/,/^  \]/p" "$2" | tr -d ' \n' | sed 's/.*\[//; s/\].*//'
}

# near A B: they differ by 1e-5 of A at most.
near() {
    awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; exit !(a != "" && b != "" && d * d <= a * a * 1e-10) }'
}

cat >"$work/a.jsonl" <<'END'
{"prompt": "The first", "completion": " answer is a long one, with many more bytes than the other."}
{"prompt": "A second and longer prompt:", "completion": " ok"}
END
small=(--preset tiny --seq 96 --steps 1 --lr 0)

# One mean over what carries loss: 60 + 4 tokens with their ends, in one micro-batch or in two.
run "${small[@]}" --data "$work/a.jsonl" --batch 2 --report "$work/one.json"
wanted "two rows in a micro-batch"
run "${small[@]}" --data "$work/a.jsonl" --accum 2 --report "$work/two.json"
wanted "two micro-batches"
near "$(list loss "$work/one.json")" "$(list loss "$work/two.json")" || complain "the loss depends on micro-batches"
near "$(list grad_norm "$work/one.json")" "$(list grad_norm "$work/two.json")" || complain "the gradient depends on micro-batches"
grep -q '"learned_tokens": 64' "$work/one.json" || complain "not 64 tokens that carry loss"
# The control: the mean of both rows' means is another number.
run "${small[@]}" --data "$work/a.jsonl" --steps 2 --report "$work/rows.json"
wanted "a row in a step"
mean=$(list loss "$work/rows.json" | awk -F, '{ print ($1 + $2) / 2 }')
! near "$(list loss "$work/one.json")" "$mean" || complain "the mean of means can't be told from the mean"

# Longer rows are more padding, and the same loss.
run --preset tiny --seq 200 --steps 1 --lr 0 --data "$work/a.jsonl" --batch 2 --report "$work/padded.json"
wanted "more padding"
near "$(list loss "$work/one.json")" "$(list loss "$work/padded.json")" || complain "padding changes the loss"

# With a rate of 0 what is evaluated has the loss of its training; it changes nothing of the training.
run "${small[@]}" --data "$work/a.jsonl" --batch 2 --eval "$work/a.jsonl" --report "$work/eval.json"
wanted "an evaluation"
grep -q "eval at step 1: loss $(awk -v l="$(list loss "$work/one.json")" 'BEGIN { printf "%.4f", l }')" "$work/err" ||
    complain "the evaluation has another loss than the training"
head -c 3000 docs/design.md >"$work/text"
run --preset tiny --seq 64 --steps 4 --data "$work/text" --report "$work/plain.json"
wanted "four steps"
run --preset tiny --seq 64 --steps 4 --data "$work/text" --eval "$work/a.jsonl" --eval-every 2 --batch 1 --report "$work/every.json"
wanted "four steps with evaluations"
[ "$(grep -c '^eval at step' "$work/err")" -eq 2 ] || complain "not an evaluation at each second step"
cmp -s <(list loss "$work/plain.json") <(list loss "$work/every.json") || complain "evaluations change the losses"
cmp -s <(grep state_hash "$work/plain.json") <(grep state_hash "$work/every.json") || complain "evaluations change the weights"

# Inside budgets, with a drive, the same bits.
run --preset tiny --seq 64 --steps 4 --data "$work/a.jsonl" --batch 2 --eval "$work/text" --report "$work/memory.json"
wanted "examples in memory"
run --preset tiny --seq 64 --steps 4 --data "$work/a.jsonl" --batch 2 --eval "$work/text" --report "$work/drive.json" \
    --device-mem 12M --host-mem 4M --nvme "$work"
wanted "examples with a drive"
cmp -s <(grep -e state_hash -e '"loss"' "$work/memory.json") <(grep -e state_hash -e '"loss"' "$work/drive.json") ||
    complain "the drive changes the training or its evaluation"

# A directory with a colon in its name is one, where it exists.
mkdir "$work/disk:1"
run --preset tiny --seq 64 --steps 1 --data "$work/text" --device-mem 12M --host-mem 4M --nvme "$work/disk:1"
wanted "a directory with a colon in its name"
run --preset tiny --seq 64 --steps 1 --data "$work/text" --device-mem 12M --host-mem 4M --nvme "$work/disk:1:64M"
wanted "the same with a size"
refuse 'no such directory.*DIR:SIZE' --data "$work/text" --device-mem 12M --nvme "$work/disk:2"

# What a row holds.
run --preset tiny --data "$work/a.jsonl" --show-data 5
wanted "--show-data"
[ "$(wc -l <"$work/out")" -eq 2 ] || complain "not a line for each example"
grep -q '^{"ids":\[65,32.*,257\],"learned":\[0,0,0.*,0,1,1,1,1\]}$' "$work/out" || complain "the second example has other tokens"

# Text beyond what is kept in memory goes to a file, and is the same text.
for _ in $(seq 1500); do cat "$work/text"; done >"$work/large"
run --preset tiny --seq 512 --steps 2 --data "$work/large" --shuffle --report "$work/large.json"
wanted "4.5 MB of text"

# Refusals.
printf 'text\0text' >"$work/nul"
refuse 'it is binary (byte 4 is 0)' --data "$work/nul"
gzip -c "$work/text" >"$work/text.gz"
refuse 'it is a gzip file' --data "$work/text.gz"
printf 'caf\351 %.0s' $(seq 50) >"$work/latin1"
refuse 'in another encoding or binary (.* are not UTF-8, byte 3 the first)' --data "$work/latin1"
refuse 'can.t be mixed' --data "$work/text" "$work/a.jsonl"
printf '\n{"a": 1, "b": 2}\n' >"$work/keys.jsonl"
refuse 'line 2: it has "a", "b": {"messages"' --data "$work/keys.jsonl"
printf '{"prompt": "x"' >"$work/json.jsonl"
refuse 'line 1: column .*no JSON' --data "$work/json.jsonl"
printf '[1]' >"$work/list.jsonl"
refuse 'line 1: not a JSON object' --data "$work/list.jsonl"
printf '{"messages": [{"role": "user", "content": "x"}]}' >"$work/chat.jsonl"
refuse 'a preset has none: use --model' --data "$work/chat.jsonl"
refuse 'none of them has anything to learn' --data "$work/a.jsonl" --seq 4
: >"$work/none.jsonl"
refuse '0 examples' --data "$work/none.jsonl"
refuse 'without --eval' --data "$work/text" --eval-every 5
refuse 'only --schedule wsd' --data "$work/text" --decay-steps 5
refuse 'no room for both' --data "$work/text" --schedule wsd --warmup 5 --decay-steps 6 --steps 10
refuse 'above --lr' --data "$work/text" --lr 1e-3 --lr-end 1e-2

finish
