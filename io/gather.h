/*
 * io: many small reads of one file in one call: rows of a table, wherever they lie. What lies in the same block, or in the next
 * one, is read once; all that is left is in flight together.
 */
#ifndef OFL_IO_GATHER_H
#define OFL_IO_GATHER_H

#include <stddef.h>

#include "io/io.h"

#define IO_GATHER_DEPTH       64u
#define IO_GATHER_PIECE_BYTES (64u << 10) /* of one read at most */

struct io_gather; /* a queue and its buffers; for one thread at a time */

int io_gather_open(enum io_engine engine, struct io_gather **out);
void io_gather_close(struct io_gather *g); /* NULL accepted */

/*
 * Row rows[i], row_bytes from offset + rows[i] * row_bytes of f, to out + i * row_bytes; in any order, rows may come twice.
 * Returns when all are there, or with the first error's sentence when nothing is under way any more; out is undefined then.
 * read_bytes, which may be NULL: what was read for it.
 */
int io_gather_rows(struct io_gather *g, struct io_file *f, uint64_t offset, uint64_t row_bytes,
                   const uint64_t *rows, size_t count, void *out, uint64_t *read_bytes);

#endif
