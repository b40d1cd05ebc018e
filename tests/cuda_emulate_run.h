/*
 * Kernels that run on the CPU, as the stub driver sees them: looked up by name, and launched. Written in
 * C++ (cuda_emulate.h, cuda_emulate.cc), which a build without a C++ compiler leaves out.
 */
#ifndef OFL_TESTS_CUDA_EMULATE_RUN_H
#define OFL_TESTS_CUDA_EMULATE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emulate_kernel {
    struct emulate_kernel *next;
    const char *name;
    size_t bytes; /* of its parameters, packed; aligned as malloc does */
    void (*pack)(void *packed, void **args);
    void (*call)(const void *packed); /* by each thread */
};

struct emulate_launch {
    const struct emulate_kernel *kernel;
    const void *packed;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    uint64_t seed;        /* of the order of threads, and of when copies arrive */
    const unsigned *stop; /* not 0: no more blocks are begun. Read atomically */
};

/* While the library is loaded: once per kernel. */
void emulate_add(struct emulate_kernel *kernel);
/* NULL: there is none of that name. */
const struct emulate_kernel *emulate_find(const char *name);
/* Any thread; launches run one after the other. False, and a sentence, after a mistake of the kernel's;
 * the rest of it did not run. */
bool emulate_run(const struct emulate_launch *launch, char *error, size_t error_bytes);
/* Returns when a launch that was at work has ended. */
void emulate_settle(void);

#ifdef __cplusplus
}
#endif

#endif
