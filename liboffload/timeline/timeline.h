/*
 * timeline: what a context did when, as a file that Perfetto opens, and what its streams waited for. Owns names,
 * the events that are still to be written, the thread that writes them, and the sums of stalls. Knows nothing of
 * tensors, devices and drives: who reports gives a name, a track and two times.
 *
 * Reporting never waits for the file. Events go to one of two buffers, while the thread writes the other; what
 * finds its buffer full is dropped, and counted. While no file is open reporting costs one load and a branch.
 *
 * Locks: one, a leaf.
 */
#ifndef OFL_TIMELINE_TIMELINE_H
#define OFL_TIMELINE_TIMELINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "include/offload.h"

#define TIMELINE_TEXT        96u /* bytes of a name that are kept, with the 0 */
#define TIMELINE_CHUNK       1024u
#define TIMELINE_CHUNKS      256u
#define TIMELINE_EVENTS      32768u /* of a buffer, unless said otherwise */
#define TIMELINE_STALLS_MOST 65536u /* sums that are kept one by one */

enum timeline_kind {
    TIMELINE_WORK,  /* of a stream: what the program calls it */
    TIMELINE_STALL, /* of a stream */
    TIMELINE_LINK_IN,
    TIMELINE_LINK_OUT,
    TIMELINE_READ, /* of a drive */
    TIMELINE_WRITE,
    TIMELINE_UPDATE, /* of host workers */
    TIMELINE_SEAL,
    TIMELINE_HELD, /* by a tier: bytes from start_ns on */
    TIMELINE_KINDS
};

struct timeline_event {
    uint64_t start_ns, end_ns; /* by base_now_ns */
    uint64_t bytes;            /* moved, 0: not said; held */
    uint32_t name;             /* by timeline_name: of what is worked on, or waited for */
    uint32_t place;            /* the stream's number; the drive, by timeline_name; the tier; else 0 */
    uint8_t kind, reason;      /* reason: of a stall, enum ofl_stall_reason */
};

struct timeline_name {
    char text[TIMELINE_TEXT]; /* UTF-8 */
    uint32_t next;            /* of the same hash */
};

struct timeline_stall {
    uint32_t name;
    uint8_t reason;
    uint64_t count, total_ns, longest_ns;
    uint32_t next; /* of the same hash */
};

#define TIMELINE_BUCKETS 4096u

struct timeline {
    atomic_bool on;
    pthread_mutex_t
        lock; /* guards what follows, to the next blank line; chunks that are there don't change */
    struct timeline_name *chunks[TIMELINE_CHUNKS];
    uint32_t names_count, name_heads[TIMELINE_BUCKETS];
    struct timeline_stall *stalls; /* the first: of all that found no place */
    uint32_t stalls_count, stalls_room, stall_heads[TIMELINE_BUCKETS];
    struct timeline_event *buffer; /* that is filled; NULL: no file is open */
    uint32_t count, room;
    uint64_t dropped;
    bool stopping;
    pthread_cond_t wake;

    struct timeline_event *spare;   /* the thread's, and who opens and closes: to stopped */
    struct timeline_writer *writer; /* NULL: no file is open */
    pthread_t thread;
    uint64_t written;
};

/* t is zeroed. */
void timeline_init(struct timeline *t);
/* No file is open. */
void timeline_destroy(struct timeline *t);

/* The number of a name, the same for the same text; 0: there is no more room for names. */
uint32_t timeline_name(struct timeline *t, const char *text);
const char *timeline_text(const struct timeline *t, uint32_t name);
const char *timeline_reason(enum ofl_stall_reason reason); /* "drive busy" */

static inline bool timeline_on(const struct timeline *t)
{
    return atomic_load_explicit(&t->on, memory_order_relaxed);
}

/* Any thread. Nothing happens if no file is open. */
void timeline_add(struct timeline *t, const struct timeline_event *event);
/* Any thread, whether a file is open or not: adds to the sum of that name and reason. */
void timeline_count_stall(struct timeline *t, uint32_t name, enum ofl_stall_reason reason, uint64_t ns);
/* The index-th of the sums, the largest first; false: there are not so many. */
bool timeline_worst(struct timeline *t, uint32_t index, struct timeline_stall *out);
void timeline_forget_stalls(struct timeline *t);

/* events: of a buffer; 0: TIMELINE_EVENTS. One thread at a time opens and closes. -OFL_ESTATE: one is open. */
int timeline_open(struct timeline *t, const char *path, uint32_t events);
/* The file is whole then. -OFL_ESTATE: none is open; -errno of the first write that failed, the file is gone
 * bad then. */
int timeline_close(struct timeline *t, uint64_t *written, uint64_t *dropped);

#endif
