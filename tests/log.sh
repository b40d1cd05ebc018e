#!/bin/bash
# Proves what ofl-finetune tells of its steps: --log has a line for each, as JSON and as CSV, with the report's numbers; a
# run that is killed and goes on has each step once; a file that is no log is never cut. On a terminal each step's line
# stays above one with an ETA. --quiet leaves complaints and warnings. A FIFO without a reader holds no program past a
# signal. A report replaces nothing that is read; stall is never above the time; other figures that made no sense.
#
# It can fail: a line that is missing in a log is shown to be missed.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash log
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

for _ in $(seq 40); do printf 'abcdefghijklmnopqrstuvwxyz'; done >"$work/text"
train=("$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32)

# numbers LOG: the steps that it has, in one line.
numbers() {
    case $1 in
    *.csv) tail -n +2 "$1" | cut -d , -f 1 ;;
    *) sed -n 's/^{"step": \([0-9]*\), "steps": [0-9]*, "loss": [0-9.e+-]*, .*"stall_s": [0-9.]*}$/\1/p' "$1" ;;
    esac | tr '\n' ' '
}
# losses LOG, or REPORT
losses() {
    case $1 in
    *.csv) tail -n +2 "$1" | cut -d , -f 3 ;;
    *.jsonl) sed 's/.*"loss": \([^,]*\),.*/\1/' "$1" ;;
    *) sed -n '/^  "loss": \[/,/\]/s/^    \([^,]*\),*$/\1/p' "$1" ;;
    esac
}

for kind in jsonl csv; do
    log=$work/run.$kind
    limited "${train[@]}" --steps 4 --log "$log" --report "$work/four.json"
    wanted "--log $kind"
    [ "$(numbers "$log")" = '1 2 3 4 ' ] || complain "--log $kind has the steps $(numbers "$log")"
    paste <(losses "$log") <(losses "$work/four.json") | awk '{ d = $1 - $2; if (d < 0) d = -d; bad += d > 1e-12 } END { exit bad || NR != 4 }' ||
        complain "--log $kind: other losses than the report's"
    # An earlier log is replaced.
    limited "${train[@]}" --steps 2 --log "$log"
    wanted "--log $kind, again"
    [ "$(numbers "$log")" = '1 2 ' ] || complain "--log $kind, again, has the steps $(numbers "$log")"

    # Steps behind the last commit come again; what a killed process left of a line is cut.
    store=$work/store.$kind
    limited "${train[@]}" --steps 3 --log "$log" --store "$store"
    wanted "--log and --store"
    case $kind in
    csv) printf '4,3,5.5,1,1,32,1,32,0\n5,3,5.' >>"$log" ;;
    *) printf '{"step": 4, "steps": 3, "loss": 5.5, "stall_s": 0.1}\n{"step": 5, "st' >>"$log" ;;
    esac
    limited "${train[@]}" --steps 5 --log "$log" --store "$store" --resume
    wanted "--log and --resume"
    [ "$(numbers "$log")" = '1 2 3 4 5 ' ] || complain "--log $kind and --resume has the steps $(numbers "$log")"
    sed -i 3d "$log"
    [ "$(numbers "$log")" != '1 2 3 4 5 ' ] || complain "a line that is missing is not missed"

    printf 'precious\n' >"$work/mine.$kind"
    limited "${train[@]}" --steps 1 --log "$work/mine.$kind"
    [ "$status" -eq "$(refusal)" ] || complain "a file that is no log: exit status $status, not $(refusal)"
    says 'is no log of ofl-finetune' "$work/err" "a file that is no log"
    [ "$(cat "$work/mine.$kind")" = precious ] || complain "a file that is no log is not what it was"
done
# Evaluations have lines of their own, behind their steps', with the report's losses; a run that goes on has each once.
# evals LOG: their steps and losses.
evals() {
    case $1 in
    *.csv) awk -F , 'NR > 1 && $10 != "" { print $1, $10 }' "$1" ;;
    *) sed -n 's/^{"step": \([0-9]*\), "steps": [0-9]*, "eval_loss": \([0-9.e+-]*\)}$/\1 \2/p' "$1" ;;
    esac
}
for kind in jsonl csv; do
    log=$work/eval.$kind
    limited "${train[@]}" --steps 4 --eval "$work/text" --eval-every 2 --log "$log" --store "$work/store.eval.$kind"
    wanted "--log $kind and --eval"
    limited "${train[@]}" --steps 6 --eval "$work/text" --eval-every 2 --log "$log" --store "$work/store.eval.$kind" --resume \
        --report "$work/eval.json"
    wanted "--log $kind, --eval and --resume"
    evals "$log" >"$work/evals"
    sed -n '/^  "eval": \[/,/^  \]/p' "$work/eval.json" | awk '/"step":/ { step = $2 + 0 } /"loss":/ { print step, $2 + 0 }' >"$work/evals.json"
    paste -d ' ' "$work/evals" "$work/evals.json" | awk '{ d = $2 - $4; if (d < 0) d = -d; bad += $1 != $3 || d > 1e-5 } END { exit bad || NR != 3 }' ||
        complain "--log $kind: evaluations $(tr '\n' ' ' <"$work/evals"), in the report $(tr '\n' ' ' <"$work/evals.json")"
    [ "$(cut -d , -f 1 "$log" | grep -o '[0-9]*' | tr '\n' ' ')" = '1 2 2 3 4 4 5 6 6 ' ] || complain "--log $kind: lines out of order"
done
limited "${train[@]}" --steps 1 --log "$work/run.txt"
[ "$status" -eq "$(refusal)" ] || complain "--log run.txt: exit status $status, not $(refusal)"
says 'ends in .jsonl' "$work/err" "--log run.txt"

# Stall is of the steps, and not above their time.
limited "${train[@]}" --steps 3 --device-mem 4M --host-mem 2M --nvme "$work" --log "$work/run.csv"
wanted "small budgets"
tail -n +2 "$work/run.csv" | awk -F , '{ bad += $9 > $7 } END { exit bad || NR != 3 }' || complain "a stall above the step's time: $(cat "$work/run.csv")"
sed -n 's/.*stall \([0-9.]*\) of \([0-9.]*\) s$/\1 \2/p' "$work/err" | awk '{ bad += $1 > $2 } END { exit bad || NR != 1 }' ||
    complain "stall above the time: $(grep 'stall.*of' "$work/err")"

# A report replaces nothing that is read, and no other output.
limited "${train[@]}" --steps 1 --out "$work/m"
wanted "a model"
cp "$work/text" "$work/text.csv"
ln -s text "$work/link"
mkdir "$work/a" && : >"$work/a/adapter_config.json"
sums() { cat "$work/text" "$work/text.csv" "$work/m/"* | sha256sum; }
before=$(sums)
# refuse WORDS ARGUMENT...
refuse() {
    local words=$1
    shift
    limited "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status, not $(refusal)"
    says "$words" "$work/err" "$*"
    [ "$(sums)" = "$before" ] || complain "$*: something is not what it was"
}
for option in report timeline; do
    refuse "--$option .*: --data .* is read, and would be replaced" "${train[@]}" --steps 1 "--$option" "$work/text"
    refuse "--$option .*: --data .* is read" "${train[@]}" --steps 1 "--$option" "$work/link"
    refuse "--$option .*: --eval .* is read" "${train[@]}" --steps 1 --eval "$work/text.csv" "--$option" "$work/text.csv"
    refuse "--$option .*: --model .* is read" "$bin/ofl-generate" --device host --model "$work/m" --prompt x "--$option" "$work/m/config.json"
    refuse "--$option .*: --adapter .* is read" "$bin/ofl-generate" --device host --model "$work/m" --prompt x --adapter "$work/a:2" "--$option" "$work/a/adapter_config.json"
    refuse "--$option .*: --prompts .* is read" "$bin/ofl-generate" --device host --model "$work/m" --prompts "$work/text" "--$option" "$work/text"
done
refuse '--log .*: --eval .* is read' "${train[@]}" --steps 1 --eval "$work/text.csv" --log "$work/text.csv"
refuse 'it is the file of --report, too' "${train[@]}" --steps 1 --report "$work/both" --timeline "$work/both"
mkdir "$work/empty"
refuse '--out .* is to be the model.s alone' "${train[@]}" --steps 1 --out "$work/empty" --report "$work/empty/config.json"

# One token has no speed; two have one.
limited "$bin/ofl-generate" --device host --model "$work/m" --prompt ab --max-tokens 1
says ' 1 generated, stall' "$work/err" "one token"
limited "$bin/ofl-generate" --device host --model "$work/m" --prompt ab --max-tokens 2 --temperature 0
says ' generated at [1-9][0-9.]* tokens/s, stall\|, 1 generated, stall' "$work/err" "two tokens"

# No line -1.
limited "$bin/ofl-bench" plot "$work/absent.json" "$work/plot.svg"
[ "$status" -eq "$(refusal)" ] || complain "a report that is not there: exit status $status, not $(refusal)"
says 'absent.json: No such file' "$work/err" "a report that is not there"
! grep -q 'line -1' "$work/err" || complain "a line -1"
for option in --out --report --data --model; do
    limited "${train[@]}" "$option="
    [ "$status" -eq "$(refusal)" ] || complain "$option=: exit status $status, not $(refusal)"
    says "${option#--}: the value is empty" "$work/err" "$option="
done

# --quiet
limited "${train[@]}" --steps 2 --quiet
wanted "--quiet"
[ ! -s "$work/err" ] || complain "--quiet says $(head -n 1 "$work/err")"
limited "${train[@]}" --steps 2 --quiet --lr -1
says '--lr -1: not a number' "$work/err" "--quiet and a complaint"

# On a terminal.
if script -q -c true /dev/null >/dev/null 2>&1; then
    printf -v line '%q ' "${train[@]}" --preset 20m --steps 4
    ran="$line, in a terminal"
    status=0
    script -q -e -c "$line" "$work/typescript" >"$work/out" 2>"$work/err" </dev/null || status=$?
    wanted "a terminal"
    [ "$(tr '\r' '\n' <"$work/typescript" | grep -c 'step [0-9]*/4 loss .* s$')" -eq 4 ] || complain "not 4 lines of steps in a terminal"
    ! tr '\r' '\n' <"$work/typescript" | sed -n '/step 1\/4/,$p' | grep -q loading || complain "loading is drawn below steps"
    says 'of 4 steps, ETA [0-9]*:[0-9][0-9]:[0-9][0-9] ' "$work/typescript" "a terminal"
else
    skipped+=("script, for a terminal")
fi

# A FIFO that nobody reads.
mkfifo "$work/fifo" "$work/fifo.jsonl"
for option in report log timeline; do
    path=$work/fifo
    [ $option != log ] || path+=.jsonl
    ran="--$option to a FIFO"
    env --default-signal "${train[@]}" --steps 1 "--$option" "$path" >"$work/out" 2>"$work/err" &
    child=$!
    begun $child ofl-finetune
    until_true $child grep -q '^waiting for a reader of ' "$work/err" || complain "--$option to a FIFO: it ended before a signal"
    kill -TERM $child
    status=0
    wait $child || status=$?
    [ "$status" -eq 143 ] || complain "--$option to a FIFO and SIGTERM: exit status $status, not 143"
done
finish
