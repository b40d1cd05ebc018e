#!/bin/bash
# Runs a command and ends it when it gets nowhere: by progress, not by the clock, since a busy
# machine makes any test slow. It is ended when it and its children, over OFL_STALL_LIMIT looks a
# second apart (300), wrote no output and used less than 3 % of a core (a hang), or when they have
# used OFL_CPU_LIMIT seconds of processor time together (3600: a loop). A machine that stands still
# for an hour ends nothing: looks are counted, not time.
#
#     tools/limit.sh COMMAND [ARGUMENT...]
#
# Exit status: the command's; 124 when it was ended, and the last line on stderr says why.
set -uo pipefail

[ $# -gt 0 ] || { echo "usage: tools/limit.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
stall=${OFL_STALL_LIMIT:-300} cpu=${OFL_CPU_LIMIT:-3600}
tick=$(getconf CLK_TCK) || { echo "tools/limit.sh: getconf CLK_TCK: exit status $?" >&2; exit 125; }
interval=5 # looks between two sums over /proc

# tree PID: the process and all below it, in pids; their processor time in ticks, with that of
# children that have ended, in used. By parents, so that it sees through sessions and groups.
tree() {
    local file line pid rest up
    local -A parent=() time=()
    for file in /proc/[0-9]*/stat; do
        { read -r line <"$file"; } 2>/dev/null || continue
        pid=${line%% *}
        read -r -a rest <<<"${line##*) }"
        parent[$pid]=${rest[1]}
        time[$pid]=$((rest[11] + rest[12] + rest[13] + rest[14]))
    done
    pids=() used=0
    for pid in "${!parent[@]}"; do
        for ((up = pid; up > 1 && up != $1; up = ${parent[$up]:-0})); do :; done
        if [ "$up" -eq "$1" ]; then
            pids+=("$pid")
            used=$((used + time[$pid]))
        fi
    done
}

# Bytes in the files where the command writes; pipes count as 0.
written() {
    stat -L -c %s "/proc/$me/fd/1" "/proc/$me/fd/2" 2>/dev/null | paste -sd+
}

# Ends the command, and this watcher with a status of its own; no signal comes in between.
end() {
    trap '' TERM
    echo "ended by tools/limit.sh: $1" >&2
    kill "${pids[@]}" 2>/dev/null
    for _ in 1 2 3 4 5; do
        sleep 1
        tree "$child"
        [ ${#pids[@]} -gt 0 ] || exit 3
    done
    kill -KILL "${pids[@]}" 2>/dev/null
    exit 3
}

watch() {
    local looks=0 since=0 base=0 before=0 now me=$BASHPID
    while sleep 1 >/dev/null 2>&1; do # it may outlive this script: with nobody's output
        looks=$((looks + 1))
        [ $((looks % interval)) -eq 0 ] || [ "$stall" -lt $interval ] || continue
        tree "$child"
        [ ${#pids[@]} -gt 0 ] || return
        now=$(($(written)))
        if [ "$now" -ne "$before" ] || [ "$used" -lt "$base" ] || [ $((used - base)) -ge $((stall * tick * 3 / 100)) ]; then
            before=$now base=$used since=$looks
        fi
        if [ $((looks - since)) -ge "$stall" ]; then
            end "no progress for $stall s: no output and $(((used - base) * 1000 / tick)) ms of processor time, $((used / tick)) s in all"
        fi
        if [ $used -ge $((cpu * tick)) ]; then
            end "it used $((used / tick)) s of processor time"
        fi
    done
}

# In the background, so that a signal to this script is acted on at once; the shell has such
# children ignore SIGINT: undone. Their input is this script's.
env --default-signal "$@" <&0 &
child=$!
pids=()
(
    trap - INT TERM
    watch
) &
watcher=$!
trap 'kill "$child" "$watcher" 2>/dev/null; exit 130' INT TERM
status=0 judged=0
wait "$child" 2>/dev/null || status=$?
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null || judged=$?
[ $judged -ne 3 ] || status=124
exit $status
