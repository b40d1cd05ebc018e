/*
 * Layouts, inside the io room: where a file's bytes lie, as its file system tells (FIEMAP). Not all do.
 */
#ifndef OFL_IO_LAYOUT_H
#define OFL_IO_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

struct fiemap_extent;

struct io_layout {
    struct fiemap_extent *extents;
    unsigned count;
};

/* Where [0, bytes) lies. 0; -errno, without a sentence, where the file system doesn't tell, or in too many
 * pieces. */
int io_layout_get(int fd, uint64_t bytes, struct io_layout *out);
void io_layout_free(struct io_layout *l);
/* How many bytes of [0, bytes) lie in both at the same place. */
uint64_t io_layout_common(const struct io_layout *a, const struct io_layout *b, uint64_t bytes);

/* Where the first byte lies; false if the file system doesn't tell. */
bool io_layout_address(int fd, uint64_t *address);
/* Whether a part of it is compressed, or lies in the file system's records: such parts are never read
 * directly. Looks at the first thousands of extents only. */
bool io_layout_encoded(int fd);

#endif
