/*
 * Striped files: which member gets which IO_STRIPE_BYTES. Shares follow the weights; a
 * member that is full, or at its limit, gets no more and says so. Opening: file.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

/* What each member is to be given, in units. */
struct grants {
    uint64_t units[IO_STRIPE_MAX];
};

static uint64_t units_of(const struct io_member *m)
{
    return m->bytes / IO_STRIPE_BYTES;
}

/* Shares out `wanted` more units over the members that are not full, so that the totals come as
 * near to the weights as they can. False if all are full. */
static bool share_out(const struct io_file *f, uint64_t wanted, struct grants *g)
{
    *g = (struct grants){0};
    while (wanted) {
        unsigned best = f->count;
        double best_load = 0;

        for (unsigned i = 0; i < f->count; i++) {
            const struct io_member *m = &f->member[i];
            double load = (double)(units_of(m) + g->units[i] + 1) / m->weight;

            if (!m->full && (best == f->count || load < best_load)) {
                best = i;
                best_load = load;
            }
        }
        if (best == f->count)
            return false;
        g->units[best]++;
        wanted--;
    }
    return true;
}

static void mark_full(struct io_member *m, int code)
{
    m->full = true;
    snprintf(m->note, sizeof m->note, "full at %" PRIu64 " bytes: %s", m->bytes,
             code ? base_strerror(code) : "its limit");
}

/* Grows m by up to `units`; what it could not get makes it full. Returns what it got, or -errno
 * for anything but a lack of space. */
static int64_t grow_member(struct io_member *m, uint64_t units)
{
    uint64_t limit = m->limit_bytes / IO_STRIPE_BYTES, room;
    int rc;

    if (units_of(m) + units > limit) {
        units = limit > units_of(m) ? limit - units_of(m) : 0;
        mark_full(m, 0);
    }
    if (!units)
        return 0;
    rc = io_member_grow(m, m->bytes + units * IO_STRIPE_BYTES);
    if (rc == 0)
        return (int64_t)units;
    if (rc != -ENOSPC && rc != -EFBIG && rc != -EDQUOT)
        return rc;
    /* Something is always needed for the file system's own records. */
    room = rc == -ENOSPC ? io_member_free_bytes(m) / IO_STRIPE_BYTES : 0;
    room -= room / 64 + (room > 0);
    if (room > units)
        room = units;
    if (!room || io_member_grow(m, m->bytes + room * IO_STRIPE_BYTES) < 0)
        room = 0;
    mark_full(m, rc);
    return (int64_t)room;
}

/* Appends `count` units to the map, interleaved in proportion to what the members got. */
static void lay_out(struct io_file *f, const struct io_member *before, const struct grants *got,
                    uint64_t count)
{
    uint64_t used[IO_STRIPE_MAX] = {0};

    for (uint64_t u = 0; u < count; u++) {
        unsigned best = f->count;
        double best_load = 0;

        for (unsigned i = 0; i < f->count; i++) {
            double load = ((double)used[i] + 1) / (double)got->units[i];

            if (used[i] < got->units[i] && (best == f->count || load < best_load)) {
                best = i;
                best_load = load;
            }
        }
        f->units[f->unit_count++] =
            (struct io_unit){.member = best, .at = (uint32_t)(units_of(&before[best]) + used[best])};
        used[best]++;
    }
}

/* The members as they were; the space goes back as far as the file system takes it. */
static void roll_back(struct io_file *f, const struct io_member *before)
{
    for (unsigned i = 0; i < f->count; i++) {
        struct io_member *m = &f->member[i];

        io_member_shrink(m, before[i].bytes);
        m->full = before[i].full;
        memcpy(m->note, before[i].note, sizeof m->note);
    }
}

int io_stripe_reserve(struct io_file *f, uint64_t bytes)
{
    uint64_t count = (bytes + IO_STRIPE_BYTES - 1) / IO_STRIPE_BYTES - f->unit_count, left = count;
    struct io_member before[IO_STRIPE_MAX];
    struct grants got = {0}, ask;
    struct io_unit *units;
    int code = -ENOSPC;

    if (bytes / IO_STRIPE_BYTES >= UINT32_MAX)
        return base_fail(-EFBIG, "reserve %s: %" PRIu64 " bytes", f->path, bytes);
    units = realloc(f->units, (f->unit_count + count) * sizeof *units);
    if (!units && count)
        return base_fail_errno(-ENOMEM, "reserve %s: map of %" PRIu64 " bytes", f->path, bytes);
    f->units = count ? units : f->units;
    memcpy(before, f->member, f->count * sizeof *before);
    while (left && share_out(f, left, &ask)) {
        for (unsigned i = 0; i < f->count; i++) {
            int64_t n = ask.units[i] ? grow_member(&f->member[i], ask.units[i]) : 0;

            if (n < 0) {
                code = (int)n;
                goto fail;
            }
            got.units[i] += (uint64_t)n;
            left -= (uint64_t)n;
        }
    }
    if (left)
        goto fail;
    lay_out(f, before, &got, count);
    f->bytes = bytes;
    return 0;
fail:
    roll_back(f, before);
    return base_fail(code,
                     "reserve %s: %" PRIu64 " bytes wanted, %" PRIu64 " held, %" PRIu64
                     " missing in %u directories: %s",
                     f->path, bytes, f->bytes, left * IO_STRIPE_BYTES, f->count, base_strerror(code));
}
