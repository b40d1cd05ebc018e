/*
 * source: files that are read in place. Owns which tensors a file holds, and where; whether the file
 * is still the one that was opened (state.h); and the one table of formats (reader.h). Knows nothing of
 * contexts and tiers, and moves no data: whoever pages the tensors opens the file for that.
 */
#ifndef OFL_SOURCE_H
#define OFL_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"
#include "include/offload_metadata.h"
#include "liboffload/source/state.h"

struct source_entry {
    char *name;
    enum ofl_dtype dtype;
    uint32_t dims; /* 0: a scalar, of one element */
    uint64_t shape[OFL_DIMS_MAX];
    uint64_t elems, bytes;
    uint64_t offset; /* absolute, in the file */
};

/* A key and its values: as the public struct, whose pointers lead into this memory. */
struct source_metadata {
    struct ofl_metadata is;
    char *key;
    void *values;
    char *bytes; /* of texts */
};

struct source_file {
    char *path;
    const char *format;
    struct source_state state; /* from before the first byte was read */
    uint64_t bytes;            /* of the file */
    size_t count;
    struct source_entry *entries; /* by name, in the order of strcmp */
    size_t metadata_count;
    struct source_metadata *metadata; /* in the order of the file */
};

/* Finds the format, reads what describes the tensors (buffered) and checks all of it. What is accepted
 * is safe to address: every range lies inside the file and has the bytes that its shape and dtype say.
 * -OFL_EFORMAT, -OFL_ECHANGED or an errno value, with a sentence that names the file, the tensor and the
 * numbers; *out is then untouched. */
int source_open(const char *path, struct source_file **out);
void source_close(struct source_file *f); /* NULL accepted */

/* NULL if there is none of that name. */
const struct source_entry *source_find(const struct source_file *f, const char *name);
const struct source_metadata *source_metadata_find(const struct source_file *f, const char *key);

#endif
