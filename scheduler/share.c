/* share: see share.h. */
#include "scheduler/share.h"

#include <math.h>
#include <stdlib.h>

/* What a transfer costs beside its bytes: small ones rest first. */
#define TRANSFER_BYTES 65536u
/* Gaps whose worth differs by less than a factor of 2^(1/CLASSES_PER_OCTAVE) share alike. */
#define CLASSES_PER_OCTAVE 4
#define ROUNDS             16u
#define ROUNDS_LONG        4u /* for records of more than */
#define LONG_EVENTS        200000u
#define SEARCHES           10

static int by_class(const void *left, const void *right)
{
    const struct share_gap *a = left, *b = right;

    if (a->class != b->class)
        return a->class > b->class ? -1 : 1;
    return a->use < b->use ? -1 : a->use > b->use;
}

/* A round gives each gap of the class its share of what it could take; what rounding leaves goes to the next one. */
static bool share_round(struct room *room, struct share_gap *gaps, uint32_t count, double share)
{
    double carry = 0;
    bool open = false;

    for (uint32_t i = 0; i < count; i++) {
        struct share_gap *g = &gaps[i];
        double want = share * g->units * (double)g->unit_bytes + carry;
        double units = floor(want / (double)g->unit_bytes + 0.5);
        uint64_t more, most;

        if (g->full)
            continue;
        units = units < g->kept ? g->kept : units > g->units ? g->units : units;
        more = (uint64_t)units - g->kept;
        most = more ? room_free(room, g->from, g->next) / g->unit_bytes : 0;
        g->full = more > most;
        if (more > most)
            more = most;
        else
            carry = want - units * (double)g->unit_bytes;
        if (more)
            room_take(room, g->from, g->next, more * g->unit_bytes);
        g->kept += (uint32_t)more;
        open |= !g->full && g->kept < g->units;
    }
    return open;
}

static void take_back(struct room *room, struct share_gap *gaps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (gaps[i].kept)
            room_give(room, gaps[i].from, gaps[i].next, gaps[i].kept * gaps[i].unit_bytes);
        gaps[i].kept = 0;
        gaps[i].full = false;
    }
}

static bool any_full(const struct share_gap *gaps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (gaps[i].full)
            return true;
    return false;
}

/* The largest share that all gaps of the class can have alike, in one round: that spreads best. */
static double share_alike(struct room *room, struct share_gap *gaps, uint32_t count)
{
    double low = 0, high = 1, share = 1;

    for (int i = 0; i < SEARCHES; i++, share = (low + high) / 2) {
        share_round(room, gaps, count, share);
        if (any_full(gaps, count))
            high = share;
        else
            low = share;
        take_back(room, gaps, count);
        if (low == 1)
            break;
    }
    share_round(room, gaps, count, low);
    return low;
}

void share_out(struct share *s, struct room *room)
{
    bool is_long = s->events > LONG_EVENTS;
    uint32_t rounds = is_long ? ROUNDS_LONG : ROUNDS;

    qsort(s->gaps, s->count, sizeof *s->gaps, by_class);
    for (uint32_t first = 0, end; first < s->count; first = end) {
        struct share_gap *gaps = s->gaps + first;
        double low = 0;

        for (end = first; end < s->count && s->gaps[end].class == gaps->class; end++)
            ;
        if (!is_long)
            low = share_alike(room, gaps, end - first);
        for (uint32_t r = 1; r <= rounds && low < 1; r++)
            if (!share_round(room, gaps, end - first, low + (1 - low) * r / rounds))
                break;
    }
}

void share_add(struct share *s, uint32_t use, uint32_t from, uint32_t next, uint32_t units,
               uint64_t unit_bytes, double saved)
{
    struct share_gap *g = &s->gaps[s->count++];
    uint32_t length = next > from ? next - from : s->events - from + next;
    double bytes = (double)units * (double)unit_bytes;

    *g = (struct share_gap){.use = use, .next = next, .from = from, .units = units, .unit_bytes = unit_bytes};
    g->class = (int)floor(CLASSES_PER_OCTAVE * log2(saved * (1 + TRANSFER_BYTES / bytes) / (length + 1.0)));
}
