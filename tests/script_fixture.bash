# What the tests that are scripts share, sourced by them: a folder of the test's own, programs run
# under tools/limit.sh, and failures that say their cause: the last command, its exit status, and
# the end of what it wrote. It knows nothing of what is tested.
#
#     . tests/script_fixture.bash NAME      from the root of the repository
#
# Sets bin (the build) and work (a folder in it, removed at the end). A failure in a $(...) counts,
# and is printed where the script prints, not into what is assigned. A script that stops short, of an
# unbound variable too, says after which command.
# shellcheck shell=bash

export LC_ALL=C
status=0 ran=''
skipped=() # what this machine lacks
bin=${OFL_BUILD_DIR:-build}
[ -d "$bin" ] || { echo "$bin is not built"; exit 1; }
bin=$(cd "$bin" && pwd)
# On disk, not in a tmpfs where direct I/O may be refused.
work=$(mktemp -d "$bin/$1.XXXXXX") || exit 1
# Where failures in $(...) are said and counted: this script's own output, and a file.
exec {said}>&1
: >"$work/complaints"
: >"$work/out"
: >"$work/err"
verdict='' # set where the script ends on purpose
trap 'fixture_end $?' EXIT
trap 'verdict=1; exit 130' INT TERM

fixture_end() {
    local ended=$1
    if [ -z "$verdict" ]; then
        # The shell's own message, if any, went to stderr.
        complain "the script stopped short, exit status $ended"
        ended=1
    fi
    # A program that was started in the background does not outlive its test.
    # shellcheck disable=SC2046  # several numbers
    kill $(jobs -p) 2>/dev/null
    rm -rf "$work"
    exit "$ended"
}

# begun PID NAME: the program in the background is that one, and no longer the shell or env: until then the shell's
# children ignore SIGINT, and one that is sent is lost. Its default action is back; the program's own may not be there yet.
begun() {
    local child=$1 name=$2
    until [ "$(cat "/proc/$child/comm" 2>/dev/null)" = "$name" ] || ! kill -0 "$child" 2>/dev/null; do sleep 0.05; done
}

# The end of a file, each line behind a word.
fixture_tail() {
    [ ! -s "$2" ] || tail -n 8 "$2" | cut -c 1-400 | sed "s/^/    $1: /"
}

# complain words...: a failure, with its cause.
complain() {
    {
        echo "FAILED: $*"
        if [ -n "$ran" ]; then
            echo "    last command: $ran"
            echo "    exit status: $status$([ "$status" -le 128 ] || echo " (SIG$(kill -l $((status - 128))))")"
            fixture_tail stdout "$work/out"
            fixture_tail stderr "$work/err"
        fi
    } >&"$said"
    echo x >>"$work/complaints"
}

# limited command arguments...: runs it; sets status and ran; its output is in $work/out and $work/err.
limited() {
    ran=$*
    status=0
    # Ended before the whole script is, so that the cause is seen.
    OFL_STALL_LIMIT=$((${OFL_STALL_LIMIT:-300} * 2 / 3)) tools/limit.sh "$@" {said}>&- >"$work/out" 2>"$work/err" || status=$?
}

# wanted words...: the last command was to succeed.
wanted() {
    [ "$status" -eq 0 ] || complain "$*: exit status $status"
}

# What the last command's refusal is to end with: 64 if it was the option parser's, which points to --help, else 2.
refusal() {
    if grep -q -e "^Try .*--help'" "$work/err"; then echo 64; else echo 2; fi
}

# says words file what...: the file has these words.
says() {
    grep -q -e "$1" "$2" || complain "${*:3}: no '$1'"
}

# until_true PID command...: waits until the command succeeds; 1 if the process ends before.
# No limit of its own: a process that gets nowhere is ended with the whole script.
until_true() {
    local pid=$1
    shift
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
}

# Ends the script: 1 after failures, 77 if something was skipped, else 0.
finish() {
    local failures
    verdict=1
    failures=$(wc -l <"$work/complaints")
    if [ "$failures" -gt 0 ]; then
        echo "$failures failures"
        exit 1
    fi
    [ ${#skipped[@]} -gt 0 ] || exit 0
    printf -v failures '%s, ' "${skipped[@]}"
    echo "all passed but what needs ${failures%, }"
    exit 77
}
