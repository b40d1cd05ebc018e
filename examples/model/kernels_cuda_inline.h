/* What the files that launch CUDA kernels share: grids, and what `wide` means. Internal to
 * kernels_cuda.c and head_cuda.c. */
#ifndef LLAMA_KERNELS_CUDA_INLINE_H
#define LLAMA_KERNELS_CUDA_INLINE_H

#include "examples/model/kernels_cuda.h"

#define LLAMA_CUDA_WARP    32
#define LLAMA_CUDA_THREADS 1024       /* of a block, at most */
#define LLAMA_CUDA_BLOCKS  (1u << 20) /* of a grid, at most: kernels stride over the rest */

_Static_assert(OFL_F16 == 5 && OFL_BF16 == 6 && OFL_F32 == 9, "as in cuda_rows.cuh");

static inline unsigned llama_cuda_grid(uint64_t blocks)
{
    return (unsigned)(blocks < LLAMA_CUDA_BLOCKS ? blocks : LLAMA_CUDA_BLOCKS);
}

/* May rows of n numbers be loaded and stored four at a time? */
static inline bool llama_cuda_wide(size_t n, const void *p, enum ofl_dtype dtype)
{
    return n % 4 == 0 && (uintptr_t)p % (4 * ofl_dtype_bytes(dtype)) == 0;
}

#endif
