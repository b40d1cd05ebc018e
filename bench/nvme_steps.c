/* See nvme_steps.h. */
#include "bench/nvme_steps.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 3u /* each cut that is settled or taken out may change its neighbours' */
#define WINDOW 5u /* of the median that takes single samples out */
/* Samples that are taken together where bytes come in lumps, and how much steadier they then have to be: independent ones
 * are no steadier, by noise_by's measure. */
#define LUMP       8u
#define LUMP_SHARE 0.4
/* Of the noise: the largest of n normal CUSUM values seldom passes sqrt(2 ln n), which is 5 for 300,000. */
#define SURE 6.0
/* Rates that are all but equal have no noise: less than this share of the mean is none. */
#define FLOOR 0.01

struct series {
    double *raw, *smooth, *sums; /* sums[i]: of smooth before i */
    double *room;
    unsigned count, least; /* a step has so many samples at least */
    unsigned cuts[NVME_STEPS_MOST], cut_count;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void smooth(struct series *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        unsigned from = i < WINDOW / 2 ? 0 : i - WINDOW / 2,
                 end = i + WINDOW / 2 + 1 > s->count ? s->count : i + WINDOW / 2 + 1;
        double window[WINDOW];

        memcpy(window, s->raw + from, (end - from) * sizeof *window);
        s->smooth[i] = median(window, end - from);
        s->sums[i + 1] = s->sums[i] + s->smooth[i];
    }
}

/* Of one sample, from differences of means of so many neighbours, so that steps do not count. A normal distribution's
 * median of those is 0.6745 times its deviation times the root of 2. */
static double noise_by(const double *rates, unsigned count, unsigned block, double *room)
{
    unsigned blocks = count / block;

    if (blocks < 2)
        return 0;
    for (unsigned i = 0; i < blocks; i++) {
        room[i] = 0;
        for (unsigned k = 0; k < block; k++)
            room[i] += rates[i * block + k] / block;
    }
    for (unsigned i = 0; i + 1 < blocks; i++)
        room[i] = fabs(room[i + 1] - room[i]);
    return median(room, blocks - 1) / 0.6745 / sqrt(2) * sqrt(block);
}

/* ---- cuts ---------------------------------------------------------------------------- */

static double mean(const struct series *s, unsigned from, unsigned end)
{
    return (s->sums[end] - s->sums[from]) / (end - from);
}

static double score_of(const struct series *s, unsigned from, unsigned cut, unsigned end)
{
    double left = cut - from, right = end - cut;

    return fabs(mean(s, from, cut) - mean(s, cut, end)) * sqrt(left * right / (left + right));
}

/* Of a part: faster ones have more of it. */
static double noise_between(const struct series *s, unsigned from, unsigned end)
{
    return fmax(noise_by(s->raw + from, end - from, 1, s->room), FLOOR * mean(s, from, end));
}

/* Where the means of both sides differ most. */
static unsigned best_cut(const struct series *s, unsigned from, unsigned end, unsigned margin, double *score)
{
    unsigned best = from;

    *score = 0;
    for (unsigned at = from + margin; at + margin <= end; at++) {
        double here = score_of(s, from, at, end);

        if (here > *score) {
            *score = here;
            best = at;
        }
    }
    return best;
}

/* Cuts as long as that is sure, parts to be looked at on a list of their own. */
static void cut_all(struct series *s)
{
    unsigned todo[2 * NVME_STEPS_MOST][2], open = 1;

    todo[0][0] = 0;
    todo[0][1] = s->count;
    while (open && s->cut_count + 1 < NVME_STEPS_MOST) {
        unsigned from = todo[--open][0], end = todo[open][1], at;
        double score;

        at = best_cut(s, from, end, s->least, &score);
        if (score <= 0 || score <= SURE * noise_between(s, from, end))
            continue;
        s->cuts[s->cut_count++] = at;
        todo[open][0] = from;
        todo[open++][1] = at;
        todo[open][0] = at;
        todo[open++][1] = end;
    }
}

static int compare_cuts(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return (x > y) - (x < y);
}

static unsigned before(const struct series *s, unsigned i)
{
    return i ? s->cuts[i - 1] : 0;
}

static unsigned behind(const struct series *s, unsigned i)
{
    return i + 1 < s->cut_count ? s->cuts[i + 1] : s->count;
}

static bool are_one(const struct series *s, unsigned i)
{
    unsigned from = before(s, i), cut = s->cuts[i], end = behind(s, i);
    double a = mean(s, from, cut), b = mean(s, cut, end);

    if (cut - from < s->least / 2 || end - cut < s->least / 2) /* settling has left it too short */
        return true;
    return fabs(a - b) <= NVME_STEP_SHARE * fmax(a, b) ||
           score_of(s, from, cut, end) <= SURE * noise_between(s, from, end);
}

/* Takes out the cut whose sides differ least, as long as they hardly do. */
static void join(struct series *s)
{
    for (;;) {
        unsigned least = s->cut_count;
        double smallest = HUGE_VAL;

        for (unsigned i = 0; i < s->cut_count; i++) {
            double score = score_of(s, before(s, i), s->cuts[i], behind(s, i));

            if (score < smallest && are_one(s, i)) {
                smallest = score;
                least = i;
            }
        }
        if (least == s->cut_count)
            return;
        memmove(s->cuts + least, s->cuts + least + 1, (s->cut_count - least - 1) * sizeof *s->cuts);
        s->cut_count--;
    }
}

/* Each cut between its neighbours: later cuts have shown what the sides are. It may come close to one of them, so that the
 * other one turns out to be none. */
static void settle(struct series *s)
{
    for (unsigned i = 0; i < s->cut_count; i++) {
        double score;
        unsigned at = best_cut(s, before(s, i), behind(s, i), 1, &score);

        if (at > before(s, i))
            s->cuts[i] = at;
    }
}

static void find(struct series *s)
{
    smooth(s);
    cut_all(s);
    qsort(s->cuts, s->cut_count, sizeof *s->cuts, compare_cuts);
    for (unsigned round = 0; round < ROUNDS; round++) {
        settle(s);
        join(s);
    }
}

/* ---- lumps ------------------------------------------------------------------------------ */

static void close_series(struct series *s)
{
    free(s->raw);
    free(s->smooth);
    free(s->sums);
    free(s->room);
}

/* Of means of so many samples; what is left at the end belongs to the last one. */
static bool open_series(struct series *s, const double *rates, unsigned count, unsigned block)
{
    *s = (struct series){.count = count / block, .least = block > 1 ? 4 : NVME_STEP_SAMPLES};
    s->raw = calloc(s->count + 1, sizeof(double));
    s->smooth = calloc(s->count + 1, sizeof(double));
    s->sums = calloc(s->count + 2, sizeof(double));
    s->room = calloc(count + 1, sizeof(double));
    if (!s->raw || !s->smooth || !s->sums || !s->room)
        return false;
    for (unsigned i = 0; i < s->count * block; i++)
        s->raw[i / block] += rates[i] / block;
    return true;
}

static double sum_of(const double *rates, unsigned from, unsigned end)
{
    double sum = 0;

    for (unsigned i = from; i < end; i++)
        sum += rates[i];
    return sum;
}

/* Of cuts between blocks: where, within a block on both sides, the samples' means differ most. */
static unsigned refine(const double *rates, unsigned from, unsigned cut, unsigned end, unsigned block)
{
    unsigned first = cut - from > block ? cut - block : from + 1,
             last = end - cut > block ? cut + block : end - 1, best = cut;
    double most = 0;

    for (unsigned at = first; at <= last; at++) {
        double left = at - from, right = end - at;
        double score = fabs(sum_of(rates, from, at) / left - sum_of(rates, at, end) / right) *
                       sqrt(left * right / (left + right));

        if (score > most) {
            most = score;
            best = at;
        }
    }
    return best;
}

static unsigned write_steps(struct series *s, const double *rates, unsigned count, unsigned block,
                            struct nvme_step *out)
{
    unsigned from = 0;

    for (unsigned i = 0; i < s->cut_count; i++)
        s->cuts[i] *= block;
    for (unsigned i = 0; block > 1 && i < s->cut_count; i++)
        s->cuts[i] =
            refine(rates, before(s, i), s->cuts[i], i + 1 < s->cut_count ? s->cuts[i + 1] : count, block);
    for (unsigned i = 0; i <= s->cut_count; i++) {
        unsigned end = i < s->cut_count ? s->cuts[i] : count;

        out[i] =
            (struct nvme_step){.first = from, .end = end, .rate = sum_of(rates, from, end) / (end - from)};
        from = end;
    }
    return s->cut_count + 1;
}

unsigned nvme_steps_find(const double *rates, unsigned count, struct nvme_step *out)
{
    struct series s;
    unsigned block = 1, steps = 0;

    if (count == 0)
        return 0;
    if (open_series(&s, rates, count, 1)) {
        if (count >= 16 * LUMP &&
            noise_by(rates, count, LUMP, s.room) < LUMP_SHARE * noise_by(rates, count, 1, s.room)) {
            close_series(&s);
            block = LUMP;
            if (!open_series(&s, rates, count, block)) {
                close_series(&s);
                return 0;
            }
        }
        find(&s);
        steps = write_steps(&s, rates, count, block, out);
    }
    close_series(&s);
    return steps;
}
