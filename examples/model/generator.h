/*
 * Generating with a Llama under liboffload: weights page in from the checkpoint itself, slice
 * by slice; the keys and values of earlier tokens stay on the device. Of the embedding the rows of the tokens are
 * read.
 *
 * One thread uses a generator: the library's step thread. Functions return 0 or a negative
 * code, with the sentence in error.
 */
#ifndef LLAMA_GENERATOR_H
#define LLAMA_GENERATOR_H

#include "examples/model/adapters.h"
#include "examples/model/model.h"

/*
 * Tokens that a layer computes at once. A piece goes through each slice in parts of so many, with one lease of
 * it for all of them: so results do not depend on the piece.
 */
#define LLAMA_GENERATOR_ROWS 64u

struct llama_generator_config {
    struct llama_shape shape;
    size_t positions; /* tokens of the longest text: prompt and what follows */
    size_t piece; /* tokens of a prompt that are fed at once: a multiple of LLAMA_GENERATOR_ROWS, or all */
    bool cuda;    /* the context's device is a GPU */
    struct llama_adapters adapters; /* that its weights go with; what it points to outlives the generator */
    enum ofl_dtype fresh;           /* of weights without a checkpoint: OFL_F32 or OFL_BF16 */
    /* Called before each layer is put on the stream; false: the feed ends there with -ECANCELED. May be NULL. */
    bool (*going)(void *arg, uint32_t layer);
    void *going_arg;
    /* Told which experts of a layer the new rows use, [experts], before they are leased. May be NULL. */
    void (*experts)(void *arg, uint32_t layer, const bool *used);
    void *experts_arg;
};

struct llama_generator_need {
    struct llama_need device;  /* the smallest device budget */
    uint64_t device_all_bytes; /* the smallest that keeps all weights on the device */
    uint64_t weights, weight_bytes, cache_bytes, workspace_bytes; /* weights: how many tensors */
    uint64_t looked_up_bytes; /* of weight_bytes, those of which a token reads a row only: the embedding */
    uint64_t adapter_bytes;   /* held beside the weights */
    uint64_t part_bytes;      /* for each LLAMA_GENERATOR_ROWS of a piece that is longer */
    uint64_t scratch_bytes;   /* of device memory: all that is held beside weights and cache */
};

/* What it will take. dtypes: of the weights, in the order of llama_tensor_at. Needs no context. */
void llama_generator_need(const struct llama_generator_config *config, const enum ofl_dtype *dtypes,
                          struct llama_generator_need *out);

/* The piece of a prompt of so many tokens with which the fewest bytes move, inside these budgets; need: that of
 * pieces of LLAMA_GENERATOR_ROWS. */
size_t llama_generator_piece(const struct llama_generator_need *need, size_t tokens, uint64_t device_bytes,
                             uint64_t host_bytes);

struct llama_generator;

/* ck must outlive it. NULL: the weights are tensors of the library, zeros until llama_generator_random. */
int llama_generator_create(struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                           const struct llama_generator_config *config, struct llama_generator **out,
                           char *error, size_t error_bytes);
/* NULL accepted. */
void llama_generator_destroy(struct llama_generator *g);

/* Fresh values for a weight of llama_tensor_at, as llama_random_fill makes them. Without a checkpoint only. */
int llama_generator_random(struct llama_generator *g, uint32_t tensor, uint64_t seed, float std, char *error,
                           size_t error_bytes);

/*
 * Feeds n tokens, at most a piece, behind those fed so far, as a step of that name; NULL: as
 * none, which is right for what does not come again. logits[vocab] of what follows the last; NULL: not wanted. Who
 * asks for them the first time has fed the prompt: the memory for its pieces is given back, and from then on
 * LLAMA_GENERATOR_ROWS are the most.
 */
int llama_generator_feed(struct llama_generator *g, const char *step, const int32_t *tokens, size_t n,
                         float *logits, char *error, size_t error_bytes);

#endif
