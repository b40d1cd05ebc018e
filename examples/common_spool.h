/*
 * An array that grows, and lies in a file beyond some MiB: so what a program holds of its data takes little memory,
 * whatever the data. The file has no name, is read by mapping it, and goes with the program.
 */
#ifndef EXAMPLES_COMMON_SPOOL_H
#define EXAMPLES_COMMON_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "examples/common_budget.h"

#define COMMON_SPOOL_BYTES (4u << 20) /* that stay in memory */

struct common_spool {
    const char *what;                   /* "tokens", for sentences */
    const struct common_budget *budget; /* its directories are looked at first for room; NULL: none */
    size_t each;                        /* bytes of an item */
    uint64_t count;                     /* items */
    char *buffer;
    size_t buffered; /* bytes that are not in the file */
    int fd;          /* -1: no file; set by begin */
    char dir[256];   /* where the file is */
    bool in_memory;  /* that lies in memory */
    void *map;
    size_t map_bytes;
};

void common_spool_begin(struct common_spool *s, const char *what, size_t each,
                        const struct common_budget *budget);
/* Return a status. */
int common_spool_add(struct common_spool *s, const void *items, size_t count);
/* All items, for reading; nothing may be added from then on. */
int common_spool_end(struct common_spool *s, const void **items);
/* A zeroed one is accepted. */
void common_spool_free(struct common_spool *s);

#endif
