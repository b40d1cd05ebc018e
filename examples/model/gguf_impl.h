/* What the files that read GGUF metadata share: gguf*.c. Only they include this. */
#ifndef LLAMA_GGUF_IMPL_H
#define LLAMA_GGUF_IMPL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/files.h"
#include "include/offload_metadata.h"

/* Where values come from, and where sentences go. */
struct gguf_reader {
    struct ofl_ctx *ctx; /* of its own, of the smallest size */
    struct ofl_source *source;
    const char *path;
    char *error;
    size_t error_bytes;
};

#define GGUF_REFUSE(r, ...) llama_fail(-ENOTSUP, (r)->error, (r)->error_bytes, __VA_ARGS__)

/* Opens the file in a context for it alone; r's path and error are set. 0 or a code with its sentence. */
int gguf_open(struct gguf_reader *r);
void gguf_close(struct gguf_reader *r);

/* false: there is no such key. */
bool gguf_find(const struct gguf_reader *r, const char *key, struct ofl_metadata *out);
/* fallback < 0: the key is required. */
int gguf_get_u32(const struct gguf_reader *r, const char *key, int64_t fallback, uint32_t *out);
/* fallback NAN: the key is required. */
int gguf_get_float(const struct gguf_reader *r, const char *key, double fallback, double least, double most,
                   float *out);
bool gguf_get_bool(const struct gguf_reader *r, const char *key, bool fallback);
/* NULL: there is none. */
const char *gguf_get_text(const struct gguf_reader *r, const char *key);

#endif
