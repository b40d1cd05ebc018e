/*
 * Updates on plain memory: what an optimizer of offload.h computes, for programs that keep their states themselves.
 * One pass over memory: scale of the gradient, decay, moments, weight, and the weight rounded to BF16 beside it.
 *
 *     struct ofl_update_settings s = {.size = sizeof s, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = t};
 *     struct ofl_update u = {.size = sizeof u, .method = OFL_ADAMW, .elems = n, .grad_scale = 1,
 *                            .grad = g, .weight = p, .mean = m, .square = v};
 *
 *     ofl_update_run(&s, &u);
 *
 * On the calling thread; several at a time, on parts of a tensor, go as well, and give the same bits.
 */
#ifndef OFFLOAD_UPDATE_H
#define OFFLOAD_UPDATE_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The code that does it; all give the same bits. */
enum ofl_update_form {
    OFL_UPDATE_BEST, /* what this machine is fastest with */
    OFL_UPDATE_PLAIN,
    OFL_UPDATE_AVX2,
    OFL_UPDATE_AVX512,
    OFL_UPDATE_FORMS
};

/* Arrays of elems elements each, that share no byte. */
struct ofl_update {
    size_t size;
    enum ofl_method method;
    enum ofl_update_form form;
    uint64_t elems;
    const float *grad;
    float grad_scale; /* multiplies the gradient: the clip coefficient, or 1 over the scale of the loss */
    float *weight;    /* fp32: the master */
    float *mean;      /* m of offload.h */
    float *square;    /* v; NULL for methods that have none */
    uint16_t *bf16;   /* gets the new weight, rounded to nearest, ties to even; NULL: none */
};

/* any. 0 if this machine has that form; else -ENOTSUP, -EINVAL for what is none. */
OFL_API int ofl_update_find(enum ofl_update_form form);
/* any. Settings as ofl_optimizer_begin takes them, but clip, which is not looked at: the norm is the caller's
 * (ofl_update_sum_squares). -EINVAL: settings that can't be, or an array that is not named; -ENOTSUP: see above.
 * Nothing is written then. */
OFL_API int ofl_update_run(const struct ofl_update_settings *settings, const struct ofl_update *u);
/* any. The sum of the squares of x[0 .. n - 1], in double, in an order that depends on n alone; a NaN or an infinity
 * in x shows in it. */
OFL_API int ofl_update_sum_squares(enum ofl_update_form form, const float *x, uint64_t n, double *out);

#ifdef __cplusplus
}
#endif

#endif
