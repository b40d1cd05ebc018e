/* lease: acquire and release. Who may hold what, and what a stream must see complete before. */
#ifndef OFL_CORE_LEASE_H
#define OFL_CORE_LEASE_H

#include "liboffload/core/pager.h"

/* All or nothing. *wait goes to lease_settle, once what can be ready at once is. */
int lease_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_wait **wait);
/* What the stream has to wait for; NULL: nothing. */
struct dev_gate *lease_settle(struct pager *p, struct core_wait *w);
/* Opens the gates of those that failed before their stream could wait: now it does. */
void lease_settle_failed(struct pager *p);
/* *mark is to be posted on the stream; NULL for an empty batch. */
int pager_release(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_op **mark);
/* c's bytes are there, or can't be had: those who await them go on. */
void lease_copy_ready(struct pager *p, struct core_copy *c);
void lease_mark_done(struct pager *p, struct core_op *op);
/* The context is broken: nobody waits any more, as soon as nothing moves in the range. */
void lease_fail_all(struct pager *p);
void lease_close(struct pager *p);

#endif
