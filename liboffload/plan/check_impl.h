/* check_impl: what the files of check share. See check.h. */
#ifndef OFL_PLAN_CHECK_IMPL_H
#define OFL_PLAN_CHECK_IMPL_H

#include <stddef.h>

#include "liboffload/plan/check.h"
#include "liboffload/plan/check_space.h"

#define CHECK_BLOCK_BYTES  4096u
#define CHECK_STREAMS      64u
#define CHECK_UPDATE_PARTS 8u

typedef unsigned long long ull;

enum check_memory { CHECK_DEVICE, CHECK_HOST, CHECK_STORE, CHECK_SPACES };

struct check_tile {
    uint64_t newest;  /* version that has been made */
    uint32_t holders; /* ranges that have it */
};

/* Somebody is still to read a version, of each tile. */
struct check_reader {
    uint64_t base, lease, update; /* lease 0: an update's */
    uint8_t *done;                /* an update's, by tile */
    uint32_t left;
};

/* Versions are numbered as the program announces writes: by acquires, releases that drop, updates. */
struct check_tensor {
    bool alive, source, transient;
    bool garbage; /* the last announced version is anything */
    bool rests;   /* its copy stays on the device */
    uint32_t count, rest_tiles;
    uint64_t bytes, tile_bytes, file_off;
    uint64_t lead;           /* its tiles begin at blocks of the source, but for the first */
    uint64_t version, whole; /* announced; the last one that needs nothing of those before it */
    struct check_tile *tiles;
    struct check_reader *readers;
    uint64_t readers_count, readers_room;
};

struct check_lease {
    bool held, released, written, garbage; /* garbage: of base */
    uint32_t tensor, stream, access;
    uint64_t off, base, version; /* base: what it finds, version: what it leaves */
};

struct check_kernel {
    uint32_t stream, count; /* uses[first .. first + count) */
    uint64_t launch_ns, first;
};

struct check_kernel_use {
    uint64_t lease;
    struct check_use *at;
};

struct check_stream {
    uint64_t kernel, last; /* that runs, 0: none; that ran last */
    uint64_t free_ns;
};

struct check_update_part {
    bool known, garbage;
    uint32_t tensor;
    uint64_t base, version;
};

struct check_update {
    struct check_update_part part[CHECK_UPDATE_PARTS];
};

/* In flight. */
struct check_moving {
    struct check_moving *next;
    struct plan_record r;
    struct check_label label;
    struct check_use *from, *to;
};

struct plan_check {
    struct plan_checked out;
    const struct plan_record *now;
    uint64_t time_ns;
    struct check_space space[CHECK_SPACES];
    struct check_tensor *tensors;
    struct check_lease *leases;
    struct check_kernel *kernels;
    struct check_kernel_use *uses;
    struct check_update *updates;
    uint64_t tensors_room, leases_room, kernels_room, uses_room, updates_room, uses_count, launched;
    struct check_stream streams[CHECK_STREAMS];
    struct check_moving *moving[4096], *free_moving; /* by tensor and tile */
    uint64_t moves;
    bool rests, closing, out_of_memory;
};

void check_fault(struct plan_check *c, enum plan_fault fault, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *check_grow(struct plan_check *c, void **at, uint64_t *room, uint64_t index, size_t each);
/* NULL, and a fault: there is none. */
struct check_tensor *check_tensor(struct plan_check *c, uint32_t number);

/* A reader that was expected has come: of a lease, all of it; of an update, a tile. */
void check_expected(struct check_tensor *t, uint64_t lease, uint64_t update, uint32_t tile);

static inline uint64_t check_tile_start(const struct check_tensor *t, uint32_t tile)
{
    return tile ? tile * t->tile_bytes - t->lead : 0;
}

static inline uint64_t check_tile_bytes(const struct check_tensor *t, uint32_t tile)
{
    uint64_t start = check_tile_start(t, tile), end = check_tile_start(t, tile + 1);

    return (end < t->bytes ? end : t->bytes) - start;
}

/* check_move.c */
void check_move(struct plan_check *c, const struct plan_record *r);
void check_moves_free(struct plan_check *c);
/* The range lies in its memory. */
void check_range(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len);
/* Nobody is at work there who must not be, beside a reader or a writer. */
void check_busy(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len, bool write);
/* found is what a reader of that version wants. False: it is not. */
bool check_label(struct plan_check *c, const struct check_label *found, uint32_t tensor, uint32_t tile,
                 uint64_t version);
void check_put(struct plan_check *c, enum check_memory memory, uint64_t off, uint64_t len,
               struct check_label label);
void check_gone(void *arg, int memory, const struct check_label *label);

#endif
