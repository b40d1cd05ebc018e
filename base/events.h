/*
 * events: what happens next, in virtual time. A heap of events in an array of its owner's; events of one time
 * come out in the order in which they went in. One thread at a time.
 */
#ifndef OFL_BASE_EVENTS_H
#define OFL_BASE_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

struct base_event {
    uint64_t time, order; /* order: of its posting */
    void *what;
    uint32_t type, index;
};

/* Zeroed: none. The owner frees heap, and makes it larger (room) while base_events_full(). */
struct base_events {
    struct base_event *heap;
    uint32_t count, room;
    uint64_t order;
};

bool base_events_full(const struct base_events *e);
/* Not while full. event.order is set here. */
void base_events_post(struct base_events *e, struct base_event event);
/* The next one; there is one. */
struct base_event base_events_take(struct base_events *e);

#endif
