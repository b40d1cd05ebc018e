#!/usr/bin/env bash
# Negative controls of the core, of the public calls, of the I/O room, of kept stores and of the cuda device: takes one wait, fence, check or limit out of the code at a time, and
# requires that the tests notice. A mutant that survives is a test that can't fail.
#   tools/mutants.sh [NAME...]      all, or those named
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Programs of tests/sim for each mutant: most are noticed within a few hundred, one only after 60,000.
sim_seeds=${OFL_MUTANT_SEEDS:-80000}

# name | file | what is looked for (fixed text) | what takes its place | tests that must fail
list='
range-not-clear|liboffload/core/place.c|    c->blockers++;|    ;|sim
ghost-forgets-readers|liboffload/core/copy.c|if (c->marks \|\| c->moving \|\| c->waiting \|\| copy_filling(c))|if (c->moving \|\| c->waiting \|\| copy_filling(c))|sim
ghost-forgets-moves|liboffload/core/copy.c|if (c->marks \|\| c->moving \|\| c->waiting \|\| copy_filling(c))|if (c->marks \|\| c->waiting \|\| copy_filling(c))|sim
drain-before-writers|liboffload/core/copy.c|if (c->drop \|\| c->marks \|\| c->waiting|if (c->drop \|\| c->waiting|sim
drain-before-host-work|liboffload/core/copy.c|t->host_done < c->drain_after \|\||0 \|\||sim
drain-before-older-fill|liboffload/core/copy.c|fill_older(c) \|\| drain_older(c))|drain_older(c))|sim
drain-before-older-drain|liboffload/core/copy.c|fill_older(c) \|\| drain_older(c))|fill_older(c))|sim
drain-into-use|liboffload/core/copy.c|return x->state != TILE_ARRIVING \&\& !x->pins \&\& !x->writing;|return x->state != TILE_ARRIVING;|sim
drain-into-arriving|liboffload/core/copy.c|return x->state != TILE_ARRIVING \&\& !x->pins \&\& !x->writing;|return !x->pins \&\& !x->writing;|sim
fill-before-drain|liboffload/core/copy.c|        if (!copy_drained(t, s.from, s.to, c->seq))|        if (0)|sim
fill-before-host-work|liboffload/core/copy.c|if (t->host_done < c->after_host \|\| c->blockers)|if (c->blockers)|sim
fill-before-clear|liboffload/core/copy.c|if (t->host_done < c->after_host \|\| c->blockers)|if (t->host_done < c->after_host)|sim
fill-arriving-tile|liboffload/core/copy.c|} else if (x->state != TILE_ARRIVING \&\& i == c->fill_next) {|} else if (i == c->fill_next) {|sim
fill-unpinned|liboffload/core/copy.c|        tile_pin(p, t, tile);\n        p->env.copy_in|        p->env.copy_in|sim
fill-given-up-with-waiters|liboffload/core/place.c|if (!c->waiting \&\& copy_filling(c))|if (copy_filling(c))|sim
no-wait-for-bytes|liboffload/core/lease.c|    if (needs_bytes(c, mode))\n        wait_add|    if (0)\n        wait_add|sim
no-wait-between-streams|liboffload/core/lease.c|return pending \&\& c->mark_stream != stream;|return 0;|sim
writers-ignore-readers|liboffload/core/lease.c|mode == OFL_READ ? c->write_marks : c->marks|c->write_marks|sim
stream-of-marks-forgotten|liboffload/core/lease.c|c->mark_stream = c->marks == 0 \|\| c->mark_stream == stream ? stream : 0;|c->mark_stream = stream;|sim
marks-not-counted|liboffload/core/wait.c|        if (--cond->count) {|        if (0) {|sim
obsolete-dropped-for-newer|liboffload/core/copy_below.c|return version == newest \&\& |return |sim
obsolete-dropped-before-work|liboffload/core/copy_below.c|t->host_issued == t->host_done \&\& !t->source|!t->source|sim
obsolete-dropped-before-fill|liboffload/core/copy_below.c|c->drain_next == c->first \&\& !copy_fill_older(c);|c->drain_next == c->first;|sim
work-out-of-order|liboffload/core/work.c|if (t->turns != (r->update ? \&r->update->turn[i] : \&r->turn) \|\||if (|sim
work-before-drain|liboffload/core/work.c| \|\|\n        !copy_drained(t, from, from + tile_count_bytes(t, ref->tile), r->seq))|)|sim
work-before-older-fill|liboffload/core/work.c|return ref->access == HOST_READ \|\| !copy_fill_before(t, r->ordinal[i], ref->tile);|return true;|sim
work-writer-not-alone|liboffload/core/work.c|if (ref->access == HOST_READ \|\| x->pins == 0)|if (1)|sim
request-leaves-copy|liboffload/core/work.c|if (c->dirty \|\| write)|if (c->dirty)|sim
request-leaves-dirty-copy|liboffload/core/work.c|if (c->dirty \|\| write)|if (write)|sim
update-leaves-copy|liboffload/core/work.c|            place_evict(p, c);\n            c->for_update = true;|            break;|sim
clip-not-awaited|liboffload/core/work.c|    u->held = held;|    u->held = false;|sim test_optimizer
no-place-for-the-oldest|liboffload/core/work.c|    if (p->active + !oldest >= p->active_max)|    if (p->active >= p->active_max)|sim
no-claims-for-the-oldest|liboffload/core/work.c|uint32_t kept = oldest ? 0 : CORE_UPDATE_TENSORS;|uint32_t kept = 0;|sim
wanted-evicted|liboffload/core/tile_sets.c|idle \&\& !x->wanted \&\& !x->dirty|idle \&\& !x->dirty|sim
written-while-used|liboffload/core/tile_sets.c|bool idle = x->state == TILE_VALID \&\& !x->pins \&\& !x->writing;|bool idle = x->state == TILE_VALID \&\& !x->writing;|sim
late-range-given-on|liboffload/core/tile.c|    op->orphan_next = p->orphans;\n|    op->orphan_next = p->orphans;\n    base_extents_give(p->host_ranges, x->off, x->len);\n|sim
stale-read-kept|liboffload/core/tile.c|    if (op->io.error.code < 0 \|\| x->stale)|    if (op->io.error.code < 0)|sim
seal-not-compared|liboffload/core/tile.c|    if (op->seal == x->seal)|    if (1)|sim test_core_faults
lost-write-ignored|liboffload/core/pump.c|        pager_break(p, why);|        ;|sim test_core_faults
failed-read-ignored|liboffload/core/pump.c|    copy_fail(p, t, 0, from, from + tile_count_bytes(t, op->tile), why);|    ;|sim test_core_faults
skipped-write-published|liboffload/core/lease.c|    else if (failed)\n        copy_ruin(p, c, u->version, why);\n||sim
skipped-write-unnoticed|liboffload/core/copy.c|        copy_lose(t, error);|        ;|sim
lost-tensor-readable|liboffload/core/copy.c|    if (!t->lost)\n        return 0;|    return 0;|sim
error-not-passed|liboffload/core/wait.c|    conds_over(p, c, true, c->error);|    conds_over(p, c, true, NULL);|sim
removed-in-use|liboffload/core/pump.c|    if (copy_in_use(t))|    if (0)|sim
removed-with-ghosts|liboffload/core/pump.c|if (t->ghosts \|\| t->turns|if (t->turns|sim
removed-busy|liboffload/core/pump.c|if (t->ghosts \|\| t->turns \|\| tile_busy(t))|if (t->ghosts \|\| t->turns)|sim
homes-over-caches|liboffload/core/pump.c|if (err == 0 \&\& t->home_tiles \&\& !tile_vacate(p))|if (0)|sim test_core_homes
leased-evicted|liboffload/core/place_find.c|if (c == \&s->p->live \|\| c->leases \|\| c->home)|if (c == \&s->p->live \|\| c->home)|sim
hollow-not-filled|liboffload/core/lease.c|        if (item->made \|\| c->hollow) {|        if (item->made) {|sim
hungry-gives-up|liboffload/core/pump.c|return p->changes != before \|\| p->hungry;|return p->changes != before;|sim
prefetch-tries-for-ever|liboffload/core/pump.c|    t->ahead_failed = true; /* nobody|    ; /* nobody|sim
gone-below-believed|liboffload/core/copy.c|    t->gone \|= c->wrote;|    ;|sim
superseded-write-published|liboffload/core/copy.c|    spoil(p, c, error);\n}\n\nvoid copy_ruin|}\n\nvoid copy_ruin|sim
works-on-skipped-write|liboffload/core/copy.c|    ruin_works(c, t->whole_seq, error);|    ;|sim
failed-acquire-goes-on|liboffload/core/wait.c|w \&\& (w->remaining > 1 \|\| w->error) ? w->gate|w \&\& w->remaining > 1 ? w->gate|sim
acquire-half-done|liboffload/core/lease.c|        unhold_all(p, n);\n        return -ENOMEM;|        return -ENOMEM;|sim
edge-without-its-rest|liboffload/core/copy.c|    if (edge \&\& x->state == TILE_NONE)|    if (0)|sim
edge-not-zeroed|liboffload/core/tile_zero.c|tile_ptr(p, t, tile), tile_count_bytes(t, tile), op);\n    return true;|tile_ptr(p, t, tile), 0, op);\n    return true;|sim
edge-drained-whole|liboffload/core/copy.c|on_host(p, c, tile, s), on_device(p, c, s), s.to - s.from, op);\n    return true;|tile_ptr(p, t, tile), on_device(p, c, s), s.to - s.from, op);\n    return true;|sim
edge-can-not-be-had|liboffload/core/pump.c|    copy_fail_edge(p, t, op->tile, why);|    ;|sim
edge-dropped|liboffload/core/copy_below.c|        if (!copy_is_edge(c, i))\n|        if (1)\n|sim
edge-dropped-with-its-ghost|liboffload/core/copy.c|(c->drop \&\& !copy_is_edge(c, op->tile))|c->drop|sim
part-drops-larger-ghost|liboffload/core/copy_below.c|g->seq < c->seq \&\& copy_holds(c, g->from, g->to)|g->seq < c->seq|sim
part-drops-under-newer|liboffload/core/copy_below.c|uint64_t newest = c->ghost ? t->version : c->version;|uint64_t newest = c->version;|sim
part-before-older-drain|liboffload/core/copy.c|if (!c->drop \&\& c->write_seq < seq \&\& copy_meets(c, from, to) \&\& c->drain_done <= tile)|if (!c->drop \&\& c->write_seq < seq \&\& c->from <= from \&\& c->to >= to \&\& c->drain_done <= tile)|sim
part-drained-before-older|liboffload/core/copy.c|if (!g->drop \&\& copy_meets(g, c->from, c->to))|if (!g->drop \&\& copy_holds(g, c->from, c->to))|sim
part-before-older-fill|liboffload/core/copy.c|copy_filling(o) \&\& o->seq < c->seq \&\& copy_meets(o, c->from, c->to)|copy_filling(o) \&\& o->seq < c->seq \&\& copy_holds(c, o->from, o->to)|sim
part-overwrite-of-a-home|liboffload/core/lease.c|if (l->mode != OFL_OVERWRITE \|\| c->to - c->from > item->to - item->from) {|if (l->mode != OFL_OVERWRITE) {|sim
part-makes-whole|liboffload/core/copy_below.c|    if (whole \&\& version >=|    if (version >=|sim
part-makes-whole-at-once|liboffload/core/lease.c|if (l->mode == OFL_OVERWRITE \&\& whole) {|if (l->mode == OFL_OVERWRITE) {|sim
part-overwritten-again|liboffload/core/copy.c|    if (version < c->over_version)\n        return;|    ;|sim
parts-overlap|liboffload/core/lease.c|            while ((across = part_find(t, item->from, item->to)))\n                place_evict(p, across);|            ;|sim
parts-of-a-home-shared|liboffload/core/hold.c|            err = check_holds(c, l, from, to);|            err = 0;|sim test_core_parts
parts-held-shared|liboffload/core/hold.c|else if (c->writers \|\| l->mode != OFL_READ \|\| !copy_holds(c, from, to))|else if (0)|sim test_core_parts
error-not-heard|liboffload/core/lease.c|return !copy_bytes_ready(c) \|\| (c->error \&\& mode != OFL_OVERWRITE);|return !copy_bytes_ready(c);|sim
stuck-forgotten|liboffload/core/copy.c|    place_set_stuck(p, c, !room);|    (void)room;|sim
starved-not-told|liboffload/core/tile.c|p->starved \|= claim.need != NEED_AHEAD \&\& !(p->planned \&\& tile_room_comes(p));|;|sim test_core
own-landed-tiles-kept|liboffload/core/tile.c|t->fill_seq < s->claim.seq)|t->fill_seq <= s->claim.seq)|test_core
budget-not-checked|liboffload/core/lease.c|if (p->held_bytes + wanted <= p->device_bytes)|if (1)|test_core sim
homes-no-memory-for-moves|liboffload/core/home.c|return store ? tiles * tile_bytes|return store ? 0|sim test_core_homes
homes-shares-reversed|liboffload/core/home.c|h->share[OFL_HOST] = e - h->share[OFL_NVME];|h->share[OFL_HOST] = h->share[OFL_NVME];|test_core_homes
homes-fill-in-turn|liboffload/core/home.c|return h->expected_bytes ? (uint64_t)|return 0 ? (uint64_t)|test_core_homes
homes-evicted|liboffload/core/place_find.c|if (c == \&s->p->live \|\| c->leases \|\| c->home)|if (c == \&s->p->live \|\| c->leases)|sim test_core_homes
commit-passed-by-host-work|liboffload/core/work.c|        (writes(ref->access) \&\& commit_bars(p, t, ref->tile, r->seq)) \|\||        0 \|\||commits
commit-passed-by-requests|liboffload/core/work.c|        if (writes(u->access[i]) \&\& commit_bars|        if (0 \&\& commit_bars|test_core_keep
commit-unsettled|liboffload/core/pager.h|(p->commit.unsettled \|\| !k|(!k|test_core_keep
commit-untaken|liboffload/core/pager.h|(p->commit.unsettled \|\| !k->next[tile].generation)|p->commit.unsettled|commits
commit-held-written|liboffload/core/slot.h|    return k \&\& k->part|    return 0 \&\& k->part|commits
commit-held-for-ever|liboffload/core/commit.c|            tile_let_go(p, t);|            ;|commits
commit-passed-by-drains|liboffload/core/copy.c|!commit_bars(p, t, c->drain_next, c->write_seq) \&\&||commits
commit-dropped-below|liboffload/core/copy_below.c|!t->source \&\& !commit_open(t) \&\&|!t->source \&\&|commits
commit-let-go|liboffload/core/copy_below.c|        !commit_open(c->tensor) \&\& ||commits
commit-before-host-work|liboffload/core/commit.c|    if (t->host_done < k->ordinal)|    if (0)|commits
commit-before-drains|liboffload/core/commit.c|    if (!copy_drained(t, from, from + bytes, p->commit.seq) \|\| x->writing|    if (x->writing|commits
commit-of-a-write-under-way|liboffload/core/commit.c|        if (!t->tiles[i].writing) {|        if (1) {|commits
commit-of-the-device-forgotten|liboffload/core/commit.c|        send_down(p, t);|        ;|commits
commit-over-the-last-one|liboffload/core/slot.c|    return k \&\& !p->kept_in_place \&\& k->whole[tile].there \&\& !k->whole[tile].slot;|    return 0;|commits
commit-never-settled|liboffload/core/commit.c|            slot_settle(t);|            ;|commits
commit-of-what-was-lost|liboffload/core/copy.c|        t->keep->spoilt = true; /* also|        ; /* also|commits
commit-of-what-was-ruined|liboffload/core/copy.c|        t->keep->spoilt = true; /* it is|        ; /* it is|commits
commit-of-a-destroyed-tensor|liboffload/core/pump.c|    if (t->keep \&\& t->keep->part)|    if (0)|commits
homes-without-leases-room|liboffload/core/home.c|uint64_t kept = p->homes.leased_bytes;|uint64_t kept = 0;|test_core_homes
homes-tail-at-the-front|liboffload/core/tile.c| + tile_start(t, tile) - tile_start(t, t->home_tiles)| + tile_start(t, tile)|sim test_core_homes
cuda-runs-into-a-full-queue|liboffload/device/cuda_lane.c|while (l->queued > CUDA_AHEAD)|while (0)|test_core_cuda
mixed-groups-bound|liboffload/core/core.c|    if (!on \|\| !off)|    if (1)|test_core_homes
prefetch-takes-what-rests|liboffload/core/place_find.c|(s->p->planned \&\& !sched_passing(s->p->sched, id))|false|test_core_plan test_simulate
late-drain-for-all|liboffload/core/copy.c|p->planned \&\& c->for_update \&\&|p->planned \&\&|sim
late-drain-in-the-way|liboffload/core/copy.c|        set_late(p, c, true); /*|        ; /*|sim
drains-at-once|liboffload/core/copy.c|return p->planned \&\& c->for_update|return false \&\& c->for_update|test_simulate
alone-not-dirty|liboffload/core/copy_below.c|    c->dirty = c->wrote = true;|    c->wrote = true;|sim
alone-half-filled|liboffload/core/copy_below.c|c->hollow \|\| copy_filling(c) \|\||c->hollow \|\||sim
alone-without-a-use|liboffload/core/copy_below.c|!(rest.device \|\| c->leases \|\| c->marks)|false|sim
let-go-under-an-update|liboffload/core/copy_below.c| \&\& u->tiles_next == 0||sim
let-go-of-newer-bytes|liboffload/core/copy_below.c| \&\& c->after_host == t->host_done||sim
risen-tiles-passed-down|liboffload/core/tile_sets.c|!sched_solved(p->sched) \|\| rest.alone ?|!sched_solved(p->sched) ?|test_simulate
rests-where-it-is|liboffload/core/ahead.c|        place_compact(p);|        ;|test_simulate
passes-anywhere|liboffload/core/place_find.c|        s.floor = p->passing_off;|        ;|test_simulate
hints-for-ever|scheduler/trace.c|    hint_step_over(s);|    ;|test_core_hint
hint-not-taken-back|liboffload/core/hint.c|    take_out_of(p, t, from, to);\n    sched_hint_over(p->sched, t->id);|    ;|test_core_hint
hint-not-forgotten|liboffload/core/pump.c|    hint_forget(p, t);|    ;|test_core_hint
hint-counts-no-use|scheduler/trace.c|    sched_hint_over(s, event.id);|    ;|test_core_hint
hint-only-on-the-device|liboffload/core/hint.c|            start_in_host(p, h);|            ;|test_core_hint
nothing-waits|scheduler/solve.c|if (may_wait(s, i) \|\| may_rise(s, i))|if (may_rise(s, i))|test_simulate
nothing-rises|scheduler/solve.c|if (may_wait(s, i) \|\| may_rise(s, i))|if (may_wait(s, i))|test_simulate
what-passes-leaves-last|scheduler/order.c|set == SCHED_COPIES \&\& far|false \&\& far|test_core_plan
plan-solved-again-and-again|scheduler/plan.c| \&\& !p->fickle||test_trace
ahead-takes-holes|liboffload/core/tile.c|claim.need == NEED_AHEAD \&\& p->crowded|false|test_simulate
newest-whole-write-spoiled|liboffload/core/copy.c|g->ghost \&\& g->version < t->whole_version|g->ghost|test_sim
sorted-by-a-turn-that-is-gone|liboffload/core/work.c|    tile_served(p, t, 0); /* what the first turn|    /* what the first turn|test_sim
engine-mail-not-looked-for|liboffload/core/engine.c|    if (!atomic_load(\&e->mail))\n        return false;|    if (1)\n        return false;|test_core_engine
engine-waits-without-a-look|liboffload/core/engine.c|    if (detained(e)) {|    if (0) {|test_core_engine
engine-sleeps-on-mail|liboffload/core/engine.c|false) \&\& !atomic_load(\&e->mail))|false))|test_core_engine
engine-sleeps-on-work|liboffload/core/engine.c|if (!atomic_exchange(\&e->due, false) \&\& |if (|test_core_engine
engine-not-called-to-mail|liboffload/core/engine.c|        wake(e);\n        return;|        return;|test_core_engine
engine-not-called-to-work|liboffload/core/engine.c|    if (left)\n        wake(e);|    ;|test_core_engine
io-result-ignored|io/piece.c|    if (t->result < 0)\n        return failed(code, cause, (int)t->result, NULL);|    if (t->result < 0)\n        t->result = t->asked_bytes;|test_io_fuzz test_io
io-short-write-taken|io/piece.c|    if (t->want == 0)\n        return IO_PIECE_DONE;|    if (t->want == 0 \|\| t->op == IO_WRITE)\n        return IO_PIECE_DONE;|test_io_fuzz
io-continues-in-a-block|io/piece.c|rest = (t->offset + t->skip + got) % t->block;|rest = 0;|test_io_queue
io-not-trimmed|io/piece.c|(char *)t->bounce + t->skip, got);|(char *)t->bounce, got);|test_io_fuzz
io-end-not-seen|io/piece.c|end = got < t->want \&\& at_end(t);|end = got < t->want \&\& t->result == 0;|test_io_queue
io-window-open|io/queue.c|return path->background_bytes == 0 \|\| path->background_bytes + piece <= path->tuning.window_bytes;|return true;|test_io_paths test_io_fuzz
io-window-leaks|io/queue.c|    t->path->background_bytes -= t->charged;|    ;|test_io_paths test_io_fuzz
io-no-deadline|io/queue_deadline.c|if (counted_ns(q) > r->expire_ns)|if (0)|test_io_deadline
io-buffers-left-to-the-ring|io/uring.c|(void)io_uring_unregister_buffers(\&u->ring);|;|test_io_limits
io-locked-memory-not-waited-for|io/uring.c|    if (*waited_ms >= MEMLOCK_WAIT_MS|    if (1 \|\| *waited_ms >= MEMLOCK_WAIT_MS|test_io_limits
io-late-buffer-returned|io/queue_request.c|    if (--r->open == 0)|    if (--r->open == 0 \|\| r->late)|test_io_late test_io_deadline
io-late-not-told|io/queue_deadline.c|r->late = r->unnoticed = q->late_news = true;|r->late = r->unnoticed = true;|test_io_deadline
io-stop-counts|io/queue_deadline.c|q->away_ns += q->now_ns - before_ns - stride_ns;|;|test_io_deadline test_io_late
io-cancel-forgotten|io/queue.c|    if (!r->live \|\| r->cancelled)|    if (1)|test_io_faults test_io_paths
io-drives-not-apart|io/queue.c|return path->inflight < sure \|\| q->transfer_count - q->inflight > owed;|return true;|test_io_paths
io-parts-stop-together|io/queue.c|(verdict == IO_PIECE_END \&\& r->share_count == 1)|verdict == IO_PIECE_END|test_io_fuzz test_io_paths test_io_stripe
io-wake-up-lost|io/queue.c|    n = io_requests_take(q, done, max);\n    io_queue_announce(q);|    n = io_requests_take(q, done, max);|test_io_queue test_io_paths
output-name-not-locked|examples/model/output.c|flock(o->lock, LOCK_EX \| LOCK_NB) != 0 \&\& errno == EWOULDBLOCK|0|test_writer
writer-room-not-taken|liboffload/source/writer.c|        err = fallocate(w->fd, 0, 0, (off_t)bytes) == 0 ? 0 : -errno;|        err = 0;|test_writer test_safetensors_writer
writer-header-first|liboffload/source/writer.c|write_at(w, 0, zeros, sizeof zeros);|write_at(w, 0, zeros, 0) + write_at(w, 0, w->header, w->header_bytes);|test_safetensors_writer
writer-unfinished-left|liboffload/source/writer.c|        close(w->fd);\n        unlink(w->path);|        close(w->fd);|test_safetensors_writer
null-let-through|base/entry.h|        if (!pointers[i])|        if (0)|test_public_entries
fork-not-counted|base/entry.c|    base_forks++;|    ;|test_public_entries
other-context-let-through|liboffload/core/stream.c|leases[i].tensor->ctx != ctx)|0)|test_public_entries
size-never-set-taken|base/sized.c|    if (size < sizeof size \|\| size > BASE_SIZED_MAX)|    if (size < sizeof size)|test_sized
arena-copied-to-children|liboffload/device/host.c|    (void)madvise(h->base.arena, h->mapped_bytes, MADV_DONTFORK);|    ;|test_public_entries
upload-runs-at-once|liboffload/core/upload.c|    while ((err = dev_stream_launch(s->dev, copy_job, u)) == -ENOMEM)\n        nanosleep(\&pause, NULL);|    (void)pause;\n    copy_job(u);\n    err = 0;|test_core_upload
upload-not-refused-when-leased|liboffload/core/upload.c|.mode = OFL_OVERWRITE};|.mode = OFL_READ};|test_core_upload
reduce-update-at-apply|liboffload/optim/optimizer_step.c|return o->settings.clip > 0 \|\| o->reduction.reduce;|return o->settings.clip > 0;|test_reduce
reduce-not-awaited|liboffload/optim/optimizer_step.c|    if (err == 0 \&\& o->reduction.reduce)|    if (0)|test_reduce
reduce-lost-on-the-way|liboffload/optim/optimizer_step.c|.mode = o->reduction.reduce ? OFL_UPDATE : OFL_READ|.mode = OFL_READ|test_reduce
reduce-after-a-failure|liboffload/optim/optimizer_reduce.c|r->reduce \&\& r->code == 0 \&\& at|r->reduce \&\& at|test_reduce
reduce-failure-leaves-the-step|liboffload/optim/optimizer_step.c|    if (err == -ECANCELED)|    if (0)|test_reduce
reduce-failure-for-ever|liboffload/optim/optimizer_step.c|    o->reduction.code = 0;|    ;|test_reduce
rates-forget-the-step|liboffload/optim/optimizer_rates.c|    s.step = o->settings.step;|    s.step = b->own_rates ? 1 : o->settings.step;|test_optimizer
rates-without-the-factor|liboffload/optim/optimizer_rates.c|s.lr * (s.weight_decay * b->decay)|o->settings.lr * (o->settings.weight_decay * b->decay)|test_optimizer
negative-rates-taken|liboffload/optim/optimizer_rates.c|s->lr >= 0 \&\& isfinite(s->lr)|isfinite(s->lr)|test_public_words
whole-output-removed|examples/model/output.c|    if (o->temporary \&\& !o->whole)|    if (o->temporary)|test_writer
given-up-output-left|examples/model/output.c|    if (o->created \&\& !o->whole)|    if (0)|test_writer
experts-in-the-plan|examples/model/generator_experts.c|.flags = OFL_LEASE_UNPLANNED;|.flags = 0;|test_experts
idle-expert-keeps-gradient|examples/model/block_experts.c|    memset(g->down, 0, bytes);|    ;|test_experts
adapter-not-scaled|examples/model/adapters.c|= scale * values[j * rank + k];|= values[j * rank + k];|test_lora
kept-data-not-flushed|liboffload/store/kept.c|        err = sync_data(k);|        err = 0;|test_kept_crash
kept-root-before-data|liboffload/store/kept.c|    if (err == 0)\n        err = sync_data(k);\n    if (err == 0) {\n        root.manifest_hash = store_seal(manifest, root.manifest_bytes);\n        err = write_manifest(k, \&root, manifest);\n    }\n    if (err == 0)\n        err = write_root(k, \&root);|    if (err == 0) {\n        root.manifest_hash = store_seal(manifest, root.manifest_bytes);\n        err = write_manifest(k, \&root, manifest);\n    }\n    if (err == 0)\n        err = write_root(k, \&root);\n    if (err == 0)\n        err = sync_data(k);|test_kept_crash
kept-manifest-not-flushed|liboffload/store/kept.c|        err = kept_calls.sync(index ? KEPT_MANIFEST_1 : KEPT_MANIFEST_0, k->files.manifest[index]);|        ;|test_kept_crash
kept-root-not-flushed|liboffload/store/kept_dir.c|        err = kept_calls.sync(KEPT_ROOTS, f->roots);|        ;|test_kept_crash
kept-failed-root-left|liboffload/store/kept.c|    if (kept_block_write(\&k->files, block, bytes) < 0)|    if (0)|test_kept_crash
kept-lost-data-forgotten|liboffload/store/kept.c|    if (k->dead.code)\n        return base_error_restore(\&k->dead);|    ;|test_kept_failures
kept-room-given-early|liboffload/store/kept.c|if (r->taken \|\| r->last \|\| r->next)|if (r->taken \|\| r->next)|test_kept
kept-room-given-in-a-commit|liboffload/store/kept.c|if (r->taken \|\| r->last \|\| r->next)|if (r->taken \|\| r->last)|test_kept
kept-room-of-a-resumed-one-given|liboffload/store/kept.c|            r->last = true;|            ;|test_kept
kept-room-given-in-doubt|liboffload/store/kept.c|            r->last \|= r->next;|            ;|test_kept_failures
kept-manifest-sum-ignored|liboffload/store/kept_load.c|    else if (store_seal(bytes, root->manifest_bytes) != root->manifest_hash)|    else if (0)|test_kept_flips
kept-block-sum-ignored|liboffload/store/kept_format.c|    if (kept_get(block + AT_CHECKSUM, 8) != store_seal(block, AT_CHECKSUM))|    if (0)|test_kept_flips
kept-older-root-first|liboffload/store/kept_load.c|out->named[1].root.generation > out->named[0].root.generation|out->named[1].root.generation < out->named[0].root.generation|test_kept_crash
kept-none-for-torn|liboffload/store/kept_load.c|    else if (!out->image \&\& found.count + found.bad_count)|    else if (0)|test_kept_flips test_kept_verify
kept-tiles-not-looked-at|liboffload/store/kept_load.c|            if (same == 1)|            if (1)|test_kept_verify
kept-mark-believed-for-ever|liboffload/store/kept.c|return k->head.in_place ? kept_block_write(\&k->files, KEPT_CLEAN, block) : 0;|return 0;|test_kept
kept-in-place-not-looked-through|liboffload/store/kept_load.c|        err = check_in_place(f, out->image);|        ;|test_kept test_kept_crash
kept-not-locked|liboffload/store/kept_dir.c|    if (rc == -EWOULDBLOCK)\n        return|    if (rc == -EWOULDBLOCK)\n        return 0;\n    if (0)\n        return|test_kept
kept-lock-left-to-a-child|liboffload/store/kept_dir.c|        (void)flock(f->roots, LOCK_UN);|        ;|test_kept
kept-foreign-directory-taken|liboffload/store/kept_dir.c|        if (!own)|        if (0)|test_kept
kept-link-followed|liboffload/store/kept_dir.c|O_CLOEXEC \| O_NOFOLLOW \| O_NONBLOCK, 0600)|O_CLOEXEC \| O_NONBLOCK, 0600)|test_kept
kept-rooms-overlap|liboffload/store/kept_manifest.c|t[order[i - 1]].offset < room_of|t[order[i - 1]].offset < 0 * room_of|test_kept_manifest
kept-names-twice|liboffload/store/kept_manifest.c|        if (strcmp(t[order[i]].name, t[order[i - 1]].name) == 0)|        if (0)|test_kept_manifest
kept-room-beyond-the-end|liboffload/store/kept_manifest.c|if (t->offset > j->frame->data_bytes \|\| |if (0 \&\& |test_kept_manifest
kept-tiles-more-than-there-are|liboffload/store/kept_manifest.c|    if (t->tiles_count > s->tiles - *tile \|\| |    if (|test_kept_manifest
kept-repair-leaves-what-is-torn|liboffload/store/kept_verify.c|        if (l->found.named[i].root.generation <= l->report->newest_whole)|        if (1)|test_kept_verify
template-speaks-raw|examples/model/template_text.c|        plain(s->error + used);|        ;|test_template
keep-head-dropped|examples/model/trainer_step.c|t->at_loss ? 0 : trainer_last_use(t)|trainer_last_use(t)|keep.sh
keep-before-loss|examples/finetune_store.c|    if (!isfinite(loss))\n        return;|    ;|keep.sh
keep-weights-unseen|examples/finetune_store.c|status = state_finite(k->state);|status = 0;|keep.sh
keep-hangup-twice|examples/common.c|if (stopping \&\& number != SIGHUP)|if (stopping)|keep.sh
keep-pipe-ends|examples/common.c|        signal(SIGPIPE, SIG_IGN);|        ;|keep.sh
keep-other-threads|examples/finetune_note.c|\&\& !common_blas_use(threads)|\&\& threads != common_blas_count()|kill.sh
keep-other-data|examples/finetune_note.c|if (!json_equal((json_t *)(uintptr_t)before, (json_t *)(uintptr_t)after)) {|if (0) {|keep.sh
keep-free-of-cost|examples/common_pace.c|    p->spent_s += cost;|    ;|test_pace
keep-first-never|examples/common_pace.c|p->commits == 0 \&\& p->elapsed_s >= COMMON_PACE_FIRST_S|0|test_pace
'

# A mutant that does not compile proves nothing.
build() { # test
    local goal=build/tests/$1
    case $1 in programs.sh) goal=all ;; *.sh) goal=build/ofl-finetune ;; esac
    case $1 in sim | commits) goal=build/tests/sim/sim ;; esac
    (cd "$work/tree" && make -s WITH_CUDA=0 B=build CFLAGS='-O1 -g -w' "$goal" >"$work/log" 2>&1)
}

run() { # test -> 0 if it passes
    if [ "$1" = sim ]; then # the core in a simulation: a seed gives the same run every time
        (cd "$work/tree" && timeout 300 build/tests/sim/sim --no-shrinking --seeds "$sim_seeds" >"$work/log" 2>&1)
        return
    fi
    if [ "$1" = commits ]; then # the same, with kept tensors
        (cd "$work/tree" && timeout 300 build/tests/sim/sim --no-shrinking --seeds "$sim_seeds" --from 100000 \
            --commits 2 --hints 3 --unplanned 4 >"$work/log" 2>&1)
        return
    fi
    case $1 in *.sh)
        (cd "$work/tree" && timeout 600 bash "tests/$1" >"$work/log" 2>&1) || [ $? -eq 77 ]
        return
        ;;
    esac
    (cd "$work/tree" && OFL_TEST_LIGHT=1 timeout 60 "build/tests/$1" >"$work/log" 2>&1)
}

# One copy, in which a file at a time is changed: only that is compiled again.
mkdir -p "$work/tree"
cp -r "$root"/{include,base,io,scheduler,liboffload,tests,examples,bench,docs,tools,Makefile,README.md,liboffload.map,offload.pc.in} \
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
            case $t in sim | commits) break ;; esac
        done
    done
    cp "$root/${f[1]}" "$work/tree/${f[1]}"
    if [ -n "$seen" ]; then
        killed=$((killed + 1))
        case $seen in sim | commits) seen="$seen: $(sed 's/^seed \([0-9]*\): statement [0-9]*, time [0-9]*: /seed \1, /;q' "$work/log" | cut -c1-110)" ;; esac
        echo "$name: noticed by $seen"
    else
        survivors=$((survivors + 1))
        echo "$name: NOT NOTICED by ${f[4]}"
    fi
done <<<"$list"
echo "$killed mutants noticed, $survivors not"
[ "$survivors" = 0 ]
