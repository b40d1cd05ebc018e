/*
 * What tests share that launch kernels by the stub driver's own entry points: a context, a stream, a
 * module of all kernels, two buffers of device memory and a pinned one.
 */
#ifndef OFL_TESTS_LAUNCH_FIXTURE_H
#define OFL_TESTS_LAUNCH_FIXTURE_H

#include <stddef.h>

#include "liboffload/device/cuda_driver.h"
#include "tests/cuda_stub.h"

#define LAUNCH_BYTES (64u << 10)

struct launch_dims {
    unsigned x, y, z;
};

struct launch_calls {
    const struct cuda_stub *control;
    cuda_result (*init)(unsigned);
    cuda_result (*retain)(cuda_context *, cuda_device);
    cuda_result (*release)(cuda_device);
    cuda_result (*set)(cuda_context);
    cuda_result (*sync)(void);
    cuda_result (*alloc)(cuda_pointer *, size_t);
    cuda_result (*free)(cuda_pointer);
    cuda_result (*host_alloc)(void **, size_t, unsigned);
    cuda_result (*host_free)(void *);
    cuda_result (*in)(cuda_pointer, const void *, size_t, cuda_stream);
    cuda_result (*out)(void *, cuda_pointer, size_t, cuda_stream);
    cuda_result (*copy)(cuda_pointer, cuda_pointer, size_t, cuda_stream);
    cuda_result (*stream)(cuda_stream *, unsigned, int);
    cuda_result (*stream_end)(cuda_stream);
    cuda_result (*load)(void **, const void *);
    cuda_result (*unload)(void *);
    cuda_result (*find)(void **, void *, const char *);
    cuda_result (*allow)(void *, int, int);
    cuda_result (*attribute)(int *, int, cuda_device);
    cuda_result (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          cuda_stream, void **, void **);
};
extern struct launch_calls launch_cu;

/* What is open between begin and end. */
struct launch_on {
    cuda_stream stream;
    void *module;
    cuda_pointer in, out;
    float *host; /* pinned; LAUNCH_BYTES, as the others */
};
extern struct launch_on launch_on;

/* The addresses of a kernel's arguments. */
#define LAUNCH_ARGS(...) ((void *[]){__VA_ARGS__})

void launch_load(void); /* once */
void launch_begin(const struct cuda_stub_config *config);
/* Waits for all, and closes all. Returns what the device says in the end; text: the first mistake. */
unsigned launch_end(char *text, size_t size);
void launch_end_well(void); /* fails the test after a mistake */

/* What the driver answers. */
unsigned launch_try(const char *name, struct launch_dims grid, struct launch_dims block, unsigned shared,
                    void **args);
void launch_kernel(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **args);
/* By the pinned buffer; over when they return. */
void launch_send(cuda_pointer to, const void *data, size_t bytes);
void launch_receive(void *data, cuda_pointer from, size_t bytes);
/* Small integers, of seed. */
void launch_fill(float *x, size_t n, unsigned seed);

#endif
