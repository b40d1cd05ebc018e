#!/bin/bash
# Proves that --help and the man pages of the programs name the same options, with the same defaults where both
# state one as "(default X)" and "Default X."; that each has an example, and that none is longer than 80 columns.
#
# It can fail: an option taken out of a page is shown to be missed.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
bin=${OFL_BUILD_DIR:-build}
work=$(mktemp)
trap 'rm -f "$work"' EXIT
failures=0

complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# Long options in a page, one a line.
in_page() {
    sed -e 's/\\-/-/g; s/\\f[A-Z]//g' "$1" | grep -v '^\.\\"' | grep -o -e '--[a-z][a-z0-9-]*' | sort -u
}

help_of() {
    local words
    read -r -a words <<<"$1"
    "$bin/${words[0]}" "${words[@]:1}" --help
}

in_help() {
    help_of "$1" | grep -o -e '^ *\(-., \)\? *--[a-z][a-z0-9-]*' | grep -o -e '--.*' | sort -u
}

# missing PROGRAM PAGE: options of --help that the page lacks.
missing() {
    comm -23 <(in_help "$1") <(in_page "$2")
}

for program in ofl-finetune ofl-generate 'ofl-bench nvme' 'ofl-bench link' 'ofl-bench probe' 'ofl-bench step' \
    'ofl-bench decode' 'ofl-bench plan' 'ofl-bench simulate' 'ofl-bench unpack' 'ofl-bench store' 'ofl-bench plot'; do
    [ -x "$bin/${program%% *}" ] || { echo "$bin/${program%% *} is not built"; exit 1; }
    page=docs/man/${program%% *}.1
    [ "$(in_help "$program" | wc -l)" -ge 3 ] || complain "$program --help lists no options"
    lacks=$(missing "$program" "$page")
    # shellcheck disable=SC2086  # a program and its command
    cmp -s <(help_of "$program") <("$bin"/$program -h) || complain "$program -h is not --help"
    # Options of budgets are those of ofl-finetune, as the page of ofl-bench says.
    case $program in
    'ofl-bench step' | 'ofl-bench decode') lacks=$(comm -23 <(echo "$lacks") <(in_page docs/man/ofl-finetune.1)) ;;
    esac
    [ -z "$lacks" ] || complain "$page lacks ${lacks//$'\n'/ } of $program"
    help_of "$program" >"$work"
    grep -q '^Example' "$work" || complain "$program --help has no example"
    awk -v p="$program" 'length($0) > 80 && !/^  ofl-|--report/ { print "FAILED: " p " --help: " $0; bad = 1 } END { exit bad }' \
        "$work" || failures=$((failures + 1))
done
# What a page has and no program.
for program in ofl-finetune ofl-generate; do
    more=$(comm -13 <(in_help $program) <(in_page "docs/man/$program.1") | grep -v -x -e --nvme | tr '\n' ' ')
    [ -z "$more" ] || complain "docs/man/$program.1 has $more, $program --help has not"
done
grep -v 'warmup' docs/man/ofl-finetune.1 >"$work"
[ "$(missing ofl-finetune "$work")" = --warmup ] || complain "an option that a page lacks is not missed"
[ "$failures" -eq 0 ]
