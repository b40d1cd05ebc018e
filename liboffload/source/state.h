/*
 * state: what tells whether an open file is still what it was.
 *
 * A file that is read in place for as long as a program runs can be written meanwhile. Then what was
 * read before and after are parts of two files, and no part of it is to be used any more. The kernel
 * notes the time of every write, at the resolution of a clock that ticks every 1 to 10 ms: taking the
 * state waits until the last write is a tick old, so that any later one will show.
 *
 * It can't show: what is written through a mapping on a file system that does not note that (tmpfs); a
 * time that was set back; the rest of a single write that was under way already. Whoever reads the same
 * bytes twice compares seals, too.
 *
 * Mode, owner, links, names and the time of the last access may change. A file that was replaced by
 * another of its name is still open, and still whole.
 */
#ifndef OFL_SOURCE_STATE_H
#define OFL_SOURCE_STATE_H

#include <stdint.h>

#include "base/error.h"

struct source_state {
    uint64_t device, inode, bytes;
    int64_t modified_s;
    uint32_t modified_ns;
};

/* Waits for up to a tick of the clock if the file was written a moment ago, longer where times are kept in
 * whole seconds. -EINVAL or -EISDIR for what is not a regular file; -OFL_ECHANGED if it is being written. */
int source_state_take(int fd, const char *path, struct source_state *out);

/* Any thread; blocks only where the file system asks a server. 0 if fd is the file that then was, unchanged, else
 * -OFL_ECHANGED (or an errno value) with the sentence, in *error too. */
int source_state_check(const struct source_state *s, int fd, const char *path, struct base_error *error);

/* Where a file system believes for a while what its server told it (NFS): asks again. Blocks. */
void source_state_refresh(int fd);

#endif
