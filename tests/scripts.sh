#!/bin/bash
# Proves what the tests that are scripts rely on: tools/limit.sh ends a hang and a loop, all processes
# of it, and nothing that moves; a failure says its cause, inside $(...) too; a script that stops short
# of its end fails, and says after which command; tools/run-tests.sh counts what happened.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash scripts

if [ -n "${OFL_TEST_LIGHT-}" ]; then
    echo "a sanitizer: scripts are not built"
    verdict=1
    exit 77
fi

# ---- tools/limit.sh ------------------------------------------------------------

# limit NAME COMMAND...: its exit status in $work/NAME.status, its output in $work/NAME.out and NAME.err.
limit() {
    local name=$1
    shift
    tools/limit.sh "$@" >"$work/$name.out" 2>"$work/$name.err"
    echo $? >"$work/$name.status"
}

# judge NAME STATUS [WORDS]: so it ended, and said so on stderr.
judge() {
    ran="limit.sh: $1" status=$(cat "$work/$1.status")
    cp "$work/$1.out" "$work/out"
    cp "$work/$1.err" "$work/err"
    [ "$status" -eq "$2" ] || complain "$1: exit status $status, not $2"
    [ $# -lt 3 ] || grep -q "$3" "$work/err" || complain "$1: no '$3'"
}

# The slow ones at once. A hang that ignores SIGTERM, with a child; a loop; and what is slow, and yet moves, by
# output or by work in a child, for longer than the limit.
# shellcheck disable=SC2016  # expands there
OFL_STALL_LIMIT=3 limit hang bash -c 'trap "" TERM; sleep 1000 & echo $!; wait' &
OFL_CPU_LIMIT=2 limit loop bash -c 'while :; do :; done' &
# shellcheck disable=SC2016
OFL_STALL_LIMIT=12 limit output bash -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo $i; sleep 1; done' &
# shellcheck disable=SC2016
OFL_STALL_LIMIT=12 limit work bash -c \
    'for k in 1 2 3 4 5 6 7 8; do (i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done); sleep 2; done' &
limit success true
judge success 0
limit failure bash -c 'exit 7'
judge failure 7
# shellcheck disable=SC2016
limit crash bash -c 'kill -SEGV $$'
judge crash 139
# shellcheck disable=SC2016
limit interrupt bash -c 'kill -INT $$; exit 1'
judge interrupt 130
wait
judge hang 124 'no progress for 3 s'
# Its child goes too, if not at this very moment.
while kill -0 "$(cat "$work/hang.out")" 2>/dev/null; do sleep 0.1; done
judge loop 124 'of processor time'
judge output 0
judge work 0

# ---- failures say why ------------------------------------------------------------

# script BODY: a test of this body, with a folder of its own for a build.
mkdir "$work/build" "$work/build/tests"
script() {
    printf '%s\n' 'set -uo pipefail' '. tests/script_fixture.bash body' "$1" >"$work/body.sh"
    status=0 ran=$1
    OFL_BUILD_DIR=$work/build bash "$work/body.sh" >"$work/out" 2>"$work/err" || status=$?
    [ -z "$(compgen -G "$work/build/body.*")" ] || complain "the folder of a test is left"
}

# said words...: each is in the output.
said() {
    local word
    for word in "$@"; do
        grep -q -e "$word" "$work/out" || complain "its output lacks '$word'"
    done
}

script 'limited true; wanted it; finish'
wanted 'a test that passes'
script 'skipped+=(fio); finish'
[ "$status" -eq 77 ] || complain "a skipped test"
said 'all passed but what needs fio'
script 'limited bash -c "echo seen; echo reason >&2; exit 3"; wanted it; finish'
[ "$status" -eq 1 ] || complain "a test that fails"
said '^FAILED: it' 'last command: bash -c' 'exit status: 3' 'stdout: seen' 'stderr: reason' '^1 failures'
# shellcheck disable=SC2016  # expand there
script 'number() { limited false; wanted "the number"; echo 5; }; n=$(number); [ $((n * 2)) -eq 10 ] || complain wrong; finish'
[ "$status" -eq 1 ] || complain "a failure in \$(...) does not count"
said '^FAILED: the number' 'last command: false' '^1 failures'
# shellcheck disable=SC2016
script 'limited bash -c "exit 4"; echo $((nowhere + 1)); finish'
[ "$status" -eq 1 ] || complain "an unbound variable"
said '^FAILED: the script stopped short' 'exit status: 4'
grep -q 'nowhere: unbound variable' "$work/err" || complain "an unbound variable is not named"

# ---- tools/run-tests.sh ----------------------------------------------------------

# program TEXT...: stands for a test program of that output.
program() {
    printf '%s\n' '#!/bin/bash' "$@" >"$work/build/tests/test_sized"
    chmod +x "$work/build/tests/test_sized"
    status=0 ran="run-tests.sh on: $*"
    tools/run-tests.sh "$work/build" test_sized >"$work/out" 2>"$work/err" || status=$?
}

begin='echo "[==========] Running 2 test(s)."' one='echo "[ RUN      ] a"; echo "[       OK ] a"'
program "$begin" "$one" 'echo "[ RUN      ] b"; echo "no drive here"; echo "[  SKIPPED ] b"'
wanted 'one passed, one skipped'
said '^1 passed, 0 failed, 1 skipped$' 'skipped b: no drive here'
program "$begin" "$one" 'echo "[ RUN      ] b"; exit 0'
[ "$status" -eq 1 ] || complain 'a program that ends before its last test'
said '^1 passed, 1 failed, 0 skipped$' 'b did not end'
# shellcheck disable=SC2016
program "$begin" "$one" 'echo "[ RUN      ] b"; kill -ABRT $$'
said '^1 passed, 1 failed, 0 skipped$' 'SIGABRT in b'
OFL_STALL_LIMIT=3 program "$begin" "$one" 'echo "[ RUN      ] b"; sleep 1000'
said '^1 passed, 1 failed, 0 skipped$' 'no progress for 3 s.* in b'
program 'exit 0'
said '^0 passed, 1 failed, 0 skipped$'
tools/run-tests.sh "$work/build" none_such >"$work/out" 2>&1 && complain 'no test ran, and yet success'

finish
