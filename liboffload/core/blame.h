/*
 * blame: why what a stream waits for is not there. A reason comes of facts: of what the pager had done for the
 * copy when it was acquired, and of what kept it since. The pager has no clock, so nothing is weighed by time.
 */
#ifndef OFL_CORE_BLAME_H
#define OFL_CORE_BLAME_H

#include "liboffload/core/pager.h"

/* c has been acquired. made: by that; predicted: what sched_use said. */
void blame_acquired(struct core_copy *c, bool made, int predicted);
/* c can't go on for want of room, or of a place among what is in flight. */
void blame_stuck(const struct pager *p, struct core_copy *c);
/* c is acquired, and its bytes are not there: why. */
enum ofl_stall_reason blame_bytes(const struct core_copy *c);
/* What was why at the acquire, once they are. */
enum ofl_stall_reason blame_settled(const struct core_copy *c, enum ofl_stall_reason why);

#endif
