/*
 * update: host-side work on all tiles of several tensors, as an optimizer does it. What core offers to the
 * rooms above it for that; the pager's insides stay below.
 */
#ifndef OFL_CORE_UPDATE_H
#define OFL_CORE_UPDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload.h"

#define CORE_UPDATE_TENSORS 5

enum core_access { HOST_READ, HOST_UPDATE, HOST_OVERWRITE, HOST_CONSUME };

struct core_update;

/* A host work in its tensor's queue: only the first one may touch tiles. */
struct core_turn {
    struct core_turn *next;
    struct core_update *update; /* NULL: a caller's request */
    uint32_t rest;              /* so many of its tensor's tiles rest in host memory behind it */
};

/* An update of one weight: host work on all its tiles, in tile order. Its owner fills the first part, and
 * keeps it until done. */
struct core_update {
    struct ofl_tensor *tensors[CORE_UPDATE_TENSORS];
    enum core_access access[CORE_UPDATE_TENSORS];
    uint32_t count;
    /* Worker thread. ptr and fresh by tensor; elems of them from element first. */
    void (*tile)(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems);
    void (*done)(void *arg); /* under the engine's lock; the update is its owner's again */
    void *arg;

    /* work.c's */
    struct core_update *prev, *next;             /* of all */
    struct core_update *ready_prev, *ready_next; /* of those whose turn has come */
    struct core_turn turn[CORE_UPDATE_TENSORS];
    uint64_t ordinal[CORE_UPDATE_TENSORS];
    uint64_t seq;
    uint32_t turns, turns_left; /* tensors in whose queues it is the first; in whose it still is */
    uint32_t tiles, tiles_next, tiles_done;
    bool held; /* queued for its place in the order; not to start before it is let go */
    bool queued, ready;
};

#endif
