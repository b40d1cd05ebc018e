#!/bin/bash
# Proves what ofl-finetune and ofl-generate promise: known losses and a known text from a real
# checkpoint; the same losses, norms and state in every placement, down to the smallest budgets
# that they name, and a refusal one step below; clear messages, exit status 2 and nothing written
# for what can't work; an end by signal.
#
# It can fail: the comparison of reports is shown to see another seed, and the figures of the
# real checkpoint were computed by PyTorch.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash programs
for program in ofl-finetune ofl-generate; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done

# Runs a program, on the host device also where there is a GPU.
run() {
    limited "$bin/$1" --device host "${@:2}"
}

# refuse 'words of the message' program arguments...: exit status 2, or 64 for an option (or $refused), that message, nothing written.
refuse() {
    local words=$1
    shift
    run "$@" --report "$work/refused.json"
    [ "$status" -eq "${refused:-$(refusal)}" ] || complain "$*: exit status $status, not ${refused:-$(refusal)}"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ -z "$(compgen -G "$work/refused*")" ] || complain "$*: left $(compgen -G "$work/refused*")"
    rm -rf "$work"/refused* # no failure of the next one
}

# judged FILE: a timeline is whole, and what Perfetto reads.
judged() {
    local why
    why=$("$bin/tests/test_timeline" "$1") || complain "timeline: $why"
}

# What must not depend on placement: loss, grad_norm, state_hash.
essence() {
    sed -n '/^  "loss": \[/,/^  \]/p; /^  "grad_norm": \[/,/^  \]/p; /^  "state_hash"/p' "$1"
}

same() {
    if ! cmp -s <(essence "$1") <(essence "$2"); then
        complain "$3: other results than in memory"
        diff <(essence "$1") <(essence "$2") >&"$said"
    fi
}

# The integer of that name in a report.
number() {
    sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$2" | head -n 1
}

# What a message says after $1: the smallest budget. A number in any case, for what is computed from it.
smallest() {
    local number
    number=$(sed -n "s/.*$1 is \([0-9]*\).*/\1/p" "$work/err")
    [ -n "$number" ] || complain "no '$1 is NUMBER'"
    echo "${number:-0}"
}

yes 'All that is gold does not glitter, not all those who wander are lost. 0123456789' | head -n 200 >"$work/text"
tiny=(--preset tiny --data "$work/text" --seq 32 --batch 2 --lr 1e-3)

# ---- a real checkpoint ---------------------------------------------------

story=../shared/models/story
shakespeare=../shared/data/tinyshakespeare.txt
real=0
if [ -f "$story/model.safetensors" ] && [ -f "$shakespeare" ]; then
    real=1
    expected='5.93651 5.74027 5.89122 6.03554 5.26947 6.04676'
    run ofl-finetune --model "$story" --data "$shakespeare" --seq 64 --batch 2 --steps 6 --lr 1e-3 \
        --weight-decay 0 --clip 0 --dtype f32 --in-memory --report "$work/story.json" --out "$work/tuned"
    wanted story in memory
    sed -n '/^  "loss": \[/,/^  \]/p' "$work/story.json" | grep -o '[0-9][0-9.]*' |
        awk -v want="$expected" 'BEGIN { n = split(want, w, " ") }
            { d = $1 - w[NR]; if (d > 1e-4 || d < -1e-4) bad = 1 } END { exit bad || NR != n }' ||
        complain "losses are not $expected"
    grep -q '^step 1/6 loss 5.93651 norm 3.52978 ' "$work/err" || complain "first norm is not 3.52978"
    for file in config.json model.safetensors tokenizer.json; do
        [ -s "$work/tuned/$file" ] || complain "--out has no $file"
    done

    text=', a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot'
    prompt=(--model "$story" --prompt 'Once upon a time' --temperature 0 --max-tokens 40)
    run ofl-generate "${prompt[@]}" --report "$work/text.json"
    wanted generate
    grep -q "^$text" "$work/out" || complain "generated text is not '$text...'"
    grep -q '"tokens_per_s": [1-9]' "$work/text.json" || complain "the report lacks tokens_per_s"
    cp "$work/out" "$work/text.memory"
    grep -q '"least_s": 0.0' "$work/text.json" || complain "in memory something had to move for each token"
    run ofl-generate "${prompt[@]}" --device-mem 2M --host-mem 2M --report "$work/text.json"
    wanted generate in 2M and 2M
    share=$(sed -n 's/.*"share_of_moved": 0\.\([0-9]*\),*$/\1/p' "$work/text.json")
    [ -n "$share" ] || complain "no share of the bound of what moved below 1: $(grep share_of "$work/text.json")"
    grep -q '^a token took .*; bound of what moved: .*; of the least possible: ' "$work/err" ||
        complain "no bounds of a token"
    refuse 'smallest workable --device-mem' ofl-generate "${prompt[@]}" --device-mem 4K
    least=$(smallest --device-mem)
    run ofl-generate "${prompt[@]}" --device-mem "$least" --host-mem 2M
    wanted generate with the smallest budgets
    cmp -s "$work/out" "$work/text.memory" || complain "generated text depends on budgets"
    refuse 'smallest workable --device-mem' ofl-generate "${prompt[@]}" --device-mem $((least - 1))
    refuse 'the checkpoint itself' ofl-generate "${prompt[@]}" --nvme "$work"
    refuse "positions end at 512" ofl-generate "${prompt[@]}" --max-tokens 600

    # A long prompt: the same text whatever its pieces are, and one reading of the model where it goes as a whole.
    long=(--model "$story" --prompt "$(yes 'Once upon a time there was a girl.' | head -n 30)" --temperature 0)
    run ofl-generate "${long[@]}" --max-tokens 20 --report "$work/long.json"
    wanted generate behind a long prompt
    cp "$work/out" "$work/long.memory"
    [ "$(number prompt_tokens "$work/long.json")" -gt 192 ] || complain "the long prompt has less than four pieces"
    refuse 'smallest workable --device-mem' ofl-generate "${long[@]}" --max-tokens 20 --device-mem 4K
    least=$(smallest --device-mem)
    for budget in "$least" $((least + 300000)) $((least + 600000)) $((least + 1100000)); do
        run ofl-generate "${long[@]}" --max-tokens 20 --device-mem "$budget" --host-mem 2M
        wanted generate behind a long prompt with "$budget" bytes
        cmp -s "$work/out" "$work/long.memory" || complain "text depends on the pieces of a prompt, at $budget bytes"
    done
    for budget in "$least" $((least + 1100000)); do
        run ofl-generate "${long[@]}" --max-tokens 1 --device-mem "$budget" --host-mem 2M --report "$work/long.json"
        wanted feed a long prompt with "$budget" bytes
        # To the device: host memory could hold this model.
        readings=$((100 * $(number device_in "$work/long.json") / $(number weight_bytes "$work/long.json")))
        if [ "$budget" = "$least" ]; then # pieces of 64: what the smallest budget has room for
            [ "$readings" -gt 180 ] || complain "a prompt in pieces moves $readings % of the model in: the figure is wrong"
        else
            [ "$readings" -le 130 ] || complain "a prompt as a whole moves $readings % of the model in"
        fi
    done
    # The tuned model loads again.
    run ofl-generate --model "$work/tuned" --prompt 'Once upon a time' --temperature 0 --max-tokens 8
    wanted generate from --out
    refuse 'exists' ofl-finetune "${tiny[@]}" --out "$work/tuned"

    # Damaged checkpoints.
    mkdir "$work/damaged"
    cp "$story"/*.json "$work/damaged"
    refuse 'model.safetensors' ofl-finetune --model "$work/damaged" --data "$shakespeare" --steps 1
    head -c 100000 "$story/model.safetensors" >"$work/damaged/model.safetensors"
    refuse 'model.safetensors' ofl-finetune --model "$work/damaged" --data "$shakespeare" --steps 1
    refuse 'model.safetensors' ofl-generate --model "$work/damaged" --prompt x
    printf '\377\377\377\377\377\377\377\177{}' >"$work/damaged/model.safetensors"
    refuse 'model.safetensors' ofl-generate --model "$work/damaged" --prompt x
    cp "$story/model.safetensors" "$work/damaged"
    rm "$work/damaged/config.json" # read-only, where the original is
    sed 's/"LlamaForCausalLM"/"MambaForCausalLM"/; s/"llama"/"mamba"/' "$story/config.json" >"$work/damaged/config.json"
    refuse '[Mm]amba' ofl-generate --model "$work/damaged" --prompt x
fi

# ---- placements ------------------------------------------------------------

refuse 'smallest workable --device-mem' ofl-finetune "${tiny[@]}" --accum 2 --device-mem 4K --nvme "$work"
device=$(smallest --device-mem)
refuse 'smallest workable SIZE' ofl-finetune "${tiny[@]}" --accum 2 --device-mem 8M --host-mem 2M --nvme "$work:4K"
nvme=$(smallest SIZE)
# Store and host memory together: either may be the smaller one.
refuse 'smallest workable SIZE' ofl-finetune "${tiny[@]}" --accum 2 --device-mem 8M --host-mem 9M --nvme "$work:4K"
beside=$(smallest SIZE)
[ "$beside" -lt "$nvme" ] || complain "9M of host memory do not make up for any of the store's $nvme bytes"
half=$((nvme / 8192))
half=$((half * 4096))
refuse 'smallest workable --host-mem' ofl-finetune "${tiny[@]}" --accum 2 --device-mem 8M --host-mem 2M --nvme "$work:$half"
makeup=$(smallest --host-mem)
refuse 'smallest workable --host-mem' ofl-finetune "${tiny[@]}" --accum 2 --device-mem "$device" --host-mem 5M
host=$(smallest --host-mem)
refuse 'smallest workable --device-mem' ofl-finetune "${tiny[@]}" --accum 2 --device-mem 8M --host-mem 2M
all=$(smallest 'smallest workable --device-mem for that')

mkdir "$work/second"
for variant in '--dtype f32' '--dtype bf16 --clip 0.5 --shuffle --warmup 3'; do
    read -r -a options <<<"$variant"
    options+=("${tiny[@]}" --accum 2 --steps 5)
    run ofl-finetune "${options[@]}" --in-memory --report "$work/memory.json"
    wanted "$variant" in memory
    n=0
    while read -r -a budgets; do
        n=$((n + 1))
        # Under sanitizers F32 has every placement, BF16 every third.
        [ -z "${OFL_TEST_LIGHT-}" ] || [ "$variant" = '--dtype f32' ] || [ $((n % 3)) -eq 1 ] || continue
        run ofl-finetune "${options[@]}" "${budgets[@]}" --report "$work/placed.json"
        wanted "$variant" "${budgets[@]}"
        same "$work/memory.json" "$work/placed.json" "$variant ${budgets[*]}"
        rm -f "$work/placed.json"
    done <<END
--device-mem $device --host-mem 2M --nvme $work:$((nvme * 2))
--device-mem $device --host-mem 2M --nvme $work:$((nvme / 2 + 2097152)) --nvme $work/second:$((nvme + 2097152))
--device-mem $((device * 2 + 12345)) --host-mem 6M --nvme $work
--device-mem $device --host-mem 32M
--device-mem 64M --host-mem 2M
--device-mem $device --host-mem 9M --nvme $work:$((nvme - 4194304))
--device-mem $((device * 2)) --host-mem $((makeup + 4194304)) --nvme $work:$half
--device-mem $device --host-mem 32M --nvme $work:1M
END
done
grep -q '"nvme": 0' "$work/memory.json" || complain "in memory, and yet a store"

# The smallest that are named work, and one byte less does not.
options=("${tiny[@]}" --accum 2 --steps 2)
run ofl-finetune "${options[@]}" --in-memory --report "$work/memory.json"
while read -r -a budgets; do
    run ofl-finetune "${options[@]}" "${budgets[@]}" --report "$work/placed.json"
    wanted "${budgets[@]}"
    same "$work/memory.json" "$work/placed.json" "${budgets[*]}"
done <<END
--device-mem $device --host-mem 2M --nvme $work:$nvme
--device-mem $device --host-mem $host
--device-mem $all --host-mem 2M
--device-mem $device --host-mem 9M --nvme $work:$beside
--device-mem $device --host-mem $makeup --nvme $work:$half
--device-mem $device --host-mem $((makeup + 12345678)) --nvme $work:$half
--device-mem $all --host-mem $((host - 4096))
END
refuse 'smallest workable --device-mem' ofl-finetune "${options[@]}" --device-mem $((device - 1)) --nvme "$work"
refuse 'smallest workable SIZE' ofl-finetune "${options[@]}" --device-mem 8M --host-mem 2M --nvme "$work:$((nvme - 1))"
refuse 'smallest workable SIZE' ofl-finetune "${options[@]}" --device-mem 8M --host-mem 9M --nvme "$work:$((beside - 1))"
refuse 'smallest workable --host-mem' ofl-finetune "${options[@]}" --device-mem 8M --host-mem $((makeup - 1)) --nvme "$work:$half"
refuse 'smallest workable --host-mem' ofl-finetune "${options[@]}" --device-mem "$device" --host-mem $((host - 1))
refuse 'smallest workable --device-mem' ofl-finetune "${options[@]}" --device-mem $((all - 1)) --host-mem 2M

# ---- timelines -----------------------------------------------------------------

run ofl-finetune "${options[@]}" --device-mem "$device" --host-mem 2M --nvme "$work:$nvme" --timeline "$work/run.json" \
    --report "$work/placed.json"
wanted --timeline
same "$work/memory.json" "$work/placed.json" --timeline
judged "$work/run.json"
for words in 'layer 0 forward' 'layer 1 backward' '"head"' 'embedding backward' 'to the device' 'from the device' \
    '"drive ' '"reads' '"writes' '"updates' '"seals' '"reason":"no room"'; do # which other reasons there are is for the machine's speed
    says "$words" "$work/run.json" the timeline
done
says '^stall  *[0-9.]* s for [a-z0-9._]*: [a-z ]* (' "$work/err" the text
says '"reason": "[a-z ]*"' "$work/placed.json" the report
says '^timeline .* [0-9]* events' "$work/err" the text
# It can fail.
head -c -20 "$work/run.json" >"$work/cut.json"
! "$bin/tests/test_timeline" "$work/cut.json" >/dev/null || complain "a timeline that was cut short passes"
rm -f "$work/run.json" "$work/cut.json" "$work/placed.json"
run ofl-finetune "${options[@]}" --in-memory --timeline "$work/absent/run.json"
[ "$status" -eq "$(refusal)" ] || complain "--timeline in no directory: exit status $status"
says 'absent/run.json: No such file' "$work/err" --timeline

# As many threads of OpenBLAS as cores, where suites have one: sums of another order, and nearly the same loss.
limited env -u OPENBLAS_NUM_THREADS "$bin/ofl-finetune" --device host "${tiny[@]}" --steps 1 --in-memory
wanted 'a thread for each core'
grep -q '^step 1/1 loss 5\.[0-9]* ' "$work/err" || complain 'a thread for each core: no loss of a first step'

# Another seed is another run: the comparison sees it.
run ofl-finetune "${options[@]}" --seed 2 --in-memory --report "$work/placed.json"
! cmp -s <(essence "$work/memory.json") <(essence "$work/placed.json") || complain "a seed changes nothing"
[ "$(essence "$work/memory.json" | wc -l)" -eq 9 ] || complain "the report is laid out otherwise than thought"

# A tensor larger than the host memory that it passes through: it may not wait for tiles of its own.
if [ -z "${TSAN_OPTIONS-}" ]; then
    large=(--preset 20m --data "$work/text" --seq 16 --steps 1)
    run ofl-finetune "${large[@]}" --in-memory --report "$work/memory.json"
    wanted 20m in memory
    refuse 'smallest workable --device-mem' ofl-finetune "${large[@]}" --device-mem 4K --nvme "$work"
    run ofl-finetune "${large[@]}" --device-mem "$(smallest --device-mem)" --host-mem 2M --nvme "$work" \
        --report "$work/placed.json"
    wanted 20m with the smallest budgets
    same "$work/memory.json" "$work/placed.json" '20m with the smallest budgets'
fi

# ---- larger runs, too slow under a sanitizer --------------------------------

if [ -z "${OFL_TEST_LIGHT-}" ]; then
    # Where the library's own tiles grow with the budget, so does what it keeps free: more is still enough.
    wide=("${tiny[@]}" --batch 16 --seq 128 --accum 2 --steps 1 --device-mem 20M)
    refuse 'smallest workable --host-mem' ofl-finetune "${wide[@]}" --host-mem 5M
    for bytes in $(smallest --host-mem) 32M 33M; do
        run ofl-finetune "${wide[@]}" --host-mem "$bytes"
        wanted "${wide[@]}" --host-mem "$bytes"
    done
    # An activation that does not fit the last stride of the store, but the budget.
    wide=("${tiny[@]}" --batch 200 --seq 128 --accum 1 --steps 1 --device-mem 300M --host-mem 2M)
    refuse 'smallest workable SIZE' ofl-finetune "${wide[@]}" --nvme "$work:4K"
    wide+=(--nvme "$work:$(smallest SIZE)")
    run ofl-finetune "${wide[@]}"
    wanted "${wide[@]}"

    # Without clipping, updates run under the backward pass: fills that read ahead of their turn were
    # evicted by them and read again, twice the bytes that the same run needs with clipping.
    volume() {
        run ofl-finetune --preset 20m --data "$work/text" --seq 16 --steps 3 --device-mem 23M --host-mem 2M --nvme "$work" \
            --clip "$1" --report "$work/volume.json"
        wanted "volume, clip $1"
        sed -n 's/.*"nvme_read": \([0-9]*\).*/\1/p' "$work/volume.json"
    }
    clipped=$(volume 1)
    unclipped=$(volume 0)
    if [ -z "$clipped" ] || [ -z "$unclipped" ] || [ $((unclipped * 10)) -gt $((clipped * 14)) ]; then
        complain "reads $unclipped bytes without clipping, $clipped with"
    fi
fi

# ---- bad input --------------------------------------------------------------

refuse 'not a whole number' ofl-finetune "${tiny[@]}" --steps 0
refuse 'not a size' ofl-finetune "${tiny[@]}" --device-mem 12Q
refuse 'f32 or bf16' ofl-finetune "${tiny[@]}" --dtype f16
refuse 'one more than the 8 directories' ofl-finetune "${tiny[@]}" --device-mem 8M --nvme "$work" --nvme "$work" \
    --nvme "$work" --nvme "$work" --nvme "$work" --nvme "$work" --nvme "$work" --nvme "$work" --nvme "$work"
refuse 'No such file' ofl-finetune "${tiny[@]}" --device-mem 8M --nvme "$work/absent"
refuse 'No such file' ofl-finetune --preset tiny --data "$work/absent"
refuse 'No such file' ofl-finetune "${tiny[@]}" --out "$work/absent/deeper"
refuse 'none of that name' ofl-finetune --preset huge --data "$work/text"
refuse 'needed' ofl-finetune --preset tiny
refuse 'exclude' ofl-finetune "${tiny[@]}" --model x
refuse 'smallest workable --host-mem' ofl-finetune "${tiny[@]}" --device-mem 8M --host-mem 1M --nvme "$work"
refuse 'positions end' ofl-finetune "${tiny[@]}" --seq 4096
: >"$work/empty"
refuse '0 tokens' ofl-finetune --preset tiny --data "$work/empty"
refused=1 refuse 'step 2: the loss is \(nan\|[0-9.]*\), the gradient norm nan' ofl-finetune "${tiny[@]}" --lr 1e5 --weight-decay 1e5 --decay-all --clip 0 --steps 20 --out "$work/refused"
refuse '--eps 0' ofl-finetune "${tiny[@]}" --eps 0
run ofl-finetune --preset tiny --data "$work/text" --report "$work/absent/r.json"
[ "$status" -eq "$(refusal)" ] || complain "--report in no directory: exit status $status"
# What is there and is no regular file is written to, never replaced; a link stays a link.
mkfifo "$work/fifo"
exec {reader}<>"$work/fifo"
run ofl-finetune "${tiny[@]}" --steps 1 --in-memory --report "$work/fifo"
wanted --report to a FIFO
[ -p "$work/fifo" ] || complain "--report replaced a FIFO by a file"
# What the FIFO holds by now, and no waiting for more.
dd if="$work/fifo" iflag=nonblock of="$work/through" 2>/dev/null
exec {reader}>&-
grep -q '"state_hash"' "$work/through" || complain "the FIFO got no report"
: >"$work/behind"
ln -s behind "$work/link"
run ofl-finetune "${tiny[@]}" --steps 1 --in-memory --report "$work/link"
wanted --report through a link
[ -L "$work/link" ] || complain "--report replaced a link by a file"
grep -q '"state_hash"' "$work/behind" || complain "what the link leads to got no report"
ln -s absent/file "$work/dangling"
run ofl-finetune "${tiny[@]}" --steps 1 --in-memory --report "$work/dangling"
[ "$status" -eq "$(refusal)" ] || complain "--report through a link to nowhere: exit status $status"
# A report holds prompts: no more may read it than umask, or the file that it replaces, lets.
mode() {
    run ofl-finetune "${tiny[@]}" --steps 1 --in-memory --report "$work/$2"
    wanted "--report, a new one"
    [ "$(stat -c %a "$work/$2")" = "$1" ] || complain "--report: mode $(stat -c %a "$work/$2"), not $1"
}
(umask 077 && mode 600 private.json)
(umask 002 && mode 664 shared.json)
chmod 640 "$work/private.json"
(umask 022 && mode 640 private.json)
run ofl-finetune --help
wanted --help
run ofl-generate --version
wanted --version

# ---- an end by signal --------------------------------------------------------

ran='ofl-finetune --steps 100000, and SIGTERM'
env --default-signal "$bin/ofl-finetune" --device host "${tiny[@]}" --steps 100000 --out "$work/ended" \
    --report "$work/ended.json" --timeline "$work/cut.json" >"$work/out" 2>"$work/err" &
child=$!
until_true "$child" grep -q '^step 2/' "$work/err" || complain "it ended before its second step"
kill -TERM "$child"
status=0
wait "$child" || status=$?
[ "$status" -eq 143 ] || complain "SIGTERM: exit status $status"
says 'stopping after this step; again to end now' "$work/err" SIGTERM
judged "$work/cut.json"
[ -z "$(compgen -G "$work/ended*")" ] || complain "SIGTERM left $(compgen -G "$work/ended*")"

[ "$real" -eq 1 ] || skipped+=("the real checkpoint, $story and $shakespeare: absent")
finish
