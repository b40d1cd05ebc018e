/*
 * extent: see extent.h. Free ranges in two trees, by offset and by length; neighbours always merged.
 *
 * Between k taken ranges lie at most k + 1 free ones, and at most k - 1 if one of the k has none beside it. So
 * with as many nodes as ranges are taken, one is left for a range that is given back and joins no other.
 */
#include "base/extent.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/tree.h"

struct range {
    struct base_node by_offset, by_length;
    uint64_t offset, bytes;
    struct range *next; /* of the spares */
};

struct base_extents {
    uint64_t span, free;
    struct base_tree by_offset, by_length;
    uint64_t nodes, taken; /* nodes: in the trees and spare */
    struct range *spares;
};

static struct range *at_offset(const struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct range, by_offset) : NULL;
}

static struct range *at_length(const struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct range, by_length) : NULL;
}

static bool offset_before(const struct base_node *a, const struct base_node *b)
{
    return at_offset(a)->offset < at_offset(b)->offset;
}

static bool length_before(const struct base_node *a, const struct base_node *b)
{
    const struct range *x = at_length(a), *y = at_length(b);

    return x->bytes != y->bytes ? x->bytes < y->bytes : x->offset < y->offset;
}

/* ---- free ranges ------------------------------------------------------- */

/* One more spare. */
static bool stock(struct base_extents *x)
{
    struct range *r = malloc(sizeof *r);

    if (!r)
        return false;
    r->next = x->spares;
    x->spares = r;
    x->nodes++;
    return true;
}

/* There is a spare. */
static void add(struct base_extents *x, uint64_t offset, uint64_t bytes)
{
    struct range *r = x->spares;

    assert(r);
    x->spares = r->next;
    r->offset = offset;
    r->bytes = bytes;
    base_tree_insert(&x->by_offset, &r->by_offset);
    base_tree_insert(&x->by_length, &r->by_length);
}

static void drop(struct base_extents *x, struct range *r)
{
    base_tree_remove(&x->by_offset, &r->by_offset);
    base_tree_remove(&x->by_length, &r->by_length);
    r->next = x->spares;
    x->spares = r;
}

/* r keeps its place by offset. */
static void resize(struct base_extents *x, struct range *r, uint64_t offset, uint64_t bytes)
{
    base_tree_remove(&x->by_length, &r->by_length);
    r->offset = offset;
    r->bytes = bytes;
    base_tree_insert(&x->by_length, &r->by_length);
}

static struct range *last(const struct base_extents *x)
{
    return at_offset(base_tree_last(&x->by_offset));
}

/* ---- the allocator ----------------------------------------------------- */

int base_extents_create(uint64_t span_bytes, struct base_extents **out)
{
    struct base_extents *x = calloc(1, sizeof *x);

    *out = NULL;
    if (!x)
        return base_fail(-ENOMEM, "create range allocator: out of memory");
    x->by_offset.before = offset_before;
    x->by_length.before = length_before;
    if (base_extents_grow(x, span_bytes) < 0) {
        free(x);
        return -ENOMEM;
    }
    *out = x;
    return 0;
}

void base_extents_destroy(struct base_extents *x)
{
    if (!x)
        return;
    while (x->by_offset.root)
        drop(x, at_offset(x->by_offset.root));
    while (x->spares) {
        struct range *r = x->spares;

        x->spares = r->next;
        free(r);
    }
    free(x);
}

bool base_extents_ready(struct base_extents *x)
{
    return x->nodes > x->taken || stock(x);
}

uint64_t base_extents_take(struct base_extents *x, uint64_t bytes)
{
    struct range key = {.bytes = bytes}, *best;
    uint64_t offset;

    if (bytes == 0 || !base_extents_ready(x))
        return BASE_EXTENT_NONE;
    key.bytes--;
    key.offset = UINT64_MAX; /* behind all that are shorter */
    best = at_length(base_tree_after(&x->by_length, &key.by_length));
    if (!best)
        return BASE_EXTENT_NONE;
    offset = best->offset;
    if (best->bytes == bytes)
        drop(x, best);
    else
        resize(x, best, offset + bytes, best->bytes - bytes);
    x->free -= bytes;
    x->taken++;
    return offset;
}

static void give(struct base_extents *x, uint64_t offset, uint64_t bytes)
{
    struct range key = {.offset = offset};
    struct range *left = at_offset(base_tree_before(&x->by_offset, &key.by_offset));
    struct range *right = at_offset(base_tree_after(&x->by_offset, &key.by_offset));
    bool joins_left = left && left->offset + left->bytes == offset;
    bool joins_right = right && offset + bytes == right->offset;

    if (joins_left && joins_right) {
        uint64_t more = right->bytes;

        drop(x, right);
        resize(x, left, left->offset, left->bytes + bytes + more);
    } else if (joins_left) {
        resize(x, left, left->offset, left->bytes + bytes);
    } else if (joins_right) {
        resize(x, right, offset, right->bytes + bytes);
    } else {
        add(x, offset, bytes);
    }
    x->free += bytes;
}

void base_extents_give(struct base_extents *x, uint64_t offset, uint64_t bytes)
{
    if (offset < x->span) /* it may have been shortened meanwhile */
        give(x, offset, bytes < x->span - offset ? bytes : x->span - offset);
    x->taken--;
}

int base_extents_grow(struct base_extents *x, uint64_t span_bytes)
{
    if (span_bytes <= x->span)
        return 0;
    if (!x->spares && !stock(x))
        return base_fail(-ENOMEM, "lengthen a span to %llu bytes: out of memory",
                         (unsigned long long)span_bytes);
    give(x, x->span, span_bytes - x->span);
    x->span = span_bytes;
    return 0;
}

void base_extents_shrink(struct base_extents *x, uint64_t span_bytes)
{
    struct range *r;

    while ((r = last(x)) && r->offset + r->bytes > span_bytes) {
        uint64_t kept = r->offset < span_bytes ? span_bytes - r->offset : 0;

        x->free -= r->bytes - kept;
        if (kept)
            resize(x, r, r->offset, kept);
        else
            drop(x, r);
    }
    if (span_bytes < x->span)
        x->span = span_bytes;
}

uint64_t base_extents_free_bytes(const struct base_extents *x)
{
    return x->free;
}

uint64_t base_extents_span(const struct base_extents *x)
{
    return x->span;
}

uint64_t base_extents_tail(const struct base_extents *x)
{
    const struct range *r = last(x);

    return r && r->offset + r->bytes == x->span ? r->bytes : 0;
}

uint64_t base_extents_largest(const struct base_extents *x)
{
    const struct range *r = at_length(base_tree_last(&x->by_length));

    return r ? r->bytes : 0;
}
