/*
 * store: the NVMe tier's space. Owns one scratch file (in several directories: striped), its ranges, and the seal of
 * what is written there. Knows nothing of tensors; moves no bytes itself: the pager
 * submits requests on store_file() for the ranges that it took.
 *
 * The file has no name (see io_file_open_scratch): nothing of it is left after a
 * crash, and two jobs in one directory don't meet.
 */
#ifndef OFL_STORE_H
#define OFL_STORE_H

#include <stdint.h>

#include "io/io.h"

struct store;

/* Ranges and requests are multiples of this. */
#define STORE_BLOCK 4096u

struct store_path {
    const char *dir;
    uint64_t bytes; /* budget; 0: what is free in dir, less 5 % */
};

struct store_config {
    const struct store_path *paths;
    unsigned count;      /* 1 to IO_STRIPE_MAX */
    unsigned file_flags; /* IO_FILE_ */
    /* What paths whose bytes lie in memory (tmpfs) may take together; those without a budget take no more.
     * For sentences: what that is a part of. NULL: any number of bytes. */
    uint64_t memory_bytes;
    const char *memory_text;
    bool unmeasured; /* several paths have equal shares: nothing is written to measure them */
};

/* -OFL_EBUDGET if what lies in memory doesn't fit. Several paths get shares by their speed, which takes about half a second each to measure. */
int store_open(const struct store_config *config, struct store **out);
/* Space alone, for a simulation: ranges of a store of so many bytes, and no disk behind them. file: what
 * store_file() gives out; it stays its owner's, and nobody may use it. */
int store_open_space(uint64_t bytes, struct io_file *file, struct store **out);
/* Over a file that is there, of one directory: the budget counts what the file holds as free. The file is the store's
 * from now on, if this succeeds. */
int store_open_over(const struct store_config *config, struct io_file *file, struct store **out);
void store_close(struct store *s); /* NULL accepted */
struct io_file *store_file(struct store *s);

/* A range of at least so many bytes (rounded up to STORE_BLOCK), backed by disk space.
 * -OFL_EBUDGET beyond the budget, -ENOSPC if the file system is full: what names the purpose. */
int store_take(struct store *s, uint64_t bytes, const char *what, uint64_t *offset);
void store_give(struct store *s, uint64_t offset, uint64_t bytes);

struct store_range {
    uint64_t offset, bytes;
};

/* Before anything else is taken, of a store over a file: what is taken already. Whole blocks inside the file, in the
 * order of their offsets, that don't overlap. They may be more than the budget. -ENOMEM. */
int store_hold(struct store *s, const struct store_range *ranges, uint64_t count);

/* XXH3-64 of the bytes: kept by the owner of the range when it writes them, compared
 * when they come back. */
uint64_t store_seal(const void *bytes, uint64_t count);

uint64_t store_budget(const struct store *s);
uint64_t store_memory(const struct store *s); /* of the budget: what lies in memory */
uint64_t store_used(const struct store *s);
uint64_t store_peak(const struct store *s);     /* of the ranges in use */
uint64_t store_reserved(const struct store *s); /* disk space taken, which never shrinks */

#endif
