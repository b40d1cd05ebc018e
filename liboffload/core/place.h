/* place: the device arena. Who gets which range, and what has to leave for it. */
#ifndef OFL_CORE_PLACE_H
#define OFL_CORE_PLACE_H

#include "liboffload/core/pager.h"

void place_open(struct pager *p);
void place_close(struct pager *p);
uint64_t place_footprint(uint64_t bytes);
/* So many copies can be placed from now on without memory being asked for. -ENOMEM. */
int place_reserve(struct pager *p, uint32_t copies);
/* A range for bytes [from, to) of t, of which no live copy has any, at the expense of copies whose next use is
 * further than limit events away (0: any that are not leased); NULL if there is none, or no memory (see
 * place_reserve). */
struct core_copy *place_copy(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to,
                             uint64_t limit);
/* A range for good: the lowest that holds no lease and no other home, so that homes lie side by side
 * and the rest stays in one piece. */
struct core_copy *place_home(struct pager *p, struct ofl_tensor *t);
/* Gives the range up. What the copy still has to do, it does as a ghost. */
void place_evict(struct pager *p, struct core_copy *c);
/* Evicts all that is not leased: the last resort against fragmentation. */
void place_evict_all(struct pager *p);
/* Evicts what is to rest, but does not lie at the arena's beginning with nothing between: what comes instead will. */
void place_compact(struct pager *p);
/* One lease more or less. */
void place_hold(struct pager *p, struct core_copy *c);
void place_unhold(struct pager *p, struct core_copy *c);
void place_keep(struct pager *p, struct core_copy *c); /* c is a home */
/* The ghost has ended: what waited for its range is clear, or waits for fewer. */
void place_bury(struct pager *p, struct core_copy *c);
/* c waits for room in the host arena, or does not any more; before what decides its urgency changes. */
void place_set_stuck(struct pager *p, struct core_copy *c, bool stuck);
/* Drains come first, which others wait for; then fills that are awaited; then those ahead. */
unsigned place_urgency(const struct core_copy *c);
/* No link copy into or out of the range is in flight. */
bool place_at_rest(const struct pager *p, const struct core_copy *c);

#endif
