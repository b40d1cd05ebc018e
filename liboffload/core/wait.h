/* wait: what a stream must see complete before the work behind an acquire may run. */
#ifndef OFL_CORE_WAIT_H
#define OFL_CORE_WAIT_H

#include "liboffload/core/pager.h"

/* So many conditions can be added from now on without memory being asked for. -ENOMEM. */
int wait_reserve(struct pager *p, size_t count);
/* A wait of stream, with a gate; its maker ends it with wait_settle. NULL, with the sentence: no memory. */
struct core_wait *wait_make(struct pager *p, uint64_t stream);
/* w awaits c's bytes, or else the end of its uses so far; readable: what these write is to be read. */
void wait_add(struct pager *p, struct core_wait *w, struct core_copy *c, bool bytes, bool readable);
/* What the stream has to wait for; NULL: nothing. */
struct dev_gate *wait_settle(struct pager *p, struct core_wait *w);
/* Opens the gates of those that failed before their stream could wait: now it does. */
void wait_settle_failed(struct pager *p);

/* c's bytes are there, or can't be had: those who await them go on. */
void wait_copy_ready(struct pager *p, struct core_copy *c);
/* The use of that number has ended; why: what it wrote is not there. */
void wait_mark_over(struct pager *p, struct core_copy *c, uint64_t seq, const struct base_error *why);
/* The context is broken: nobody waits any more, as soon as nothing moves in the range. */
void wait_fail_all(struct pager *p);
/* Why the work on the stream of op has not run. */
void wait_stream_why(struct pager *p, const struct core_op *op, struct base_error *why);
void wait_close(struct pager *p);

#endif
