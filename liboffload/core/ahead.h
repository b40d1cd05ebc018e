/* ahead: what the recorded step says: where things rest, and what is fetched before it is asked for. */
#ifndef OFL_CORE_AHEAD_H
#define OFL_CORE_AHEAD_H

#include "liboffload/core/pager.h"

/* A step has ended: its plan is solved, if that was not done yet, for the tiers as they are. */
void ahead_plan(struct pager *p);
/* Starts what may be fetched now. */
void ahead_start(struct pager *p);
/* Nothing is to happen to c, which is live: the plan may have it leave. True: it has left. */
bool ahead_pass(struct pager *p, struct core_copy *c);

#endif
