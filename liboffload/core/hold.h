/* hold: which bytes a lease names, and who may hold which together. A copy holds for all its leases; on a home,
 * which has room for leases of many parts, each of these holds its own. */
#ifndef OFL_CORE_HOLD_H
#define OFL_CORE_HOLD_H

#include "liboffload/core/pager.h"

const char *hold_mode(enum ofl_mode mode); /* "read" */
/* It has a tensor, and a mode and flags that there are. */
static inline bool hold_known(const struct ofl_lease *l)
{
    return l->tensor && l->mode >= OFL_READ && l->mode <= OFL_OVERWRITE &&
           (l->flags & ~(OFL_LEASE_DROP | OFL_LEASE_UNPLANNED)) == 0;
}

/* The bytes that l names. -EINVAL with the sentence: its tensor has none such. */
int hold_part(const struct ofl_lease *l, uint64_t *from, uint64_t *to);
static inline int hold_bytes(const struct ofl_lease *l, uint64_t *from, uint64_t *to)
{
    *from = 0;
    *to = l->tensor->bytes;
    return l->offset_elems || l->count_elems ? hold_part(l, from, to) : 0;
}

/* Who shares bytes with a lease that is held has to read, as that does, and to lie inside what it holds: else
 * -OFL_ESTATE, with the sentence. Or the error of what l would share. c: the first live copy of these bytes. */
int hold_conflict(const struct ofl_lease *l, const struct core_copy *c, uint64_t from, uint64_t to);
/* Several may write to c, each to its own part, and such a lease has a hold. */
static inline bool hold_needed(const struct core_copy *c, uint64_t from, uint64_t to)
{
    return c->home && to - from < c->to - c->from;
}

/* So many can be taken from now on without memory being asked for. -ENOMEM. */
int hold_reserve(struct pager *p, size_t count);
void hold_take(struct pager *p, struct core_copy *c, uint64_t from, uint64_t to, bool writes);
void hold_give(struct pager *p, struct core_copy *c, uint64_t from, uint64_t to, bool writes);
/* One that that batch has not named yet; batch 0: any. NULL: there is none. */
struct core_hold *hold_find(struct core_copy *c, uint64_t from, uint64_t to, bool writes, uint64_t batch);
void hold_close(struct pager *p);

#endif
