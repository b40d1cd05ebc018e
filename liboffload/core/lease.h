/* lease: acquire and release. Who may hold what, and what a stream must see complete before. */
#ifndef OFL_CORE_LEASE_H
#define OFL_CORE_LEASE_H

#include "liboffload/core/pager.h"

/* All or nothing. *wait goes to wait_settle, once what can be ready at once is. */
int lease_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_wait **wait);
/* *mark is to be posted on the stream; NULL for an empty batch. */
int pager_release(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_op **mark);
/* Frees what is kept for leases to come. */
void lease_close(struct pager *p);
void lease_mark_done(struct pager *p, struct core_op *op);

#endif
