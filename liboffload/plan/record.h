/*
 * record: the log of a simulated run: every command of the program, every move, kernel and host work with its
 * ranges, in the order of virtual time. What the checker (check.h) knows of a run; it knows nothing else.
 */
#ifndef OFL_PLAN_RECORD_H
#define OFL_PLAN_RECORD_H

#include <stdint.h>

/*
 * Offsets count from the start of an arena, a store or a source. A tensor's number is never used again, nor is
 * that of a lease, kernel or update. What a type does not name is 0.
 */
enum plan_record_type {
    PLAN_RECORD_OPEN,   /* from: device, to: host, bytes: the store: budgets in bytes */
    PLAN_RECORD_CREATE, /* tensor, bytes; value: bytes of a tile; from: where it begins in its source; stream:
                             PLAN_RECORD_SOURCE, _TRANSIENT */
    PLAN_RECORD_DESTROY, /* tensor */
    PLAN_RECORD_STEP,    /* value: its number */
    PLAN_RECORD_STEP_END, /* value; claimed of it: from: stall in ns; to: bytes that came in late; bytes: that came
                             in at all */
    PLAN_RECORD_ACQUIRE, /* stream, tensor, bytes; from: lease, to: device range, value: access */
    PLAN_RECORD_RELEASE, /* stream, tensor; from: lease */
    PLAN_RECORD_PASSED,  /* the same: the stream has passed the release */
    PLAN_RECORD_LAUNCH,  /* stream; from: kernel */
    PLAN_RECORD_USE,     /* of the kernel just launched: from: kernel, to: lease */
    PLAN_RECORD_RUN,     /* stream; from: kernel */
    PLAN_RECORD_RUN_END, /* the same */
    PLAN_RECORD_UPDATE,  /* tensor; from: update, to: its place in it, value: access */
    PLAN_RECORD_REST, /* tensor; until its next use value: 1: its copy stays on the device; to: so many tiles
                             stay in host memory */
    /* Moves of a tile, and when they are over: tensor, tile, bytes. */
    PLAN_RECORD_READ, /* from: store or source, to: host range */
    PLAN_RECORD_READ_END,
    PLAN_RECORD_SEAL, /* from: host range */
    PLAN_RECORD_SEAL_END,
    PLAN_RECORD_WRITE, /* from: host range, to: store */
    PLAN_RECORD_WRITE_END,
    PLAN_RECORD_IN, /* from: host range, to: device range */
    PLAN_RECORD_IN_END,
    PLAN_RECORD_OUT, /* from: device range, to: host range */
    PLAN_RECORD_OUT_END,
    PLAN_RECORD_FILL, /* to: device range becomes zeros */
    PLAN_RECORD_FILL_END,
    PLAN_RECORD_WORK, /* one of an update's tiles: from: update, to: host range, bytes 0: none; value: access, and
                         PLAN_RECORD_FRESH: it had no bytes, which means zeros */
    PLAN_RECORD_WORK_END,
    PLAN_RECORD_TYPES
};

#define PLAN_RECORD_SOURCE    1u
#define PLAN_RECORD_TRANSIENT 2u

/* Access. */
#define PLAN_RECORD_READS  1u
#define PLAN_RECORD_WRITES 2u
#define PLAN_RECORD_DROP   4u /* no bytes after it */
#define PLAN_RECORD_FRESH  8u

struct plan_record {
    uint64_t time_ns;
    uint32_t type, stream, tensor, tile;
    uint64_t from, to, bytes, value;
};

/* "read", "read end". */
const char *plan_record_name(uint32_t type);

#endif
