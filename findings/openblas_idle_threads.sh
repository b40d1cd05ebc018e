#!/usr/bin/env bash
# OpenBLAS 0.3.31 (in numpy 2.4.6's wheel): its threads stay awake for about a tenth of a second behind each product.
#
# Guess: between two products a program's threads sleep, and its other threads (I/O, copies) have the cores. But each of
# OpenBLAS's threads asks for work in a loop, giving way by sched_yield, for 2^28 ticks of the time stamp counter (0.1 s at
# 2.7 GHz) before it sleeps. A program with a product now and then, more often than that, has all cores busy all the time,
# with no work in them; whoever needs a core meanwhile shares it. OPENBLAS_THREAD_TIMEOUT=20 in the environment, read as the
# library is loaded, makes it 2^20 ticks, 0.4 ms, at the price of waking them. Seen with two threads; of N threads N - 1 do so.
# Debian 12's 0.3.21 does the same.
#
# Output seen, seconds of processor time in 0.3 s of sleep behind a product:
#     by default                 0.100
#     OPENBLAS_THREAD_TIMEOUT=20 0.000
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q numpy==2.4.6 || exit 77 # it can't be had

cat >"$work/idle.py" <<'P'
import statistics, time
import numpy
a = numpy.ones((1500, 1500), dtype=numpy.float32)
used = []
for _ in range(4):
    a @ a
    begin = time.process_time()
    time.sleep(0.3)
    used.append(time.process_time() - begin)
print("%.3f" % statistics.median(used))
P
export OPENBLAS_NUM_THREADS=2
unset OPENBLAS_THREAD_TIMEOUT
long=$("$work/env/bin/python" "$work/idle.py")
short=$(OPENBLAS_THREAD_TIMEOUT=20 "$work/env/bin/python" "$work/idle.py")
echo "by default                 $long"
echo "OPENBLAS_THREAD_TIMEOUT=20 $short"
awk -v long="$long" -v short="$short" 'BEGIN { exit !(long > 0.02 && short < 0.01) }' || {
    echo "changed: idle threads sleep at once, or the variable does nothing"
    exit 1
}
