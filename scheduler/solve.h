/*
 * solve: where what a step uses rests between two uses: on the device, in host memory, or below. Solved once
 * for a recorded step, which is taken to be followed by the same step. Ids, bytes and places in the record
 * only: no thread, no clock; the same input gives the same plan.
 *
 * What rests on the device need not lie in host memory, too, so the tiers add up. What does not rest passes
 * through a window of each tier.
 */
#ifndef OFL_SCHEDULER_SOLVE_H
#define OFL_SCHEDULER_SOLVE_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/trace.h"

/* A use of the record: event i lasts for the events [i, until). until may lie beyond the last event: the lease
 * is held into the next step. */
struct sched_use {
    struct sched_event event;
    uint32_t until;
    bool drops; /* there are no bytes after it */
};

/* What an id is. */
struct sched_item {
    uint64_t device_bytes;      /* that a copy takes of the device; 0: the id is not known */
    uint64_t bytes, tile_bytes; /* cut into tiles, the last one shorter, and by */
    uint64_t lead;              /* so much the first one */
    uint32_t home_tiles;        /* so many at the front lie in host memory for good */
    bool device_home;           /* its copy is on the device for good */
    bool transient;             /* has no bytes between uses */
    bool parts;                 /* is used in parts, device_bytes at a time: these never rest on the device */
};

/* Room for what comes and goes and for what rests. */
struct sched_room {
    uint64_t device_bytes, host_bytes;
    uint64_t device_window, host_window; /* of these, for what passes; the host's only if something does */
};

/* From a use to the next one of the same id. */
struct sched_rest {
    bool device; /* its copy stays */
    bool alone;  /* what lies below is not written: the copy that stays is the only one, or there is none */
    uint32_t tiles; /* the first so many stay in host memory */
};

/* Bytes of a step. */
struct sched_moved {
    uint64_t device_in, device_out, drive_read, drive_write;
};

/* Sets the windows of room: of the device the largest copy that does not live there, of the host some tiles of
 * tile_bytes, more of them if updates hold tiles there, too. */
void sched_room_windows(struct sched_room *room, const struct sched_item *items, uint32_t ids,
                        uint64_t tile_bytes, bool updates);

/* Fills rest[count], and moved with what a steady step will move. items[ids]. -ENOMEM. */
int sched_solve(const struct sched_use *uses, uint32_t count, const struct sched_item *items, uint32_t ids,
                const struct sched_room *room, struct sched_rest *rest, struct sched_moved *moved);

#endif
