/*
 * What computes the parts of a model on the device of a context: the kernels of block.h on the host
 * device, those of block_cuda.h on a GPU. The trainer and the generator describe a part as a job, with the
 * addresses that their leases gave; the job is put on the stream, in order, and nothing here waits.
 *
 * One thread uses it: the library's step thread. Functions return 0 or a negative code;
 * llama_compute_error has the sentence.
 */
#ifndef LLAMA_COMPUTE_H
#define LLAMA_COMPUTE_H

#include "examples/model/adapter.h"
#include "examples/model/block.h"

struct llama_compute_config {
    struct llama_shape shape;
    enum ofl_dtype dtype;     /* of the matrices; host device: where they differ, one that is not F32 */
    bool cuda;                /* the device is a GPU */
    size_t batch, seq, accum; /* training: of a micro-batch, and how many of them; else 0 */
    size_t piece, positions;  /* generating: new tokens of a step, and of the longest text; else 0 */
    size_t rows;              /* generating: of those new ones, how many are computed at once */
    size_t jobs;              /* generating: slices that a step uses */
    size_t adapter_bytes; /* scratch of an adapter: the most of llama_adapter_workspace; 0: there are none */
};

/* Device memory that must be leased as long as a compute lives. */
size_t llama_compute_workspace(const struct llama_compute_config *config);
/* Generating: device memory between a layer's slices, for n new rows. That for config->rows is in the workspace. */
size_t llama_compute_between(const struct llama_compute_config *config, size_t n);
/* Bytes of a number in the caches of keys and values. */
size_t llama_compute_cache_elem(const struct llama_compute_config *config);

enum llama_run {
    LLAMA_RUN_EMBED,           /* y = table[tokens] */
    LLAMA_RUN_ENTER,           /* rows of y = those of llama_compute_rows, where `order` says */
    LLAMA_RUN_FORWARD,         /* y = layer(x) */
    LLAMA_RUN_ENTER_EXPERTS,   /* y = x and attention; state. No y: for backward */
    LLAMA_RUN_EXPERT,          /* y += an expert's */
    LLAMA_RUN_EXPERT_BACKWARD, /* its gradients from dx */
    LLAMA_RUN_LEAVE_EXPERTS,   /* dx of y to dx of x, for all but experts */
    LLAMA_RUN_HEAD,            /* loss of x; dx */
    LLAMA_RUN_BACKWARD,        /* dx of y to dx of x, by x */
    LLAMA_RUN_EMBED_BACKWARD,  /* table_grad from dx */
    LLAMA_RUN_EXTEND,          /* y, the new rows, in place; caches; by a slice of a matrix */
    LLAMA_RUN_LOGITS,          /* of x, one row; by a slice of the head */
    LLAMA_RUN_FILL,            /* of fill */
};

/* Fresh values: mean, or with std not 0 the normal numbers of llama_init_normal. */
struct llama_fill {
    void *dst;
    enum ofl_dtype dtype;        /* OFL_F32 or OFL_BF16 */
    uint64_t first, elems, seed; /* first: the number of dst's first element */
    float mean, std;
};

struct llama_compute;

struct llama_job {
    struct llama_compute *compute;
    enum llama_run run;
    uint32_t layer; /* for timelines, and whose traits count */
    size_t micro;
    bool first; /* overwrites the gradients */
    struct llama_block_weights weights;
    struct llama_block_grads grads;
    struct llama_adapter
        adapters[LLAMA_MATRICES]; /* that weights point to; their scratch is set by llama_compute_run */
    struct llama_packed packed[LLAMA_MATRICES]; /* that weights point to */
    struct llama_head_weights head;
    struct llama_head_grads head_grads;
    struct llama_weight table;
    float *table_grad;
    const float *x;
    float *y, *dx;
    enum llama_matrix matrix;
    struct llama_slice slice;
    uint32_t expert; /* of a mixture: whose weights, or slice */
    struct llama_expert experts;
    struct llama_expert_grads expert_grads;
    void *state;             /* of llama_experts_state_bytes */
    void *k_cache, *v_cache; /* of the layer, from position 0 on */
    size_t fed, rows;        /* positions before the new rows, and how many these are */
    void *between;         /* of llama_compute_between for more rows than the workspace has it for; or NULL */
    const uint32_t *order; /* [rows]; lives until the stream has run the job */
    struct llama_fill fill;
};

/* -ENOTSUP: the device does not compute such a model. workspace: leased, of the size above, for work on s. */
int llama_compute_open(struct ofl_ctx *ctx, struct ofl_stream *s, const struct llama_compute_config *config,
                       void *workspace, struct llama_compute **out, char *error, size_t error_bytes);
/* The stream's work must be done. NULL accepted. */
void llama_compute_close(struct llama_compute *c);

/*
 * Opens a step over n tokens: of all micro-batches. They must live until the stream has run what is put on it up to
 * llama_compute_end. scale: of the loss' gradient. Generating: no tokens.
 */
int llama_compute_begin(struct llama_compute *c, const int32_t *inputs, const int32_t *targets, size_t n,
                        float scale);
/* The next job of the step, zeroed but for compute and run. */
struct llama_job *llama_compute_job(struct llama_compute *c, enum llama_run run);
/* Generating: [config.rows, hidden], to be filled for LLAMA_RUN_ENTER, and again when the stream has run it. */
float *llama_compute_rows(struct llama_compute *c);
/* The stream has run all jobs of the step so far: there is room for as many again. */
void llama_compute_again(struct llama_compute *c);
/* Generating: [piece, experts_used], of the router that the stream ran last. */
const struct llama_route *llama_compute_routes(const struct llama_compute *c);
/* A job outside of steps. The stream must have run the one before. */
struct llama_job *llama_compute_alone(struct llama_compute *c, enum llama_run run);
int llama_compute_run(struct llama_compute *c, struct llama_job *job);
/* What goes back to the caller is put on the stream; to be fetched once it has run. */
int llama_compute_end(struct llama_compute *c);
/* Sums of the losses of [accum] micro-batches; logits[vocab]. NULL: not wanted. */
void llama_compute_fetch(struct llama_compute *c, double *losses, float *logits);

/* NULL: it has not failed, ofl_error() knows more. */
const char *llama_compute_error(const struct llama_compute *c);

#endif
