#!/bin/bash
# Checks what the compiler does not: functions and files of a size that can be read, files that nobody uses,
# public functions without a word in the manual or without a test, files that do not say what they are.
#
#     tools/tidy.sh [ROOT]         one line for each violation; exit 1 if there are any
#     tools/tidy.sh --self-test    plants one violation of each kind in a copy, which must be seen
set -euo pipefail

trap 'echo "tidy: line $LINENO: exit status $?" >&2' ERR # not in silence

FUNCTION_LINES=70 # from its { to its }; about 60 is meant
FILE_LINES=600    # about 500 is meant
TEST_LINES=700    # a table of cases may be long
KERNEL_LINES=90   # what a CUDA kernel keeps in registers it keeps in one function

# Longer, for a reason: the file, then the reason.
longer() {
    cat <<'END'
include/offload.h the manual of the public calls, in one piece
tests/test_io_drive.c the recorded machines, each a table that is read beside its checks
tests/test_io_profile.c profiles as they are kept, and as they may be found
tests/sim/run.c what runs a program: each kind of statement beside what it must come to
tests/test_simulate.c one run, and each way in which its record can be wrong
examples/model/tokenizer_classes.c tables that tools/unicode_tables.py makes
examples/model/tokenizer_forms.c tables that tools/unicode_tables.py makes
tests/test_core_homes.c one pager, three tiers: its programs and their model belong together
END
}

complain() {
    echo "$*"
    violations=$((violations + 1))
}

# All files of the project that are read, found without git: a tarball has none.
collect() {
    mapfile -t sources < <(find base io scheduler liboffload include examples bench tests python -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' \) 2>/dev/null | sort)
    mapfile -t scripts < <(find tools tests .ci python -type f \( -name '*.sh' -o -name '*.bash' -o -name run \) | sort)
}

check_functions() {
    local line
    while read -r line; do
        complain "$line"
    done < <(awk -v plain=$FUNCTION_LINES -v kernel=$KERNEL_LINES '
        FNR == 1 { start = 0; most = FILENAME ~ /\.cuh?$/ ? kernel : plain }
        /^\{$/ { start = FNR; name = previous }
        /^\}/ {
            lines = FNR - start + 1
            sub(/\(.*/, "", name)
            sub(/.*[ *]/, "", name)
            if (start && lines > most)
                printf "%s:%d: function %s has %d lines, more than %d\n", FILENAME, start, name, lines, most
            start = 0
        }
        { previous = $0 }' "${sources[@]}")
}

check_files() {
    local file lines most
    local -A reason=()
    while read -r file lines; do
        reason[$file]=$lines
    done < <(longer)
    while read -r lines file; do
        most=$FILE_LINES
        [[ $file != tests/* ]] || most=$TEST_LINES
        if [ -z "${reason[$file]-}" ]; then
            [ "$lines" -le $most ] || complain "$file: $lines lines, more than $most"
        elif [ "$lines" -le $most ]; then
            complain "$file: $lines lines, and yet among the longer ones of tools/tidy.sh"
        fi
    done < <(wc -l "${sources[@]}" "${scripts[@]}" | grep -v ' total$')
    for file in "${!reason[@]}"; do
        [ -e "$file" ] || complain "tools/tidy.sh: $file, among the longer ones, is not there"
    done
}

check_beginnings() {
    local file
    while read -r file; do
        complain "$file: does not begin with a comment that says what it is"
    done < <(
        awk 'FNR == 1 && !/^\/[*\/]/ { print FILENAME }' "${sources[@]}"
        awk 'FNR == 1 { said = 0 } FNR <= 2 && !/^#!/ && !said++ && !/^# / { print FILENAME }' "${scripts[@]}"
    )
}

# A header that no one includes; a source that the Makefile does not build; a script, a golden or a list that
# nothing names.
check_use() {
    local file name stem built
    declare -A included=() made=()
    while read -r name; do
        included[$name]=1
    done < <(sed -n 's/^ *# *include *["<]\([^">]*\)[">].*/\1/p' "${sources[@]}" | sort -u)
    built=$(env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s --no-print-directory sources)
    for file in $built; do
        made[$file]=1
    done
    for file in "${sources[@]}"; do
        case $file in
        *.h | *.cuh)
            # the emulation's is included by a flag
            [ -n "${included[$file]-}" ] || grep -q -F -e "-include $file" Makefile ||
                complain "$file: no file includes it"
            ;;
        *) [ -n "${made[$file]-}" ] || complain "$file: the Makefile does not build it" ;;
        esac
    done
    for file in tests/golden/* bench/shapes/* "${scripts[@]}"; do
        name=${file##*/}
        stem=${name%.*}
        case $file in
        # tests/*.sh are run by name pattern
        tests/*.sh | .ci/run) continue ;;
        tests/golden/*) stem=${stem#tokenizer_} stem=${stem%_cases} ;;
        esac
        grep -rqlwF --exclude="$name" --exclude=tidy.sh -e "$name" -e "$stem" Makefile README.md tools tests bench docs .ci ||
            complain "$file: nothing names it"
    done
}

# unused NAMES FILE...: prints those of the names, one a line, that no file has as a word.
unused() {
    awk -v names="$1" 'BEGIN { n = split(names, name, "\n"); for (i = 1; i <= n; i++) wanted[name[i]] }
        { n = split($0, words, /[^A-Za-z0-9_]+/); for (i = 1; i <= n; i++) delete wanted[words[i]] }
        END { for (word in wanted) if (word != "") print word }' "${@:2}" | sort
}

# A function that a header of tests/ offers, and no file but its own calls.
check_fixtures() {
    local header name
    local -a others
    for header in tests/*.h; do
        mapfile -t others < <(printf '%s\n' "${sources[@]}" | grep '^tests/' | grep -v "^${header%.h}\.[a-z]*$")
        while read -r name; do
            complain "$header: no test uses $name"
        done < <(unused "$(sed -n '/^typedef/d; s/^[a-z][a-z0-9_ ]*[ *]\([a-z][a-z0-9_]*\)(.*);.*$/\1/p' "$header")" "${others[@]}" \
            <(grep -v '^[a-z].*(' "$header"))
    done
}

# In the manual, and called by a test.
check_public() {
    local name names
    names=$(sed -n 's/^[A-Za-z].*[ *]\(ofl_[a-z0-9_]*\)(.*/\1/p' include/*.h | grep -v '_fn$' | sort -u)
    for name in $(unused "$names" docs/man/*.3); do
        complain "$name: no man page names it"
    done
    # Each has a page of its own, which make install makes.
    while read -r name; do
        complain "$name"
    done < <(tools/man_pages.sh --list 2>&1 >/dev/null)
    for name in $(unused "$names" tests/*.c tests/*.h); do
        complain "$name: no test calls it"
    done
}

check() {
    violations=0
    collect
    check_functions
    check_files
    check_beginnings
    check_use
    check_fixtures
    check_public
    [ "$violations" -eq 0 ]
}

# ---- self-test -------------------------------------------------------------------

# plant WORDS FILE COMMAND...: the command, in the copy; the check of it is to have one line of these words for this file.
plant() {
    (cd "$copy" && "${@:3}")
    planted+=("$2|$1")
}

# shellcheck disable=SC2329  # called by plant
long_function() {
    awk -v n=$FUNCTION_LINES 'BEGIN { print "int long_one(void)\n{"; while (n--) print "    ;"; print "}" }' >>io/path.c
}
# shellcheck disable=SC2329
long_file() {
    awk -v n=$FILE_LINES 'BEGIN { while (n--) print "/* a line */" }' >>io/queue.c
}
# shellcheck disable=SC2329
add() {
    printf '%s\n' "$2" >>"$1"
}

# All of them in one copy, since each check takes seconds: as many lines as plants, and for each plant one of its own.
self_test() {
    local copy found plant failed=0
    local -a planted=() lines=()
    copy=$(mktemp -d)
    cp -r -- Makefile README.md .ci base io scheduler liboffload include examples bench tests python tools docs "$copy"
    found=$("$copy/tools/tidy.sh" "$copy" 2>&1) || { echo "tidy: a copy in which nothing is planted: $found"; failed=1; }
    plant 'function long_one has 72 lines' io/path.c long_function
    plant "more than $FILE_LINES" io/queue.c long_file
    plant 'among the longer ones' tests/test_io_drive.c sh -c 'head -n 20 tests/test_io_drive.c >x && mv x tests/test_io_drive.c'
    plant 'does not begin with a comment' tests/test_new.c add tests/test_new.c '#include <cmocka.h>'
    plant 'does not begin with a comment' tools/show.sh sed -i '2s/^# //' tools/show.sh
    plant 'no file includes it' io/new.h add io/new.h '/* New. */'
    plant 'does not build it' examples/other/new.c sh -c 'mkdir examples/other && echo "/* New. */" >examples/other/new.c'
    plant 'nothing names it' tests/golden/zebra.json add tests/golden/zebra.json '{}'
    plant 'no test uses fixture_spare' tests/core_fixture.h add tests/core_fixture.h 'void fixture_spare(int n);'
    plant 'no man page names it' ofl_spare_call sh -c 'printf "/* any. It. */\nOFL_API int ofl_spare_call(void);\n" >>include/offload_estimate.h
        echo "ofl_spare_call spare" >>docs/man/functions.txt
        echo "/* ofl_spare_call */" >>tests/io_fixture.h'
    plant 'no test calls it' ofl_other_call sh -c 'printf "/* any. It. */\nOFL_API int ofl_other_call(void);\n" >>include/offload_estimate.h
        echo "ofl_other_call other" >>docs/man/functions.txt
        echo "ofl_other_call" >>docs/man/liboffload.3'
    plant 'no comment above it' ofl_third_call sh -c 'printf "\nOFL_API int ofl_third_call(void);\n" >>include/offload_estimate.h
        echo "ofl_third_call" >>docs/man/liboffload.3; echo "/* ofl_third_call */" >>tests/io_fixture.h
        echo "ofl_third_call third" >>docs/man/functions.txt'
    plant 'has no line for it' ofl_fourth_call sh -c 'printf "\n/* any. It. */\nOFL_API int ofl_fourth_call(void);\n" >>include/offload_estimate.h
        echo "ofl_fourth_call" >>docs/man/liboffload.3; echo "/* ofl_fourth_call */" >>tests/io_fixture.h'
    found=$("$copy/tools/tidy.sh" "$copy" 2>&1 || true)
    rm -rf "$copy"
    mapfile -t lines <<<"$found"
    for plant in "${planted[@]}"; do
        [ "$(grep -F -e "${plant%%|*}" <<<"$found" | grep -c -F -e "${plant#*|}")" -eq 1 ] || {
            echo "tidy: no line, or several, of '${plant%%|*}: ${plant#*|}'"
            failed=1
        }
    done
    [ ${#lines[@]} -eq ${#planted[@]} ] || { echo "tidy: ${#planted[@]} violations are planted, ${#lines[@]} lines said"; failed=1; }
    [ $failed -eq 0 ] || { printf 'tidy: it said: %s\n' "${lines[@]}"; return 1; }
    echo "tidy: every planted violation is seen"
}

cd "$(dirname "$0")/.."
if [ "${1-}" = --self-test ]; then
    self_test
else
    cd "${1:-.}"
    check
fi
