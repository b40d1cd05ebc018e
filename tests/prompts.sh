#!/bin/bash
# Proves what ofl-generate does with prompts: the same text from an argument, a file, standard input and a list; chats
# as the template writes them; an end at each token that generation_config.json names; --context; drawing limited as it
# was asked for; refusals by name. The model is a small one that has learned the alphabet.
#
# It can fail: another prompt, or the end token taken away, gives another text.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash prompts
for program in ofl-finetune ofl-generate; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done

generate() {
    limited "$bin/ofl-generate" --device host --model "$work/m" --temperature 0 --max-tokens 12 "$@"
}

# refuse 'words of the message' arguments...: exit status 2, or 64 for an option (or $refused), and that message.
refuse() {
    local words=$1
    shift
    generate "$@"
    [ "$status" -eq "${refused:-$(refusal)}" ] || complain "$*: exit status $status, not ${refused:-$(refusal)}"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ ! -s "$work/out" ] || complain "$*: wrote text"
}

# The numbers of that name in a report, one a line.
numbers() {
    sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$2"
}

# A model that knows the alphabet, whatever the kernels of this machine's BLAS round; and that now and then a line ends
# behind it, so that there is something else to say.
for i in $(seq 40); do
    printf 'abcdefghijklmnopqrstuvwxyz'
    if [ $((i % 7)) -eq 3 ] || [ $((i % 5)) -eq 4 ]; then echo; fi
done >"$work/text"
limited "$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 48 --batch 2 --steps 60 --lr 4e-3 --warmup 10 --schedule linear --clip 1 --out "$work/m"
wanted "a model"

generate --prompt abcde --report "$work/one.json"
wanted "a prompt"
[ "$(cat "$work/out")" = fghijklmnopq ] || complain "the model has not learned the alphabet"
cp "$work/out" "$work/hello"
printf 'abcde\n' >"$work/prompt"
generate --prompt-file "$work/prompt"
cmp -s "$work/out" "$work/hello" || complain "--prompt-file gives another text"
limited bash -c "$(printf '%q ' "$bin/ofl-generate" --device host --model "$work/m" --temperature 0 --max-tokens 12) --prompt-file - <$(printf %q "$work/prompt")"
cmp -s "$work/out" "$work/hello" || complain "standard input gives another text"
generate --prompt abcdefg
! cmp -s "$work/out" "$work/hello" || complain "another prompt can't be told"
printf 'abcdefg\n\nabcde\n' >"$work/list"
generate --prompts "$work/list" --report "$work/list.json"
wanted "--prompts"
[ "$(tail -c "$(wc -c <"$work/hello")" "$work/out" | cmp - "$work/hello" 2>&1)" = "" ] || complain "the second prompt has another text than alone"
[ "$(numbers generated_tokens "$work/list.json" | tail -n 1)" -eq 24 ] || complain "not 24 tokens of two prompts"

# A prompt longer than an argument can be.
head -c 300000 /dev/zero | tr '\0' x >"$work/long"
refuse "--prompt-file $work/long of 30000[01] tokens: the model's positions end at" --prompt-file "$work/long"

# Chats: what the template writes, without a start token of the tokenizer's.
refuse 'has no chat template' --chat --prompt Hi
printf '%s' "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}" >"$work/m/chat_template.jinja"
generate --chat --system "Be brief." --prompt Hi --report "$work/chat.json"
wanted "--chat"
cp "$work/out" "$work/chat"
# [system]Be brief.\n[user]Hi\n[assistant], where \n is two characters
[ "$(numbers prompt_tokens "$work/chat.json" | head -n 1)" -eq 40 ] || complain "the chat has not 40 tokens"
printf '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}\n' >"$work/chat.jsonl"
generate --prompts "$work/chat.jsonl"
cmp -s "$work/out" "$work/chat" || complain "messages of a file give another text"
generate --chat --prompt Hi --report "$work/alone.json"
[ "$(numbers prompt_tokens "$work/alone.json" | head -n 1)" -eq 21 ] || complain "without --system the chat has not 21 tokens"
printf '{{ raise_exception("no such role") }}' >"$work/m/chat_template.jinja"
refuse 'the template refuses: no such role' --chat --prompt Hi
printf '\n{%% include "x" %%}' >"$work/m/chat_template.jinja"
refuse "chat_template.jinja, line 2: tag 'include' is not supported" --chat --prompt Hi

# Ends: the third byte of the text, as generation_config.json names it among others.
third=$(od -An -tu1 -j2 -N1 "$work/hello" | tr -d ' ')
printf '{"eos_token_id": [257, %s]}' "$third" >"$work/m/generation_config.json"
generate --prompt abcde --report "$work/end.json"
[ "$(numbers generated_tokens "$work/end.json" | head -n 1)" -eq 2 ] || complain "no end at a token of generation_config.json"
grep -q '"end": "end token"' "$work/end.json" || complain "the report knows of no end token"
printf '{"eos_token_id": "x"' >"$work/m/generation_config.json"
refuse 'generation_config.json' --prompt Hi
rm "$work/m/generation_config.json"
cp "$work/m/tokenizer.json" "$work/whole.json"
head -c 500 "$work/whole.json" >"$work/m/tokenizer.json"
refuse 'tokenizer.json: line' --prompt Hi
cp "$work/whole.json" "$work/m/tokenizer.json"

# Lengths.
limited "$bin/ofl-generate" --device host --model "$work/m" --temperature 0 --prompt abcde --context 20 --report "$work/context.json"
wanted "--context"
[ "$(($(numbers prompt_tokens "$work/context.json" | head -n 1) + $(numbers generated_tokens "$work/context.json" | head -n 1)))" -eq 20 ] ||
    complain "--context 20 is not what prompt and text come to"
refuse '--context is 9, and the prompt takes [56]: [34] are left' --prompt abcde --context 9
refuse "the model's positions end at" --prompt Hi --context 10000000

# Drawing: from one token it is the likeliest.
for only in '--top-k 1' '--min-p 1' '--top-p 0.0001'; do
    # shellcheck disable=SC2086  # two words
    generate --prompt abcde --temperature 5 $only
    cmp -s "$work/out" "$work/hello" || complain "$only draws others than the likeliest"
done
# After z comes what was there before, unless that is made unlikely.
generate --prompt abcdefghijklmnopqrstuvwx
[ "$(cat "$work/out")" = yzabcdefghij ] || complain "the alphabet does not begin again"
generate --prompt abcdefghijklmnopqrstuvwx --repetition-penalty 50
[ "$(head -n 1 "$work/out")" = yz ] || complain "--repetition-penalty makes no difference"

refuse 'exclude each other' --prompt Hi --prompt-file x
refuse 'needs --chat' --prompt Hi --system x
refuse 'No such file' --prompt-file "$work/absent"
: >"$work/empty"
refuse 'no line has a prompt' --prompts "$work/empty"
printf '{"x": 1}\n' >"$work/bad.jsonl"
refuse 'line 1: a string, {"prompt"' --prompts "$work/bad.jsonl"
refuse 'it is a file, not a directory' --model "$work/text" --prompt Hi

# Advice, followed, works.
generate --prompt Hi --device-mem 4096
least=$(sed -n 's/.*smallest workable --device-mem is \([0-9]*\).*/\1/p' "$work/err")
generate --prompt Hi --device-mem "$least"
wanted "the smallest --device-mem of a refusal"
limited "$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32 --steps 1 --device-mem 4096
least=$(sed -n 's/.*smallest workable --device-mem for that is \([0-9]*\).*/\1/p' "$work/err")
limited "$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32 --steps 1 --device-mem "$least"
wanted "the smallest --device-mem of a training without --nvme"

finish
