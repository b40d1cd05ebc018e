/*
 * The training step of a Llama under liboffload. Owns weights, gradients, AdamW states and
 * activation checkpoints as tensors of the library, and the order in which a step leases them.
 *
 * The schedule is vertical: all micro-batches of a layer run before the next layer, so that
 * weights and gradients move once per pass. A layer's inside is computed anew in backward
 * from its input, which is all that forward keeps.
 *
 * One thread uses a trainer: the library's step thread. Functions return 0 or a negative
 * code, with the sentence in error.
 */
#ifndef LLAMA_TRAINER_H
#define LLAMA_TRAINER_H

#include "examples/model/lora.h"
#include "examples/model/model.h"

struct llama_trainer_config {
    struct llama_shape shape;
    size_t batch, seq;    /* of a micro-batch */
    size_t accum;         /* micro-batches of a step */
    enum ofl_dtype dtype; /* of the weights on the device: OFL_F32 or OFL_BF16 */
    enum ofl_method method;
    bool cuda;  /* the context's device is a GPU */
    bool spare; /* norms and biases are not decayed */
    bool keep;  /* what training changes is kept: see "Kept stores" in offload.h */

    /* With adapters (rank not 0) these alone are trained. The weights are frozen: they stay in the checkpoint, have
     * neither gradients nor states, and are never written. Where they are packed, the shape has the checkpoint's packings.
     * Host device only. */
    struct llama_lora lora;
    const enum ofl_dtype *frozen; /* of the weights, in the order of llama_tensor_at; outlives the trainer */
    const struct llama_checkpoint *base; /* outlives the trainer */
    uint64_t seed;                       /* of adapters' first values and of dropout */
};

struct llama_trainer_need {
    struct llama_need device;  /* the smallest device budget, where the tensors live below it */
    uint64_t device_all_bytes; /* the smallest that holds all tensors */
    uint64_t store_bytes;  /* of all tensors but kept ones, in blocks of 4096: ofl_config.expected_bytes */
    uint64_t kept_bytes;   /* of these, once */
    uint64_t state_bytes;  /* weights, gradients, masters and moments; of adapters */
    uint64_t frozen_bytes; /* of weights that stay in the checkpoint; device_all_bytes has room for them */
    uint64_t activation_bytes, workspace_bytes;
};

/* What it will take. Needs no context. */
void llama_trainer_need(const struct llama_trainer_config *config, struct llama_trainer_need *out);

struct llama_trainer;

/* Creates all tensors. Weights and states are zeros until llama_trainer_set. */
int llama_trainer_create(struct ofl_ctx *ctx, const struct llama_trainer_config *config,
                         struct llama_trainer **out, char *error, size_t error_bytes);
/* Waits for updates in flight. NULL accepted. */
void llama_trainer_destroy(struct llama_trainer *t);

/* Sets elements of a weight: its master, and the weight rounded to the dtype. Before the first step. */
int llama_trainer_set(struct llama_trainer *t, uint32_t tensor, uint64_t first, uint64_t elems,
                      const float *values, char *error, size_t error_bytes);
/* Fresh values for a weight and its master, as llama_random_fill makes them. Before the first step. */
int llama_trainer_random(struct llama_trainer *t, uint32_t tensor, uint64_t seed, float std, char *error,
                         size_t error_bytes);
/* Reads elements of a weight, in the trainer's dtype. */
int llama_trainer_get(struct llama_trainer *t, uint32_t tensor, uint64_t first, uint64_t elems, void *out,
                      char *error, size_t error_bytes);
/* Adapters get their first values: A random, B zeros, magnitudes the norms of the weights' rows. Before the first step;
 * without it all are zeros. */
int llama_trainer_adapters_init(struct llama_trainer *t, char *error, size_t error_bytes);
/* The tensor of that llama_lora_tensor_at; NULL past the end. */
struct ofl_tensor *llama_trainer_adapter(const struct llama_trainer *t, uint32_t index);
/* The index-th of all tensors that training changes: weights, separate masters, moments. NULL after the last. */
struct ofl_tensor *llama_trainer_state(struct llama_trainer *t, uint32_t index);
/* Of those, how many came back with ofl_resume: all (1), none (0), or, with the sentence, only some (-OFL_EFORMAT). */
int llama_trainer_resumed(struct llama_trainer *t, char *error, size_t error_bytes);

/*
 * One step. inputs and targets: [accum][batch * seq], alive until it returns. A negative target is left out. loss:
 * mean over all others, of all micro-batches together. norm: of the gradients of that mean, before clipping. Updates may still be running when
 * it returns; the library orders them before the next use of what they change.
 */
int llama_trainer_step(struct llama_trainer *t, const int32_t *inputs, const int32_t *targets,
                       const struct ofl_update_settings *settings, double *loss, double *norm, char *error,
                       size_t error_bytes);
/* fn is called in the next step, once, when its loss is known and before any update of it: what training changes is what
 * the step before left, and no lease on it is held. Waits for the stream. */
typedef void llama_trainer_loss_fn(void *arg, double loss);
void llama_trainer_at_loss(struct llama_trainer *t, llama_trainer_loss_fn *fn, void *arg);
/* The sum of the losses, and nothing else: no weight changes. */
int llama_trainer_eval(struct llama_trainer *t, const int32_t *inputs, const int32_t *targets, double *sum,
                       char *error, size_t error_bytes);

#endif
