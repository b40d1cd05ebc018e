/* order: see order.h. A binary heap for each set and class, the farthest next use on top. */
#include "scheduler/order.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "scheduler/sched.h"

#define NOWHERE UINT32_MAX

static struct sched_heap *heap_of(struct sched *s, enum sched_set set, uint32_t id)
{
    return &s->heaps[set][s->member[id].class];
}

/* ---- one heap ---------------------------------------------------------- */

/* What orders id in a set. Of copies those that pass leave before those that rest, and behind those that the plan
 * does not know. */
static uint64_t far_of(const struct sched *s, enum sched_set set, uint32_t id)
{
    uint64_t far = sched_far(s, id);

    return set == SCHED_COPIES && far < SCHED_NEVER / 4 && sched_passing(s, id) ? SCHED_NEVER / 4 + far : far;
}

/* a leaves before b: its next use is farther; among equals the one that was admitted last. */
static bool above(struct sched_entry a, struct sched_entry b)
{
    return a.far != b.far ? a.far > b.far : a.id > b.id;
}

static void put(struct sched *s, enum sched_set set, struct sched_heap *h, uint32_t at, struct sched_entry e)
{
    h->at[at] = e;
    s->member[e.id].at[set] = at;
}

static void sift(struct sched *s, enum sched_set set, struct sched_heap *h, uint32_t at)
{
    struct sched_entry e = h->at[at];

    while (at > 0 && above(e, h->at[(at - 1) / 2])) {
        put(s, set, h, at, h->at[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= h->count)
            break;
        if (child + 1 < h->count && above(h->at[child + 1], h->at[child]))
            child++;
        if (!above(h->at[child], e))
            break;
        put(s, set, h, at, h->at[child]);
        at = child;
    }
    put(s, set, h, at, e);
}

/* ---- members ----------------------------------------------------------- */

static int heap_room(struct sched_heap *h)
{
    uint32_t room = h->room ? 2 * h->room : 16;
    struct sched_entry *more;

    if (h->members < h->room)
        return 0;
    more = realloc(h->at, room * sizeof *more);
    if (!more)
        return -ENOMEM;
    h->at = more;
    h->room = room;
    return 0;
}

static int member_room(struct sched *s, uint32_t id)
{
    uint32_t room = s->members_room ? s->members_room : 64;
    struct sched_member *more;

    if (id < s->members_room)
        return 0;
    while (room <= id)
        room *= 2;
    more = realloc(s->member, room * sizeof *more);
    if (!more)
        return -ENOMEM;
    memset(more + s->members_room, 0, (room - s->members_room) * sizeof *more);
    s->member = more;
    s->members_room = room;
    return 0;
}

int sched_admit(struct sched *s, uint32_t id, unsigned class)
{
    struct sched_member *m;
    int err = member_room(s, id);

    if (class >= SCHED_CLASSES)
        class = SCHED_CLASSES - 1;
    for (int set = 0; set < SCHED_SETS && err == 0; set++)
        err = heap_room(&s->heaps[set][class]);
    if (err < 0)
        return base_fail(err, "schedule tensor %u: out of memory", id);
    m = &s->member[id];
    *m = (struct sched_member){.class = (uint8_t) class, .known = true};
    for (int set = 0; set < SCHED_SETS; set++) {
        s->heaps[set][class].members++;
        m->at[set] = NOWHERE;
    }
    return 0;
}

void order_forget(struct sched *s, uint32_t id)
{
    if (id >= s->members_room || !s->member[id].known)
        return;
    for (int set = 0; set < SCHED_SETS; set++) {
        sched_withdraw(s, set, id);
        heap_of(s, set, id)->members--;
    }
    s->member[id].known = false;
}

void sched_offer(struct sched *s, enum sched_set set, uint32_t id)
{
    struct sched_heap *h = heap_of(s, set, id);

    if (s->member[id].at[set] != NOWHERE)
        return;
    put(s, set, h, h->count++, (struct sched_entry){far_of(s, set, id), id});
    sift(s, set, h, h->count - 1);
}

void sched_withdraw(struct sched *s, enum sched_set set, uint32_t id)
{
    struct sched_heap *h = heap_of(s, set, id);
    uint32_t at = s->member[id].at[set];

    if (at == NOWHERE)
        return;
    s->member[id].at[set] = NOWHERE;
    if (at == --h->count)
        return;
    put(s, set, h, at, h->at[h->count]);
    sift(s, set, h, at);
}

/* ---- as steps go on ---------------------------------------------------- */

void order_moved(struct sched *s, uint32_t id)
{
    if (id >= s->members_room || !s->member[id].known)
        return;
    for (enum sched_set set = 0; set < SCHED_SETS; set++) {
        uint32_t at = s->member[id].at[set];
        struct sched_heap *h = heap_of(s, set, id);

        if (at == NOWHERE)
            continue;
        h->at[at].far = far_of(s, set, id);
        sift(s, set, h, at);
    }
}

void order_rebuild(struct sched *s)
{
    for (enum sched_set set = 0; set < SCHED_SETS; set++)
        for (unsigned class = 0; class < SCHED_CLASSES; class ++) {
            struct sched_heap *h = &s->heaps[set][class];

            for (uint32_t i = 0; i < h->count; i++)
                h->at[i].far = far_of(s, set, h->at[i].id);
            for (uint32_t i = h->count / 2; i-- > 0;)
                sift(s, set, h, i);
        }
}

void order_close(struct sched *s)
{
    for (int set = 0; set < SCHED_SETS; set++)
        for (unsigned class = 0; class < SCHED_CLASSES; class ++)
            free(s->heaps[set][class].at);
    free(s->member);
}

/* ---- choosing ---------------------------------------------------------- */

/* Heap places not shown yet whose parents have been: a heap of their own, the farthest on top. */
struct frontier {
    struct frontier_item {
        struct sched_entry entry;
        uint32_t at;
        unsigned class;
    } item[SCHED_LOOKS + SCHED_CLASSES + 1];
    uint32_t count;
};

static void frontier_put(struct frontier *f, const struct sched_heap *h, unsigned class, uint32_t at)
{
    uint32_t i;

    if (at >= h->count)
        return;
    for (i = f->count++; i > 0 && above(h->at[at], f->item[(i - 1) / 2].entry); i = (i - 1) / 2)
        f->item[i] = f->item[(i - 1) / 2];
    f->item[i] = (struct frontier_item){h->at[at], at, class};
}

static void frontier_pop(struct frontier *f)
{
    uint32_t i = 0, last = --f->count;

    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= last)
            break;
        if (child + 1 < last && above(f->item[child + 1].entry, f->item[child].entry))
            child++;
        if (!above(f->item[child].entry, f->item[last].entry))
            break;
        f->item[i] = f->item[child];
        i = child;
    }
    f->item[i] = f->item[last];
}

bool sched_choose(const struct sched *s, enum sched_set set, unsigned class_min, sched_judge *judge,
                  void *arg, uint32_t *id)
{
    struct frontier f;

    f.count = 0;
    for (unsigned class = class_min; class < SCHED_CLASSES; class ++)
        frontier_put(&f, &s->heaps[set][class], class, 0);
    for (uint32_t looks = 0; f.count && looks < SCHED_LOOKS; looks++) {
        struct frontier_item top = f.item[0];
        enum sched_verdict verdict = judge(arg, top.entry.id, sched_next_use(s, top.entry.id));

        *id = top.entry.id;
        if (verdict != SCHED_SKIP)
            return verdict == SCHED_TAKE;
        frontier_pop(&f);
        frontier_put(&f, &s->heaps[set][top.class], top.class, 2 * top.at + 1);
        frontier_put(&f, &s->heaps[set][top.class], top.class, 2 * top.at + 2);
    }
    return false;
}
