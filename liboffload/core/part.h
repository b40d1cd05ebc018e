/* part: which copies hold which bytes of a tensor. Live ones stand in a tree by their part; those of them that
 * something may be to happen to, in a list beside it. */
#ifndef OFL_CORE_PART_H
#define OFL_CORE_PART_H

#include "liboffload/core/pager.h"

/* t may have copies from now on. */
void part_admit(struct ofl_tensor *t);
/* The first live copy, by its part, that has some of these bytes of t; the one behind c. NULL: there is none. */
static inline struct core_copy *part_find(const struct ofl_tensor *t, uint64_t from, uint64_t to);
struct core_copy *part_search(const struct ofl_tensor *t, uint64_t from, uint64_t to); /* the same */
struct core_copy *part_behind(const struct core_copy *c);
/* c is live now, and busy; c is not any more. */
void part_add(struct core_copy *c);
void part_remove(struct core_copy *c);
/* Something may be to happen to c, if it is live; nothing is. */
void part_set_busy(struct core_copy *c, bool busy);
/* c is a ghost now, drop or not; c is not any more. */
void part_ghost_add(struct core_copy *c);
void part_ghost_remove(struct core_copy *c);
/* The ghost's bytes are obsolete: nothing to write back any more. */
void part_drop(struct pager *p, struct core_copy *c);
/* The tile at drain_next is to stay in host memory until it is drained into, or need not. */
void part_set_wants(struct pager *p, struct core_copy *c, bool wants);
/* Events from now to the next use of bytes of c. */
uint64_t part_next_use(const struct pager *p, const struct core_copy *c);

static inline struct core_copy *part_find(const struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    struct base_node *n = t->live.root;
    struct core_copy *c = n ? BASE_TREE_OWNER(n, struct core_copy, part) : NULL;

    if (n && (n->left || n->right))
        return part_search(t, from, to);
    return c && copy_meets(c, from, to) ? c : NULL; /* as a rule it is the whole */
}

#endif
