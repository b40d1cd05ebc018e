/*
 * cuda_stub: a CUDA driver without a GPU, for tests: libcuda_stub.so, loaded where
 * OFL_CUDA_DRIVER names it. Device memory is RAM, a stream is a thread. It is as asynchronous
 * as the real one may be: seeded pauses between and within operations put streams in any
 * order that nothing forbids. It refuses what the real one forbids or lets pass in silence
 * (memory that is not registered, objects destroyed, another context's), counts calls, and
 * fails on demand.
 *
 * Kernels run on the CPU (cuda_emulate.cc), where the build has a C++ compiler: a module's image may be
 * any bytes, functions are found among all kernels that the build has compiled into the stub. Without
 * a compiler no function is found.
 *
 * A program that loads the same file finds its control by the symbol cuda_stub.
 */
#ifndef OFL_TESTS_CUDA_STUB_H
#define OFL_TESTS_CUDA_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cuda_stub_config {
    uint64_t seed;
    unsigned pause_us;     /* the longest pause; 0: none but for a yield now and then */
    unsigned depth;        /* operations that a stream holds: who adds one more waits; 0: 1024 */
    unsigned devices;      /* 0: 1 */
    uint64_t memory_bytes; /* of a device; 0: 1 GiB */
    bool no_device;        /* cuInit fails */
    /* A stream gets no further than somebody has asked for, by an event behind it or a sync, as drivers may
     * that hand work on in batches. With OFL_STUB_LAZY in the environment all do. */
    bool lazy;
    bool pageable;         /* copies from and to memory that is not registered: as the real one does */
    const char *fail_call; /* from now on, the fail_nth call (from 1) of this name... */
    unsigned fail_nth;     /* */
    unsigned fail_code;    /* ... returns this */
    unsigned fail_copy;    /* the copy or fill executed as this one (from 1) fails: the device is lost */
    unsigned lose_after;   /* the device is lost after so many operations */
    unsigned drop_wait;    /* this stream wait (on a value or an event, from 1) doesn't wait */
    unsigned early_event;  /* this query (from 1) of an event that is not ready says that it is */
};

struct cuda_stub {
    /* Nothing may be open. Forgets counts, violations and dead objects. */
    void (*reset)(const struct cuda_stub_config *config);
    uint64_t (*calls)(const char *name); /* how often a call was made; NULL: all calls */
    /* How often the driver was used as it must not be; text: the first time, if any. */
    unsigned (*violations)(char *text, size_t size);
    unsigned (*deepest)(void); /* operations that a stream has held at once, at most, since the reset */
    unsigned (*pending)(void); /* operations that streams have and have not executed */
    unsigned (*live)(void);    /* streams, events, allocations, registrations, contexts, modules in use */
    bool (*emulates)(void);    /* whether kernels can run: the build had a C++ compiler */
    /* What is to fail, counted from now on; nothing is on a stream. Counts of reset take in what open does. */
    void (*arm)(const struct cuda_stub_config *config);
    /* For a stub of another of CUDA's libraries: whether bytes from p on are device memory; notes a
     * mistake; puts fn(owned) on a stream, which frees owned, as a call of that
     * name. */
    bool (*inside)(const void *p, size_t bytes);
    void (*violate)(const char *text);
    unsigned (*run)(const char *name, void *stream, void (*fn)(void *), void *owned);
};

#endif
