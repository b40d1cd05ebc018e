/* work: host-side work on tiles: requests of callers, updates of optimizers. */
#ifndef OFL_CORE_WORK_H
#define OFL_CORE_WORK_H

#include "liboffload/core/pager.h"

/* Queues a caller's request: read or write of one tile, in order with all that was issued before. */
int pager_request(struct pager *p, struct core_request *r);
/* Worker thread. Does the work of an update's request, on at most so many elements of its tiles. */
void pager_request_run(const struct core_request *r, uint64_t most_elems);
/* The holder is done with the tiles. */
void pager_request_end(struct pager *p, struct core_request *r);
/* Queues u, whose owner's part is filled in. held: it keeps its place, and starts once it is let go. */
int pager_update(struct pager *p, struct core_update *u, bool held);
/* What pager_update would refuse. */
int pager_update_check(const struct pager *p, const struct core_update *u);
void pager_update_let_go(struct pager *p, struct core_update *u);
void work_advance(struct pager *p);
/* The tile can't be had: what waits for it now fails. */
void work_fail_tile(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error);
/* So does what was issued between the two, and counts on bytes that are not there. */
void work_fail_between(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to,
                       const struct base_error *error);
void work_fail_all(struct pager *p);

#endif
