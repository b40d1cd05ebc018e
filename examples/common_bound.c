/* common: bounds. See common_bound.h. */
#include "examples/common_bound.h"

#include <stdio.h>

/* Bytes of a transfer count when it ends, busy time as it passes: over so many bytes the difference is small. */
#define WINDOW_BYTES (256ull << 20)

static const char *const side_names[COMMON_SIDES] = {"link in", "link out", "drives"};
static const char *const side_keys[COMMON_SIDES] = {"link_in", "link_out", "drives"};

/* ---- watching --------------------------------------------------------------- */

static int look(struct common_flow *f, struct ofl_ctx *ctx)
{
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_path_stats p = {.size = sizeof p};

    *f = (struct common_flow){0};
    if (ofl_stats_get(ctx, &s) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    for (; f->paths < COMMON_PATHS && ofl_path_stats_get(ctx, f->paths, &p) == 0; f->paths++) {
        f->path_bytes[f->paths] = p.read_bytes + p.write_bytes;
        f->path_busy_ns[f->paths] = p.busy_ns;
    }
    f->link_bytes[COMMON_LINK_IN] = s.device_in_bytes;
    f->link_bytes[COMMON_LINK_OUT] = s.device_out_bytes;
    f->link_busy_ns[COMMON_LINK_IN] = s.device_in_busy_ns;
    f->link_busy_ns[COMMON_LINK_OUT] = s.device_out_busy_ns;
    f->at_s = common_seconds();
    return 0;
}

static double rate(uint64_t bytes, uint64_t busy_ns)
{
    return busy_ns ? (double)bytes / ((double)busy_ns * 1e-9) : 0;
}

/* Drives work side by side, so their rates add up. */
static double rate_between(const struct common_flow *a, const struct common_flow *b, int side)
{
    double sum = 0;

    if (side != COMMON_DRIVES)
        return rate(b->link_bytes[side] - a->link_bytes[side], b->link_busy_ns[side] - a->link_busy_ns[side]);
    for (uint32_t i = 0; i < b->paths; i++)
        sum += rate(b->path_bytes[i] - a->path_bytes[i], b->path_busy_ns[i] - a->path_busy_ns[i]);
    return sum;
}

static uint64_t bytes_between(const struct common_flow *a, const struct common_flow *b, int side)
{
    uint64_t sum = 0;

    if (side != COMMON_DRIVES)
        return b->link_bytes[side] - a->link_bytes[side];
    for (uint32_t i = 0; i < b->paths; i++)
        sum += b->path_bytes[i] - a->path_bytes[i];
    return sum;
}

static void note_rate(double *best, const struct common_flow *a, const struct common_flow *b, int side)
{
    double seen = rate_between(a, b, side);

    if (seen > *best)
        *best = seen;
}

int common_meter_start(struct common_meter *m, struct ofl_ctx *ctx, unsigned settle)
{
    int status = look(&m->last, ctx);

    m->window = m->counted = m->last;
    m->settle = settle;
    return status;
}

/* To a beginning what has passed between the last look and this one. */
static void move_begin(struct common_flow *begin, const struct common_flow *last,
                       const struct common_flow *now)
{
    begin->at_s += now->at_s - last->at_s;
    for (int i = 0; i < 2; i++) {
        begin->link_bytes[i] += now->link_bytes[i] - last->link_bytes[i];
        begin->link_busy_ns[i] += now->link_busy_ns[i] - last->link_busy_ns[i];
    }
    for (uint32_t i = 0; i < now->paths; i++) {
        begin->path_bytes[i] += now->path_bytes[i] - last->path_bytes[i];
        begin->path_busy_ns[i] += now->path_busy_ns[i] - last->path_busy_ns[i];
    }
}

int common_meter_skip(struct common_meter *m, struct ofl_ctx *ctx)
{
    struct common_flow now;
    int status = look(&now, ctx);

    if (status)
        return status;
    move_begin(&m->counted, &m->last, &now);
    move_begin(&m->window, &m->last, &now);
    m->last = now;
    return 0;
}

int common_meter_step(struct common_meter *m, struct ofl_ctx *ctx)
{
    bool large = true;
    int status;

    if (m->steps == m->settle) {
        m->counted = m->last;
        m->counted_steps = 0;
    }
    status = look(&m->last, ctx);
    if (status)
        return status;
    m->steps++;
    m->counted_steps++;
    for (int i = 0; i < COMMON_SIDES; i++) {
        uint64_t bytes = bytes_between(&m->window, &m->last, i);

        if (bytes >= WINDOW_BYTES)
            note_rate(&m->bps[i], &m->window, &m->last, i);
        else
            large &= bytes == 0;
    }
    if (large)
        m->window = m->last;
    return 0;
}

/* ---- the bound ---------------------------------------------------------------- */

static double above(uint64_t a, uint64_t b)
{
    return a > b ? (double)(a - b) : 0;
}

struct common_least common_least_pass(uint64_t weight_bytes, uint64_t device_bytes, uint64_t host_bytes)
{
    struct common_least l = {.known = true};

    l.bytes[COMMON_LINK_IN] = above(weight_bytes, device_bytes);
    l.bytes[COMMON_DRIVES] = above(weight_bytes, device_bytes + host_bytes);
    return l;
}

static double longest(const double bytes[COMMON_SIDES], const double bps[COMMON_SIDES], int *by)
{
    double most = 0;

    *by = COMMON_DRIVES;
    for (int i = 0; i < COMMON_SIDES; i++)
        if (bps[i] > 0 && bytes[i] / bps[i] > most) {
            most = bytes[i] / bps[i];
            *by = i;
        }
    return most;
}

void common_bound_get(const struct common_meter *m, const struct common_least *least,
                      struct common_bound *out)
{
    *out = (struct common_bound){.steps = m->counted_steps, .least = *least, .least_s = -1};
    for (int i = 0; i < COMMON_SIDES; i++) {
        out->bps[i] = m->bps[i];
        note_rate(&out->bps[i], &m->counted, &m->last, i);
    }
    if (out->steps == 0)
        return;
    out->step_s = (m->last.at_s - m->counted.at_s) / out->steps;
    for (int i = 0; i < COMMON_SIDES; i++)
        out->moved[i] = (double)bytes_between(&m->counted, &m->last, i) / out->steps;
    out->moved_s = longest(out->moved, out->bps, &out->moved_by);
    if (least->known)
        out->least_s = longest(least->bytes, out->bps, &out->least_by);
}

/* ---- saying it ------------------------------------------------------------------ */

void common_bound_check(double bound_s, double seconds)
{
    /* To within what clocks and bytes are apart at the ends of a step. */
    if (seconds > 0 && bound_s > 1.01 * seconds)
        common_line(
            "%.1f %% of a bound reached: that can't be, and is an error of ours in its bytes or rates",
            100 * bound_s / seconds);
}

static void say(char *text, size_t size, const struct common_bound *b, double seconds, int side,
                const double bytes[COMMON_SIDES])
{
    if (seconds > 0)
        snprintf(text, size, "%.3f s by the %s for %s, %.1f %% of it reached", seconds, side_names[side],
                 common_bytes((uint64_t)bytes[side]).text, 100 * seconds / b->step_s);
    else
        snprintf(text, size, "none, nothing has to move");
}

void common_bound_print(const struct common_bound *b, const char *what)
{
    char moved[160], least[160], rates[200] = "";
    size_t at = 0;

    if (b->steps == 0)
        return;
    for (int i = 0; i < COMMON_SIDES; i++)
        if (b->bps[i] > 0)
            at += (size_t)snprintf(rates + at, sizeof rates - at, "%s%s %.2f", at ? ", " : "", side_names[i],
                                   b->bps[i] * 1e-9);
    if (at == 0)
        return; /* nothing has moved at all */
    common_line("rates of this run, while busy: %s GB/s", rates);
    say(moved, sizeof moved, b, b->moved_s, b->moved_by, b->moved);
    if (b->least.known)
        say(least, sizeof least, b, b->least_s, b->least_by, b->least.bytes);
    else
        snprintf(least, sizeof least, "not known");
    common_line("a %s took %.3f s (%u of them); bound of what moved: %s; of the least possible: %s", what,
                b->step_s, b->steps, moved, least);
    common_bound_check(b->moved_s, b->step_s);
    common_bound_check(b->least_s, b->step_s);
}

static json_t *share_json(double bound_s, double seconds)
{
    return bound_s >= 0 && seconds > 0 ? json_real(bound_s / seconds) : json_null();
}

json_t *common_bound_json(const struct common_bound *b)
{
    bool known = b->least.known && b->steps;
    json_t *j =
        json_pack("{s:i, s:f, s:f, s:o, s:o, s:o, s:s, s:o}", "steps", (int)b->steps, "step_s", b->step_s,
                  "moved_s", b->moved_s, "least_s", known ? json_real(b->least_s) : json_null(),
                  "share_of_moved", share_json(b->steps ? b->moved_s : -1, b->step_s), "share_of_least",
                  share_json(known ? b->least_s : -1, b->step_s), "moved_by", side_keys[b->moved_by],
                  "least_by", known ? json_string(side_keys[b->least_by]) : json_null());

    for (int i = 0; j && i < COMMON_SIDES; i++) {
        json_t *side = json_pack("{s:f, s:s, s:f, s:o}", "bps", b->bps[i], "bps_from", "this run",
                                 "moved_bytes", b->moved[i], "least_bytes",
                                 b->least.known ? json_real(b->least.bytes[i]) : json_null());

        if (!side || json_object_set_new(j, side_keys[i], side) < 0) {
            json_decref(j);
            j = NULL;
        }
    }
    return j;
}
