/* What trainer.c and trainer_step.c share. Only they include this. */
#ifndef LLAMA_TRAINER_IMPL_H
#define LLAMA_TRAINER_IMPL_H

#include "examples/model/compute.h"
#include "examples/model/trainer.h"

struct llama_trainer {
    struct ofl_ctx *ctx;
    struct llama_trainer_config config;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct llama_model weights, grads;
    struct ofl_tensor **x;     /* [layers + 1][accum]: inputs of layers, then the last one's output */
    struct ofl_tensor **dx;    /* [accum] */
    struct ofl_tensor **mixed; /* [accum]: of a layer with experts, llama_experts_state_bytes */
    struct ofl_lease workspace;
    struct llama_compute *compute;
    double *losses; /* [accum], of the step that runs */
};

/* Copies the sentence of what failed. Returns err. */
int trainer_fail(const struct llama_trainer *t, int err, char *error, size_t error_bytes);

/* ---- parts of a step -------------------------------------------------------- */

/* Weights and gradients of a layer, and what moves with a micro-batch. */
#define PART_MAX (2 * LLAMA_LAYER_TENSORS_MAX + 3)

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

/* trainer_experts.c: a layer with experts. keep: its input is needed again. */
int trainer_experts_forward(struct llama_trainer *t, uint32_t layer, bool keep);
int trainer_experts_backward(struct llama_trainer *t, uint32_t layer);

#endif
