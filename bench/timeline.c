/* What the parts of the machine do while a step runs. See timeline.h. */
#include "bench/timeline.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EVERY_NS 5000000
#define ROOM     8192 /* samples; a longer step keeps every second one, again and again */

struct sample {
    double at_s;
    uint64_t stall_ns, in_ns, out_ns, in_bytes, out_bytes, read_bytes, write_bytes;
};

struct bench_timeline {
    struct ofl_ctx *ctx;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the samples */
    struct sample *samples;
    unsigned count, keep, seen; /* every keep-th one is kept */
    atomic_bool stopping;
};

static void take(struct bench_timeline *t)
{
    struct ofl_stats s = {.size = sizeof s};
    struct sample now;

    if (ofl_stats_get(t->ctx, &s) < 0)
        return;
    now = (struct sample){.at_s = common_seconds(),
                          .stall_ns = s.stall_ns,
                          .in_ns = s.device_in_busy_ns,
                          .out_ns = s.device_out_busy_ns,
                          .in_bytes = s.device_in_bytes,
                          .out_bytes = s.device_out_bytes,
                          .read_bytes = s.nvme_read_bytes + s.source_read_bytes,
                          .write_bytes = s.nvme_write_bytes};
    pthread_mutex_lock(&t->lock);
    if (t->seen++ % t->keep == 0) {
        if (t->count == ROOM) {
            for (unsigned i = 0; i < ROOM / 2; i++)
                t->samples[i] = t->samples[2 * i];
            t->count /= 2;
            t->keep *= 2;
        }
        t->samples[t->count++] = now;
    }
    pthread_mutex_unlock(&t->lock);
}

static void *sampler(void *arg)
{
    struct bench_timeline *t = arg;

    while (!atomic_load(&t->stopping)) {
        take(t);
        nanosleep(&(struct timespec){.tv_nsec = EVERY_NS}, NULL);
    }
    return NULL;
}

struct bench_timeline *bench_timeline_start(struct ofl_ctx *ctx)
{
    struct bench_timeline *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->ctx = ctx;
    t->keep = 1;
    t->samples = calloc(ROOM, sizeof *t->samples);
    pthread_mutex_init(&t->lock, NULL);
    if (!t->samples || pthread_create(&t->thread, NULL, sampler, t) != 0) {
        pthread_mutex_destroy(&t->lock);
        free(t->samples);
        free(t);
        return NULL;
    }
    return t;
}

void bench_timeline_mark(struct bench_timeline *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->count = t->seen = 0;
    t->keep = 1;
    pthread_mutex_unlock(&t->lock);
    take(t);
}

void bench_timeline_stop(struct bench_timeline *t)
{
    if (!t)
        return;
    atomic_store(&t->stopping, true);
    pthread_join(t->thread, NULL);
    t->seen = 0; /* the last one is kept whatever its turn */
    take(t);
}

void bench_timeline_free(struct bench_timeline *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t->samples);
    free(t);
}

/* ---- figures --------------------------------------------------------------- */

/* Of the time between two samples. What was counted at its end may have begun before it. */
static double share(uint64_t before_ns, uint64_t after_ns, double seconds)
{
    double s = seconds > 0 ? (double)(after_ns - before_ns) * 1e-9 / seconds : 0;

    return s < 0 ? 0 : s > 1 ? 1 : s;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

void bench_timeline_overlap(const struct bench_timeline *t, struct bench_overlap *out)
{
    *out = (struct bench_overlap){0};
    for (unsigned i = 1; t && i < t->count; i++) {
        const struct sample *a = &t->samples[i - 1], *b = &t->samples[i];
        double s = b->at_s - a->at_s, stalled = share(a->stall_ns, b->stall_ns, s);
        double in = share(a->in_ns, b->in_ns, s), outward = share(a->out_ns, b->out_ns, s);
        double link = in > outward ? in : outward, work = 1 - stalled;

        out->seconds += s;
        out->stalled += stalled * s;
        out->in += in * s;
        out->out += outward * s;
        out->both_most += least(work, link) * s;
        out->both_least += (work + link > 1 ? work + link - 1 : 0) * s;
    }
    if (out->seconds > 0) {
        out->stalled /= out->seconds;
        out->in /= out->seconds;
        out->out /= out->seconds;
        out->both_most /= out->seconds;
        out->both_least /= out->seconds;
    }
}

enum part { WORK, IN, OUT, READ, WRITE, PARTS };

static double difference(enum part part, const struct sample *a, const struct sample *b)
{
    switch (part) {
    case WORK:
        return (b->at_s - a->at_s) - (double)(b->stall_ns - a->stall_ns) * 1e-9;
    case IN:
        return (double)(b->in_ns - a->in_ns) * 1e-9;
    case OUT:
        return (double)(b->out_ns - a->out_ns) * 1e-9;
    case READ:
        return (double)(b->read_bytes - a->read_bytes);
    default:
        return (double)(b->write_bytes - a->write_bytes);
    }
}

/* What a part did in columns of equal time; a sample counts in the column of its middle. */
static void columns_of(const struct bench_timeline *t, enum part part, double *columns, unsigned n)
{
    double start = t->samples[0].at_s, all = t->samples[t->count - 1].at_s - start;

    memset(columns, 0, n * sizeof *columns);
    for (unsigned i = 1; i < t->count; i++) {
        const struct sample *a = &t->samples[i - 1], *b = &t->samples[i];
        double at = ((a->at_s + b->at_s) / 2 - start) / all * n;

        columns[at < 0 ? 0 : at >= n ? n - 1 : (unsigned)at] += difference(part, a, b);
    }
}

static void print_part(const char *name, const double *columns, unsigned n, double full)
{
    printf("          %-8s|", name);
    for (unsigned i = 0; i < n; i++) {
        double tenths = full > 0 ? columns[i] / full * 10 : 0;

        putchar(tenths < 0.05 ? ' ' : tenths >= 9 ? '9' : '0' + (int)tenths);
    }
    printf("|\n");
}

void bench_timeline_print(const struct bench_timeline *t, unsigned n)
{
    static const char *const names[PARTS] = {"at work", "link in", "link out", "read", "write"};
    double columns[256], most;

    if (!t || t->count < 3)
        return;
    n = n > 256 ? 256 : n;
    n = n > t->count - 1 ? t->count - 1 : n;
    for (int part = 0; part < PARTS; part++) {
        columns_of(t, (enum part)part, columns, n);
        most = (t->samples[t->count - 1].at_s - t->samples[0].at_s) / n;
        if (part >= READ) { /* bytes: beside the busiest column */
            most = 0;
            for (unsigned i = 0; i < n; i++)
                most = columns[i] > most ? columns[i] : most;
        }
        print_part(names[part], columns, n, most);
    }
}

static json_t *column_json(const struct bench_timeline *t, enum part part)
{
    json_t *array = json_array();

    for (unsigned i = 1; i < t->count; i++)
        json_array_append_new(array, bench_real_json(difference(part, &t->samples[i - 1], &t->samples[i])));
    return array;
}

json_t *bench_timeline_json(const struct bench_timeline *t)
{
    static const char *const names[PARTS] = {"work_s", "in_busy_s", "out_busy_s", "read_bytes",
                                             "write_bytes"};
    struct bench_overlap o;
    json_t *at = json_array(), *j;

    if (!t || t->count < 2) {
        json_decref(at);
        return json_null();
    }
    bench_timeline_overlap(t, &o);
    for (unsigned i = 1; i < t->count; i++)
        json_array_append_new(at, bench_real_json(t->samples[i].at_s - t->samples[0].at_s));
    j = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "seconds", o.seconds, "stalled", o.stalled,
                  "link_in", o.in, "link_out", o.out, "both_least", o.both_least, "both_most", o.both_most,
                  "until_s", at);
    for (int part = 0; j && part < PARTS; part++)
        json_object_set_new(j, names[part], column_json(t, (enum part)part));
    return j;
}
