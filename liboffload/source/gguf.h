/* gguf: what the files of the reader of GGUF share. Only they include this. */
#ifndef OFL_SOURCE_GGUF_H
#define OFL_SOURCE_GGUF_H

#include <stdbool.h>

#include "liboffload/source/reader.h"

/* Reads the header from its begin to its end, buffered. */
struct gguf_cursor {
    struct source_file *f;
    int fd;
    uint64_t at;         /* in the file: what is read next */
    uint64_t from, have; /* what the buffer holds */
    unsigned char *buffer;
};

/* So many bytes. what: for the sentence, as "key 3 of 20". */
int gguf_take(struct gguf_cursor *c, void *out, uint64_t bytes, const char *what);
int gguf_take_u32(struct gguf_cursor *c, uint32_t *out, const char *what);
int gguf_take_u64(struct gguf_cursor *c, uint64_t *out, const char *what);
/* A count of things that take so many bytes each at least: more than the file has left is refused before memory is
 * taken for them. */
int gguf_take_count(struct gguf_cursor *c, uint64_t each, uint64_t *out, const char *what);
/* A key or a name: allocated, not empty, without NULs. */
int gguf_take_name(struct gguf_cursor *c, char **out, const char *what);

/* The keys and values. *f has those that were read, whatever comes back. */
int gguf_read_metadata(struct gguf_cursor *c, uint64_t count);

#endif
