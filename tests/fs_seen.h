/*
 * What a file system does with a scratch file of ours, seen from the outside: pages that are put into the page
 * cache, writes that find no space, memory that is gone. None of it asks the io room, whose claims it judges.
 */
#ifndef OFL_TESTS_FS_SEEN_H
#define OFL_TESTS_FS_SEEN_H

#include <stdbool.h>
#include <stdint.h>

#include "io/io.h"

struct fs_seen {
    bool pages_known;       /* only root may count them */
    uint64_t pages;         /* put into the page cache for this file; large ones count once */
    uint64_t left_bytes;    /* of the file that are in the page cache after writing and reading */
    uint64_t taken_bytes;   /* by which the reservation made the file system's free space smaller */
    bool filled;            /* others could take what was free */
    uint64_t failed_bytes;  /* of writes, on the file system that is full then, for want of space */
    uint64_t memory_bytes;  /* of tmpfs and zram that the machine has more after writing */
    uint64_t backing_bytes; /* of the file behind that are in the page cache after writing */
    bool wrong;             /* what was written did not come back */
};

struct fs_below {
    const char *root;    /* what lies below is the test's own: each tmpfs there counts as memory */
    const char *backing; /* the file that a loop device below is made of; NULL: none */
};

/* Reserves bytes in f, which lies in dir, fills the file system up, writes f twice, reads it. 0, or -errno with a
 * sentence: it could not be looked at. */
int fs_seen_scratch(struct io_file *f, const char *dir, const struct fs_below *below, uint64_t bytes,
                    struct fs_seen *out);
/* Reads f into memory that was never touched: pages only. */
int fs_seen_read(struct io_file *f, struct fs_seen *out);

#endif
