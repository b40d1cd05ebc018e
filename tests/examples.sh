#!/bin/bash
# Proves that the examples of each --help can be pasted into a shell, one after another, in a directory that has the files
# that they name: bash gets the text as it stands; each ends with 0. What stands for the programs there makes them small:
# other models, budgets and drives, and few steps.
#
# It can fail: an example that is cut short is refused.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash examples
for program in ofl-finetune ofl-generate ofl-bench; do
    [ -x "$bin/$program" ] || { complain "$bin/$program is not built"; finish; }
done
export OFL_PROFILE_DIR=$work/profiles OFL_CUDA_DRIVER=$work/absent.so
mkdir -p "$work"/{here,small,profiles} "$work"/mnt/{scratch,nvme,a,b}

# Stands for each program: NAME, with small values.
cat >"$work/small/stand-in" <<'END'
#!/bin/bash
name=${0##*/} more=() given=()
for word in "$@"; do
    case $word in
    /mnt/*:*G) word=$OFL_ROOT${word%:*}:64M ;;
    /mnt/*) word=$OFL_ROOT$word ;;
    300m | 20m | 1b | 7b | 100b) [ "$1" = plan ] || word=tiny ;;
    [1-9]*G | 512M | 256M) [ "$1" = simulate ] || word=64M ;;
    cuda:1) word=cuda:0 ;;
    auto) [ "$1" != nvme ] || word=2s ;; # --sustained: less is too short
    esac
    given+=("$word")
done
case "$name ${1-}" in
ofl-finetune*)
    case " $* " in
    *' --export-store '* | *' --merge '*) ;;
    *) more=(--device host --seq 32 --steps 2) ;;
    esac
    case " $* " in *' --schedule '*) more+=(--warmup 1) ;; esac ;;
ofl-generate*) more=(--device host --max-tokens 4) ;;
*' nvme')
    more=(--size 128M --repeat 1 --time-s 0.01)
    case " $* " in *' --sustained '*) more=(--idle-s 0) ;; *' --verify-file '*) more=() ;; esac ;;
*' step') more=(--device host --seq 32 --steps 1 --warmup 0) ;;
*' decode') more=(--device host --tokens 2 --warmup 0 --prompt 4) ;;
*' plan') more=(--quick) ;;
*' adam') more=(--elems 5000 --repeats 1 --tensors 4) ;;
*' unpack') more=(--values 4096 --repeats 1) ;;
*' simulate') more=(--layers 2) ;;
esac
[ $# -gt 0 ] || exit 2
exec "$OFL_BIN/$name" "${given[@]}" "${more[@]}"
END
chmod +x "$work/small/stand-in"
for program in ofl-finetune ofl-generate ofl-bench; do ln -s stand-in "$work/small/$program"; done

# The files that examples name.
for _ in $(seq 40); do printf 'abcdefghijklmnopqrstuvwxyz'; done >"$work/here/text.txt"
for _ in 1 2 3; do printf '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'; done >"$work/here/chats.jsonl"
cp "$work/here/chats.jsonl" "$work/here/held.jsonl"
echo Why >"$work/here/question.txt"
limited "$bin/ofl-finetune" --device host --preset tiny --data "$work/here/text.txt" --seq 32 --steps 1 --out "$work/here/story"
wanted "a model"
printf '%s' "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" >"$work/here/story/chat_template.jinja"
for name in llama llama-7b qwen; do ln -s story "$work/here/$name"; done
echo '{"like": "rtx-4090"}' >"$work/here/mine.json"

# commands PROGRAM: how --help goes on behind its word, each line as it stands.
commands() {
    local words
    read -r -a words <<<"$1"
    "$bin/${words[0]}" "${words[@]:1}" --help | sed -n '/^Examples\{0,1\}:/,/^$/{/^Example/d;/^$/d;p}'
}
# paste TEXT: one command, in a shell of its own.
paste() {
    printf '%s\n' "$1" >"$work/line"
    limited env PATH="$work/small:$PATH" OFL_BIN="$bin" OFL_ROOT="$work" bash -c "cd $(printf %q "$work/here") && . $(printf %q "$work/line")"
    ran=$1
}
pasted=0 done=
# What a machine lacks ends with 1, behind the command line.
try() {
    case $1 in
    *'--compare fio'*) command -v fio >/dev/null || { skipped+=(fio) && return; } ;;
    *' plot '* | *'--plot '*) command -v gnuplot >/dev/null || { skipped+=(gnuplot) && return; } ;;
    esac
    # A sanitizer sees no drive.
    case ${OFL_TEST_LIGHT-}$1 in 1*--measure | 1*--sustained* | 1*'--model 20m --nvme'*) return ;; esac
    # The list of commands has some of theirs.
    case $done in *"<$1>"*) return ;; esac
    done+="<$1>"
    paste "$1"
    pasted=$((pasted + 1))
    case $1 in
    'ofl-bench link'*) [ "$status" -eq 1 ] || complain "no GPU: exit status $status, not 1" ;;
    *'--compare torch'*) # without torch it is refused by name
        [ "$status" -eq 0 ] || grep -q -e '--compare torch: it did not start' "$work/err" || complain "no torch: exit status $status" ;;
    *) wanted "an example" ;;
    esac
}
for program in ofl-finetune ofl-generate ofl-bench 'ofl-bench nvme' 'ofl-bench link' 'ofl-bench probe' 'ofl-bench step' \
    'ofl-bench decode' 'ofl-bench plan' 'ofl-bench simulate' 'ofl-bench adam' 'ofl-bench unpack' 'ofl-bench store' 'ofl-bench plot'; do
    command=
    while IFS= read -r line; do
        case $line in '  ofl-'*) [ -z "$command" ] || try "$command"; command= ;; esac
        case $line in '  #'*) continue ;; esac
        command+=${command:+$'\n'}${line#  }
    done < <(commands "$program")
    [ -n "$command" ] || complain "$program --help has no example"
    [ -z "$command" ] || try "$command"
done
[ "$pasted" -ge 28 ] || complain "$pasted examples only"

# The control: as a line that --help would have wrapped.
paste 'ofl-generate --model story --prompt "The sea" --device-mem
64M'
[ "$status" -ne 0 ] || complain "an example that is cut is taken"
finish
