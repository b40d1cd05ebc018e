#!/bin/bash
# Proves that the parser of NVMe health pages agrees with nvme-cli, field by field, over recorded pages and random ones:
# tests/test_io_smart prints a page as `nvme smart-log -o json` does. nvme-cli 2.3 decodes no file, only what a device
# answers, so its admin command is answered from the file by a library that is preloaded (tests/shim/nvme.c); the device is
# one that can be opened to read by anybody, and nothing is asked of it.
#
# It can fail: two pages that differ in one bit are told apart.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash smart
PATH=$PATH:/usr/sbin:/sbin
[ -x "$bin/tests/test_io_smart" ] || { complain "$bin/tests/test_io_smart is not built"; finish; }
for tool in nvme python3; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed: the parser is not compared with nvme-cli"; verdict=1; exit 77; }
done
# Recorded: a young drive, a worn one, one that is past its rating and read only, one that throttles, one that tells little,
# and counters beyond 64 bits; all bits, none; random ones behind them.
python3 - "$work" <<'END' || complain "no pages"
import random, sys
def page(head, counts=(), warm=0, hot=0, sensors=(), throttle=(0, 0, 0, 0)):
    p = bytearray(512)
    p[0], p[1:3], p[3], p[4], p[5], p[6] = head[0], head[1].to_bytes(2, "little"), *head[2:]
    for i, n in enumerate(counts):
        p[32 + 16 * i:48 + 16 * i] = n.to_bytes(16, "little")
    p[192:196], p[196:200] = warm.to_bytes(4, "little"), hot.to_bytes(4, "little")
    for i, n in enumerate(sensors):
        p[200 + 2 * i:202 + 2 * i] = n.to_bytes(2, "little")
    for i, n in enumerate(throttle):
        p[216 + 4 * i:220 + 4 * i] = n.to_bytes(4, "little")
    return p
pages = [
    page((0, 309, 100, 10, 0, 0), (1201, 4090, 31002, 90411, 3, 12, 41, 2, 0, 0), sensors=(309, 317)),
    page((0, 324, 87, 5, 41, 0), (731200411, 1922010044, 9 * 10**9, 2 * 10**10, 90112, 311, 21044, 77, 0, 14), 12, 0, (324, 331, 322)),
    page((0x0d, 341, 4, 10, 131, 4), (10**12, 4 * 10**12, 10**13, 10**14, 10**6, 4021, 52000, 900, 3121, 4000), 4100, 9),
    page((2, 358, 99, 10, 7, 0), (10**8, 10**9, 10**9, 10**10, 7000, 55, 6000, 10, 0, 1), 55, 7, (358, 0, 361), (812, 33, 9012, 411)),
    page((0, 0, 100, 0, 255, 0)),
    page((0, 300, 100, 10, 1, 0), [2**127 + 5, 2**100 + 7, 2**64, 2**64 - 1, 2**65 + 1, 1, 2**90, 3, 2**120, 10**38]),
    bytearray(512), bytearray(b"\xff" * 512),
] + [bytearray(random.Random(seed).randbytes(512)) for seed in range(24)]
for i, p in enumerate(pages):
    open(f"{sys.argv[1]}/page-{i:02}", "wb").write(p)
END

# nvme-cli 2.3 prints counters of 32 bits with a sign; they have none.
unsigned='import re, sys
print(re.sub(r":-(\d+)", lambda m: ":%d" % (2**32 - int(m[1])), sys.stdin.read()), end="")'
theirs() {
    OFL_SMART_PAGE=$1 LD_PRELOAD=$bin/tests/nvme_shim.so nvme smart-log /dev/null -o json | python3 -c "$unsigned"
}
ours() {
    OFL_SMART_PAGE=$1 "$bin/tests/test_io_smart"
}

compared=0
for page in "$work"/page-*; do
    theirs "$page" >"$work/theirs" 2>"$work/err" || { complain "nvme-cli: $(head -n 1 "$work/err")"; break; }
    ours "$page" >"$work/ours"
    if ! cmp -s "$work/theirs" "$work/ours"; then
        complain "$(basename "$page"): $(diff "$work/theirs" "$work/ours" | sed -n '2,5p' | tr '\n' ' ')"
        continue
    fi
    compared=$((compared + 1))
done
[ "$compared" -ge 6 ] || complain "only $compared pages were compared"

cp "$work/page-01" "$work/other"
printf '\x01' | dd of="$work/other" bs=1 seek=63 conv=notrunc status=none
! cmp -s <(theirs "$work/page-01") <(ours "$work/other") || complain "a page with another bit passes"
finish
