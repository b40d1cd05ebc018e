#!/bin/bash
# Proves what ofl-finetune promises of --store beside what kill.sh does: SIGINT, SIGTERM and SIGHUP are answered at once,
# and end in a commit, also where the terminal has gone or nobody reads; the second one ends at once; a run goes on to the
# same bits, with more steps too; options that would change its numbers are refused by name, with both values; a loss that
# is no number, a full file system and limits of the process cost no more than the steps since the last commit; and a
# store is written out without training.
#
# It can fail: with a commit that never comes (--commit-every beyond the run) only the signal's is there to go on from,
# and a full file system that is not full any more is seen to be written to again.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash keep
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

program=("$bin/ofl-finetune" --device host)
yes 'All that is gold does not glitter, not all those who wander are lost. 0123456789' | head -n 80 >"$work/text"
sed 's/gold/lead/' "$work/text" >"$work/other"
budgets=(--device-mem 8M --host-mem 8M)
tiny=(--preset tiny --data "$work/text" --seq 32 --batch 2 --lr 1e-3)
store=$work/store

# What must not depend on how often a run was stopped.
essence() {
    sed -n '/^  "loss": \[/,/^  \]/p; /^  "grad_norm": \[/,/^  \]/p; /^  "state_hash"/p' "$1"
}

same() {
    cmp -s <(essence "$1") <(essence "$2") || complain "$3: other results than without a stop"
}

run() {
    limited "${program[@]}" "$@"
}

# refuse STATUS 'words' arguments...: on a store that is there.
refuse() {
    local wanted=$1 words=$2
    shift 2
    run "$@"
    [ "$wanted" -ne 2 ] || wanted=$(refusal)
    [ "$status" -eq "$wanted" ] || complain "$*: exit status $status, not $wanted"
    says "$words" "$work/err" "$*"
}

# shellcheck disable=SC2317  # called by until_true
two_steps() { [ "$(grep -c '^step ' "$log")" -ge 2 ]; }

# begin arguments...: in the background, until its second step; its process in child, its words in log.
log=$work/err
begin() {
    ran="$* (in the background)"
    : >"$log" # what is awaited is not the one before's
    env --default-signal "${program[@]}" "$@" >"$work/out" 2>"$log" &
    child=$!
    until_true $child two_steps || complain "it ended before its second step"
}

# ended STATUS: it ends so.
ended() {
    status=0
    wait "$child" || status=$?
    [ "$status" -eq "$1" ] || complain "exit status $status, not $1"
}

run "${tiny[@]}" --steps 8 --in-memory --report "$work/eight.json" --out "$work/eight"
wanted "eight steps"
run "${tiny[@]}" --steps 12 --in-memory --report "$work/twelve.json"
wanted "twelve steps"

# ---- a store, and what is refused there --------------------------------------------

refuse 2 'the smallest workable SIZE' "${tiny[@]}" "${budgets[@]}" --steps 8 --store "$store:4M"
size=$(sed -n 's/.*smallest workable SIZE is \([0-9]*\).*/\1/p' "$work/err")
[ ! -e "$store" ] || complain "a refusal makes the store"
run "${tiny[@]}" "${budgets[@]}" --steps 8 --store "$store:$size" --resume --report "$work/kept.json"
wanted "a store of the smallest size"
says 'nothing was committed in .* yet' "$work/err" "--resume of nothing"
same "$work/eight.json" "$work/kept.json" "a store of the smallest size"

kept=("${tiny[@]}" "${budgets[@]}" --store "$store")
refuse 2 'a run is there, at step 8 of 8: --resume goes on' "${kept[@]}" --steps 8
refuse 2 '--lr is 0.002, and 0.001 in the run' "${tiny[@]}" "${budgets[@]}" --store "$store" --resume --lr 2e-3 --steps 8
refuse 2 '--clip is 0, and 1 in the run' "${kept[@]}" --resume --clip 0 --steps 8
refuse 2 '--decay-all is true, and false in the run' "${kept[@]}" --resume --decay-all --steps 8
refuse 2 '--seed is 2, and 1 in the run' "${kept[@]}" --resume --seed 2 --steps 8
refuse 2 '--seq is 64, and 32 in the run' "${kept[@]}" --resume --seq 64 --steps 8
refuse 2 '--accum is 2, and 1 in the run' "${kept[@]}" --resume --accum 2 --steps 8
refuse 2 '--dtype is "bf16", and "f32" in the run' "${kept[@]}" --resume --dtype bf16 --steps 8
refuse 2 '--shuffle is true, and false in the run' "${kept[@]}" --resume --shuffle --steps 8
refuse 2 '--steps 7, and 8 in the run in .*, which is at step 8' "${kept[@]}" --resume --steps 7
refuse 2 '--data gives [0-9]* tokens .*, of which some are others' --preset tiny --data "$work/other" --seq 32 --batch 2 \
    --lr 1e-3 "${budgets[@]}" --store "$store" --resume --steps 8
refuse 2 '--preset is "20m", and "tiny" in the run' --preset 20m --data "$work/text" --seq 32 --batch 2 --lr 1e-3 \
    --device-mem 64M --host-mem 8M --store "$store" --resume --steps 8
refuse 2 '--in-memory and --store' "${tiny[@]}" --in-memory --store "$store" --steps 8
refuse 2 '--resume goes with --store' "${tiny[@]}" --resume
refuse 2 '--commit-every goes with --store' "${tiny[@]}" --commit-every 2
refuse 2 '--adjust goes with --resume' "${kept[@]}" --adjust
refuse 2 'not auto, nor a whole number' "${kept[@]}" --commit-every 0
mkdir "$work/full"
cp "$work/text" "$work/full"
refuse 2 "$work/full" "${tiny[@]}" "${budgets[@]}" --steps 8 --store "$work/full"
cmp -s "$work/text" "$work/full/text" || complain "what lay in a directory that is no store is not left alone"
refuse 2 'not a directory' "${tiny[@]}" "${budgets[@]}" --steps 8 --store "$work/text"
refuse 2 'nothing is committed there' --export-store "$work/none" --out "$work/none-out"
[ ! -e "$work/none" ] || complain "--export-store makes a store"

# More steps, on other budgets; the report has all of them.
run "${tiny[@]}" --device-mem 64M --host-mem 32M --nvme "$work" --store "$store" --resume --steps 12 --report "$work/kept.json"
wanted "more steps"
same "$work/twelve.json" "$work/kept.json" "eight steps, and four more"
sed -n '/^  "resumed": \[/,/^  \]/p' "$work/kept.json" | grep -qx ' *8' || complain "the report does not say where it went on"
# One that is done goes on to its end: what --out and --report lack.
run "${kept[@]}" --resume --steps 12 --report "$work/again.json"
wanted "a run that is done"
same "$work/twelve.json" "$work/again.json" "a run that is done"

# Other settings from a step on, on purpose.
run "${kept[@]}" --resume --adjust --lr 1e-4 --clip 0.5 --steps 14 --report "$work/kept.json"
wanted "--adjust"
says '--lr is 0.0001 from step 13 on, it was 0.001' "$work/err" "--adjust"
says '"option": "--clip"' "$work/kept.json" "--adjust"

# A commit in the middle of a run, where BF16 weights are dropped when they have served: killed behind it.
bf16_steps=30
[ -z "${OFL_TEST_LIGHT-}" ] || bf16_steps=14
half=(--preset tiny --data "$work/text" --seq 32 --batch 4 --accum 2 --lr 1e-3 --dtype bf16 --steps "$bf16_steps")
run "${half[@]}" --in-memory --report "$work/half.json"
wanted "BF16"
for memory in "${budgets[*]}" ''; do
    read -r -a more <<<"$memory"
    rm -rf "$store"
    begin "${half[@]}" "${more[@]}" --commit-every 4 --store "$store"
    until_true $child grep -q '^committed step' "$work/err" || complain "no commit before the end"
    kill -KILL $child
    ended 137
    run "${half[@]}" "${more[@]}" --store "$store" --resume --report "$work/kept.json"
    wanted "BF16, killed behind a commit"
    same "$work/half.json" "$work/kept.json" "BF16, killed behind a commit"
done

# ---- writing out --------------------------------------------------------------------

rm -rf "$store"
run "${kept[@]}" --steps 8
wanted "a run without --out"
run --export-store "$store" --out "$work/written"
wanted "--export-store"
says 'step 8 of 8' "$work/err" "--export-store"
cmp -s "$work/eight/model.safetensors" "$work/written/model.safetensors" || complain "--export-store: other weights than --out"
cmp -s "$work/eight/config.json" "$work/written/config.json" || complain "--export-store: another config.json than --out"
refuse 2 exists --export-store "$store" --out "$work/written"
lora=(--model "$work/written" --data "$work/text" --seq 32 --steps 3 --lora 4 "${budgets[@]}")
run "${lora[@]}" --out "$work/adapter"
wanted "adapters without a store"
run "${lora[@]}" --store "$work/lora"
wanted "adapters in a store"
run --export-store "$work/lora" --out "$work/adapter2"
wanted "--export-store of adapters"
cmp -s "$work/adapter/adapter_model.safetensors" "$work/adapter2/adapter_model.safetensors" ||
    complain "--export-store: another adapter than --out"

# While it runs.
ran='SIGUSR1'
begin "${tiny[@]}" --steps 400000 --batch 8 --out "$work/run"
kill -USR1 $child
until_true $child grep -q '^wrote ' "$work/err" || complain "SIGUSR1 ends it"
kill -INT $child
ended 130
step=$(sed -n 's/^wrote .*run.step-\([0-9]*\)$/\1/p' "$work/err")
[ ! -e "$work/run" ] || complain "SIGUSR1, and an interrupt: --out is there"
run "${tiny[@]}" --steps "${step:-1}" --batch 8 --out "$work/straight"
cmp -s "$work/straight/model.safetensors" "$work/run.step-$step/model.safetensors" || complain "SIGUSR1: not the weights of step $step"

# ---- signals -------------------------------------------------------------------------

long=(--preset tiny --data "$work/text" --seq 32 --batch 8 --accum 2 --lr 1e-3)
slow=("${long[@]}" "${budgets[@]}" --steps 400000)
for signal in INT TERM HUP; do
    rm -rf "$store"
    begin "${slow[@]}" --store "$store" --commit-every 1000000
    kill "-$signal" $child
    ended $((128 + $(kill -l "$signal")))
    says 'stopping after this step; again to end now' "$work/err" "SIG$signal"
    says 'stopped after step [0-9]* of 400000, which is committed in .*store: the same command with --resume' "$work/err" "SIG$signal"
    [ "$signal" != HUP ] || step=$(sed -n 's/.*stopped after step \([0-9]*\) of.*/\1/p' "$work/err")
done
refuse 2 "a run is there, at step $step of 400000" "${slow[@]}" --store "$store"

# Another run on the same store, while one is there.
log=$work/first
begin "${slow[@]}" --store "$store" --resume
log=$work/err
refuse 2 "$store" "${slow[@]}" --store "$store" --resume
kill -TERM $child
ended 143

# The second signal ends at once, a hang-up that comes twice does not.
begin "${slow[@]}" --store "$store" --resume --commit-every 1000000
kill -INT $child && kill -TERM $child
status=0
wait $child || status=$?
[ "$status" -eq 143 ] || [ "$status" -eq 130 ] || complain "two signals: exit status $status"
! grep -q 'which is committed' "$work/err" || complain "two signals: it still committed"
begin "${slow[@]}" --store "$store" --resume --commit-every 1000000
kill -HUP $child
until_true $child grep -q 'stopping after this step' "$work/err"
kill -HUP $child
ended 129
says 'which is committed' "$work/err" "SIGHUP twice"

# While data is read.
mkfifo "$work/fifo"
(while sleep 0.05; do cat "$work/text"; done >"$work/fifo") 2>/dev/null &
feeder=$!
ran='reading data, and SIGTERM'
env --default-signal "${program[@]}" --preset tiny --data "$work/fifo" --store "$work/none" >"$work/out" 2>"$work/err" &
child=$!
begun $child ofl-finetune
# shellcheck disable=SC2317
catches_term() { [ $((0x$(sed -n 's/^SigCgt:[^0-9a-f]*//p' "/proc/$child/status") >> 14 & 1)) -eq 1 ]; }
until_true $child catches_term
until [ "$(readlink "/proc/$child/fd/"* 2>/dev/null | grep -c fifo)" -gt 0 ]; do sleep 0.05; done
kill -TERM $child
ended 143
says 'stopping after this piece; again to end now' "$work/err" "SIGTERM while data is read"
kill $feeder 2>/dev/null

# A terminal that goes away: writes fail, and yet there is a commit.
rm -rf "$store"
printf -v line '%q ' "${program[@]}" "${slow[@]}" --store "$store" --commit-every 1000000
if script -q -c true /dev/null >/dev/null 2>&1; then
    ran="$line, in a terminal that goes away"
    script -q -f -c "echo \$\$ >$(printf %q "$work/pid"); exec $line" "$work/typescript" >/dev/null 2>&1 </dev/null &
    terminal=$!
    until_true $terminal grep -qs 'step [2-9]/' "$work/typescript" || complain "no steps in a terminal"
    child=$(cat "$work/pid")
    kill -KILL $terminal
    while kill -0 "$child" 2>/dev/null; do sleep 0.1; done
    refuse 2 'a run is there, at step [0-9]* of 400000' "${slow[@]}" --store "$store"
else
    skipped+=("script, for a terminal that goes away")
fi

# Nobody reads its output: no SIGPIPE.
rm -rf "$store"
ran='output that nobody reads'
{ env --default-signal "${program[@]}" "${kept[@]}" --steps 8 --report "$work/kept.json" 2>&1; echo $? >"$work/status"; } | head -n 1 >/dev/null
[ "$(cat "$work/status")" = 0 ] || complain "nobody reads: exit status $(cat "$work/status")"
same "$work/eight.json" "$work/kept.json" "nobody reads"

# ---- what goes wrong ------------------------------------------------------------------

# A loss that is no number.
rm -rf "$store"
wild=(--preset tiny --data "$work/text" --seq 32 --batch 2 --weight-decay 1e5 --decay-all --clip 0 "${budgets[@]}" --store "$store" --commit-every 1)
run --preset tiny --data "$work/text" --seq 32 --batch 2 --weight-decay 1e5 --decay-all --clip 0 "${budgets[@]}" --store "$store" --steps 2 --lr 1e-4
wanted "two steps before a loss that is no number"
refuse 1 'stopped, and not committed; go on with --resume --adjust' "${wild[@]}" --resume --adjust --lr 1e5 --steps 30
says 'the last commit in .*store is that of step [0-9]*' "$work/err" "a loss that is no number"
run "${wild[@]}" --resume --adjust --lr 1e-4 --weight-decay 0 --steps 30 --report "$work/kept.json"
wanted "going on behind a loss that is no number"
# A weight that only the last update has made no number: the one of a unit that never gives anything.
run --preset tiny --data "$work/text" --seq 32 --steps 1 --lr 0 --out "$work/big"
weights=$work/big/model.safetensors
length=$(od -An -tu8 -N8 "$weights" | tr -d ' ')
at() { head -c $((length + 8)) "$weights" | sed -n "s/.*\"model.layers.0.mlp.$1.weight\":{[^}]*\"data_offsets\":\[\([0-9]*\),.*/\1/p"; }
poke() { dd of="$weights" bs=1 seek=$((8 + length + $(at "$1"))) conv=notrunc 2>/dev/null; }
head -c 512 /dev/zero | poke gate_proj
printf '\312\362\111\161' | poke down_proj # 1e30
over=(--model "$work/big" --data "$work/text" --seq 32 --steps 1 --lr 1e6 --weight-decay 1e6 --decay-all --clip 0)
refuse 1 'down_proj.weight holds a value that is not a finite number' "${over[@]}"
rm -rf "$store"
refuse 1 'down_proj.weight holds a value that is not a finite number: stopped, and not committed' "${over[@]}" --store "$store"
says 'nothing is committed' "$work/err" "a weight that is no number"

# Files that can't grow; no more files.
rm -rf "$store"
ran='RLIMIT_FSIZE'
status=0
(ulimit -f 4096 && exec "${program[@]}" "${kept[@]}" --steps 8) >"$work/out" 2>"$work/err" || status=$?
if [ "$status" -ne 4 ]; then complain "RLIMIT_FSIZE: exit status $status"; fi
says 'File too large' "$work/err" RLIMIT_FSIZE
run "${kept[@]}" --steps 8 --resume --report "$work/kept.json"
wanted "behind RLIMIT_FSIZE"
same "$work/eight.json" "$work/kept.json" "behind RLIMIT_FSIZE"

rm -rf "$store"
if command -v prlimit >/dev/null; then
    leaks=${ASAN_OPTIONS-} # LeakSanitizer needs a descriptor at the end
    export ASAN_OPTIONS=$leaks:detect_leaks=0
    begin "${slow[@]}" --steps 12 --store "$store" --commit-every 1 --report "$work/kept.json"
    until_true $child grep -q '^committed step' "$work/err"
    prlimit --pid $child --nofile=3:3
    status=0
    wait $child || status=$?
    [ "$status" -eq 4 ] || complain "RLIMIT_NOFILE: exit status $status, not 4"
    export ASAN_OPTIONS=$leaks
    says 'Too many open files' "$work/err" RLIMIT_NOFILE
    run "${slow[@]}" --steps 12 --store "$store" --resume --report "$work/kept.json"
    wanted "behind RLIMIT_NOFILE"
    run "${long[@]}" --steps 12 --report "$work/never.json"
    same "$work/never.json" "$work/kept.json" "behind RLIMIT_NOFILE"
else
    skipped+=("prlimit, for limits that come in the middle")
fi

# A file system that is full from some step on, and not any more. Not under ThreadSanitizer: it needs 120 steps, and does
# what is done without a descriptor, too.
if [ -z "${TSAN_OPTIONS-}" ]; then
    mkdir "$work/volume"
    as_root=(unshare -m)
    [ "$(id -u)" -eq 0 ] || as_root=(unshare -rm)
    cat >"$work/fill.sh" <<'END'
# fill.sh VOLUME ERR COMMAND...: in a mount namespace.
volume=$1 err=$2
shift 2
mount -t tmpfs -o size=160M tmpfs "$volume" || exit 99
: >"$err" # what is awaited is not the log of the run before
"$@" --store "$volume/store" --resume --commit-every 1 2>"$err" &
child=$!
until grep -q '^committed step' "$err" || ! kill -0 $child 2>/dev/null; do sleep 0.05; done
dd if=/dev/zero of="$volume/fill" bs=64k 2>/dev/null
until grep -q 'the commit of step [0-9]* failed' "$err" || ! kill -0 $child 2>/dev/null; do sleep 0.05; done
rm "$volume/fill"
status=0
wait $child || status=$?
cp -r "$volume/store" "$volume/../after"
exit $status
END
    # A note that grows with each step, by its evaluation, needs a block more from time to time.
    head -n 2 "$work/text" >"$work/held"
    growing=(--preset tiny --data "$work/text" --seq 16 --steps 120 --eval "$work/held" --eval-every 1)
    limited "${as_root[@]}" bash "$work/fill.sh" "$work/volume" "$work/filled" "${program[@]}" "${growing[@]}" "${budgets[@]}" --report "$work/kept.json"
    if [ "$status" -eq 99 ] || grep -q 'unshare failed' "$work/err"; then
        skipped+=("mounts in a namespace, for a full file system")
    else
        cat "$work/filled" >>"$work/err"
        wanted "a full file system that is not full any more"
        says 'warning: the commit of step [0-9]* failed: .*No space left' "$work/filled" "a full file system"
        says '^committed step 120' "$work/filled" "a full file system that is not full any more"
        says 'commits failed' "$work/filled" "a full file system"
        run "${growing[@]}" --report "$work/never.json"
        same "$work/never.json" "$work/kept.json" "a full file system"
        run "${growing[@]}" "${budgets[@]}" --store "$work/after" --resume --report "$work/kept.json"
        wanted "the store of a full file system"
        same "$work/never.json" "$work/kept.json" "the store of a full file system"
    fi
fi
finish
