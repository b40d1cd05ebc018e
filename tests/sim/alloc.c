/*
 * alloc: failing allocations, see sim.h. The linker sends the allocations of everything in the program here
 * (--wrap); they fail only while the core runs. What is allocated and not freed is counted.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

/* Names that the linker gives. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void __real_free(void *old);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __wrap_free(void *old);
char *__wrap_strdup(const char *text);

static struct {
    bool armed;
    uint32_t rate, at;
    uint64_t count, failures;
    int64_t live;
    struct sim_random random;
} state;

void sim_alloc_start(const struct sim_config *c, uint64_t seed)
{
    state.armed = false;
    state.rate = c->alloc_rate;
    state.at = c->alloc_at;
    state.count = state.failures = 0;
    state.random.state = seed * 7 + 3;
}

void sim_alloc_arm(bool armed)
{
    state.armed = armed;
}

uint64_t sim_alloc_failures(void)
{
    return state.failures;
}

int64_t sim_alloc_live(void)
{
    return state.live;
}

static bool fails(void)
{
    if (!state.armed)
        return false;
    state.count++;
    if (state.count != state.at && !(state.rate && sim_below(&state.random, state.rate) == 0))
        return false;
    state.failures++;
    return true;
}

void *sim_take(size_t bytes)
{
    void *got = __real_malloc(bytes);

    if (!got)
        abort();
    state.live++;
    return got;
}

void *__wrap_malloc(size_t bytes)
{
    void *got = fails() ? NULL : __real_malloc(bytes);

    state.live += got != NULL;
    return got;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    void *got = fails() ? NULL : __real_calloc(count, bytes);

    state.live += got != NULL;
    return got;
}

void *__wrap_realloc(void *old, size_t bytes)
{
    void *got = fails() ? NULL : __real_realloc(old, bytes);

    state.live += got && !old;
    return got;
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    void *got = fails() ? NULL : __real_aligned_alloc(align, bytes);

    state.live += got != NULL;
    return got;
}

void __wrap_free(void *old)
{
    state.live -= old != NULL;
    __real_free(old);
}

char *__wrap_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *got = __wrap_malloc(bytes);

    return got ? memcpy(got, text, bytes) : NULL;
}
