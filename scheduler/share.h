/*
 * share: how gaps between uses share the room of a tier. Those whose byte is worth most come first; those of about the
 * same worth get like shares, so that a part of each rests.
 */
#ifndef OFL_SCHEDULER_SHARE_H
#define OFL_SCHEDULER_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/room.h"

struct share_gap {
    uint32_t use, next;   /* from that event to this one, which is not later if the step's end lies between */
    uint32_t from;        /* the first event of the gap */
    int class;            /* of worth: the larger, the sooner */
    uint32_t units, kept; /* that could rest, that do */
    uint64_t unit_bytes;
    bool full; /* no room for more */
};

/* The gaps of a step of so many events. */
struct share {
    struct share_gap *gaps; /* as many as may be added */
    uint32_t count, events;
};

/* One more, from the first event of a gap to the next use. saved: bytes, per byte held. */
void share_add(struct share *s, uint32_t use, uint32_t from, uint32_t next, uint32_t units,
               uint64_t unit_bytes, double saved);
/* Sets kept, and takes that of room. Sorts the gaps. */
void share_out(struct share *s, struct room *room);

#endif
