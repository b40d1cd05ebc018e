/*
 * Drives, inside the io room: the kernel's files below given roots, so that tests can
 * bring trees of their own. Other rooms see io/drive.h.
 */
#ifndef OFL_IO_DRIVE_INTERNAL_H
#define OFL_IO_DRIVE_INTERNAL_H

#include <string.h>

#include "io/drive.h"

/* Where a path lies, as statx says. */
struct io_drive_place {
    const char *path; /* real and absolute */
    uint64_t device, mount_id;
    bool mount_id_known;
    unsigned depth; /* of struct io_drive */
};

#define IO_DRIVE_DEPTH 4u /* files with drives in them that are followed */

/* As io_drive_get, from within a look-up that is so deep already. No sentence. */
int io_drive_get_below(const char *path, unsigned depth, struct io_drive *out);

/* sys and proc instead of /sys and /proc. Fills all but the sizes of the file system. */
void io_drive_get_at(const char *sys, const char *proc, const struct io_drive_place *place,
                     struct io_drive *out);

/* Copies text, cut to bytes - 1. */
static inline void io_drive_copy(char *to, size_t bytes, const char *from)
{
    size_t length = 0;

    while (length < bytes - 1 && from[length])
        length++;
    memcpy(to, from, length);
    to[length] = '\0';
}

/* ---- drive_sysfs.c ----------------------------------------------------- */

/* What sysfs tells of d->device, if that is a block device. */
void io_drive_read_block(const char *sys, struct io_drive *d);
/* The drives of the btrfs that is mounted from d->source; or of that uuid, if it isn't NULL. */
void io_drive_read_btrfs(const char *sys, const char *uuid, struct io_drive *d);
/* First line of a small file, without spaces around it and with '?' for what can't be printed.
 * false, and "", if there is none. */
bool io_drive_read_text(const char *directory, const char *name, char *text, unsigned bytes);

#endif
