/* What trainer.c and trainer_step.c share. Only they include this. */
#ifndef LLAMA_TRAINER_IMPL_H
#define LLAMA_TRAINER_IMPL_H

#include "examples/model/compute.h"
#include "examples/model/frozen.h"
#include "examples/model/trainer.h"

struct llama_trainer {
    struct ofl_ctx *ctx;
    struct llama_trainer_config config;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct llama_model weights, grads;
    struct llama_frozen base;  /* with adapters, in place of these two */
    struct ofl_tensor **x;     /* [layers + 1][accum]: inputs of layers, then the last one's output */
    struct ofl_tensor **dx;    /* [accum] */
    struct ofl_tensor **mixed; /* [accum]: of a layer with experts, llama_experts_state_bytes */
    struct ofl_lease workspace;
    struct llama_compute *compute;
    double *losses; /* [accum], of the step that runs */

    struct ofl_tensor **lora, **lora_grads; /* in the order of llama_lora_tensor_at */
    uint32_t lora_count, module_count;
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint64_t step;                  /* the last that began */
    double learned;                 /* targets of it */
    llama_trainer_loss_fn *at_loss; /* of the next one */
    void *at_loss_arg;
    bool evaluating; /* nothing is dropped */
};

/* OFL_TENSOR_ flags of what is trained. */
static inline uint32_t trainer_keep_flag(const struct llama_trainer_config *c)
{
    return c->keep ? OFL_TENSOR_KEPT : 0;
}

/* Copies the sentence of what failed. Returns err. */
int trainer_fail(const struct llama_trainer *t, int err, char *error, size_t error_bytes);

/* ---- parts of a step -------------------------------------------------------- */

/* Weights and gradients of a layer, or weights in parts, adapters and their gradients; and what moves with a
 * micro-batch. */
#define ADAPTERS_MAX (2 * LLAMA_MATRICES * LLAMA_LORA_PARTS)
#define PARTS_MAX    (LLAMA_MATRICES * (LLAMA_PARTS - 1))
#define PART_MAX     (2 * LLAMA_LAYER_TENSORS_MAX + PARTS_MAX + ADAPTERS_MAX + 3)

/* The leases of one part of the model, and of one micro-batch. */
struct trainer_part {
    struct llama_trainer *t;
    enum llama_run run;
    uint32_t expert;     /* that it is about */
    size_t held, moving; /* leases kept over all micro-batches; those of one */
    struct ofl_lease leases[PART_MAX];
};

typedef struct ofl_lease trainer_moving_fn(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                           int which);
typedef void trainer_describe_fn(const struct trainer_part *p, uint32_t layer, struct llama_job *job);

struct ofl_lease trainer_lease(struct ofl_tensor *tensor, enum ofl_mode mode, uint32_t flags);
/* Of a layer's inputs; the last one's output. */
struct ofl_tensor *trainer_x(const struct llama_trainer *t, uint32_t layer, size_t micro);
/* Flags of a weight's last lease in a step. */
uint32_t trainer_last_use(const struct llama_trainer *t);
/*
 * Runs p->run for every micro-batch. moving gives the p->moving leases of one, and describe fills its job once they have
 * addresses.
 */
int trainer_run_part(struct trainer_part *p, uint32_t layer, trainer_moving_fn *moving,
                     trainer_describe_fn *describe);

/* ---- weights: trainer_weights.c ------------------------------------------- */

/* Of a weight on the device; and one that scratch for all of them suits. */
enum ofl_dtype trainer_dtype_of(const struct llama_trainer_config *c, uint32_t index);
enum ofl_dtype trainer_widest(const struct llama_trainer_config *c);
/* Leases of a weight, to be read: how many. flags: of a trained one. */
size_t trainer_weight_leases(const struct llama_trainer *t, uint32_t index, uint32_t flags,
                             struct ofl_lease *leases);
/* That whose leases begin at *next, which moves behind them. packed: written where it is packed. */
struct llama_weight trainer_weight(const struct llama_trainer *t, uint32_t index,
                                   const struct ofl_lease **next, struct llama_packed *packed);
/* The same for a layer without its experts; the weights become the job's, and what is behind their leases is returned. */
size_t trainer_layer_leases(const struct llama_trainer *t, uint32_t layer, uint32_t flags,
                            struct ofl_lease *leases);
const struct ofl_lease *trainer_layer_weights(const struct llama_trainer *t, uint32_t layer,
                                              const struct ofl_lease *leases, struct llama_job *job);

/* trainer_experts.c: a layer with experts. keep: its input is needed again. */
int trainer_experts_forward(struct llama_trainer *t, uint32_t layer, bool keep);
int trainer_experts_backward(struct llama_trainer *t, uint32_t layer);

/* ---- adapters: trainer_lora.c -------------------------------------------- */

/* A layer's tensors; 0: there are no adapters. */
uint32_t trainer_lora_each(const struct llama_trainer_config *c);
/* The optimizer is there. */
int trainer_lora_create(struct llama_trainer *t);
void trainer_lora_destroy(struct llama_trainer *t);
/* A layer's, or their gradients. */
void trainer_lora_leases(const struct llama_trainer *t, uint32_t layer, bool gradients,
                         struct ofl_lease *leases);
/* The job's layer, micro-batch and weights are set. grads NULL: forward. */
void trainer_lora_describe(const struct llama_trainer *t, const struct ofl_lease *leases,
                           const struct ofl_lease *grads, struct llama_job *job);
int trainer_lora_apply(struct llama_trainer *t, uint32_t layer);

#endif
