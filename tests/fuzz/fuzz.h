/* The fuzzed loaders: what main.c, mutate.c and seeds.c share. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The model whose tensors the files of `safetensors`, `index` and `gguf` hold. */
#define FUZZ_SHAPE                                                                                           \
    {                                                                                                        \
        .layers = 1, .hidden = 32, .heads = 2, .kv_heads = 1, .head_dim = 16, .ffn = 32, .vocab = 8,         \
        .max_positions = 64, .rms_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true      \
    }

#define FUZZ_SHAPE_BYTES   25984 /* of its tensors, in F32 */
#define FUZZ_ADAPTER_BYTES 512   /* of the adapter's */

struct fuzz_seed {
    const char *target, *text;
};

/* {NULL, NULL} after the last. The text of `gguf` is made by fuzz_gguf. */
extern const struct fuzz_seed fuzz_seeds[];
/* A model file, whole; for free(). */
unsigned char *fuzz_gguf(size_t *bytes);

/* A manifest of a kept store, or its files, in dir (kept.c); and inputs to begin with, for free(). */
void fuzz_kept(const char *dir, const uint8_t *data, size_t bytes);
unsigned char *fuzz_kept_seed(bool store, size_t *bytes);

/* A value of the text is replaced, removed, doubled or moved; returns the bytes, 0 where it is no JSON. */
size_t fuzz_mutate_json(uint8_t *data, size_t bytes, size_t room, unsigned seed);

#endif
