/* Clock: monotonic nanoseconds, for durations and deadlines. scheduler/ must not include it. */
#ifndef OFL_BASE_CLOCK_H
#define OFL_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Any thread. Nanoseconds since an arbitrary point; never goes back. */
static inline uint64_t base_now_ns(void)
{
    struct timespec t = {0};

    /* cannot fail: the clock exists on every Linux, and t is ours */
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
