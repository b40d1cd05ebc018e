/*
 * What the commands of ofl-bench share: figures of repeated runs, random bytes (stats.c). Each command
 * lives in files of its own: nvme*.c, link*.c, probe*.c, step.c, decode.c, plot*.c.
 *
 * Functions that return an int called status return 0, or the exit status with which the
 * program is to end, after they have said why on stderr.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "examples/common.h"

typedef unsigned long long ull; /* for printf */

#define ARRAY_COUNT(a) (sizeof(a) / sizeof(a)[0])
#define MIB            (1ull << 20)
#define GIB            (1ull << 30)

/* ---- figures ------------------------------------------------------------------ */

struct bench_spread {
    unsigned count;
    double median, q1, q3, min, max; /* all 0 if count is 0 */
};

/* Quartiles by linear interpolation between the sorted values. Sorts them. */
struct bench_spread bench_spread(double *values, unsigned count);
json_t *bench_spread_json(const struct bench_spread *s);
/* Text that need not be UTF-8 (names of files), as JSON; null if it is not. */
json_t *bench_text_json(const char *text);
/* A number; null if it is not finite. */
json_t *bench_real_json(double value);
/* "2026-01-31T23:59:59Z" */
struct common_text bench_date(void);

/* ---- random bytes ------------------------------------------------------------- */

/* The next number of a sequence (SplitMix64) whose state is *state. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Fills with bytes that can't be compressed. bytes is a multiple of 8. */
void bench_fill(void *buf, uint64_t bytes, uint64_t *state);

#endif
