/*
 * What tests share that run on the stub driver: it is loaded, the library is told to load it,
 * and the tests' kernels run on its streams. Suites that run on the host device as well ask
 * for theirs by OFL_TEST_DEVICE ("cuda": on the stub, or, with OFL_TEST_DRIVER=real, on a GPU: see
 * gpu_fixture.h).
 */
#ifndef OFL_TESTS_CUDA_FIXTURE_H
#define OFL_TESTS_CUDA_FIXTURE_H

#include <stdbool.h>

#include "tests/cuda_stub.h"
#include "tests/gpu_fixture.h"

struct ofl_stream;
struct dev_stream;

/* Loads the stub that lies beside this program, and sets OFL_CUDA_DRIVER, and OFL_CUBLAS to the one of
 * cuBLAS. */
const struct cuda_stub *cuda_fixture(void);
/* An entry point of the stub's, for tests that call the driver themselves. Never NULL. */
void *cuda_fixture_symbol(const char *name);
/* Skips the test, and says why, if the stub can't run kernels. */
void cuda_fixture_needs_kernels(void);
/* Runs fn(arg) on a CUstream, as cuLaunchHostFunc does; device memory is RAM here. */
void cuda_fixture_launch(void *stream, void (*fn)(void *), void *arg);
/* Fails the test if the driver was misused, if something is left of what was opened, or if the
 * library left a context current in this thread. */
void cuda_fixture_clean(void);

const char *fixture_device(void); /* "host" or "cuda", the latter with the stub reset */
bool fixture_on_cuda(void);
void fixture_needs_kernels(void); /* on the stub: skips the test, where it can't run kernels */
/* A kernel, on either device, that touches no device memory. */
int fixture_launch(struct ofl_stream *s, void (*fn)(void *), void *arg);
int fixture_launch_on(struct dev_stream *s, void (*fn)(void *), void *arg);
/* One that touches this of it; fn asks fixture_view where it is. */
int fixture_kernel(struct ofl_stream *s, void (*fn)(void *), void *arg, struct fixture_range range);
int fixture_kernel_on(struct dev_stream *s, void (*fn)(void *), void *arg, struct fixture_range range);

#endif
