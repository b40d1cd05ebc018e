#!/bin/bash
# Makes the man pages of the public functions out of the headers: the comment above a declaration is the page's
# description; declarations one below the other share it. docs/man/functions.txt has the line by which each is found.
# Needs awk alone, since `make install` makes them.
#
#     tools/man_pages.sh FOLDER [FUNCTION...]   writes FUNCTION.3 for each (all of them, if none is named)
#     tools/man_pages.sh --list                 prints the functions, one a line
#
# Exit 1, with the names, if a function has no comment or no line.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^.define OFL_VERSION_[MP][A-Z]* \([0-9]*\)$/\1/p' include/offload.h | paste -sd.)

# shellcheck disable=SC2016  # awk's dollars
pages='
    function escape(text) {
        gsub(/\\/, "\\e", text)
        gsub(/-/, "\\-", text)
        if (text ~ /^[.\047]/)
            text = "\\&" text
        return text
    }
    # By lines: those that stand further in are as they are, others are filled.
    function print_comment(lines, n, file,    i, as_is, line) {
        for (i = 1; i <= n; i++) {
            line = lines[i]
            if (line ~ /^  / && !as_is)
                print ".nf" >file
            if (line !~ /^  / && as_is)
                print ".fi" >file
            as_is = line ~ /^  /
            if (line ~ /^ *$/)
                print ".PP" >file
            else if (!as_is)
                sub(/^ /, "", line)
            if (line !~ /^ *$/)
                print escape(line) >file
        }
        if (as_is)
            print ".fi" >file
    }
    function who(words) {
        if (words ~ /^step thread/)
            return "To be called from the step thread: the one that acquires, releases and brackets steps."
        return "May be called from any thread; what its description says of threads goes before that."
    }
    function returns(type) {
        if (type ~ /^int/)
            return "0, or a negative code: an errno value or one of enum ofl_code, negated, with a sentence from\n.BR ofl_error (3),\nunless the description says otherwise. A NULL where none may be is \\-EINVAL."
        if (type ~ /^void$/)
            return "None."
        return "See above. Where a pointer is NULL that may not be: 0, or NULL."
    }
    # The structs that its parameters name, if they are no secret.
    function print_structs(text, file,    name, seen, said) {
        while (match(text, /(struct|enum) ofl_[a-z0-9_]+/)) {
            name = substr(text, RSTART, RLENGTH)
            text = substr(text, RSTART + RLENGTH)
            if (!(name in body) || name in seen)
                continue
            seen[name] = 1
            if (!said++)
                print ".SH TYPES\n.nf" >file
            else
                print "" >file
            printf "%s", body[name] >file
        }
        if (said)
            print ".fi" >file
    }
    function page(k,    file, name, words, i) {
        name = names[k]
        if (wanted != "" && index(" " wanted " ", " " name " ") == 0)
            return
        file = folder "/" name ".3"
        words = ""
        for (i = 1; i <= count[k]; i++)
            words = words (i > 1 ? " " : "") comment[k, i]
        gsub(/  +/, " ", words)
        sub(/^ /, "", words)
        printf ".TH %s 3 \"\" \"liboffload %s\" \"Library Functions\"\n.SH NAME\n", name, version >file
        printf "%s \\- %s\n", name, escape(short[name]) >file
        printf ".SH SYNOPSIS\n.nf\n.B #include <%s>\n.PP\n", header[k] >file
        for (i = 1; i <= decls[k]; i++)
            printf ".B \"%s\"\n", escape(decl[k, i]) >file
        print ".fi\n.SH DESCRIPTION" >file
        for (i = 1; i <= count[k]; i++)
            lines[i] = comment[k, i]
        sub(/^ *(any|step thread)\. */, " ", lines[1])
        print_comment(lines, count[k], file)
        printf ".PP\n%s\n.SH RETURN VALUE\n%s\n", escape(who(words)), returns(type[k]) >file
        print_structs(text[k], file)
        print ".SH SEE ALSO\n.BR liboffload (3)" >file
        close(file)
    }

    FILENAME ~ /functions.txt$/ {
        name = $1
        sub(/^[^ ]* /, "")
        short[name] = $0
        next
    }
    FNR == 1 { adjacent = 0; n = 0; inside = "" }
    # A comment outside of everything else.
    !inside && /^\/\*/ { n = 0; adjacent = 1; open = 1 }
    open {
        line = $0
        closed = line ~ /\*\/ *$/
        sub(/^\/\*/, "", line)
        sub(/^ \*\/? ?/, " ", line)
        sub(/ *\*\/ *$/, "", line)
        if (line !~ /^ *$/ || (n && !closed))
            c[++n] = line
        if (closed)
            open = 0
        next
    }
    !inside && /^(struct|enum) ofl_[a-z0-9_]+ \{/ { inside = $1 " " $2 }
    inside {
        body[inside] = body[inside] escape($0) "\n"
        if (/^};|\};$/)
            inside = ""
        adjacent = 0
        next
    }
    !declaring && /^OFL_API / { declaring = 1; k = ++all; decls[k] = 0; text[k] = "" }
    declaring {
        line = $0
        sub(/^OFL_API /, "", line)
        decl[k, ++decls[k]] = line
        text[k] = text[k] line
        if (line !~ /;$/)
            next
        declaring = 0
        name = text[k]
        sub(/\(.*/, "", name)
        type[k] = name
        sub(/.*[ *]/, "", name)
        sub(/ *\*?ofl_.*/, "", type[k])
        names[k] = name
        header[k] = FILENAME
        sub(/.*\//, "", header[k])
        count[k] = adjacent ? n : 0
        for (i = 1; i <= count[k]; i++)
            comment[k, i] = c[i]
        next
    }
    { adjacent = 0 }
    END {
        for (k = 1; k <= all; k++) {
            if (list)
                print names[k]
            if (count[k] && names[k] in short)
                continue
            print names[k] ": no man page: " (count[k] ? "docs/man/functions.txt has no line for it" : "no comment above it") >"/dev/stderr"
            bad = 1
        }
        if (bad)
            exit 1
        for (k = 1; !list && k <= all; k++)
            page(k)
    }'

if [ "${1-}" = --list ]; then
    awk -v list=1 "$pages" docs/man/functions.txt include/*.h
else
    [ -n "${1-}" ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
    mkdir -p "$1"
    awk -v list=0 -v folder="$1" -v version="$version" -v wanted="${*:2}" "$pages" docs/man/functions.txt include/*.h
fi
