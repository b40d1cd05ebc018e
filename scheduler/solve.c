/*
 * solve: see solve.h. Each gap between two uses of an id may be bridged in a tier: that takes room there for as
 * long as the gap lasts, and saves the bytes that would have to come again. Gaps are bridged in the order of bytes
 * saved per byte and event held, as long as the tier has room at every place of the gap; those of the same worth
 * share what there is in rounds, so that a part of each rests and what passes is spread over the step.
 */
#include "scheduler/solve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "scheduler/room.h"
#include "scheduler/share.h"

/* Ranges of host memory are cut at these. */
#define BLOCK_BYTES 4096u
/* Tiles that pass through host memory at a time: where it only lies between drive and device; where updates hold
 * some of them, too. */
#define WINDOW_TILES         6u
#define WINDOW_TILES_UPDATES 24u
/* With the smallest tiles a drive needs more of them to be kept busy. */
#define WINDOW_LEAST (1u << 20)
/* This part of the device is kept clear of what waits there: the next step begins in it, under the host's work. */
#define WAIT_PART 4u
/* A last tile of less than this part of a whole one rests only where there is room for it. */
#define SHORT_END 4u
/* What a gap saves depends on whether its bytes were written in one before: solved again with what came out. */
#define PASSES 3

struct solve {
    const struct sched_use *uses;
    uint32_t count;
    const struct sched_item *items;
    uint32_t ids;
    uint32_t *next;  /* the next use of the same id */
    bool *device;    /* the copy stays in the gap behind a use */
    bool *newer;     /* and is newer than what lies below */
    bool *alone;     /* what lies below goes as the gap begins: the copy that stays is the newest there is */
    bool *below;     /* what lies below is whole, as the gap begins: the use brought it, or takes it there */
    uint32_t *tiles; /* that rest in host memory in the gap, homes not counted */
    double *dirty;   /* share of the bytes below the device that is newer than the drive's */
    struct share share;
    struct room room[2]; /* of device and host */
};

static const struct sched_item *item_of(const struct solve *s, uint32_t use)
{
    static const struct sched_item none;
    uint32_t id = s->uses[use].event.id;

    return id < s->ids ? &s->items[id] : &none;
}

static bool on_device(const struct solve *s, uint32_t use)
{
    return s->uses[use].event.where == SCHED_ON_DEVICE;
}

/* Whether there are bytes between the use and the next one. */
static bool has_bytes(const struct solve *s, uint32_t use)
{
    return !item_of(s, use)->transient && !s->uses[use].drops;
}

static uint32_t stage_tiles(const struct sched_item *x)
{
    uint64_t tiles = x->tile_bytes ? (x->lead + x->bytes + x->tile_bytes - 1) / x->tile_bytes : 0;

    return tiles > x->home_tiles ? (uint32_t)(tiles - x->home_tiles) : 0;
}

/* Of a tile: of the only one, what it has, in blocks. */
static uint64_t tile_room(const struct sched_item *x)
{
    uint64_t bytes = (x->lead + x->bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;

    return bytes < x->tile_bytes ? bytes : x->tile_bytes;
}

/* Bytes of the last tiles of x's part that does not live in host memory, all but the first so many. */
static uint64_t bytes_behind(const struct sched_item *x, uint32_t tiles)
{
    uint64_t front = (x->home_tiles + (uint64_t)tiles) * x->tile_bytes;

    front = front > x->lead ? front - x->lead : 0;
    return x->bytes > front ? x->bytes - front : 0;
}

/* ---- the device ------------------------------------------------------------ */

/* The gap behind a use is empty: the next one begins before it ends. */
static bool no_gap(const struct solve *s, uint32_t use)
{
    uint32_t next = s->next[use] > use ? s->next[use] : s->next[use] + s->count;

    return s->uses[use].until >= next;
}

static void solve_device(struct solve *s, const struct sched_room *r)
{
    uint64_t room = r->device_bytes > r->device_window ? r->device_bytes - r->device_window : 0;
    bool *written =
        s->device; /* the copy is newer than what lies below: taken to stay so until it is given up */

    s->share.count = 0;
    room_reset(&s->room[0], room);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct sched_item *x = item_of(s, i);
        uint32_t until = s->uses[i].until, end = until < i + s->count ? until : i + s->count;

        if (on_device(s, i) && !x->device_home && end > i)
            room_take(&s->room[0], i, end % s->count, x->device_bytes);
    }
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < s->count; i++) {
            if (pass == 0)
                written[i] |= s->uses[i].event.writes;
            if (on_device(s, i) && on_device(s, s->next[i]) && has_bytes(s, i) &&
                !s->uses[s->next[i]].event.no_fetch)
                written[s->next[i]] |= written[i];
        }
    for (uint32_t i = 0; i < s->count; i++) {
        const struct sched_item *x = item_of(s, i);
        double saved = !s->uses[s->next[i]].event.no_fetch + written[i];

        if (!on_device(s, i) || !on_device(s, s->next[i]) || x->device_home || x->device_bytes == 0 ||
            !has_bytes(s, i) || no_gap(s, i) || saved == 0)
            continue;
        share_add(&s->share, i, s->uses[i].until % s->count, s->next[i], 1, x->device_bytes, saved);
    }
    share_out(&s->share, &s->room[0]);
    for (uint32_t i = 0; i < s->count; i++)
        s->device[i] =
            item_of(s, i)->device_home || (on_device(s, i) && on_device(s, s->next[i]) && no_gap(s, i));
    for (uint32_t i = 0; i < s->share.count; i++)
        s->device[s->share.gaps[i].use] = s->share.gaps[i].kept;
}

/* The copy that a use leaves behind, newer than what lies below, can wait on the device for the host's work. */
static bool may_wait(const struct solve *s, uint32_t use)
{
    const struct sched_item *x = item_of(s, use);

    return on_device(s, use) && !on_device(s, s->next[use]) && s->newer[use] && has_bytes(s, use) &&
           !x->device_home && !x->parts && x->device_bytes && !no_gap(s, use) &&
           !s->uses[s->next[use]].event.no_fetch;
}

static bool waits(const struct solve *s, uint32_t use)
{
    return s->device[use] && may_wait(s, use);
}

/* What lies below at use is not wanted while the copy stays on the device and is not written: the last use before that
 * ends. */
static uint32_t chain_end(const struct solve *s, uint32_t use)
{
    uint32_t i = use;

    while (s->device[i] && on_device(s, s->next[i]) && !s->newer[s->next[i]] && has_bytes(s, i) &&
           s->next[i] != use)
        i = s->next[i];
    return i;
}

/* What the host's work has written can go to the device at once, and be nowhere else: it is read there until it is
 * needed no more. */
static bool may_rise(const struct solve *s, uint32_t use)
{
    const struct sched_item *x = item_of(s, use);
    uint32_t next = s->next[use];

    return !on_device(s, use) && on_device(s, next) && s->uses[use].event.writes && has_bytes(s, use) &&
           !s->uses[next].event.no_fetch && !s->newer[next] && !x->device_home && !x->parts &&
           x->device_bytes && !no_gap(s, use) && s->uses[chain_end(s, next)].drops;
}

static bool rises(const struct solve *s, uint32_t use)
{
    return s->device[use] && may_rise(s, use);
}

/* What room is left on the device is for copies that the host's work wants next, or has made: they would take as much
 * of the host's meanwhile. */
static void solve_waiting(struct solve *s)
{
    s->share.count = 0;
    room_take(&s->room[0], 0, 0, s->room[0].bytes / WAIT_PART);
    for (uint32_t i = 0; i < s->count; i++)
        if (may_wait(s, i) || may_rise(s, i))
            share_add(&s->share, i, s->uses[i].until % s->count, s->next[i], 1, item_of(s, i)->device_bytes,
                      2);
    share_out(&s->share, &s->room[0]);
    for (uint32_t k = 0; k < s->share.count; k++) {
        uint32_t i = s->share.gaps[k].use;

        s->device[i] = s->share.gaps[k].kept;
        if (on_device(s, i))
            s->below[i] = !s->device[i];
        else
            s->below[s->next[i]] = !s->device[i];
    }
}

/* ---- the host -------------------------------------------------------------- */

/* What the plan of the device leaves below: see newer and below. */
static void look_below(struct solve *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        s->newer[i] = on_device(s, i) && s->uses[i].event.writes;
        s->below[i] = true;
    }
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < s->count; i++) {
            uint32_t next = s->next[i];

            if (!s->device[i] || !on_device(s, next))
                continue;
            s->newer[next] |= s->newer[i] && !s->uses[next].event.no_fetch && has_bytes(s, i);
            s->below[next] = false;
        }
    for (uint32_t i = 0; i < s->count; i++)
        if (on_device(s, i) && s->newer[i])
            s->below[i] = !s->device[i]; /* it goes out now */
        else if (on_device(s, i) && s->uses[i].event.no_fetch)
            s->below[i] = false;
}

/* The copies on the device from use to end, where chain_end is, are all that is needed of the bytes. What lies below,
 * newer than the drive's, need not be written first: the device's may be the newest copy as well. */
static bool may_be_alone(const struct solve *s, uint32_t use, uint32_t end)
{
    return s->device[use] && !s->newer[use] && s->uses[end].drops && s->dirty[use] > 0 &&
           !item_of(s, use)->device_home && !item_of(s, use)->parts;
}

/* The use behind use, where chain_end is, wants bytes from below. */
static bool wanted_below(const struct solve *s, uint32_t use)
{
    return !s->device[use] && has_bytes(s, use) && !s->uses[s->next[use]].event.no_fetch;
}

/* The last tile takes the room of a whole one: it has so little that it is not worth that. */
static bool short_end(const struct sched_item *x)
{
    uint32_t tiles = stage_tiles(x);

    return tiles > 1 && bytes_behind(x, tiles - 1) < x->tile_bytes / SHORT_END;
}

/* Where they have all others, they are kept if there is still room. */
static void keep_ends(struct solve *s)
{
    for (uint32_t i = 0; i < s->share.count; i++) {
        struct share_gap *g = &s->share.gaps[i];

        if (g->kept < g->units || !short_end(item_of(s, g->use)) ||
            room_free(&s->room[1], g->from, g->next) < g->unit_bytes)
            continue;
        room_take(&s->room[1], g->from, g->next, g->unit_bytes);
        g->kept++;
    }
}

static void solve_host(struct solve *s, const struct sched_room *r)
{
    uint64_t room = r->host_bytes > r->host_window ? r->host_bytes - r->host_window : 0;
    s->share.count = 0;
    room_reset(&s->room[1], room);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct sched_item *x = item_of(s, i);
        uint32_t end = chain_end(s, i);
        double saved = wanted_below(s, end) + s->dirty[i];
        /* What a stream reads lies there while it does; what it writes, afterwards. */
        uint32_t from = on_device(s, i) && s->newer[i] ? s->uses[i].until % s->count : i;

        s->tiles[i] = 0;
        s->alone[i] = s->below[i] && may_be_alone(s, i, end);
        if (s->below[i] && !s->alone[i] && has_bytes(s, i) && !x->device_home && stage_tiles(x) &&
            saved > 0.01)
            share_add(&s->share, i, from, s->next[end], stage_tiles(x) - short_end(x), tile_room(x), saved);
    }
    share_out(&s->share, &s->room[1]);
    keep_ends(s);
    for (uint32_t k = 0; k < s->share.count; k++) {
        uint32_t i = s->share.gaps[k].use, end = chain_end(s, i);

        for (;; i = s->next[i]) {
            s->tiles[i] = s->share.gaps[k].kept;
            if (i == end)
                break;
        }
    }
}

/* ---- what follows ---------------------------------------------------------- */

/* Walks the uses of a step in order. By id: tiles at the front that are there, and newer than the drive's. */
struct walk {
    uint32_t *here, *newer;
};

static void walk_use(struct solve *s, struct walk *w, uint32_t i, struct sched_moved *m)
{
    const struct sched_item *x = item_of(s, i);
    uint32_t id = s->uses[i].event.id, tiles = stage_tiles(x), rest = s->tiles[i];
    bool out = on_device(s, i) && s->newer[i] && !s->device[i] && has_bytes(s, i);

    if (id >= s->ids || x->device_home || x->transient)
        return;
    if (rises(s, i))
        m->device_in += x->bytes;
    if (waits(s, i)) { /* it will come out, whole, when it is wanted */
        m->device_out += x->bytes;
        w->here[id] = w->newer[id] = tiles;
        return;
    }
    if (s->below[i])
        w->here[id] = tiles;
    if ((s->uses[i].event.writes && !on_device(s, i)) || out)
        w->newer[id] = tiles;
    if (!has_bytes(s, i) || s->alone[i] ||
        (on_device(s, i) && s->newer[i] && s->device[i])) { /* nothing good below */
        w->here[id] = w->newer[id] = 0;
        if (!has_bytes(s, i))
            return;
    }
    if (out)
        m->device_out += x->bytes;
    s->dirty[i] = tiles ? (double)w->newer[id] / tiles : 0;
    if (w->newer[id] > rest) {
        m->drive_write += bytes_behind(x, rest) - bytes_behind(x, w->newer[id]);
        w->newer[id] = rest;
    }
    if (w->here[id] > rest)
        w->here[id] = rest;
    if (!wanted_below(s, i))
        return;
    m->drive_read += bytes_behind(x, w->here[id]);
    if (on_device(s, s->next[i]))
        m->device_in += x->bytes;
}

static void walk(struct solve *s, struct walk *w, struct sched_moved *m)
{
    for (int pass = 0; pass < 2; pass++) { /* the first one comes to what a steady step begins with */
        *m = (struct sched_moved){0};
        for (uint32_t i = 0; i < s->count; i++)
            walk_use(s, w, i, m);
    }
}

/* ---- the whole ------------------------------------------------------------- */

static void link_uses(struct solve *s, uint32_t *last)
{
    for (uint32_t i = 0; i < s->ids; i++)
        last[i] = UINT32_MAX;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < s->count; i++) {
            uint32_t id = s->uses[i].event.id;

            s->next[i] = pass ? s->next[i] : i;
            if (id >= s->ids)
                continue;
            if (last[id] != UINT32_MAX)
                s->next[last[id]] = i;
            last[id] = i;
        }
}

/* What is written in a step stays newer than the drive's, as long as it rests. */
static void guess_dirty(struct solve *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        s->dirty[i] = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < s->count; i++) {
            if (on_device(s, i) ? s->newer[i] && (!s->device[i] || waits(s, i)) : s->uses[i].event.writes)
                s->dirty[i] = 1;
            if (has_bytes(s, i) && s->dirty[i] > s->dirty[s->next[i]] && !s->newer[s->next[i]])
                s->dirty[s->next[i]] = s->dirty[i];
        }
}

/* One solution for the host, and what it moves. */
static void solve_once(struct solve *s, struct walk *w, const struct sched_room *room, struct sched_moved *m)
{
    solve_host(s, room);
    memset(w->newer, 0, s->ids * sizeof *w->newer);
    memset(w->here, 0, s->ids * sizeof *w->here);
    walk(s, w, m);
}

static void take(struct solve *s, struct sched_rest *rest)
{
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t k = i; s->alone[i] && s->device[k] && !s->uses[k].drops; k = s->next[k])
            s->alone[k] = true; /* it stays so, until it is needed no more */
    for (uint32_t i = 0; i < s->count; i++)
        rest[i] = (struct sched_rest){s->device[i], s->alone[i] || s->uses[i].drops,
                                      item_of(s, i)->home_tiles + s->tiles[i]};
}

static void solve_all(struct solve *s, struct walk *w, const struct sched_room *room, struct sched_rest *rest,
                      struct sched_moved *moved)
{
    struct sched_room all = *room;

    link_uses(s, w->newer);
    solve_device(s, room);
    look_below(s);
    guess_dirty(s);
    all.host_window = 0;
    solve_once(s, w, &all, moved);
    take(s, rest);
    if (moved->drive_read + moved->drive_write == 0)
        return; /* nothing passes, so there need be no window */
    solve_waiting(s);
    guess_dirty(s);
    for (int pass = 0; pass < PASSES; pass++) {
        struct sched_moved m;

        solve_once(s, w, room, &m);
        if (pass && m.drive_read + m.drive_write >= moved->drive_read + moved->drive_write)
            return;
        *moved = m;
        take(s, rest);
    }
}

void sched_room_windows(struct sched_room *room, const struct sched_item *items, uint32_t ids,
                        uint64_t tile_bytes, bool updates)
{
    uint64_t tiles = updates ? WINDOW_TILES_UPDATES : WINDOW_TILES;

    room->device_window = 0;
    for (uint32_t i = 0; i < ids; i++)
        if (!items[i].device_home && !items[i].transient && items[i].device_bytes > room->device_window)
            room->device_window = items[i].device_bytes;
    /* A tile of a file begins anywhere in a block. */
    room->host_window = tiles * (tile_bytes + BLOCK_BYTES);
    if (room->host_window < WINDOW_LEAST)
        room->host_window = WINDOW_LEAST;
    if (room->host_window > room->host_bytes / 4)
        room->host_window = room->host_bytes / 4;
}

int sched_solve(const struct sched_use *uses, uint32_t count, const struct sched_item *items, uint32_t ids,
                const struct sched_room *room, struct sched_rest *rest, struct sched_moved *moved)
{
    struct solve s = {.uses = uses, .count = count, .items = items, .ids = ids, .share.events = count};
    struct walk w = {0};
    int err = 0;

    *moved = (struct sched_moved){0};
    if (count == 0)
        return 0;
    s.next = calloc(count, sizeof *s.next);
    s.device = calloc(count, sizeof *s.device);
    s.tiles = calloc(count, sizeof *s.tiles);
    s.dirty = calloc(count, sizeof *s.dirty);
    s.share.gaps = calloc(count, sizeof *s.share.gaps);
    w.newer = calloc((size_t)ids + 1, sizeof *w.newer);
    w.here = calloc((size_t)ids + 1, sizeof *w.here);
    s.newer = calloc(count, sizeof *s.newer);
    s.below = calloc(count, sizeof *s.below);
    s.alone = calloc(count, sizeof *s.alone);
    if (room_open(&s.room[0], count) < 0 || room_open(&s.room[1], count) < 0 || !s.next || !s.device ||
        !s.tiles || !s.dirty || !s.share.gaps || !w.newer || !w.here || !s.newer || !s.below || !s.alone)
        err = base_fail(-ENOMEM, "solve a step of %u uses: out of memory", count);
    else
        solve_all(&s, &w, room, rest, moved);
    room_close(&s.room[0]);
    room_close(&s.room[1]);
    free(s.next);
    free(s.device);
    free(s.tiles);
    free(s.dirty);
    free(s.share.gaps);
    free(w.newer);
    free(w.here);
    free(s.newer);
    free(s.below);
    free(s.alone);
    return err;
}
