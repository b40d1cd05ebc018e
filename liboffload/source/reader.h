/*
 * reader: what a format of source files is to the room. A format is one struct source_reader, in a
 * file of its own, and a line in the table in source.c.
 */
#ifndef OFL_SOURCE_READER_H
#define OFL_SOURCE_READER_H

#include <stdbool.h>

#include "liboffload/source/source.h"

#define SOURCE_HEAD_BYTES 64u

/* The first bytes of a file, fewer if it has no more. */
struct source_head {
    unsigned char bytes[SOURCE_HEAD_BYTES];
    size_t count;
};

struct source_reader {
    const char *name;
    const char *suffix; /* of file names, as ".safetensors" */
    /* These are the first bytes of a file of this format. It is asked of every file, so it has to be
     * sure; a file that no format is sure of goes to the one whose suffix it has, to be told what is wrong. */
    bool (*probe)(const struct source_head *head);
    /* Adds an entry for each tensor, and sees to it that nothing in the file is trusted. fd is at no
     * particular position, and is the caller's. */
    int (*read)(struct source_file *f, int fd);
};

extern const struct source_reader source_safetensors;
extern const struct source_reader source_gguf;

/* source_open with another table of formats: for tests. */
int source_open_as(const struct source_reader *const *readers, size_t count, const char *path,
                   struct source_file **out);

/* Exactly so many bytes from there: fewer are an error. */
int source_read_at(const struct source_file *f, int fd, void *buf, uint64_t bytes, uint64_t offset);

/* Text of the file, made fit for a sentence: short, and without control characters, which would reach
 * the reader's terminal. */
struct source_quoted {
    char text[132];
};

struct source_quoted source_quote(const char *text);

#endif
