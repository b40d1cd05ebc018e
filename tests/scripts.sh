#!/bin/bash
# Proves what the tests that are scripts rely on: tools/limit.sh ends a hang and a loop, all processes
# of it, and nothing that moves; a failure says its cause, inside $(...) too; a script that stops short
# of its end fails, and says after which command; tools/run-tests.sh counts what happened.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash scripts

# ---- tools/limit.sh ------------------------------------------------------------

export OFL_STALL_LIMIT=3
limit() {
    status=0 ran=$*
    tools/limit.sh "$@" >"$work/out" 2>"$work/err" || status=$?
}

limit true
wanted true
limit bash -c 'exit 7'
[ "$status" -eq 7 ] || complain "exit 7"
limit bash -c 'kill -SEGV $$'
[ "$status" -eq 139 ] || complain "SIGSEGV"
limit bash -c 'trap "" INT; kill -INT $$; trap - INT; kill -INT $$; exit 1'
[ "$status" -eq 130 ] || complain "SIGINT is not what it is by default"
# A hang that ignores SIGTERM, and its child.
# shellcheck disable=SC2016  # expands there
limit bash -c 'trap "" TERM; sleep 1000 & echo $!; wait'
[ "$status" -eq 124 ] || complain "a hang is not ended"
grep -q 'no progress for 3 s' "$work/err" || complain "a hang: no reason"
# Its child goes too, if not at this very moment.
while kill -0 "$(cat "$work/out")" 2>/dev/null; do sleep 0.1; done
OFL_CPU_LIMIT=2 limit bash -c 'while :; do :; done'
[ "$status" -eq 124 ] || complain "a loop is not ended"
grep -q 'of processor time' "$work/err" || complain "a loop: no reason"
# Slow, and yet it moves: by output, or by work in a child.
# shellcheck disable=SC2016
limit bash -c 'for i in 1 2 3 4 5; do echo $i; sleep 1; done'
wanted 'output each second'
# shellcheck disable=SC2016
limit bash -c '(for i in 1 2 3 4 5; do (i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done); sleep 1; done)'
wanted 'work each second'
unset OFL_STALL_LIMIT

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
