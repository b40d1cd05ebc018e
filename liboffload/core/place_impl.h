/* place_impl: what the two parts of place share: place.c, which makes and ends copies, and place_find.c, which finds
 * room for them. */
#ifndef OFL_CORE_PLACE_IMPL_H
#define OFL_CORE_PLACE_IMPL_H

#include "liboffload/core/place.h"

static inline struct core_copy *place_of(const struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct core_copy, place) : NULL;
}

static inline uint64_t place_end(const struct core_copy *c)
{
    return c->off + c->len;
}

/* Bytes [from, to) of t in the gap at off, which holds them. */
struct core_copy *place_make(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t off);

#endif
