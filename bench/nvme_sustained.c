/* See nvme_sustained.h. */
#include "bench/nvme_sustained.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench/nvme_progress.h"
#include "bench/nvme_run.h"
#include "bench/text.h"

#define AUTO_LOOK      20u  /* intervals between two looks whether it has settled */
#define AUTO_SETTLED_S 15.0 /* that the last rate has to stay, and a quarter of the time */
#define RECOVERY_S     3.0

/* ---- samples ----------------------------------------------------------------------------- */

static bool add_sample(struct nvme_sustained *s, double rate)
{
    if (s->count == s->room) {
        unsigned room = s->room ? 2 * s->room : 1024;
        double *more = realloc(s->rates, room * sizeof *more);

        s->failed = !more;
        if (!more)
            return false;
        s->rates = more;
        s->room = room;
    }
    s->rates[s->count++] = rate;
    return true;
}

static double lasted(const struct nvme_sustained *s, unsigned step)
{
    return (s->steps[step].end - s->steps[step].first) * NVME_SUSTAINED_S;
}

/* The rate has fallen, and stays. */
static bool has_settled(struct nvme_sustained *s)
{
    double last;

    s->step_count = nvme_steps_find(s->rates, s->count, s->steps);
    if (s->step_count < 2 || s->steps[s->step_count - 1].rate > 0.8 * s->steps[0].rate)
        return false;
    last = lasted(s, s->step_count - 1);
    return last >= AUTO_SETTLED_S && last >= s->count * NVME_SUSTAINED_S / 4;
}

struct watcher {
    struct nvme_sustained *s;
    bool automatic;
};

/* Bytes that come in one look are spread over the intervals that it took. */
static bool watch(void *arg, double now, uint64_t bytes)
{
    struct watcher *w = arg;
    struct nvme_sustained *s = w->s;

    s->bytes += bytes;
    s->last_bytes += (double)bytes;
    while (now - s->start >= (s->count + 1) * NVME_SUSTAINED_S) {
        unsigned whole = (unsigned)((now - s->start) / NVME_SUSTAINED_S) - s->count;
        double here = s->last_bytes / whole;

        if (!add_sample(s, here / NVME_SUSTAINED_S))
            return false;
        s->last_bytes -= here;
        if (w->automatic && s->count % AUTO_LOOK == 0 && has_settled(s)) {
            s->ended = "the rate has fallen, and stays";
            return false;
        }
    }
    return true;
}

/* ---- figures --------------------------------------------------------------------------------- */

static void judge(struct nvme_sustained *s)
{
    double bytes = 0;

    s->step_count = nvme_steps_find(s->rates, s->count, s->steps);
    if (s->step_count == 0)
        return;
    s->burst = s->steps[0].rate;
    s->sustained = s->steps[s->step_count - 1].rate;
    for (unsigned i = 0; i + 1 < s->step_count && s->fell_s == 0; i++) {
        bytes += s->steps[i].rate * lasted(s, i);
        if (s->steps[i + 1].rate < s->burst * (1 - NVME_STEP_SHARE)) {
            s->fell_s = s->steps[i].end * NVME_SUSTAINED_S;
            s->fell_bytes = bytes;
        }
    }
}

static int write_for(struct nvme_target *t, double seconds, uint64_t bytes, struct watcher *w,
                     struct nvme_sample *out)
{
    const struct nvme_case c = {.rw = RW_WRITE,
                                .block_bytes = t->options->block_bytes ? t->options->block_bytes : MIB,
                                .depth = t->options->depth ? (uint32_t)t->options->depth : 8};
    struct nvme_run r;
    int status = nvme_run_open(&r, t, &c, 1);

    *out = (struct nvme_sample){0};
    if (w) {
        r.watch = watch;
        r.watch_arg = w;
        w->s->start = common_seconds();
    }
    if (status == 0)
        status = nvme_run_move(&r, seconds, bytes, out);
    nvme_run_close(&r, out, NULL);
    return status;
}

static int recover(struct nvme_target *t, struct nvme_sustained *s)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    struct nvme_sample sample;
    int status;

    nvme_progress.what = "resting";
    for (double end = common_seconds() + s->idle_s; common_seconds() < end && !common_stopping();) {
        nvme_tick(common_seconds());
        nanosleep(&pause, NULL);
    }
    status = write_for(t, RECOVERY_S, nvme_sustained_recovery(s), NULL, &sample);
    if (status == 0 && sample.seconds > 0)
        s->recovered = (double)sample.bytes[IO_WRITE] / sample.seconds;
    return status;
}

int nvme_sustained_measure(struct nvme_target *t, struct nvme_sustained *s)
{
    struct watcher w = {.s = s, .automatic = !t->options->sustained_bytes && t->options->sustained_s <= 0};
    struct nvme_sample sample;
    int status;

    nvme_progress.what = "writing, to see what lasts";
    status = write_for(t, s->limit_s, s->limit_bytes, &w, &sample);
    if (status == 0 && s->failed)
        status = common_fail(EXIT_FULL, "--sustained: out of memory for samples");
    if (status)
        return status;
    if (!s->ended)
        s->ended = s->bytes + 2 * t->options->depth * MIB >= s->limit_bytes && sample.seconds < s->limit_s
                       ? "all bytes are written"
                       : "the time is over";
    judge(s);
    if (s->count < 2 * NVME_STEP_SAMPLES)
        return common_fail(EXIT_RUNTIME,
                           "--sustained: it took %.2f s: too short for a throughput over time; give more",
                           sample.seconds);
    return s->idle_s > 0 ? recover(t, s) : 0;
}

void nvme_sustained_free(struct nvme_sustained *s)
{
    free(s->rates);
    s->rates = NULL;
}

/* ---- what is told -------------------------------------------------------------------------------- */

void nvme_sustained_print(const struct nvme_sustained *s)
{
    printf("\nsustained %s in %.1f s, until %s\n", common_bytes(s->bytes).text, s->count * NVME_SUSTAINED_S,
           s->ended);
    printf("%10s %10s  %s\n", "from", "to", "GB/s");
    for (unsigned i = 0; i < s->step_count; i++)
        printf("%8.1f s %8.1f s  %.3f\n", s->steps[i].first * NVME_SUSTAINED_S,
               s->steps[i].end * NVME_SUSTAINED_S, s->steps[i].rate / 1e9);
    if (s->fell_s > 0)
        printf(
            "burst     %.3f GB/s; it fell after %.1f s and %.2f GB; sustained %.3f GB/s, %.2f of the burst\n",
            s->burst / 1e9, s->fell_s, s->fell_bytes / 1e9, s->sustained / 1e9, s->sustained / s->burst);
    else
        printf("burst     %.3f GB/s, and it did not fall: sustained %.3f GB/s\n", s->burst / 1e9,
               s->sustained / 1e9);
    if (s->recovered > 0)
        printf("recovery  %.3f GB/s after %.0f s of rest, %.2f of the burst\n", s->recovered / 1e9, s->idle_s,
               s->recovered / s->burst);
}

json_t *nvme_sustained_json(const struct nvme_sustained *s)
{
    json_t *rates = json_array(), *steps = json_array();

    for (unsigned i = 0; s && i < s->count; i++)
        json_array_append_new(rates, json_real(s->rates[i] / 1e9));
    for (unsigned i = 0; s && i < s->step_count; i++)
        json_array_append_new(
            steps, json_pack("{s:f, s:f, s:f}", "start_s", s->steps[i].first * NVME_SUSTAINED_S, "end_s",
                             s->steps[i].end * NVME_SUSTAINED_S, "gb_per_s", s->steps[i].rate / 1e9));
    if (!s) {
        json_decref(rates);
        json_decref(steps);
        return json_null();
    }
    return json_pack("{s:I, s:f, s:s, s:f, s:o, s:f, s:f, s:o, s:o, s:o, s:o}", "bytes", (json_int_t)s->bytes,
                     "interval_s", NVME_SUSTAINED_S, "ended", s->ended, "idle_s", s->idle_s, "steps", steps,
                     "burst_gb_per_s", s->burst / 1e9, "sustained_gb_per_s", s->sustained / 1e9, "fell_at_s",
                     s->fell_s > 0 ? json_real(s->fell_s) : json_null(), "fell_at_bytes",
                     s->fell_s > 0 ? json_real(s->fell_bytes) : json_null(), "recovered_gb_per_s",
                     s->recovered > 0 ? json_real(s->recovered / 1e9) : json_null(), "gb_per_s_samples",
                     rates);
}
