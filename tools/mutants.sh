#!/usr/bin/env bash
# Negative controls of the core, of the I/O room and of the cuda device: takes one wait, fence, check or limit out of the code at a time, and
# requires that the tests notice. A mutant that survives is a test that can't fail.
#   tools/mutants.sh [NAME...]      all, or those named
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name | file | what is looked for (fixed text) | what takes its place | tests that must fail
list='
range-not-clear|liboffload/core/copy.c|if (g->seq < c->seq && g->off < c->off + c->len && c->off < g->off + g->len)|if (0)|test_core
ghost-forgets-readers|liboffload/core/copy.c|if (c->marks \|\| c->moving \|\| c->waiting \|\| fill_pending(c))|if (c->moving \|\| fill_pending(c))|test_core
drain-before-writers|liboffload/core/copy.c|if (c->drop \|\| c->marks \|\| c->waiting|if (c->drop \|\| c->waiting|test_core
fill-before-drain|liboffload/core/copy.c|if (!copy_drained(p, t, i, c->seq))|if (0)|test_core test_optimizer
fill-before-host-work|liboffload/core/copy.c|    if (t->host_done < c->after_host)\n        return;|    (void)t;|test_core test_optimizer
no-wait-for-bytes|liboffload/core/lease.c|bool bytes = !copy_bytes_ready(c)|bool bytes = 0|test_core
no-wait-between-streams|liboffload/core/lease.c|return pending && c->mark_stream != stream;|return 0;|test_core
obsolete-ghost-dropped-early|liboffload/core/lease.c| \|\| copy_fill_before(p, t, UINT64_MAX))|)|test_core
obsolete-tiles-kept|liboffload/core/lease.c|u->version == t->version \&\& ||test_core
seal-not-compared|liboffload/core/tile.c|store_seal(p->host + x->off, bytes) != x->seal|0|test_core_faults
lost-write-ignored|liboffload/core/tile.c|        pager_break(p, \&named);|        ;|test_core_faults
failed-read-ignored|liboffload/core/tile.c|        copy_fail(p, t, \&named);|        ;|test_core_faults
work-out-of-order|liboffload/core/work.c|if (t->host_done + 1 != r->ordinal[i] \|\| |if (|test_core test_optimizer
update-before-older-fill|liboffload/core/work.c|return ref->access == HOST_READ \|\| !copy_fill_before(p, t, r->ordinal[i]);|return true;|test_core test_optimizer
clip-not-awaited|liboffload/core/work.c|while (u \&\& (u->held \|\| |while (u \&\& (|test_optimizer
own-landed-tiles-kept|liboffload/core/tile.c|return t->fill_seq >= claim.seq;|return t->fill_seq > claim.seq;|test_core
budget-not-checked|liboffload/core/lease.c|if (held + wanted <= p->device_bytes)|if (1)|test_core
fill-reads-too-early|liboffload/core/copy.c|            if (!clear)\n                return;|            ;|programs.sh
own-last-tiles-kept|liboffload/core/tile.c|if (own \&\& i >= claim.landed \&\& i <= claim.tile)|if (own \&\& i >= claim.landed)|test_core
homes-no-memory-for-moves|liboffload/core/home.c|return store ? tiles * tile_bytes|return store ? 0|test_core_homes
homes-shares-reversed|liboffload/core/home.c|h->share[OFL_HOST] = e - h->share[OFL_NVME];|h->share[OFL_HOST] = h->share[OFL_NVME];|test_core_homes
homes-fill-in-turn|liboffload/core/home.c|return h->expected_bytes ? (uint64_t)|return 0 ? (uint64_t)|test_core_homes
homes-over-caches|liboffload/core/pager.c|if (t->home_tiles \&\& !tile_vacate(p))|if (0)|test_core_homes
homes-evicted|liboffload/core/copy.c|if (c->leases \|\| c->home \|\| (limit|if (c->leases \|\| (limit|test_core_homes
homes-without-leases-room|liboffload/core/home.c|uint64_t kept = p->homes.leased_bytes;|uint64_t kept = 0;|test_core_homes
homes-tail-at-the-front|liboffload/core/tile.c|(tile - t->home_tiles) * t->tile_bytes|tile * t->tile_bytes|test_core_homes
homes-as-victims|liboffload/core/tile.c|i-- > t->home_tiles;|i-- > 0;|test_core_homes
cuda-runs-into-a-full-queue|liboffload/device/cuda_lane.c|while (l->queued > CUDA_AHEAD)|while (0)|test_core_cuda
mixed-groups-bound|liboffload/core/tensor.c|    if (!on \|\| !off)|    if (1)|test_core_homes
io-result-ignored|io/piece.c|    if (t->result < 0)\n        return failed(code, cause, (int)t->result, NULL);|    if (t->result < 0)\n        t->result = t->asked_bytes;|test_io_fuzz test_io
io-short-write-taken|io/piece.c|    if (t->want == 0)\n        return IO_PIECE_DONE;|    if (t->want == 0 \|\| t->op == IO_WRITE)\n        return IO_PIECE_DONE;|test_io_fuzz
io-continues-in-a-block|io/piece.c|rest = (t->offset + t->skip + got) % t->block;|rest = 0;|test_io_queue
io-not-trimmed|io/piece.c|(char *)t->bounce + t->skip, got);|(char *)t->bounce, got);|test_io_fuzz
io-end-not-seen|io/piece.c|end = got < t->want \&\& at_end(t);|end = got < t->want \&\& t->result == 0;|test_io_queue
io-window-open|io/queue.c|return path->background_bytes == 0 \|\| path->background_bytes + piece <= path->tuning.window_bytes;|return true;|test_io_paths test_io_fuzz
io-window-leaks|io/queue.c|    t->path->background_bytes -= t->charged;|    ;|test_io_paths test_io_fuzz
io-no-deadline|io/queue_deadline.c|if (counted_ns(q) > r->expire_ns)|if (0)|test_io_queue
io-buffers-left-to-the-ring|io/uring.c|(void)io_uring_unregister_buffers(\&u->ring);|;|test_io_limits
io-locked-memory-not-waited-for|io/uring.c|    if (*waited_ms >= MEMLOCK_WAIT_MS|    if (1 \|\| *waited_ms >= MEMLOCK_WAIT_MS|test_io_limits
io-late-buffer-returned|io/queue_request.c|    if (--r->open == 0)|    if (--r->open == 0 \|\| r->late)|test_io_engines test_io_queue
io-late-not-told|io/queue_deadline.c|r->late = r->unnoticed = q->late_news = true;|r->late = r->unnoticed = true;|test_io_queue
io-stop-counts|io/queue_deadline.c|q->away_ns += q->now_ns - before_ns - stride_ns;|;|test_io_queue
io-cancel-forgotten|io/queue.c|    if (!r->live \|\| r->cancelled)|    if (1)|test_io_faults test_io_paths
io-drives-not-apart|io/queue.c|return path->inflight < sure \|\| q->transfer_count - q->inflight > owed;|return true;|test_io_paths
io-parts-stop-together|io/queue.c|(verdict == IO_PIECE_END \&\& r->share_count == 1)|verdict == IO_PIECE_END|test_io_fuzz test_io_paths test_io_stripe
io-wake-up-lost|io/queue.c|    n = io_requests_take(q, done, max);\n    io_queue_announce(q);|    n = io_requests_take(q, done, max);|test_io_queue test_io_paths
'

# A mutant that does not compile proves nothing.
build() { # test
    local goal=build/tests/$1
    [ "$1" != programs.sh ] || goal=all
    (cd "$work/tree" && make -s WITH_CUDA=0 B=build CFLAGS='-O1 -g -w' "$goal" >"$work/log" 2>&1)
}

run() { # test -> 0 if it passes
    if [ "$1" = programs.sh ]; then
        (cd "$work/tree" && timeout 200 bash tests/programs.sh >"$work/log" 2>&1)
        return
    fi
    (cd "$work/tree" && OFL_TEST_LIGHT=1 timeout 60 "build/tests/$1" >"$work/log" 2>&1)
}

# One copy, in which a file at a time is changed: only that is compiled again.
mkdir -p "$work/tree"
cp -r "$root"/{include,io,scheduler,liboffload,tests,examples,bench,docs,tools,Makefile,README.md,liboffload.map,offload.pc.in} \
    "$work/tree/"

survivors=0 killed=0
while IFS= read -r line; do
    [ -n "$line" ] || continue
    # fields are split at | that is not escaped
    mapfile -t f < <(python3 - "$line" <<'P'
import re, sys
for part in re.split(r'(?<!\\)\|', sys.argv[1]):
    print(part.replace('\\|', '|').replace('\\&', '&'))
P
    )
    name=${f[0]}
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    python3 - "$work/tree/${f[1]}" "${f[2]}" "${f[3]}" <<'P' || { echo "$name: the text to replace is gone: mend tools/mutants.sh"; exit 1; }
import sys
path, old, new = sys.argv[1], sys.argv[2].replace('\\n', '\n'), sys.argv[3].replace('\\n', '\n')
text = open(path).read()
if old not in text:
    sys.exit(1)
open(path, 'w').write(text.replace(old, new, 1))
P
    seen=""
    for t in ${f[4]}; do
        build "$t" || { cat "$work/log"; echo "$name: does not compile: mend tools/mutants.sh"; exit 1; }
        for _ in 1 2 3; do
            if ! run "$t"; then
                seen=$t
                break 2
            fi
        done
    done
    cp "$root/${f[1]}" "$work/tree/${f[1]}"
    if [ -n "$seen" ]; then
        killed=$((killed + 1))
        echo "$name: noticed by $seen"
    else
        survivors=$((survivors + 1))
        echo "$name: NOT NOTICED by ${f[4]}"
    fi
done <<<"$list"
echo "$killed mutants noticed, $survivors not"
[ "$survivors" = 0 ]
