#!/bin/bash
# Finds circles among the files of a folder: a file includes a header, itself or by another header of the
# folder, that declares what a second file defines, and the second does so back, directly or over others. Such
# files are one file in pieces. Files of other folders don't count: layers.sh knows their order.
#
#     tools/circles.sh FOLDER...     prints each circle; exit 1 if there is one
#     tools/circles.sh --self-test   proves that planted circles are found
set -euo pipefail

# Functions and variables of a file that others see, one a line: "defines NAME" in a .c, "declares NAME" in a
# header. Lines outside of braces are read as whole declarations; inline functions of headers are their own.
# shellcheck disable=SC2016
names='
function declaration(text,    name) {
    gsub(/__attribute__ *\(\(.*\)\)/, "", text)
    if (text ~ /(^| )(static|typedef|inline)( |$)/ || text ~ /^ *$/) return
    if (text ~ /\(/) {
        name = text
        sub(/ *\(.*/, "", name)
        sub(/.*[ *]/, "", name)
        if (header ? ended == ";" : ended == "{") print (header ? "declares" : "defines"), name
        return
    }
    if (ended == "{" || text ~ /^ *(struct|enum|union)( +[a-z_0-9]+)? *$/) return
    name = text
    sub(/ *[=[].*/, "", name)
    sub(/.*[ *]/, "", name)
    if (name != "" && header == (text ~ /^ *extern /)) print (header ? "declares" : "defines"), name
}
/^#/ { continued = /\\$/; next }
continued { continued = /\\$/; next }
{
    line = $0
    gsub(/\\./, "", line)
    gsub(/"[^"]*"/, "S", line)
    gsub(/\047[^\047]*\047/, "C", line)
    for (i = 1; i <= length(line); i++) {
        two = substr(line, i, 2)
        one = substr(line, i, 1)
        if (comment) {
            if (two == "*/") { comment = 0; i++ }
        } else if (two == "/*") { comment = 1; i++ }
        else if (two == "//") break
        else if (one == "{") {
            if (depth++ == 0) { ended = text ~ /=/ ? ";" : "{"; declaration(text); text = "" }
        } else if (one == "}") {
            if (--depth == 0) text = ""
        } else if (depth == 0 && one == ";") { ended = ";"; declaration(text); text = "" }
        else if (depth == 0) text = text one
    }
    if (depth == 0) text = text " "
}
'

# "FILE NEEDS", for each header that a file of folder $1 includes, by others too.
facts() {
    local folder=$1 file
    for file in "$folder"/*.c "$folder"/*.h; do
        [ -e "$file" ] || continue
        case $file in *.h) awk -v header=1 "$names" "$file" ;; *) awk -v header=0 "$names" "$file" ;; esac |
            sed "s|^|$file |"
        sed -n -E 's|^[[:space:]]*#[[:space:]]*include[[:space:]]*"([^"]*)".*|'"$file"' includes \1|p' "$file"
    done
}

# Files are joined by "reaches"; those that reach each other are a circle.
# shellcheck disable=SC2016
circles='
$2 == "defines" { definer[$3] = $1; files[$1] = 1; next }
$2 == "declares" { declared[$1] = declared[$1] " " $3; next }
$2 == "includes" { if ($1 in files || $1 ~ /\.c$/) files[$1] = 1; included[$1] = included[$1] " " $3 }
function close_over(file, header,    n, i, parts, names) {
    if ((file, header) in seen) return
    seen[file, header] = 1
    n = split(declared[header], names, " ")
    for (i = 1; i <= n; i++)
        if (names[i] in definer && definer[names[i]] != file) {
            if (!((file, definer[names[i]]) in reach)) why[file, definer[names[i]]] = header ": " names[i]
            reach[file, definer[names[i]]] = 1
        }
    n = split(included[header], parts, " ")
    for (i = 1; i <= n; i++) close_over(file, parts[i])
}
END {
    for (f in files) { n = split(included[f], headers, " "); for (i = 1; i <= n; i++) queue[f, i] = headers[i]; count[f] = n }
    for (f in files) for (i = 1; i <= count[f]; i++) close_over(f, queue[f, i])
    for (k in files) for (i in files) if ((i, k) in reach) for (j in files) if ((k, j) in reach) reach[i, j] = 1
    for (f in files) {
        if (!((f, f) in reach) || f in told) continue
        line = ""
        shown = 0
        for (g in files)
            if ((f, g) in reach && (g, f) in reach) {
                told[g] = 1
                line = line " " g
                for (h in files)
                    if ((h, f) in reach && (f, h) in reach && (g, h) in why && shown++ < 6)
                        edges = edges "\n    " g " includes " why[g, h] ", which is in " h
            }
        print "a circle:" line edges
        edges = ""
    }
}
'

find_circles() {
    local folder=$1
    facts "$folder" | awk "$circles"
}

# expect GOOD|BAD WHAT, with files planted in $tree/x.
expect() {
    local verdict=$1 what=$2 found
    found=$(cd "$tree" && find_circles x)
    rm -f "$tree"/x/*
    case "$verdict:${found:+found}" in
    bad:found | good:) return ;;
    esac
    echo "circles: self-test: $what should be $verdict; reported: ${found:-nothing}" >&2
    return 1
}

self_test() {
    local failed=0
    tree=$(mktemp -d)
    mkdir "$tree/x"
    plant() { printf '%b' "$2" >"$tree/x/$1"; }
    pair() {
        plant a.h 'int a(void);\n'
        plant b.h '/* b(); */\nint b(struct s *x,\n      int y) __attribute__((format(printf, 1, 2)));\n'
        plant b.c '#include "x/b.h"\n\nint b(struct s *x,\n      int y)\n{\n    return y;\n}\n'
    }
    pair
    plant a.c '#include "x/a.h"\n#include "x/b.h"\n\nint a(void)\n{\n    return b(0, 1);\n}\n'
    expect good 'one way' || failed=1
    pair
    plant a.c '#include "x/a.h"\n#include "x/b.h"\nint a(void) {\n    return 0; }\n'
    plant b.c '#include "x/b.h"\n#include "x/a.h"\nint b(struct s *x, int y)\n{\n    if (y) { return 1; }\n    return 0;\n}\n'
    expect bad 'both ways' || failed=1
    pair
    plant a.c '#include "x/a.h"\n#include "x/c.h"\nint a(void)\n{\n    return 0;\n}\n'
    plant c.h '#include "x/b.h"\n'
    plant b.c '#include "x/b.h"\n#include "x/a.h"\nint b(struct s *x, int y)\n{\n    return 0;\n}\n'
    expect bad 'by a header of headers' || failed=1
    plant a.h 'struct t {\n    int i;\n};\nextern struct t a;\n'
    plant b.h 'int b(void);\n'
    plant a.c '#include "x/a.h"\n#include "x/b.h"\nstruct t a = {1};\nstatic int c(void)\n{\n    return b();\n}\n'
    plant b.c '#include "x/b.h"\n#include "x/a.h"\nint b(void)\n{\n    return a.i;\n}\n'
    expect bad 'by a variable' || failed=1
    plant all.h 'int a(void);\nint b(void);\n'
    plant a.c '#include "x/all.h"\nint a(void)\n{\n    return 0;\n}\n'
    plant b.c '#include "x/all.h"\nint b(void)\n{\n    return 0;\n}\n'
    expect bad 'one header of two files' || failed=1
    for i in 1 2 3; do
        plant $i.h "int f$i(void);\n"
        plant $i.c "#include \"x/$i.h\"\n#include \"x/$((i % 3 + 1)).h\"\nint f$i(void)\n{\n    return 0;\n}\n"
    done
    expect bad 'three in a ring' || failed=1
    rm -r "$tree"
    [ $failed -eq 0 ] && echo 'circles: self-test passed'
}

if [ "${1-}" = --self-test ]; then
    self_test
    exit
fi
cd "$(dirname "$0")/.."
status=0
for folder in "$@"; do
    found=$(find_circles "$folder")
    if [ -n "$found" ]; then
        echo "$found"
        status=1
    fi
done
exit $status
