/* common: when to commit. See common_pace.h. */
#include "examples/common_pace.h"

#include <stdlib.h>
#include <string.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* What a step takes without a commit: the median of the last ones. */
static double usual(const struct common_pace *p)
{
    unsigned n = p->plain < COMMON_PACE_STEPS ? p->plain : COMMON_PACE_STEPS;
    double sorted[COMMON_PACE_STEPS];

    if (n == 0)
        return p->shortest_s;
    memcpy(sorted, p->plain_s, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

void common_pace_step(struct common_pace *p, double seconds)
{
    p->elapsed_s += seconds;
    if (p->shortest_s == 0 || seconds < p->shortest_s)
        p->shortest_s = seconds;
    if (p->busy)
        p->over_s += seconds - usual(p);
    else
        p->plain_s[p->plain++ % COMMON_PACE_STEPS] = seconds;
}

void common_pace_begin(struct common_pace *p, double seconds)
{
    p->elapsed_s += seconds;
    p->cost_s = seconds;
    p->over_s = 0;
    p->busy = true;
}

void common_pace_end(struct common_pace *p)
{
    double cost = p->cost_s + (p->over_s > 0 ? p->over_s : 0);

    if (!p->busy)
        return;
    p->busy = false;
    p->spent_s += cost;
    /* A guess is forgotten; one cheap commit says little of the next. */
    p->expected_s = p->commits == 0 || cost > p->expected_s ? cost : (p->expected_s + cost) / 2;
    p->commits++;
}

bool common_pace_due(const struct common_pace *p)
{
    if (p->busy)
        return false;
    if (p->commits == 0 && p->elapsed_s >= COMMON_PACE_FIRST_S)
        return true;
    return p->spent_s + p->expected_s <= p->share * p->elapsed_s;
}
