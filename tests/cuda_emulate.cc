/*
 * cuda_emulate: kernels on the CPU. Blocks run one after the other, from a random one on, the threads of
 * a block as fibers. At each barrier, each meeting of a warp, the thread that goes on is chosen at
 * random; between two barriers some warps, or some threads, may be slower than all others: so that a
 * kernel that needs luck on a device fails here for some seed.
 *
 * Mistakes that end the launch: threads that wait for each other in different places or for one that
 * has returned, shared memory written beyond its end, addresses not in shared memory or not aligned
 * where the tensor cores or an asynchronous copy take them.
 *
 * Shared memory begins as 0xff bytes: NaN in each of the formats. What a copy is still to fill is the same
 * until it arrives: at the wait for it at the latest, at a random moment before.
 *
 * ThreadSanitizer is told of the order that barriers and meetings make, and of no other: so it finds two
 * threads of a kernel that touch the same bytes without one between them, whatever order they ran in.
 *
 * All state is of the one launch that is at work, under the lock of emulate_run.
 */
#include "tests/cuda_emulate_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Static shared memory: the section's ends, from the linker. None: both NULL. */
extern "C" {
extern unsigned char __start_emulate_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulate_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulation
{

struct state run;

uint64_t random_next()
{
    uint64_t z = run.random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

unsigned random_below(unsigned n)
{
    return (unsigned)((random_next() >> 32) * n >> 32);
}

/* ---- failures ------------------------------------------------------------- */

[[noreturn]] void fail(const char *fmt, ...)
{
    const uint3 &b = emulate_block, &t = emulate_thread;
    int n = snprintf(run.error, run.error_bytes,
                     "kernel %s, block %u %u %u, thread %u %u %u: ", run.launch->kernel->name, b.x, b.y, b.z,
                     t.x, t.y, t.z);
    va_list ap;

    va_start(ap, fmt);
    if (n > 0 && (size_t)n < run.error_bytes)
        vsnprintf(run.error + n, run.error_bytes - (size_t)n, fmt, ap);
    va_end(ap);
    run.made = 0;
    fiber_switch(&run.current->fiber, &run.caller);
    abort();
}

const char *base(const char *file)
{
    const char *slash = strrchr(file, '/');

    return slash ? slash + 1 : file;
}

/* Nobody can go on: says who waits where, two of them that differ. */
[[noreturn]] static void fail_deadlock()
{
    const struct thread *first = nullptr, *other = nullptr;

    for (unsigned i = 0; i < run.count; i++) {
        const struct thread *t = &run.threads[i];

        if (t->returned)
            continue;
        if (!first)
            first = t;
        else if (!other && (t->line != first->line || t->file != first->file))
            other = t;
    }
    if (!other)
        fail("deadlock: thread %u %u %u waits at %s:%d, %u of %u have returned", first->id.x, first->id.y,
             first->id.z, base(first->file), first->line, run.returned, run.count);
    fail("deadlock: thread %u %u %u waits at %s:%d, thread %u %u %u at %s:%d", first->id.x, first->id.y,
         first->id.z, base(first->file), first->line, other->id.x, other->id.y, other->id.z,
         base(other->file), other->line);
}

/* ---- who runs next -------------------------------------------------------- */

void make_ready(struct thread *t)
{
    run.ready[t->slow][run.readies[t->slow]++] = t;
}

/* At the beginning, and at each barrier: draws who is slow. */
static void make_all_ready()
{
    uint32_t warps = 0, thread = run.count;

    switch (random_below(4)) {
    case 0:
    case 1:
        warps = (uint32_t)random_next();
        break;
    case 2:
        thread = random_below(run.count);
        break;
    default:
        break; /* nobody */
    }
    for (unsigned i = 0; i < run.count; i++) {
        run.threads[i].slow = (warps >> i / WARP & 1) || i == thread;
        make_ready(&run.threads[i]);
    }
}

static struct thread *choose()
{
    unsigned slow = run.readies[0] == 0 || (run.readies[1] && random_below(256) == 0);
    unsigned i = random_below(run.readies[slow]);
    struct thread *next = run.ready[slow][i];

    run.ready[slow][i] = run.ready[slow][--run.readies[slow]];
    emulate_thread = next->id;
    run.current = next;
    return next;
}

void pass(const char *file, int line)
{
    struct thread *self = run.current, *next;

    self->file = file;
    self->line = line;
    if (self->copying)
        land(self, 0, 8);
    if (run.readies[0] + run.readies[1] == 0)
        fail_deadlock();
    next = choose();
    if (next != self)
        fiber_switch(&self->fiber, &next->fiber);
}

static void leave()
{
    struct thread *self = run.current;
    struct warp *w = &run.warps[self->index / WARP];
    unsigned lane = 1u << self->index % WARP;

    land(self, ~0u, 0);
    fiber_before(&run.count);
    if (run.at_barrier)
        fail("returns while %u threads wait at %s:%d", run.at_barrier, base(run.barrier_file),
             run.barrier_line);
    for (unsigned i = 0; i < w->meetings; i++)
        if (w->meeting[i].mask & lane)
            fail("returns while its warp waits for it at %s:%d", base(w->meeting[i].file),
                 w->meeting[i].line);
    self->returned = true;
    w->returned |= lane;
    if (++run.returned == run.count)
        fiber_switch(&self->fiber, &run.caller);
    else
        pass(nullptr, 0);
}

static void body()
{
    fiber_entered(&run.current->fiber);
    for (;;) {
        fiber_after(&run.launch);
        run.launch->kernel->call(run.launch->packed);
        leave();
    }
}

} // namespace emulation

using namespace emulation;

/* ---- barriers ------------------------------------------------------------- */

uint3 emulate_thread, emulate_block, emulate_block_size, emulate_grid_size;

unsigned emulate_lane(void)
{
    return run.current->index % WARP;
}

void emulate_trap(const char *file, int line)
{
    fail("__trap at %s:%d", base(file), line);
}

void emulate_barrier(const char *file, int line)
{
    if (run.returned)
        fail("__syncthreads at %s:%d after %u threads have returned", base(file), line, run.returned);
    if (run.at_barrier && (run.barrier_line != line || strcmp(run.barrier_file, file) != 0))
        fail("__syncthreads at %s:%d while %u threads wait at %s:%d", base(file), line, run.at_barrier,
             base(run.barrier_file), run.barrier_line);
    fiber_before(&run.barrier_file);
    run.barrier_file = file;
    run.barrier_line = line;
    if (++run.at_barrier == run.count) {
        run.at_barrier = 0;
        make_all_ready();
    }
    pass(file, line);
    fiber_after(&run.barrier_file);
}

/* ---- shared memory -------------------------------------------------------- */

void *emulate_shared_memory(size_t align)
{
    (void)align; /* it begins at a multiple of GUARD */
    return run.dynamic;
}

bool emulation::is_shared(const void *p, size_t bytes)
{
    uintptr_t at = (uintptr_t)p, first = (uintptr_t)__start_emulate_shared;
    uintptr_t dynamic = (uintptr_t)run.dynamic;

    return (at >= dynamic && at + bytes <= dynamic + run.launch->shared_bytes) ||
           (at >= first && at + bytes <= (uintptr_t)__stop_emulate_shared);
}

static void begin_shared()
{
    size_t bytes = run.launch->shared_bytes;

    if (!run.shared) {
        run.shared = static_cast<unsigned char *>(aligned_alloc(GUARD, GUARD + MAX_SHARED + GUARD));
        if (!run.shared)
            abort();
    }
    fiber_allow(run.shared, GUARD + MAX_SHARED + GUARD);
    run.dynamic = run.shared + GUARD;
    memset(run.shared, GUARD_BYTE, GUARD);
    memset(run.dynamic, GARBAGE, bytes);
    memset(run.dynamic + bytes, GUARD_BYTE, GUARD);
    fiber_forbid(run.shared, GUARD);
    fiber_forbid(run.dynamic + bytes, GUARD);
    if (__start_emulate_shared)
        memset(__start_emulate_shared, GARBAGE, (size_t)(__stop_emulate_shared - __start_emulate_shared));
}

/* What was written beyond an end, where AddressSanitizer doesn't see to it. */
static bool shared_is_whole()
{
    unsigned char *end = run.dynamic + run.launch->shared_bytes;
    unsigned char guard[GUARD];
    bool whole;

    fiber_allow(run.shared, GUARD + MAX_SHARED + GUARD);
    memset(guard, GUARD_BYTE, GUARD);
    whole = memcmp(run.shared, guard, GUARD) == 0 && memcmp(end, guard, GUARD) == 0;
    if (!whole && run.error[0] == '\0')
        snprintf(run.error, run.error_bytes,
                 "kernel %s, block %u %u %u: wrote outside its %zu bytes of shared memory",
                 run.launch->kernel->name, emulate_block.x, emulate_block.y, emulate_block.z,
                 run.launch->shared_bytes);
    return whole;
}

/* ---- launches ------------------------------------------------------------- */

static void make_threads()
{
    if (!run.threads) {
        run.threads = static_cast<struct thread *>(calloc(MAX_THREADS, sizeof *run.threads));
        if (!run.threads)
            abort();
        run.stacks = fiber_stacks(MAX_THREADS);
    }
    for (; run.made < run.count; run.made++)
        fiber_make(&run.threads[run.made].fiber, run.stacks + (size_t)run.made * FIBER_STRIDE, body);
}

static bool run_block(uint64_t index)
{
    const unsigned *grid = run.launch->grid;
    const uint3 &size = emulate_block_size;

    emulate_block = {(unsigned)(index % grid[0]), (unsigned)(index / grid[0] % grid[1]),
                     (unsigned)(index / grid[0] / grid[1])};
    run.readies[0] = run.readies[1] = run.at_barrier = run.returned = 0;
    for (unsigned i = 0; i < run.count; i++) {
        struct thread *t = &run.threads[i];

        t->index = i;
        t->id = {i % size.x, i / size.x % size.y, i / size.x / size.y};
        t->copying = t->groups = 0;
        t->returned = false;
    }
    make_all_ready();
    for (unsigned i = 0; i < (run.count + WARP - 1) / WARP; i++) {
        unsigned lanes = run.count - i * WARP;

        run.warps[i].lanes = lanes < WARP ? (1u << lanes) - 1 : ~0u;
        run.warps[i].returned = run.warps[i].meetings = 0;
    }
    begin_shared();
    fiber_before(&run.launch);
    fiber_switch(&run.caller, &choose()->fiber);
    if (run.error[0])
        for (unsigned i = 0; i < run.count; i++)
            fiber_ended(&run.threads[i].fiber, &run.caller, &run.count);
    fiber_after(&run.count);
    return shared_is_whole() && run.error[0] == '\0';
}

bool emulate_run(const struct emulate_launch *launch, char *error, size_t error_bytes)
{
    uint64_t blocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2], first;
    bool good = true;

    pthread_mutex_lock(&run.lock);
    run.launch = launch;
    run.random = launch->seed;
    run.error = error;
    run.error_bytes = error_bytes;
    error[0] = '\0';
    emulate_grid_size = {launch->grid[0], launch->grid[1], launch->grid[2]};
    emulate_block_size = {launch->block[0], launch->block[1], launch->block[2]};
    run.count = launch->block[0] * launch->block[1] * launch->block[2];
    make_threads();
    fiber_adopt(&run.caller);
    first = random_next() % blocks;
    for (uint64_t i = 0; i < blocks && good && !__atomic_load_n(launch->stop, __ATOMIC_SEQ_CST); i++)
        good = run_block((first + i) % blocks);
    pthread_mutex_unlock(&run.lock);
    return good;
}

void emulate_settle(void)
{
    pthread_mutex_lock(&run.lock);
    pthread_mutex_unlock(&run.lock);
}

void emulate_add(struct emulate_kernel *kernel)
{
    kernel->next = run.kernels;
    run.kernels = kernel;
}

const struct emulate_kernel *emulate_find(const char *name)
{
    for (const struct emulate_kernel *k = run.kernels; k; k = k->next)
        if (strcmp(k->name, name) == 0)
            return k;
    return nullptr;
}
