/* What the files that read config.json share: config.c, config_traits.c and config_rope.c. Only they include this. */
#ifndef LLAMA_CONFIG_IMPL_H
#define LLAMA_CONFIG_IMPL_H

#include <errno.h>
#include <inttypes.h>
#include <math.h>

#include "examples/model/config.h"
#include "examples/model/family.h"
#include "examples/model/files.h"

#define CONFIG_WIDTH_MAX     (1u << 20)
#define CONFIG_VOCAB_MAX     (1u << 24)
#define CONFIG_POSITIONS_MAX (1u << 27)

/* Where a value comes from, and where its sentence goes. */
struct config_reader {
    const char *path;
    const json_t *object;
    const struct llama_family *family;
    char *error;
    size_t error_bytes;
};

#define CONFIG_REFUSE(r, ...) llama_fail(-ENOTSUP, (r)->error, (r)->error_bytes, __VA_ARGS__)

/* NULL: it is not there, or null. */
const json_t *config_get(const struct config_reader *r, const char *key);
/* fallback < 0: the key is required. */
int config_get_u32(const struct config_reader *r, const char *key, int64_t fallback, uint32_t least,
                   uint32_t most, uint32_t *out);
/* fallback NAN: the key is required. */
int config_get_float(const struct config_reader *r, const char *key, double fallback, double least,
                     double most, float *out);
int config_get_bool(const struct config_reader *r, const char *key, bool fallback, bool *out);

/* What sets the family apart, and its rotary forms. The sizes of the shape are known. */
int config_read_traits(const struct config_reader *r, struct llama_config *c);
int config_read_experts(const struct config_reader *r, struct llama_config *c);
int config_read_rope(const struct config_reader *r, struct llama_config *c);
/* What packed the weights. */
int config_read_packed(const struct config_reader *r, struct llama_shape *s);

#endif
