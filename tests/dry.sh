#!/bin/bash
# Proves of --dry-run: it ends with the plan, makes and writes nothing, and says nothing else; each smallest budget that it
# names works beside the others, and one step below it does not; what is refused without it is refused with it.
#
# It can fail: the step below.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash dry
for program in ofl-finetune ofl-generate; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done

for _ in $(seq 40); do printf 'abcdefghijklmnopqrstuvwxyz'; done >"$work/text"
mkdir "$work/drive"
train=("$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32 --steps 1)
files() { (cd "$work" && find . ! -name complaints ! -name out ! -name err -printf '%p %s %T@\n' | sort); }

# dry ARGUMENT...: that, and nothing made.
dry() {
    local before
    before=$(files)
    limited "$@" --dry-run
    wanted "--dry-run"
    [ "$(files)" = "$before" ] || complain "--dry-run: other files than before"
    [ ! -s "$work/err" ] || complain "--dry-run: says $(head -n 1 "$work/err")"
    says '^smallest   --device-mem [0-9]* ' "$work/out" "--dry-run"
    says '^dry run ' "$work/out" "--dry-run"
}
# least OPTION: what the plan names.
least() { sed -n "s/^smallest .*--$1 \([0-9]*\) .*/\1/p" "$work/plan"; }

# each_least DEVICE HOST DRIVE: 0: not given. Each smallest one beside the others.
each_least() {
    local option n below rest given=("$@")
    set_options() { # OPTION VALUE
        rest=()
        [ "${given[0]}" = 0 ] || rest+=(--device-mem "$([ "$1" = device-mem ] && echo "$2" || echo "${given[0]}")")
        [ "${given[1]}" = 0 ] || rest+=(--host-mem "$([ "$1" = host-mem ] && echo "$2" || echo "${given[1]}")")
        [ "${given[2]}" = 0 ] || rest+=(--nvme "$work/drive:$([ "$1" = nvme ] && echo "$2" || echo "${given[2]}")")
    }
    set_options none 0
    dry "${train[@]}" "${rest[@]}"
    cp "$work/out" "$work/plan"
    says '^a step *moves [0-9.]* [KMG]*i*B to the device' "$work/out" "--dry-run"
    for option in device-mem host-mem nvme; do
        n=$(least "$option")
        [ -n "$n" ] || continue
        [[ ${given[*]} != *' 0' || $option != nvme ]] || continue
        set_options "$option" "$n"
        limited "${train[@]}" "${rest[@]}"
        wanted "${given[*]}: the smallest --$option, $n"
        below=$((n - 4096))
        set_options "$option" "$below"
        limited "${train[@]}" "${rest[@]}"
        [ "$status" -eq "$(refusal)" ] || complain "${given[*]}: --$option $below: exit status $status, not $(refusal)"
    done
}
each_least 8M 8M 64M
each_least 8M 64M 0
each_least 64M 4M 0
dry "${train[@]}"
dry "${train[@]}" --store "$work/kept" --device-mem 8M --host-mem 8M --out "$work/out.d" --report "$work/r.json" --log "$work/l.csv"

# refuse WORDS ARGUMENT...
refuse() {
    local words=$1
    shift
    limited "$@" --dry-run
    [ "$status" -eq "$(refusal)" ] || complain "$words: exit status $status, not $(refusal)"
    says "$words" "$work/err" "--dry-run"
    [ ! -s "$work/out" ] || complain "$words: a plan all the same"
}
refuse 'smallest workable --device-mem' "${train[@]}" --device-mem 1M --host-mem 8M --nvme "$work/drive"
refuse 'absent: No such file' "${train[@]}" --data "$work/absent"
refuse 'no such directory\|No such file' "${train[@]}" --report "$work/absent/r.json"

limited "${train[@]}" --out "$work/m"
wanted "a model"
dry "$bin/ofl-generate" --device host --model "$work/m" --prompt abc --max-tokens 8 --device-mem 3M --host-mem 2M
says '^a token *moves' "$work/out" "--dry-run"
n=$(sed -n 's/^smallest   --device-mem \([0-9]*\) .*/\1/p' "$work/out")
limited "$bin/ofl-generate" --device host --model "$work/m" --prompt abc --max-tokens 8 --device-mem "$n" --host-mem 2M
wanted "the smallest --device-mem of ofl-generate"
limited "$bin/ofl-generate" --device host --model "$work/m" --prompt abc --max-tokens 8 --device-mem $((n - 256)) --host-mem 2M
[ "$status" -eq "$(refusal)" ] || complain "a smaller --device-mem of ofl-generate: exit status $status, not $(refusal)"
finish
