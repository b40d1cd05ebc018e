/* room: how much of a tier is taken at each event of a step, which is a circle of events. */
#ifndef OFL_SCHEDULER_ROOM_H
#define OFL_SCHEDULER_ROOM_H

#include <stdint.h>

struct room_node;

struct room {
    struct room_node *nodes; /* a tree over the events: the sum at a node's events, and the most below it */
    uint32_t count, leaves;
    uint64_t bytes;
};

int room_open(struct room *r, uint32_t count); /* -ENOMEM */
void room_close(struct room *r);
/* Nothing is taken; bytes are there. */
void room_reset(struct room *r, uint64_t bytes);
/* For the events from, ..., until - 1, round the end if until is not after from: all of them if both are one. */
void room_take(struct room *r, uint32_t from, uint32_t until, uint64_t bytes);
void room_give(struct room *r, uint32_t from, uint32_t until, uint64_t bytes);
/* Bytes that are free at each of them. */
uint64_t room_free(const struct room *r, uint32_t from, uint32_t until);

#endif
