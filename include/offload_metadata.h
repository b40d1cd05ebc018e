/*
 * What a source file says about its model beside the tensors: keys and values of GGUF files. Other formats have none.
 *
 * Numbers are widened, so that who reads a value need not know how wide a file stores it: an unsigned one of any width
 * is a uint64_t, a signed one an int64_t, a float a double, false and true are 0 and 1. Arrays are of one type, and
 * not nested. Everything lives as long as the source.
 */
#ifndef OFFLOAD_METADATA_H
#define OFFLOAD_METADATA_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ofl_metadata_type {
    OFL_METADATA_UINT,
    OFL_METADATA_INT,
    OFL_METADATA_REAL,
    OFL_METADATA_BOOL,
    OFL_METADATA_TEXT,
    OFL_METADATA_TYPES
};

struct ofl_text {
    const char *bytes; /* as the file has them; a NUL stands behind the last */
    uint64_t count;
};

struct ofl_metadata {
    size_t size;
    const char *key; /* "llama.block_count" */
    enum ofl_metadata_type type;
    uint32_t array; /* 1: an array of count values, which may be 0; 0: one value */
    uint64_t count;
    /* [count]; that of the type, the others are NULL */
    const uint64_t *uints; /* OFL_METADATA_UINT, OFL_METADATA_BOOL */
    const int64_t *ints;
    const double *reals;
    const struct ofl_text *texts;
};

/* any. How many keys it has. */
OFL_API size_t ofl_source_metadata_count(const struct ofl_source *s);
/* any. In the order of the file. -EINVAL beyond the last. */
OFL_API int ofl_source_metadata(const struct ofl_source *s, size_t index, struct ofl_metadata *out);
/* any. -ENOENT if there is no such key. */
OFL_API int ofl_source_metadata_find(const struct ofl_source *s, const char *key, struct ofl_metadata *out);

#ifdef __cplusplus
}
#endif

#endif
