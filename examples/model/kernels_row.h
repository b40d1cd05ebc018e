/*
 * Matrix products with a single row, as generation has them a token at a time. Every weight is read once, so memory
 * decides: several threads read, and nothing is packed or widened through memory. Shared by kernels.c and kernels_row.c.
 */
#ifndef LLAMA_KERNELS_ROW_H
#define LLAMA_KERNELS_ROW_H

#include "examples/model/kernels.h"

/* Row of w[.., in], not packed. */
static inline const void *llama_weight_row(struct llama_weight w, size_t row, size_t in)
{
    return (const char *)w.data + llama_dtype_bytes(w.dtype, row * in);
}

/* y[out] = or += x[in] w[out, in]^T. ws: as llama_matmul's. The bits don't depend on the number of threads. */
void llama_matmul_row(float *y, const float *x, struct llama_weight w, size_t in, size_t out, bool accumulate,
                      float *ws);

/* y[rows] = x[in] w[rows, in]^T, of BF16 weights. */
typedef void llama_dots_fn(float *y, const float *x, const uint16_t *w, size_t in, size_t rows);

/* The code that does it, the first for any machine; all give the same bits. NULL: this machine, or the number n, has
 * none. */
llama_dots_fn *llama_dots_form(unsigned n);
#define LLAMA_DOTS_FORMS 3

#endif
