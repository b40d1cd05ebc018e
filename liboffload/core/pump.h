/* pump: the pager's life, its inputs, and what starts when. */
#ifndef OFL_CORE_PUMP_H
#define OFL_CORE_PUMP_H

#include "liboffload/core/ahead.h"
#include "liboffload/core/hint.h"
#include "liboffload/core/home.h"
#include "liboffload/core/lease.h"
#include "liboffload/core/pager.h"
#include "liboffload/core/work.h"

int pager_open(struct pager *p);
/* Nothing may be in flight. Tensors have been removed, or are abandoned by their owner. */
void pager_close(struct pager *p);
/* *gate: what the stream has to wait for; NULL: nothing. All or nothing. */
int pager_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct dev_gate **gate);
/* Starts whatever can start. True if it stopped before everything stood still, or for want of memory: call
 * again. */
bool pager_pump(struct pager *p);
/* As sched_step_end; what follows is planned. */
int pager_step_end(struct pager *p);
void pager_done(struct pager *p, struct core_op *op);
/* op, a read or a write, has passed its deadline; it is still to come back through pager_done. */
void pager_late(struct pager *p, struct core_op *op);
/* -EAGAIN while something else still lies where it is to live. */
int pager_tensor_add(struct pager *p, struct ofl_tensor *t);
/* -EAGAIN while something of it is in flight. */
int pager_tensor_remove(struct pager *p, struct ofl_tensor *t);

#endif
