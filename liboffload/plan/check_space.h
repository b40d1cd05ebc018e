/*
 * check_space: a memory of which only the labels are known: which tile's bytes, of which version, lie in a range, and
 * who is at work where. Part of check.
 */
#ifndef OFL_PLAN_CHECK_SPACE_H
#define OFL_PLAN_CHECK_SPACE_H

#include <stdbool.h>

#include "base/tree.h"

struct check_label {
    uint32_t tensor, tile;
    uint64_t version, in_ns; /* in_ns: when it came to the device */
    bool drive;              /* came from a drive */
    bool sealed;             /* its seal is known, or was compared */
};

/* Bytes of one tile. */
struct check_span {
    struct base_node node;
    uint64_t off, len;
    struct check_label label;
};

/* Somebody at work in a range. */
struct check_use {
    struct base_node node;
    uint64_t off, end, end_max, order;
    bool move; /* bytes come in, else a kernel or a worker */
    struct check_use *next;
};

struct check_space {
    uint64_t limit;
    struct base_tree spans, readers, writers;
    uint64_t order;
    /* A span has gone. */
    void (*gone)(void *arg, int space, const struct check_label *label);
    void *arg;
    int number;
    struct check_use *free_uses;
    bool out_of_memory;
};

void check_space_open(struct check_space *s, int number, uint64_t limit,
                      void (*gone)(void *arg, int space, const struct check_label *label), void *arg);
void check_space_close(struct check_space *s);
/* Exactly this range's, NULL: there is none. */
struct check_label *check_space_at(const struct check_space *s, uint64_t off, uint64_t len);
/* What lies there, in part or whole, is gone. */
void check_space_clear(struct check_space *s, uint64_t off, uint64_t len);
void check_space_put(struct check_space *s, uint64_t off, uint64_t len, const struct check_label *label);
/* Somebody who is at work there, NULL: nobody. writers alone if write is false. */
const struct check_use *check_space_busy(const struct check_space *s, uint64_t off, uint64_t len, bool write);
struct check_use *check_space_begin(struct check_space *s, uint64_t off, uint64_t len, bool write, bool move);
void check_space_end(struct check_space *s, struct check_use *use, bool write);

#endif
