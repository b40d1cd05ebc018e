#!/bin/bash
# Proves what `ofl-bench compare` promises: each figure of the table, of the CSV and of the JSON is the reports' own, run by
# run, also where reports have other runs; a ratio is marked where ranges overlap and only there; what is no report is
# refused by name, with exit status 2, and no report is written over; names with anything in them reach no terminal and no
# script of gnuplot; the plot is a picture.
#
# It can fail: a figure of a report that is changed changes the table.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash compare
[ -x "$bin/ofl-bench" ] || { complain "$bin/ofl-bench is not built"; finish; }

run() {
    limited "$bin/ofl-bench" compare "$@"
}

# run_of MODE BLOCK DEPTH MEDIAN MIN MAX P99: a run of a report.
run_of() {
    printf '{"rw": "%s", "block_bytes": %s, "depth": %s,
 "gb_per_s": {"count": 3, "median": %s, "q1": %s, "q3": %s, "min": %s, "max": %s},
 "iops": {"count": 3, "median": 1000, "q1": 1000, "q3": 1000, "min": 990, "max": 1010},
 "cpu_s_per_gb": {"count": 3, "median": 0.01, "q1": 0.01, "q3": 0.01, "min": 0.01, "max": 0.01},
 "latency_ns": {"p50": 1000, "p99": %s, "p999": 3000, "max": 4000}}' "$1" "$2" "$3" "$4" "$4" "$4" "$5" "$6" "$7"
}

# report NAME DRIVE runs...: a file.
report() {
    local name=$1 drive=$2 comma='' all=''
    shift 2
    for one; do all+=$comma$one comma=,; done
    printf '{"program": "ofl-bench nvme", "version": "0.1.0", "date": "2026-01-02T03:04:05Z", "file_bytes": 1073741824,
 "paths": [{"dir": "/mnt/x", "drive": {"name": "nvme0n1", "model": "%s", "filesystem": "ext4"}}],
 "engine": {"name": "io_uring", "direct": true}, "results": [%s]}\n' "$drive" "$all" >"$work/$name"
}

refuse() {
    local words=$1
    shift
    run "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$*: exit status $status"
    says "$words" "$work/err" "$*"
    [ ! -s "$work/out" ] || complain "$*: printed $(head -n 1 "$work/out")"
}

report a.json 'ONE' "$(run_of read 1048576 32 2 1.9 2.1 5000)" "$(run_of randread 4096 64 0.25 0.2 0.3 9000)"
report b.json 'TWO' "$(run_of randread 4096 64 0.26 0.22 0.31 8000)" "$(run_of read 1048576 32 3 2.9 3.1 4000)" \
    "$(run_of write 1048576 32 1 0.9 1.1 7000)"
report c.json 'THREE' "$(run_of write 1048576 32 1.5 1.4 1.6 6000)"

# ---- figures ---------------------------------------------------------------------

run "$work/a.json" "$work/b.json" "$work/c.json" --json "$work/all.json"
wanted "three reports"
says 'A  *.*a.json: nvme0n1 (ONE), ext4; 1.00 GiB; io_uring, direct I/O' "$work/out" "the first report's line"
says 'read  *1M  *32  A  2.000 (1.900..2.100) ' "$work/out" "a's reads"
says ' B  3.000 (2.900..3.100) .* 4.0 us .* 1.500$' "$work/out" "b's reads, apart"
says ' B  0.260 (0.220..0.310) .* 1.040 ~$' "$work/out" "b's random reads, not apart"
says 'write  *1M  *32  A  not measured' "$work/out" "a has no writes"
[ "$(grep -c 'not measured' "$work/out")" -eq 3 ] || complain "not three runs that are missing"
! command -v python3 >/dev/null || python3 -c 'import json, sys
rows = json.load(open(sys.argv[1]))["rows"]
assert [(r["rw"], [x and x["gb_per_s"]["median"] for x in r["runs"]]) for r in rows] == [
    ("read", [2, 3, None]), ("randread", [0.25, 0.26, None]), ("write", [None, 1, 1.5])], rows
assert rows[0]["runs"][1]["ratio"] == 1.5 and rows[0]["runs"][1]["apart"] and not rows[1]["runs"][1]["apart"]
assert rows[2]["runs"][1]["ratio"] is None' "$work/all.json" 2>"$work/err" || complain "the JSON has other figures"
sed 's/"median": 3,/"median": 2.95,/' "$work/b.json" >"$work/changed.json"
run "$work/a.json" "$work/changed.json"
says ' B  2.950 (2.900..3.100) .* 1.475$' "$work/out" "a figure that was changed"
run "$work/a.json" "$work/b.json" --csv
wanted --csv
says '^"[^"]*b.json","2026-01-02T03:04:05Z","read",1048576,32,3,2.9,3.1,1000,990,1010,0.01,0.01,0.01,1000,4000,3000,4000,1.5,1$' \
    "$work/out" "a line of the CSV"
[ "$(wc -l <"$work/out")" -eq 6 ] || complain "the CSV has not a line for each run"

# ---- what is refused ------------------------------------------------------------------

cp "$work/a.json" "$work/kept.json"
refuse 'two reports at least' "$work/a.json"
refuse 'No such file' "$work/a.json" "$work/absent.json"
head -c 300 "$work/a.json" >"$work/cut.json"
refuse 'cut.json: line' "$work/a.json" "$work/cut.json"
echo '{"program": "ofl-finetune"}' >"$work/other.json"
refuse 'other.json: not a report of ofl-bench nvme' "$work/other.json" "$work/a.json"
report none.json ''
refuse 'none.json: the report has no runs' "$work/a.json" "$work/none.json"
sed 's/"depth": 32/"depth": "x"/' "$work/a.json" >"$work/odd.json"
refuse 'odd.json: its run 1 has no mode, block, depth or rate' "$work/a.json" "$work/odd.json"
refuse 'end with .svg or .png' "$work/a.json" "$work/b.json" --plot "$work/x.gif"
refuse 'a.json' "$work/a.json" "$work/b.json" --json "$work/a.json"
cmp -s "$work/a.json" "$work/kept.json" || complain "a report was written over"

# ---- pictures -----------------------------------------------------------------------------

if command -v gnuplot >/dev/null; then
    report evil.json 'E\"; system(\"touch EVIL\")\u001b[31m' "$(run_of read 1048576 32 2 1.9 2.1 5000)"
    run "$work/a.json" "$work/b.json" "$work/evil.json" --plot "$work/all.svg"
    wanted --plot
    says '</svg>' "$work/all.svg" "the plot"
    [ ! -e EVIL ] || { rm EVIL; complain "a drive's name is run"; }
    ! grep -q $'\033' "$work/out" || complain "a drive's name reaches the terminal"
    if command -v rsvg-convert >/dev/null; then
        rsvg-convert "$work/all.svg" -o "$work/all.png" || complain "the plot is no picture"
    fi
else
    skipped+=(gnuplot)
fi
finish
