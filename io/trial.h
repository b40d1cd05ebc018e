/*
 * Trials, inside the io room: what a file system really does with a file. What it says is not
 * enough: btrfs takes O_DIRECT and passes the page cache, overlayfs hides what it lies on, and
 * space that was reserved may be left for another place at the next write.
 */
#ifndef OFL_IO_TRIAL_H
#define OFL_IO_TRIAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Alignment that direct I/O asks for, as far as the kernel tells. */
struct io_alignment {
    bool told;            /* if not, 4096 is taken for both */
    uint32_t read, write; /* 0: it says that it can't be done for this file */
};

void io_alignment_get(int fd, struct io_alignment *out);

enum io_answer { IO_UNKNOWN, IO_NO, IO_YES };

struct io_trial {
    enum io_answer direct;   /* direct transfers go past the page cache; only if the file is open for them */
    enum io_answer in_place; /* what is written again stays where it is, so reserved space is enough for it */
    enum io_answer in_memory;   /* its pages are its only home */
    enum io_answer touch_first; /* direct reads into memory that was never touched pass the page cache */
};

/* fd is an empty file without a name, open for both, O_DIRECT or not; it is empty again afterwards.
 * Writes a few blocks. What can't be found out, for want of space for instance, is unknown. */
void io_trial_scratch(int fd, uint32_t block, struct io_trial *out);
/* fd is open for reading, of a file that others may use too. Reads a few blocks. in_place stays unknown. */
void io_trial_read(int fd, uint32_t block, struct io_trial *out);
#endif
