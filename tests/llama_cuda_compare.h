/*
 * Numbers for the tests of the CUDA kernels, to the device and back, and their comparison with what the
 * CPU computes. On top of llama_cuda_fixture.h.
 *
 * Inputs are rounded to the dtype that the kernel sees, and the CPU's reference takes these; so what may
 * differ is the rounding of results alone.
 */
#ifndef OFL_TESTS_LLAMA_CUDA_COMPARE_H
#define OFL_TESTS_LLAMA_CUDA_COMPARE_H

#include "examples/model/kernels.h"
#include "tests/llama_cuda_fixture.h"
#include "tests/llama_reference.h"

/* How far from the reference a result may be: relative to it, and at least. Besides, in BF16 and F16, half
 * a unit in the last place. Nothing at all: the reference's own rounding, bit by bit. NaN meets NaN. */
struct allowed {
    double relative, least;
};

static const struct allowed exactly = {0, 0};

/* Normal numbers, to be freed. */
float *gpu_normal(size_t n, uint64_t seed, float std);
double gpu_largest(const float *x, size_t n); /* finite magnitude */

/* Rounds x to dtype, in place, and uploads it as that, `shift` numbers off the alignment. */
void *gpu_put(struct gpu *g, float *x, size_t n, enum ofl_dtype dtype, size_t shift);
/* Room for n numbers, NaN all over, the same way. */
void *gpu_room(struct gpu *g, size_t n, enum ofl_dtype dtype, size_t shift);

/* Fails the test, worded by fmt, unless n numbers of dtype on the device are what is wanted; and if they
 * would still pass with one of them two units off. */
void gpu_expect(struct gpu *g, const void *device, enum ofl_dtype dtype, const float *want, size_t n,
                struct allowed allowed, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

/* Runs body on two devices that do things in different orders. What gpu_expect fetched in both must be the
 * same, bit by bit. */
void gpu_twice(void (*body)(struct gpu *g));

#endif
