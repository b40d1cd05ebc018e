/* record: what the engine, the device and the drives do, told to the context's timeline: whose bytes, which track. */
#ifndef OFL_CORE_RECORD_H
#define OFL_CORE_RECORD_H

#include "base/clock.h"
#include "liboffload/core/pager.h"
#include "liboffload/timeline/timeline.h"

/* A gate's note: that it was closed for tensor, and why. */
uint64_t record_note(struct timeline *t, struct ofl_tensor *tensor, enum ofl_stall_reason why);
/* Any thread. The device's: stalls are counted, too. */
void record_span(struct timeline *t, const struct dev_span *span);
/* The I/O queue's, of requests whose cookies are operations. */
void record_transfer(void *timeline, const struct io_span *span);

/* What a worker does: for record_job; 0 if nobody wants to know. */
static inline uint64_t record_now(const struct timeline *t)
{
    return timeline_on(t) ? base_now_ns() : 0;
}
/* It has done it for tensor since start_ns, and so many bytes of it. */
void record_job(struct timeline *t, enum timeline_kind kind, struct ofl_tensor *tensor, uint64_t start_ns,
                uint64_t bytes);

/* What each tier held when it was last said; not known: nothing was said since the timeline was opened. */
struct record_levels {
    uint64_t bytes[OFL_TIERS];
    bool known;
};

/* Under the engine's lock: tells the tiers that now hold more or less than last time. */
void record_levels(struct timeline *t, struct record_levels *last, const uint64_t now[OFL_TIERS]);

#endif
