#!/bin/bash
# Proves what the programs do with adapters: the same state hash from every budget, nothing written to a drive, one goes
# on, ofl-generate's text with it is that of the merged model, prompts choose, refusals leave nothing behind.
#
# It can fail: another seed gives another hash, the model without the adapter another text.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash adapters
for program in ofl-finetune ofl-generate; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done

tune() {
    limited "$bin/ofl-finetune" --device host --model "$work/m" "$@"
}

text_of() {
    limited "$bin/ofl-generate" --device host --temperature 0 --max-tokens 12 --prompt abcde "$@"
}

# refuse 'words of the message' arguments...: exit status 2, that message, and no --out.
refuse() {
    local words=$1
    shift
    tune --data "$work/text" --out "$work/never" "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status, not $(refusal)"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ ! -e "$work/never" ] || complain "$*: left something"
}

# The value of that name in a report, the first one.
value() {
    sed -n "s/^ *\"$1\": \"\?\([0-9a-f]*\)\"\?,*$/\1/p" "$2" | head -n 1
}

for _ in $(seq 20); do printf 'abcdefghijklmnopqrstuvwxyz'; done >"$work/text"
limited "$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32 --steps 1 --out "$work/m"
wanted "a model"

lora=(--lora 8 --lora-dropout 0.1 --data "$work/text" --seq 48 --lr 1e-2)
tune "${lora[@]}" --steps 12 --in-memory --report "$work/all.json" --out "$work/a"
wanted "adapters in memory"
refuse 'smallest workable --device-mem is' "${lora[@]}" --steps 12 --device-mem 64K --host-mem 16M
least=$(sed -n 's/.*the smallest workable --device-mem is \([0-9]*\) bytes.*/\1/p' "$work/err" | head -n 1)
tune "${lora[@]}" --steps 12 --device-mem "$least" --host-mem 8M --report "$work/small.json"
wanted "the smallest device memory"
hash=$(value state_hash "$work/all.json")
[ -n "$hash" ] || complain "no state_hash in the report"
[ "$hash" = "$(value state_hash "$work/small.json")" ] || complain "budgets give another state"
[ "$(value nvme_write "$work/small.json")" = 0 ] || complain "something was written to a drive"
[ "$(value trained_parameters "$work/all.json")" -lt "$(value frozen_parameters "$work/all.json")" ] || complain "not less is trained than frozen"
tune "${lora[@]}" --steps 12 --seed 2 --in-memory --report "$work/other.json"
[ "$hash" != "$(value state_hash "$work/other.json")" ] || complain "another seed can't be told"
grep -q '"base_model_name_or_path"' "$work/a/adapter_config.json" || complain "no adapter_config.json"

tune --adapter "$work/a" --data "$work/text" --seq 48 --steps 2 --out "$work/b"
wanted "an adapter that goes on"
tune --adapter "$work/b" --merge --out "$work/merged"
wanted "--merge"
text_of --model "$work/m" && cp "$work/out" "$work/base"
text_of --model "$work/m" --adapter "$work/b" && cp "$work/out" "$work/with"
text_of --model "$work/merged"
cmp -s "$work/out" "$work/with" || complain "the merged model has another text than the adapter"
! cmp -s "$work/base" "$work/with" || complain "the adapter can't be told from none"
text_of --model "$work/m" --adapter "$work/b:0"
cmp -s "$work/out" "$work/base" || complain "an adapter of weight 0 changes the text"
printf '{"prompt": "abcde", "adapter": null}\n{"prompt": "abcde", "adapter": "b"}\n' >"$work/p.jsonl"
limited "$bin/ofl-generate" --device host --temperature 0 --max-tokens 12 --model "$work/m" --adapter "$work/a" --adapter "$work/b" --prompts "$work/p.jsonl"
wanted "prompts that choose"
cat "$work/base" "$work/with" | cmp -s - "$work/out" || complain "prompts do not choose their adapter"

refuse 'exclude each other' --lora 8 --adapter "$work/a"
refuse 'need --lora RANK' --lora-alpha 4
refuse 'not supported together' --lora 8 --dora --lora-dropout 0.5
refuse 'frozen weights are used as the files have them' --lora 8 --dtype bf16
refuse 'there are q_proj, k_proj' --lora 8 --lora-targets q_proj,w1
refuse '--merge trains nothing' --merge --adapter "$work/a"
refuse 'adapter_config.json' --adapter "$work/m"
sed -i 's/"LORA"/"LOHA"/' "$work/a/adapter_config.json"
refuse 'peft_type is LOHA' --adapter "$work/a"
finish
