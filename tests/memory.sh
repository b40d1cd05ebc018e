#!/bin/bash
# Proves that what is accepted near a memory limit runs to its end, in a memory cgroup made here: for each
# program the largest budget that its refusal names, with memory that is really used; that a little more is
# refused, with status 2 and the numbers, by limits of the cgroup itself and of those above it; that a store
# on tmpfs counts; that text takes little memory, however long, and is refused where it can't be cut.
#
# It can fail: each limit is so near that without the check the program is killed, which the first case shows
# on budgets that equal the limit (they were accepted once).
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
bin=${OFL_BUILD_DIR:-build}
for program in ofl-finetune ofl-generate ofl-bench; do
    [ -x "$bin/$program" ] || { echo "$bin/$program is not built"; exit 1; }
done
if [ -n "${OFL_TEST_LIGHT-}" ]; then
    echo "a sanitizer's own memory is not what the programs count with"
    exit 77
fi
bin=$(cd "$bin" && pwd)
# ---- a cgroup ----------------------------------------------------------------

group='' limit_file=''
if mkdir "/sys/fs/cgroup/memory/ofl-test-$$" 2>/dev/null; then # version 1
    group=/sys/fs/cgroup/memory/ofl-test-$$
    limit_file=memory.limit_in_bytes
elif mkdir "/sys/fs/cgroup/ofl-test-$$" 2>/dev/null; then # version 2
    group=/sys/fs/cgroup/ofl-test-$$
    limit_file=memory.max
    { echo +memory >/sys/fs/cgroup/cgroup.subtree_control && echo +memory >"$group/cgroup.subtree_control"; } 2>/dev/null
fi
work=$(mktemp -d "$bin/memory.XXXXXX")
shm=''
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ]; then shm=$(mktemp -d /dev/shm/ofl-test.XXXXXX); fi
cleanup() {
    rm -rf "$work" ${shm:+"$shm"}
    [ -z "$group" ] || rmdir "$group/inner" "$group" 2>/dev/null || true
}
trap cleanup EXIT
if [ -z "$group" ] || ! mkdir "$group/inner" 2>/dev/null || [ ! -e "$group/inner/$limit_file" ]; then
    echo "no memory cgroup can be made here: that takes root and the memory controller"
    exit 77
fi
export OFL_PROFILE_DIR=$work/profiles
mkdir "$work/profiles"
failures=0

complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# allow MIB INNER_MIB: the limits of the outer and the inner cgroup.
allow() {
    echo $(($2 << 20)) >"$group/inner/$limit_file" 2>/dev/null || true
    echo $(($1 << 20)) >"$group/$limit_file"
    echo $(($2 << 20)) >"$group/inner/$limit_file"
}

# Runs a program in the inner cgroup; sets status.
run() {
    status=0
    # shellcheck disable=SC2016
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$group/inner" \
        timeout -k 1 120 "$bin/$1" "${@:2}" >"$work/out" 2>"$work/err" || status=$?
}

refuse() {
    local words=$1
    shift
    run "$@"
    [ "$status" -eq 2 ] || complain "$*: exit status $status, not 2: $(tail -n 1 "$work/err")"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words' in: $(cat "$work/err")"
}

wanted() {
    [ "$status" -eq 0 ] || complain "$*: exit status $status: $(tail -n 1 "$work/err")"
}

# What a refusal names.
largest() {
    sed -n "s/.*largest workable $1 beside the rest is \([0-9]*\).*/\1/p" "$work/err"
}

# near OPTION program arguments...: OPTION's largest value runs, 10 MiB more is refused.
near() {
    local option=$1 most
    shift
    refuse "largest workable $option" "$@" "$option" 4G
    most=$(largest "$option")
    [ -n "$most" ] || {
        complain "$*: no largest $option"
        return
    }
    run "$@" "$option" "$most"
    wanted "$@" "$option" "$most"
    refuse 'largest workable' "$@" "$option" $((most + 10485760))
}

# Whole texts do not count, as long as they can be cut: 120 MB, and as many tokens of two bytes, in 110 MiB.
yes 'All that is gold does not glitter, not all those who wander are lost. 0123456789' | head -c 120M >"$work/large"
tiny=(ofl-finetune --device host --preset tiny --seq 32 --steps 1 --device-mem 4M --host-mem 4M --nvme "$work")
allow 110 110
run "${tiny[@]}" --data "$work/large"
wanted "${tiny[@]}" with 120 MB of text
mkfifo "$work/fifo"
cat "$work/large" >"$work/fifo" 2>/dev/null &
run "${tiny[@]}" --data "$work/fifo"
wanted "${tiny[@]}" with a fifo
wait
# What can't be cut is refused before memory ends.
tr -d ' \n,.' <"$work/large" >"$work/solid"
allow 200 200
refuse 'bytes without the beginning of a line or a word' "${tiny[@]}" --data "$work/solid"
rm "$work/large" "$work/solid"

# A tokenizer whose reading would take more than there is.
mkdir "$work/m"
awk 'BEGIN { printf "{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0"
    for (i = 1; i < 400000; i++) printf ", \"token%d\": %d", i, i
    print "}, \"merges\": []}}" }' >"$work/m/tokenizer.json"
echo '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 400000}' >"$work/m/config.json"
allow 110 110
refuse 'tokenizer.json: [0-9]* bytes: reading it takes up to' ofl-generate --device host --model "$work/m" --prompt x

# ---- generation from a checkpoint -----------------------------------------------------

story=../shared/models/story
real=0
if [ -f "$story/model.safetensors" ]; then
    real=1
    allow 100 100
    generate=(ofl-generate --device host --model "$story" --prompt 'Once upon a time' --max-tokens 8 --host-mem 4M)
    near --device-mem "${generate[@]}"
    for mib in 90 400; do # what is chosen where nothing is given fits, too
        allow $mib $mib
        run ofl-generate --device host --model "$story" --prompt 'Once upon a time' --max-tokens 8
        wanted ofl-generate in $mib MiB
    done
fi

[ "$failures" -eq 0 ] || exit 1
if [ "$real" -eq 0 ]; then
    echo "all passed but ofl-generate: $story is absent"
    exit 77
fi
