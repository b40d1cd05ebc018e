/*
 * ofl-bench adam, in memory. The update, a loop over the same bytes, and other programs' updates run in turns on the
 * same arrays: what the machine does meanwhile is the same to all of them.
 */
#include "bench/adam_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/adam_peers.h"
#include "examples/common_memory.h"
#include "examples/common_options.h"

#define ALIGN (2 * MIB)
/* Elements of a thread's turn: all its arrays are in reach of the translation buffer. */
#define PIECE 65536u

struct team {
    const struct adam_options *options;
    const struct adam_arrays *arrays;
    struct member *members; /* one for each thread; the first is this one */
    bool bound;             /* what they do next */
    uint64_t step;
};

struct member {
    struct team *team;
    uint64_t first, elems;
    pthread_t thread;
    bool started;
    int err;
};

/* ---- the arrays --------------------------------------------------------------- */

static uint64_t round_up(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static int arrays_open(const struct adam_options *o, struct adam_arrays *a)
{
    uint64_t each = round_up(o->elems * sizeof(float)),
             low = o->dtype == OFL_BF16 ? round_up(o->elems * 2) : 0;
    uint64_t state = 1;
    struct common_room room;
    char *at;

    common_room(&room);
    if (4 * each + low > room.bytes)
        return common_fail(EXIT_INPUT,
                           "--elems %llu: its arrays take %s: %s: use a smaller number, or --nvme",
                           (ull)o->elems, common_bytes(4 * each + low).text, room.text);
    *a = (struct adam_arrays){
        .fd = memfd_create("ofl-bench adam", MFD_CLOEXEC), .elems = o->elems, .bytes = 4 * each + low};
    if (a->fd < 0 || ftruncate(a->fd, (off_t)a->bytes) < 0)
        return common_fail(EXIT_FULL, "adam: no memory for %llu parameters: %s", (ull)o->elems,
                           strerror(errno));
    at = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
    if (at == MAP_FAILED)
        return common_fail(EXIT_FULL, "adam: no memory for %llu parameters: %s", (ull)o->elems,
                           strerror(errno));
    a->weight = (float *)(void *)at;
    a->mean = (float *)(void *)(at + each);
    a->square = (float *)(void *)(at + 2 * each);
    a->grad = (float *)(void *)(at + 3 * each);
    a->bf16 = low ? (uint16_t *)(void *)(at + 4 * each) : NULL;
    for (uint64_t i = 0; i < o->elems; i++) {
        uint64_t z = bench_random(&state);

        a->weight[i] = (float)(z >> 40) * 0x1p-24f - 0.5f;
        a->grad[i] = (float)(z & 0xffffff) * 0x1p-30f - 0x1p-7f;
    }
    return 0;
}

static void arrays_close(struct adam_arrays *a)
{
    if (a->weight)
        munmap(a->weight, a->bytes);
    if (a->fd >= 0)
        close(a->fd);
}

/* ---- one pass ----------------------------------------------------------------- */

typedef float wide __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t half __attribute__((vector_size(16), aligned(2), may_alias));

/* Reads and writes what an update does. The rest of a piece, less than eight elements, is left out. */
static void move_piece(const struct adam_arrays *a, enum ofl_method method, uint64_t first, uint64_t n)
{
    bool two = method == OFL_ADAMW || method == OFL_ADAM;
    const half low = {0};

    for (uint64_t i = first; i + 8 <= first + n; i += 8) {
        wide g = *(const wide *)(a->grad + i);

        *(wide *)(a->weight + i) -= g * 0x1p-30f;
        *(wide *)(a->mean + i) += g * 0x1p-30f;
        if (two)
            *(wide *)(a->square + i) += g * g;
        if (a->bf16)
            *(half *)(a->bf16 + i) = low;
    }
}

static int update_piece(const struct team *t, uint64_t first, uint64_t n)
{
    const struct adam_arrays *a = t->arrays;
    struct ofl_update_settings s = {.size = sizeof s,
                                    .lr = 1e-4,
                                    .beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .eps = 1e-8,
                                    .weight_decay = 0.01,
                                    .step = t->step};
    struct ofl_update u = {.size = sizeof u,
                           .method = t->options->method,
                           .form = (enum ofl_update_form)t->options->form,
                           .elems = n,
                           .grad = a->grad + first,
                           .grad_scale = 1,
                           .weight = a->weight + first,
                           .mean = a->mean + first,
                           .square = a->square + first,
                           .bf16 = a->bf16 ? a->bf16 + first : NULL};

    return ofl_update_run(&s, &u);
}

static void *work(void *arg)
{
    struct member *m = arg;
    struct team *t = m->team;

    for (uint64_t i = 0, n; i < m->elems; i += n) {
        n = m->elems - i < PIECE ? m->elems - i : PIECE;
        if (t->bound)
            move_piece(t->arrays, t->options->method, m->first + i, n);
        else
            m->err |= update_piece(t, m->first + i, n);
    }
    return NULL;
}

/* Returns a status. */
static int pass(struct team *t, bool bound, double *seconds)
{
    uint64_t count = t->options->threads;
    double start = common_seconds();
    int status = 0;

    t->bound = bound;
    t->step++;
    for (uint64_t i = 1; i < count && status == 0; i++) {
        t->members[i].started = pthread_create(&t->members[i].thread, NULL, work, &t->members[i]) == 0;
        if (!t->members[i].started)
            status =
                common_fail(EXIT_FULL, "adam: thread %llu of %llu can't be started: use a smaller --threads",
                            (ull)i + 1, (ull)count);
    }
    work(&t->members[0]);
    for (uint64_t i = 1; i < count; i++) {
        if (t->members[i].started)
            pthread_join(t->members[i].thread, NULL);
        t->members[i].started = false;
    }
    *seconds = common_seconds() - start;
    for (uint64_t i = 0; i < count && status == 0; i++)
        if (t->members[i].err < 0)
            status = common_fail_ofl(EXIT_RUNTIME, "adam");
    return status;
}

/* ---- all ---------------------------------------------------------------------- */

static uint64_t bytes_of(const struct adam_options *o)
{
    bool two = o->method == OFL_ADAMW || o->method == OFL_ADAM;

    return o->elems * ((two ? 28u : 20u) + (o->dtype == OFL_BF16 ? 2u : 0u));
}

static void print_row(const struct adam_options *o, const char *name, const struct bench_spread *s,
                      double bound)
{
    printf("%-26s %8.4f s (%.4f..%.4f) %8.2f %8.2f %7.2f\n", name, s->median, s->min, s->max,
           (double)o->elems / s->median * 1e-9, (double)bytes_of(o) / s->median * 1e-9, bound / s->median);
}

static void report_peer(const struct adam_options *o, struct adam_peer *p, const double *ours, double bound,
                        json_t *peers)
{
    double ratios[ADAM_REPEATS_MOST];
    struct bench_spread ratio;

    for (uint64_t i = 0; i < o->repeats; i++)
        ratios[i] = p->seconds[i] / ours[i];
    ratio = bench_spread(ratios, (unsigned)o->repeats);
    p->spread = bench_spread(p->seconds, (unsigned)o->repeats);
    print_row(o, p->version, &p->spread, bound);
    printf("%-26s %.2f times the update's time (%.2f..%.2f)\n", "", ratio.median, ratio.min, ratio.max);
    json_object_set_new(peers, p->name,
                        json_pack("{s:s, s:o, s:o}", "version", p->version, "seconds",
                                  bench_spread_json(&p->spread), "ratio", bench_spread_json(&ratio)));
}

static int measure(const struct adam_options *o, struct team *t, struct adam_peer *peers, json_t *report)
{
    double bound[ADAM_REPEATS_MOST], update[ADAM_REPEATS_MOST] = {0}, shares[ADAM_REPEATS_MOST],
                                     sorted[ADAM_REPEATS_MOST] = {0};
    struct bench_spread b, u, share;
    unsigned n = (unsigned)o->repeats;
    json_t *others = json_object();
    double warm;
    int status = pass(t, true, &warm); /* pages are there, and the processor is awake */

    if (status == 0)
        status = pass(t, false, &warm);
    for (unsigned i = 0; i < n && status == 0; i++) {
        common_progress("update %u of %u", i + 1, n);
        status = pass(t, true, &bound[i]);
        if (status == 0)
            status = pass(t, false, &update[i]);
        shares[i] = bound[i] / update[i];
        for (int k = 0; k < ADAM_PEERS && status == 0; k++)
            if (peers[k].pid)
                status = adam_peer_update(&peers[k], &peers[k].seconds[i]);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    common_progress_clear();
    if (status) {
        json_decref(others);
        return status;
    }
    share = bench_spread(shares, n);
    printf("ofl-bench adam %s: %s, %llu parameters, weights %s, %llu threads; medians of %u, in turns\n",
           ofl_version(), common_method_name((int)o->method), (ull)o->elems, ofl_dtype_name(o->dtype),
           (ull)o->threads, n);
    printf("%-26s %8s %28s %8s %7s\n", "", "time", "10^9 parameters/s", "GB/s", "share");
    b = bench_spread(bound, n);
    print_row(o, "loop over the same bytes", &b, b.median);
    memcpy(sorted, update, sizeof sorted);
    u = bench_spread(sorted, n);
    print_row(o, "update", &u, b.median);
    for (int k = 0; k < ADAM_PEERS; k++)
        if (peers[k].pid)
            report_peer(o, &peers[k], update, b.median, others);
    json_object_set_new(report, "bytes_per_update", json_integer((json_int_t)bytes_of(o)));
    json_object_set_new(report, "bound_s", bench_spread_json(&b));
    json_object_set_new(report, "update_s", bench_spread_json(&u));
    json_object_set_new(report, "share_of_bound", bench_spread_json(&share));
    json_object_set_new(report, "peers", others);
    if (o->check && share.median < 0.95)
        return common_fail(EXIT_RUNTIME, "update: %.0f %% of the bound, less than 95 %%", 100 * share.median);
    return 0;
}

/* Each thread has one part of all arrays. */
static int run_team(const struct adam_options *o, struct team *t, struct adam_peer *peers, json_t *report)
{
    uint64_t each = (o->elems / o->threads + 15) / 16 * 16;
    int status;

    t->members = calloc(o->threads, sizeof *t->members);
    if (!t->members)
        return common_fail(EXIT_FULL, "adam: out of memory");
    for (uint64_t i = 0, first = 0; i < o->threads; i++, first += t->members[i - 1].elems)
        t->members[i] =
            (struct member){.team = t,
                            .first = first,
                            .elems = i + 1 < o->threads && o->elems - first > each ? each : o->elems - first};
    status = measure(o, t, peers, report);
    free(t->members);
    return status;
}

int adam_memory(const struct adam_options *o, json_t *report)
{
    struct adam_peer peers[ADAM_PEERS] = {{0}};
    struct adam_arrays a = {.fd = -1};
    struct team t = {.options = o, .arrays = &a};
    int status;

    common_signals();
    status = arrays_open(o, &a);
    if (status == 0)
        status = adam_peers_open(o, &a, peers);
    if (status == 0)
        status = run_team(o, &t, peers, report);
    adam_peers_close(peers);
    arrays_close(&a);
    return status;
}
