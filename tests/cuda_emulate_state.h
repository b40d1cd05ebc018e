/*
 * What the emulation's files share: cuda_emulate.cc has launches, barriers and the choice of who runs
 * next; cuda_emulate_warp.cc what the threads of a warp do together, and asynchronous copies. Included
 * by those two only. All of it is of the one launch that is at work, under its lock.
 */
#ifndef OFL_TESTS_CUDA_EMULATE_STATE_H
#define OFL_TESTS_CUDA_EMULATE_STATE_H

#include <pthread.h>

#include "tests/cuda_emulate.h"
#include "tests/cuda_emulate_fiber.h"

namespace emulation
{

constexpr unsigned WARP = 32, MAX_THREADS = 1024, MAX_SHARED = 227u << 10, GUARD = 1024, COPIES = 128;
constexpr unsigned char GARBAGE = 0xff, GUARD_BYTE = 0xa5;

struct copy {
    unsigned char *to;
    const void *from;
    bool valid;
    unsigned group;
};

struct thread {
    struct fiber fiber;
    uint3 id;
    unsigned index;
    bool slow;
    bool returned;
    const char *file; /* where it waits */
    int line;
    struct copy copies[COPIES]; /* in flight */
    unsigned copying, groups;   /* so many; groups committed */
};

/* Lanes on their way to one meeting. */
struct meeting {
    enum emulate_warp_op op;
    unsigned mask, arrived;
    const char *file;
    int line;
};

struct warp {
    unsigned lanes, returned; /* masks */
    unsigned meetings;
    struct meeting meeting[WARP];
    uint64_t value[WARP];
    unsigned source[WARP];
};

struct state {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct emulate_kernel *kernels;
    const struct emulate_launch *launch;
    uint64_t random;
    struct fiber caller;
    unsigned char *stacks;
    struct thread *threads, *current;
    struct thread *ready[2][MAX_THREADS]; /* fast ones, slow ones */
    unsigned readies[2];
    unsigned made; /* threads whose fiber can run */
    unsigned count, at_barrier, returned;
    const char *barrier_file;
    int barrier_line;
    struct warp warps[MAX_THREADS / WARP];
    unsigned char *shared; /* GUARD bytes, MAX_SHARED bytes, GUARD bytes */
    unsigned char *dynamic;
    char *error; /* empty: none so far */
    size_t error_bytes;
};

extern struct state run;

uint64_t random_next();
unsigned random_below(unsigned n);

/* Ends the launch with a sentence: what the other threads have begun is forgotten. */
[[noreturn]] void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Of a path, for a sentence. */
const char *base(const char *file);
/* Are bytes from p on shared memory of this launch? */
bool is_shared(const void *p, size_t bytes);

void make_ready(struct thread *t);
/* The thread that runs waits there, or has been made ready: another may go on. */
void pass(const char *file, int line);
/* A thread's copies of groups below `end` arrive, and of the others one in `luck`; 0: none. */
void land(struct thread *t, unsigned end, unsigned luck);

} // namespace emulation

#endif
