/*
 * A real GPU under the suites whose kernels are functions of the host. Such a function can't
 * reach device memory: a range that it names is copied, in the order of its stream, to pinned
 * memory, where the function works on it as a host function of that stream, and back.
 *
 * Chosen by OFL_TEST_DRIVER=real; the driver is libcuda.so.1 or what OFL_CUDA_DRIVER names. On
 * the stub (OFL_STUB_OPAQUE makes its device memory unreachable) it shows that a suite could
 * run on a GPU.
 */
#ifndef OFL_TESTS_GPU_FIXTURE_H
#define OFL_TESTS_GPU_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

/* What a kernel touches of device memory. */
struct fixture_range {
    void *at;
    uint64_t bytes;
    bool writes; /* false: what it reads stays as it is */
};

bool fixture_on_gpu(void);
/* Loads the driver, once; its primary context stays for the life of the program. */
void gpu_fixture(void);
/* Queues fn(arg) on a CUstream; range NULL: it touches no device memory. */
void gpu_fixture_launch(void *stream, void (*fn)(void *), void *arg, const struct fixture_range *range);

/* In a kernel: where the bytes of its range are, for the processor. */
void *fixture_view(void *at);
/* The test itself writes and reads device memory, when nothing else does. */
void fixture_set(void *at, uint8_t byte, uint64_t bytes);
void fixture_get(void *to, const void *at, uint64_t bytes);

#endif
