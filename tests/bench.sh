#!/bin/bash
# Proves what ofl-bench promises: figures for every kind of run, in a report that says the same as
# the table; bytes that were asked for and no others; clear messages and exit status 2, before
# anything is written, for what can't work; and nothing left behind, however it ends. Speeds are
# not judged.
#
# It can fail: the checks of reports are shown to refuse a damaged one.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash bench
[ -x "$bin/ofl-bench" ] || { complain "$bin/ofl-bench is not built"; finish; }
# A profile of this drive must not decide, and none may be left.
export OFL_PROFILE_DIR=$work/profiles
mkdir "$work/profiles" "$work/dir" "$work/second"

run() {
    limited "$bin/ofl-bench" "$@"
}

# Nothing is left in the measured directories.
clean() {
    local left
    left=$(find "$work/dir" "$work/second" -mindepth 1)
    [ -z "$left" ] || complain "$*: left $left"
}

# refuse 'words of the message' arguments...: exit status 2, that message, nothing written.
refuse() {
    local words=$1
    shift
    run "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status, not $(refusal)"
    grep -q -e "$words" "$work/err" || complain "$*: no '$words'"
    [ ! -s "$work/out" ] || complain "$*: printed $(head -n 1 "$work/out")"
    clean "$*"
}

# field NAME FILE: values of a key of a report, one a line. Reports have one key a line.
field() {
    sed -n 's/^ *"'"$1"'": \(.*[^,]\),\{0,1\}$/\1/p' "$2"
}

# A whole report: an object that ends, with as many results as wanted, and figures above 0.
whole() {
    local file=$1 results=$2
    [ "$(head -c 1 "$file" 2>/dev/null)" = '{' ] && [ "$(tail -n 1 "$file")" = '}' ] || return 1
    [ "$(field rw "$file" | grep -c '^"')" -eq "$results" ] || return 1
    [ "$(field median "$file" | grep -c '^[1-9]\|^0\.0*[1-9]')" -ge $((results * 3)) ] || return 1
    [ "$(field written_bytes "$file")" -gt 0 ]
}

small=(--dir "$work/dir" --size 48M --repeat 2 --time-s 0.1)

# ---- words -------------------------------------------------------------------

run --help
wanted --help
grep -q 'nvme' "$work/out" || complain "--help does not name nvme"
run --version
wanted --version
grep -q '^ofl-bench [0-9]' "$work/out" || complain "--version says $(cat "$work/out")"
for command in nvme link probe plot compare; do
    run "$command" --help
    wanted "$command" --help
    grep -q 'Example' "$work/out" || complain "$command --help has no example"
    grep -q "^Usage: ofl-bench $command" "$work/out" || complain "$command --help: $(head -n 1 "$work/out")"
done
refuse 'Usage'
refuse 'no such command' nvmee
refuse 'dir DIR is needed' nvme
refuse 'No such file' nvme --dir "$work/absent"
refuse 'not a multiple of 512' nvme "${small[@]}" --block 1000
refuse 'not a size' nvme "${small[@]}" --block 1Q
refuse 'not a whole number' nvme "${small[@]}" --depth 0
refuse 'randread' nvme "${small[@]}" --rw rread
refuse 'uring or threads' nvme "${small[@]}" --engine aio
refuse '0 or 1' nvme "${small[@]}" --direct yes
refuse 'sqpoll, iopoll' nvme "${small[@]}" --flags sqpoll,fast
refuse 'only fio' nvme "${small[@]}" --compare dd
refuse 'one --dir' nvme "${small[@]}" --dir "$work/second" --compare fio
refuse 'excludes --block' nvme "${small[@]}" --sweep --block 1M
refuse 'takes one --rw' nvme "${small[@]}" --sweep --rw read,write
refuse 'half of that' nvme --dir "$work/dir" --size 1000T
refuse 'has to hold what is in flight' nvme --dir "$work/dir" --size 4M
refuse 'more than --buffers' nvme --dir "$work/dir" --rw read --size 48M --block 16M --depth 2 --buffers 16M
refuse 'No such file' nvme "${small[@]}" --json "$work/absent/r.json"
refuse 'end with .svg or .png' nvme "${small[@]}" --plot "$work/plot.gif"
refuse 'needs --rw' nvme "${small[@]}" --demand --plot "$work/plot.svg"
refuse 'these runs could write' nvme "${small[@]}" --rw write --max-written 208M
refuse 'these runs could write' nvme "${small[@]}" --rw read --max-written 48M
refuse 'cuda or cuda:N' link --device host
refuse 'not a multiple of 8' link --size 4K,1001
refuse 'in, out or both' link --direction up
refuse 'pinned or pageable' link --memory device
refuse 'not a number' link --check 0
refuse 'excludes --memory pageable' link --memory pageable --check 0.9
refuse 'No such file' link --json "$work/absent/r.json"
refuse 'shipped lists' nvme "${small[@]}" --tensors nothing

# ---- runs --------------------------------------------------------------------

run nvme "${small[@]}" --rw read,write,mixed,randread,randwrite --depth 8 --json "$work/all.json"
wanted every kind of run
clean every kind of run
whole "$work/all.json" 5 || complain "the report of every kind of run is not whole"
for mode in read write mixed randread randwrite; do
    grep -q "^$mode  *[14][MK] " "$work/out" || complain "the table lacks $mode"
done
[ "$(field samples "$work/all.json" | wc -l)" -eq 5 ] || complain "samples are missing"
# Runs that write end after the file's size; the warm-up and the file itself come on top.
most=$((48 * 1048576 * (1 + 2 * 3 + 3)))
[ "$(field written_bytes "$work/all.json")" -le "$most" ] || complain "more was written than is allowed"

# The checks above can fail.
head -n -20 "$work/all.json" >"$work/damaged.json"
! whole "$work/damaged.json" 5 || complain "a damaged report passes"
! whole "$work/all.json" 6 || complain "a missing result passes"

# The file, its warm-up and two runs; what opening it tries comes on top.
run nvme "${small[@]}" --rw write --max-written 209M --json "$work/most.json"
wanted --max-written
[ "$(field written_bytes "$work/most.json")" -le $((209 * 1048576)) ] || complain "--max-written: more was written"

run nvme "${small[@]}" --rw read,randwrite --depth 4 --engine threads --json "$work/threads.json"
wanted --engine threads
clean --engine threads
whole "$work/threads.json" 2 || complain "the report of --engine threads is not whole"
grep -q '"name": "threads"' "$work/threads.json" || complain "--engine threads used another"

run nvme "${small[@]}" --rw read,write --depth 4 --direct 0 --json "$work/buffered.json"
wanted --direct 0
whole "$work/buffered.json" 2 || complain "the report of --direct 0 is not whole"
[ "$(field direct "$work/buffered.json" | head -n 1)" = false ] || complain "--direct 0 was direct"
grep -q '^cache  *buffered' "$work/out" || complain "--direct 0 does not tell the state of the cache"

run nvme "${small[@]}" --dir "$work/second" --rw read --depth 8 --json "$work/two.json"
wanted two directories
clean two directories
[ "$(grep -c '% of the bytes' "$work/out")" -eq 2 ] || complain "two directories: no line for each"

run nvme "${small[@]}" --rw read --block 1536 --depth 4 --registered 0
wanted --block 1536 --registered 0

run nvme --dir "$work/dir" --size 128M --sweep --repeat 1 --time-s 0.01 --json "$work/sweep.json"
wanted --sweep
whole "$work/sweep.json" 30 || complain "the report of --sweep is not whole"

# OpenBLAS starts a thread for each core as it is loaded: not beside what measures drives.
LD_DEBUG=files LD_DEBUG_OUTPUT=$work/loaded "$bin/ofl-bench" nvme "${small[@]}" --rw read >/dev/null 2>&1
grep -q 'file=' "$work"/loaded.* || complain "LD_DEBUG says nothing"
! grep -q -i 'openblas' "$work"/loaded.* || complain "nvme loads OpenBLAS"

# ---- gathers -----------------------------------------------------------------------

refuse '256 MiB at most' nvme "${small[@]}" --rw gather --rows 65536 --row 1M
run nvme "${small[@]}" --rw gather,read --row 100 --rows 7 --json "$work/gather.json"
wanted --rw gather
clean --rw gather
grep -q '^gather  *7 rows of 100 bytes in one call: p50 .* (400 calls' "$work/out" || complain "--rw gather tells no calls"
[ "$(field row_bytes "$work/gather.json")" = 100 ] || complain "--rw gather is not in the report"

# ---- sustained writes ---------------------------------------------------------

refuse 'neither auto, nor a size' nvme --dir "$work/dir" --sustained soon
refuse 'neither auto, nor a size' nvme --dir "$work/dir" --sustained 1M
refuse 'takes no other kind' nvme --dir "$work/dir" --sustained 90s --rw write
refuse 'half of what is free' nvme --dir "$work/dir" --sustained 900T
refuse 'are more; give less' nvme --dir "$work/dir" --sustained 128M --max-written 128M
refuse 'half of what is free' nvme --dir "$work/dir" --sustained 3s --size 900T
run nvme --dir "$work/dir" --sustained 3s --size 128M --idle-s 0.1 --json "$work/sustained.json"
wanted --sustained
clean --sustained
grep -q '^burst .* GB/s' "$work/out" || complain "--sustained tells no burst"
grep -q '^recovery .* GB/s after' "$work/out" || complain "--sustained tells no recovery"
[ "$(field interval_s "$work/sustained.json" | wc -l)" -eq 1 ] || complain "--sustained: no samples in the report"
run nvme --dir "$work/dir" --sustained 2s --size 64M --idle-s 0 --max-written 200M
[ "$status" -ne 0 ] || [ "$(sed -n 's/^written  *\([0-9]*\).* MiB by.*/\1/p' "$work/out")" -le 200 ] || complain "--sustained passes --max-written"

# ---- whether bytes come back --------------------------------------------------

refuse 'excludes --rw mixed' nvme "${small[@]}" --verify --rw mixed
refuse 'goes with --verify' nvme "${small[@]}" --keep-file x
refuse 'goes with --verify' nvme "${small[@]}" --seed 7
refuse 'without slashes' nvme "${small[@]}" --verify --keep-file ../x
refuse 'needs the --seed' nvme --verify-file "$work/probe"
refuse 'goes with --seed' nvme "${small[@]}" --verify-file "$work/probe" --seed 7
refuse 'No such file' nvme --verify-file "$work/absent" --seed 7
for engine in uring threads; do
    run nvme "${small[@]}" --verify --engine $engine --depth 8 --json "$work/verify.json"
    [ $engine = threads ] || [ "$status" -eq 0 ] || continue # io_uring may be forbidden
    wanted "--verify --engine $engine"
    clean "--verify --engine $engine"
    whole "$work/verify.json" 3 || complain "the report of --verify is not whole"
    grep -q 'all is as it was written' "$work/out" || complain "--verify says nothing"
done
run nvme "${small[@]}" --verify --rw write,randwrite,read,randread --block 1536 --depth 4 --direct 0
wanted --verify --block 1536
run nvme "${small[@]}" --verify --seed 7 --keep-file probe --rw write,randwrite --depth 8
wanted --keep-file
[ "$(stat -c %s "$work/dir/probe")" -eq $((48 * 1048576)) ] || complain "--keep-file keeps no file"
run nvme "${small[@]}" --verify --seed 7 --keep-file probe --rw write
[ "$status" -eq 2 ] || complain "--keep-file over a file: exit status $status"
run nvme --verify-file "$work/dir/probe" --seed 7
wanted --verify-file

# A thousand bits turned over, in words of their own; and a block in another's place.
plant='import random, sys
r = random.Random(5)
with open(sys.argv[1], "r+b") as f:
    for word in sorted(r.sample(range(48 << 17), 1000)):
        at = word * 8 + r.randrange(8)
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1 << r.randrange(8)]))
        print(word * 8)'
if command -v python3 >/dev/null; then
    cp "$work/dir/probe" "$work/probe"
    python3 -c "$plant" "$work/probe" >"$work/planted"
    run nvme --verify-file "$work/probe" --seed 7 --json "$work/found.json"
    [ "$status" -eq 3 ] || complain "planted flips: exit status $status"
    [ "$(field offset "$work/found.json" | sort -n)" = "$(sort -n "$work/planted")" ] || complain "not every planted flip is found"
    [ "$(field wrong_words "$work/found.json")" -eq 1000 ] || complain "planted flips: not 1000 words"
    grep -q 'offset [0-9]*: wanted 0x[0-9a-f]*, got 0x' "$work/err" || complain "planted flips: not both values"
fi
cp "$work/dir/probe" "$work/probe"
dd if="$work/dir/probe" of="$work/probe" bs=4096 skip=100 seek=300 count=1 conv=notrunc status=none
run nvme --verify-file "$work/probe" --seed 7
[ "$status" -eq 3 ] || complain "a misplaced block: exit status $status"
grep -q 'offset 1228800: .*what belongs to offset 409600' "$work/err" || complain "a misplaced block is not named"
run nvme --verify-file "$work/dir/probe" --seed 8
[ "$status" -eq 3 ] || complain "another seed: exit status $status"
rm "$work/dir/probe" "$work/probe"

# ---- tensors, demand ---------------------------------------------------------

printf '# sizes\nlarge 50331647\n\nodd 4097 # not aligned\none 1\nhuge 100000001\n' >"$work/list"
run nvme "${small[@]}" --tensors "$work/list" --buffers 64M --json "$work/tensors.json"
wanted --tensors
clean --tensors
[ "$(field tensors "$work/tensors.json" | grep -c '^4$')" -eq 1 ] || complain "--tensors: not 4 of them"
[ "$(field largest_bytes "$work/tensors.json")" = 100000001 ] || complain "--tensors: not the largest"
for name in 7b 70b 175b mixed; do
    run nvme "${small[@]}" --repeat 1 --time-s 0.02 --tensors "$name" --buffers 64M
    wanted --tensors "$name"
done
printf 'a 1\nb\n' >"$work/list"
refuse 'line 2: .*b has no size' nvme "${small[@]}" --tensors "$work/list"
printf 'a 0\n' >"$work/list"
refuse 'line 1: 0: not a number of bytes' nvme "${small[@]}" --tensors "$work/list"
printf 'a 1 2\n' >"$work/list"
refuse 'more than two words' nvme "${small[@]}" --tensors "$work/list"
printf '# none\n' >"$work/list"
refuse 'no tensors' nvme "${small[@]}" --tensors "$work/list"

run nvme --dir "$work/dir" --size 48M --demand --demand-bytes 1M --buffers 32M --json "$work/demand.json"
wanted --demand
clean --demand
[ "$(field prefetched_bytes "$work/demand.json")" -gt 0 ] || complain "--demand: prefetch made no progress"
grep -q '(100 samples)\|([1-4][0-9]0 samples)' "$work/out" || complain "--demand: fewer than 100 samples"

# ---- other programs ----------------------------------------------------------

if command -v fio >/dev/null; then
    run nvme "${small[@]}" --rw read,randwrite --depth 4 --compare fio --json "$work/fio.json"
    wanted --compare fio
    clean --compare fio
    whole "$work/fio.json" 2 || complain "the report of --compare fio is not whole"
    [ "$(field cpu_ratio "$work/fio.json" | wc -l)" -eq 2 ] || complain "--compare fio: no ratios"
    grep -q "^fio-[0-9].*pair by pair" "$work/out" || complain "--compare fio: no table"
else
    refuse 'apt-get install fio' nvme "${small[@]}" --rw read --compare fio
    skipped+=(fio)
fi
if command -v gnuplot >/dev/null; then
    run nvme "${small[@]}" --rw read,randread --depth 4 --plot "$work/plot.svg"
    wanted --plot
    grep -q '</svg>' "$work/plot.svg" || complain "--plot drew nothing"
    run plot "$work/sweep.json" "$work/plot.png"
    wanted plot
    [ "$(head -c 4 "$work/plot.png" | tail -c 3)" = PNG ] || complain "plot drew no PNG"
    echo '{"program": "ofl-bench probe"}' >"$work/other.json"
    refuse 'neither a report of ofl-bench nvme nor a timeline' plot "$work/other.json" "$work/plot.png"
    refuse 'line 1' plot "$work/list" "$work/plot.png"
    # A timeline: a curve for each tier, and a time that is the run's.
    event='{"ph": "C", "pid": 4, "tid": 1, "ts": %s, "name": "%s bytes", "args": {"bytes": %s}}'
    # shellcheck disable=SC2059  # the format
    { echo "[$(printf "$event" 0.5 device 1048576),"; printf "$event,\n" 0.6 host 2097152 0.7 nvme 4194304; echo "$(printf "$event" 2000000.5 host 0)]"; } >"$work/timeline.json"
    run plot "$work/timeline.json" "$work/tiers.svg"
    wanted "plot of a timeline"
    for title in 'device memory' 'host memory' drives 'time (s)'; do
        grep -qF "$title" "$work/tiers.svg" || complain "plot of a timeline: no $title"
    done
    echo '[]' >"$work/empty.json"
    refuse 'does not say what tiers held' plot "$work/empty.json" "$work/tiers.svg"
else
    refuse 'apt-get install gnuplot-nox' nvme "${small[@]}" --rw read --plot "$work/plot.svg"
    skipped+=(gnuplot)
fi
if command -v strace >/dev/null && strace -o /dev/null true 2>/dev/null; then
    run nvme "${small[@]}" --rw read --depth 4 --syscalls --json "$work/calls.json"
    wanted --syscalls
    [ "$(field calls_per_gb "$work/calls.json" | grep -c '^[1-9]')" -eq 1 ] ||
        complain "--syscalls: $(field calls_note "$work/calls.json")"
else
    skipped+=(strace)
fi

# ---- the link of a GPU -------------------------------------------------------

# On the driver without a GPU, whose figures mean nothing: what is shown is that rows are there,
# that bytes are compared, and that --check decides.
OFL_CUDA_DRIVER=$work/absent.so run link
[ "$status" -eq 1 ] || complain "link without a driver: exit status $status"
grep -q 'no GPU: load the CUDA driver' "$work/err" || complain "link without a driver"
[ ! -s "$work/out" ] || complain "link without a driver printed $(head -n 1 "$work/out")"
stub=$bin/tests/libcuda_stub.so
if [ -e "$stub" ]; then
    export OFL_CUDA_DRIVER=$stub OFL_STUB_PAGEABLE=1
    link=(link --batch 2M --repeat 2)
    run "${link[@]}" --size 4K,1000,1M --json "$work/link.json" --check 0.000001
    wanted "${link[@]}"
    # Pinned rows of every node, and pageable ones: three sizes, three directions.
    rows=$(field copy_bytes "$work/link.json" | wc -l)
    if [ "$rows" -lt 18 ] || [ $((rows % 9)) -ne 0 ]; then complain "link: $rows rows"; fi
    [ "$(field verified "$work/link.json" | grep -c true)" -eq "$rows" ] || complain "link: rows not compared"
    [ "$(field plain_wall_s "$work/link.json" | grep -c '[1-9]')" -eq $((rows * 2)) ] ||
        complain "link: samples are missing"
    [ "$(field passed "$work/link.json")" = true ] || complain "link: --check 0.000001 did not pass"
    grep -q '^both .*1.00 MiB  *2 ' "$work/out" || complain "link: the table lacks a row"
    run "${link[@]}" --size 1M --memory pinned --direction out --check 1000000 --json "$work/below.json"
    [ "$status" -eq 1 ] || complain "link --check 1000000: exit status $status"
    grep -q 'check 1e+06: pinned out of 1.00 MiB' "$work/err" || complain "link --check"
    [ "$(field passed "$work/below.json")" = false ] || complain "link: --check 1000000 passed"
    run "${link[@]}" --size 4K --memory pinned --check 0.000001
    [ "$status" -eq 1 ] || complain "link --check without a row to check: exit status $status"
    run link --device cuda:7 --size 4K
    grep -q 'no such GPU' "$work/err" || complain "link --device cuda:7"
    refuse 'copies of at most' link --size 32G
    ran='ofl-bench link, and SIGINT'
    env --default-signal "$bin/ofl-bench" link --size 64K --batch 16M --repeat 1000 --json "$work/ended.json" \
        >"$work/out" 2>"$work/err" &
    child=$!
    begun "$child" ofl-bench
    sleep 0.5
    kill -INT "$child" 2>/dev/null
    status=0
    wait "$child" || status=$?
    [ "$status" -eq 130 ] || complain "link and SIGINT: exit status $status"
    [ ! -e "$work/ended.json" ] || complain "link and SIGINT: left a report"
    unset OFL_CUDA_DRIVER OFL_STUB_PAGEABLE
else
    skipped+=("the CUDA stub")
fi

# ---- budgets of a whole model --------------------------------------------------

# least OPTION budgets...: what a refusal names as OPTION's smallest, which works; a page less is refused.
decode=(decode --device host --preset tiny --dtype f32 --prompt 3 --tokens 1 --warmup 0)
least() {
    local option=$1 value
    shift
    refuse "smallest workable $option is" "${decode[@]}" "$@"
    value=$(sed -n "s/.*smallest workable $option is \([0-9]*\) .*/\1/p" "$work/err")
    [ -n "$value" ] || return
    case "$option" in
    --device-mem) set -- --device-mem "$value" "${@:3}" ;;
    --host-mem) set -- "$1" "$2" --host-mem "$value" "${@:5}" ;;
    --nvme) set -- "$1" "$2" "$3" "$4" --nvme "$work/dir:$value" ;;
    esac
    run "${decode[@]}" "$@"
    wanted decode with the smallest "$option" "$*"
    refuse 'smallest workable' "${decode[@]}" "${@/$value/$((value - 4096))}"
}

for option in --device-mem --host-mem --nvme; do
    least $option --device-mem 2M --host-mem 2M                         # memory is all there is
    least $option --device-mem 2M --host-mem 2M --nvme "$work/dir:512K" # three tiers
done
clean budgets of a whole model
run "${decode[@]}" --device-mem 2M --host-mem 3M --nvme "$work/dir:2M" --report "$work/decode.json"
wanted decode over three tiers
for key in share_of_bound share_of_least; do
    [ "$(field $key "$work/decode.json" | grep -c '^[0-9]')" -ge 1 ] || complain "decode's report has no $key"
done
[ "$(field bps_from "$work/decode.json" | sort -u)" = '"this run"' ] || complain "rates of another run"

# ---- an end by signal ----------------------------------------------------------

# Before, during and after the file is filled; the last one while fio runs, if it is there.
compare=()
command -v fio >/dev/null && compare=(--compare fio)
for pause in 0.1 0.4 1.2; do
    ran="ofl-bench nvme, and SIGINT after $pause s"
    env --default-signal "$bin/ofl-bench" nvme --dir "$work/dir" --size 256M --rw read,write --repeat 1000 \
        "${compare[@]}" --json "$work/ended.json" >"$work/out" 2>"$work/err" &
    child=$!
    begun "$child" ofl-bench
    sleep "$pause"
    kill -INT "$child" 2>/dev/null
    status=0
    wait "$child" || status=$?
    [ "$status" -eq 130 ] || complain "SIGINT after $pause s: exit status $status"
    clean "SIGINT after $pause s"
    [ ! -e "$work/ended.json" ] || complain "SIGINT after $pause s: left a report"
done

finish
