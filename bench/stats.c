/* Figures of repeated runs, and the bytes that are written. See bench.h. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double quantile(const double *sorted, unsigned count, double share)
{
    double at = share * (count - 1);
    unsigned low = (unsigned)at, high = low + 1 < count ? low + 1 : low;

    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

struct bench_spread bench_spread(double *values, unsigned count)
{
    if (count == 0)
        return (struct bench_spread){0};
    qsort(values, count, sizeof *values, compare);
    return (struct bench_spread){.count = count,
                                 .median = quantile(values, count, 0.5),
                                 .q1 = quantile(values, count, 0.25),
                                 .q3 = quantile(values, count, 0.75),
                                 .min = values[0],
                                 .max = values[count - 1]};
}

json_t *bench_real_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *bench_spread_json(const struct bench_spread *s)
{
    if (s->count == 0)
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "median", bench_real_json(s->median), "q1",
                     bench_real_json(s->q1), "q3", bench_real_json(s->q3), "min", bench_real_json(s->min),
                     "max", bench_real_json(s->max));
}

json_t *bench_text_json(const char *text)
{
    json_t *value = text ? json_string(text) : NULL;

    return value ? value : json_null();
}

struct common_text bench_date(void)
{
    struct common_text t = {{0}};
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(t.text, sizeof t.text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return t;
}

void bench_fill(void *buf, uint64_t bytes, uint64_t *state)
{
    uint64_t *word = buf;

    for (uint64_t i = 0; i < bytes / sizeof *word; i++)
        word[i] = bench_random(state);
}
