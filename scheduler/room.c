/* room: see room.h. A node's sum counts for all its events, so nothing is handed down. */
#include "scheduler/room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct room_node {
    uint64_t all, most; /* taken at all its events; at one of them, the most, all included */
};

int room_open(struct room *r, uint32_t count)
{
    r->count = count;
    for (r->leaves = 1; r->leaves < count; r->leaves *= 2)
        ;
    r->nodes = calloc(2 * (size_t)r->leaves, sizeof *r->nodes);
    return r->nodes ? 0 : -ENOMEM;
}

void room_close(struct room *r)
{
    free(r->nodes);
    r->nodes = NULL;
}

void room_reset(struct room *r, uint64_t bytes)
{
    memset(r->nodes, 0, 2 * (size_t)r->leaves * sizeof *r->nodes);
    r->bytes = bytes;
}

/* Events of the node at: [low, low + size). */
static void take(struct room *r, uint32_t at, uint32_t low, uint32_t size, uint32_t from, uint32_t until,
                 uint64_t bytes)
{
    struct room_node *n = &r->nodes[at];

    if (until <= low || from >= low + size)
        return;
    if (from <= low && until >= low + size) {
        n->all += bytes;
        n->most += bytes;
        return;
    }
    take(r, 2 * at, low, size / 2, from, until, bytes);
    take(r, 2 * at + 1, low + size / 2, size / 2, from, until, bytes);
    n->most =
        r->nodes[2 * at].most > r->nodes[2 * at + 1].most ? r->nodes[2 * at].most : r->nodes[2 * at + 1].most;
    n->most += n->all;
}

static uint64_t most(const struct room *r, uint32_t at, uint32_t low, uint32_t size, uint32_t from,
                     uint32_t until)
{
    uint64_t left, right;

    if (until <= low || from >= low + size)
        return 0;
    if (from <= low && until >= low + size)
        return r->nodes[at].most;
    left = most(r, 2 * at, low, size / 2, from, until);
    right = most(r, 2 * at + 1, low + size / 2, size / 2, from, until);
    return r->nodes[at].all + (left > right ? left : right);
}

void room_take(struct room *r, uint32_t from, uint32_t until, uint64_t bytes)
{
    if (from < until) {
        take(r, 1, 0, r->leaves, from, until, bytes);
        return;
    }
    take(r, 1, 0, r->leaves, from, r->count, bytes);
    take(r, 1, 0, r->leaves, 0, until, bytes);
}

void room_give(struct room *r, uint32_t from, uint32_t until, uint64_t bytes)
{
    room_take(r, from, until, 0 - bytes); /* sums wrap around, and back */
}

uint64_t room_free(const struct room *r, uint32_t from, uint32_t until)
{
    uint64_t taken;

    if (from < until) {
        taken = most(r, 1, 0, r->leaves, from, until);
    } else {
        uint64_t late = most(r, 1, 0, r->leaves, from, r->count), early = most(r, 1, 0, r->leaves, 0, until);

        taken = late > early ? late : early;
    }
    return r->bytes > taken ? r->bytes - taken : 0;
}
