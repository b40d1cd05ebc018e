/*
 * Low-rank adapters of matrices on the host: y = x W^T + scale * (x A^T) B^T (Hu et al., 2021, "LoRA"). With DoRA (Liu
 * et al., 2024) each output has a magnitude, and y = gain * that, gain = magnitude / norm of the row of W + scale * B A;
 * its gradient takes the norm as a constant (section 4.3 there). W is frozen: its gradient is never computed. The rules
 * are those of kernels.h.
 */
#ifndef LLAMA_ADAPTER_H
#define LLAMA_ADAPTER_H

#include "examples/model/kernels.h"

struct llama_adapter {
    const float *a, *b;          /* [rank, in], [out, rank] */
    const float *magnitude;      /* [out]; NULL: no DoRA */
    const float *gain;           /* [out], where it is known already */
    float *da, *db, *dmagnitude; /* gradients */
    size_t rank;
    float scale;
    float dropout; /* of x, in front of A: this part of it is left out, the rest scaled up */
    uint64_t key;  /* which part */
    bool joined;   /* A is that of the matrix before, whose gradient is there already */
    void *ws;      /* of llama_adapter_workspace */
};

/* For rows of x through a matrix [out, in]. */
size_t llama_adapter_workspace(size_t rows, size_t in, size_t out, size_t rank, bool dora, bool dropout);

/* As llama_matmul, llama_matmul_dx: by w and its adapter. */
void llama_adapter_matmul(float *y, const float *x, struct llama_weight w, size_t rows, size_t in, size_t out,
                          size_t stride, bool accumulate, void *ws);
void llama_adapter_matmul_dx(float *dx, const float *dy, struct llama_weight w, size_t rows, size_t in,
                             size_t out, bool accumulate, void *ws);
/* The gradients of A, B and the magnitude. */
void llama_adapter_backward(const float *dy, const float *x, struct llama_weight w, size_t rows, size_t in,
                            size_t out, bool first, void *ws);

/* norms[out] of the rows of W + scale * B A; row: scratch of llama_wide_bytes(in), [in] at least. */
void llama_adapter_norms(float *norms, const struct llama_adapter *ad, struct llama_weight w, size_t in,
                         size_t out, float *row);
/* A's first values: uniform between -1 / sqrt(in) and that, by seed and number. */
void llama_init_uniform(float *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float bound);

#endif
