/*
 * ofl-bench adam, out of core: weights, gradients and states on a drive, under a budget of host memory. Gradients are
 * made on the device, tensor by tensor from the last to the first, as backward has them, and applied as they come.
 */
#include "bench/adam_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bench/nvme_options.h"
#include "bench/nvme_run.h"
#include "bench/nvme_target.h"
#include "examples/common_options.h"

#define MIXED_S     1.5
#define MIXED_BYTES "2G"

/* ---- the drive ----------------------------------------------------------------- */

/* Bytes per second of reads and writes at once, as ofl-bench nvme measures them. Returns a status. */
static int mixed_rate(const char *dir, double *bps)
{
    const struct nvme_case c = {RW_MIXED, MIB, 32};
    char *argv[] = {"ofl-bench adam", "--dir", (char *)(uintptr_t)dir, "--size", MIXED_BYTES, "--rw",
                    "mixed",          NULL};
    static struct io_histogram latency[2];
    struct nvme_target *t = calloc(1, sizeof *t);
    struct nvme_options o;
    struct nvme_sample s = {0};
    int status;

    *bps = 0;
    if (!t)
        return common_fail(EXIT_FULL, "adam: out of memory");
    nvme_options_parse(ARRAY_COUNT(argv) - 1, argv, &o);
    status = nvme_target_open(t, &o, &c, 1);
    if (status == 0) {
        status = nvme_run_case(t, &c, MIXED_S, UINT64_MAX, 1, &s, latency);
        nvme_target_close(t);
    }
    free(t);
    if (status == 0 && s.seconds > 0)
        *bps = (double)(s.bytes[0] + s.bytes[1]) / s.seconds;
    return status;
}

/* ---- the tensors ---------------------------------------------------------------- */

struct state {
    const struct adam_options *options;
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor **weights, **grads;
    uint64_t each, updates; /* elements of a tensor; updates that were asked for */
};

struct job {
    float *grad;
    uint64_t elems, seed;
};

/* As many bytes as a backward would write, and hardly more work. */
static void make_gradient(void *arg)
{
    struct job *j = arg;
    float block[1024];

    for (size_t i = 0; i < ARRAY_COUNT(block); i++)
        block[i] = (float)(bench_random(&j->seed) >> 40) * 0x1p-30f - 0x1p-7f;
    for (uint64_t i = 0; i < j->elems; i += ARRAY_COUNT(block))
        memcpy(j->grad + i, block,
               sizeof *block * (j->elems - i < ARRAY_COUNT(block) ? j->elems - i : ARRAY_COUNT(block)));
    free(j);
}

static int create(struct state *s)
{
    const struct adam_options *o = s->options;
    int err = ofl_stream_create(s->ctx, &s->stream);

    if (err == 0)
        err = ofl_optimizer_create(s->ctx, &s->optimizer);
    if (err == 0)
        err = ofl_optimizer_method(s->optimizer, o->method);
    for (uint64_t i = 0; i < o->tensors && err == 0; i++) {
        char name[32];
        struct ofl_tensor_desc d = {
            .size = sizeof d, .name = name, .kind = OFL_KIND_WEIGHT, .dtype = o->dtype, .elems = s->each};

        snprintf(name, sizeof name, "w%llu", (ull)i);
        err = ofl_tensor_create(s->ctx, &d, &s->weights[i]);
        snprintf(name, sizeof name, "w%llu.grad", (ull)i);
        d.kind = OFL_KIND_GRADIENT;
        d.dtype = OFL_F32;
        if (err == 0)
            err = ofl_tensor_create(s->ctx, &d, &s->grads[i]);
        if (err == 0)
            err = ofl_optimizer_bind(s->optimizer, s->weights[i], s->grads[i]);
    }
    return err < 0 ? common_fail_ofl(common_status(err), "adam") : 0;
}

static int step(struct state *s, uint64_t number)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-4,
                                           .beta1 = 0.9,
                                           .beta2 = 0.999,
                                           .eps = 1e-8,
                                           .weight_decay = 0.01,
                                           .clip = s->options->clip,
                                           .step = number};
    int err = ofl_step_begin(s->ctx, "update");

    if (err == 0)
        err = ofl_optimizer_begin(s->optimizer, &settings);
    for (uint64_t i = s->options->tensors; i-- > 0 && err == 0;) {
        struct ofl_lease lease = {.size = sizeof lease, .tensor = s->grads[i], .mode = OFL_OVERWRITE};
        struct job *j = malloc(sizeof *j);

        err = j ? ofl_acquire(s->ctx, &lease, 1, s->stream) : -1;
        if (err < 0) {
            free(j);
            return j ? common_fail_ofl(EXIT_RUNTIME, "adam") : common_fail(EXIT_FULL, "adam: out of memory");
        }
        *j = (struct job){lease.ptr, s->each, number * 1000 + i};
        err = ofl_stream_launch(s->stream, make_gradient, j);
        if (err < 0)
            free(j);
        if (err == 0)
            err = ofl_release(s->ctx, &lease, 1, s->stream);
        if (err == 0)
            err = ofl_optimizer_apply(s->optimizer, s->weights[i]);
        s->updates += err == 0;
    }
    if (err == 0)
        err = ofl_optimizer_end(s->optimizer);
    if (err == 0)
        err = ofl_step_end(s->ctx);
    return err < 0 ? common_fail_ofl(EXIT_RUNTIME, "adam") : 0;
}

/* Until all updates are done; shows how far they are. */
static int settle(struct state *s, const char *what)
{
    struct ofl_stats stats = {.size = sizeof stats};

    for (;;) {
        if (ofl_stats_get(s->ctx, &stats) < 0)
            return common_fail_ofl(EXIT_RUNTIME, "adam");
        if (stats.updates >= s->updates)
            break;
        common_progress("%s: %llu of %llu tensors", what, (ull)stats.updates, (ull)s->updates);
        if (common_stopping())
            return common_fail(EXIT_INTERRUPTED, "interrupted");
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    common_progress_clear();
    return 0;
}

/* ---- all ------------------------------------------------------------------------ */

struct result {
    double seconds; /* of a step */
    double mixed_bps;
    struct ofl_stats before, after;
};

static int run_steps(struct state *s, struct result *r)
{
    uint64_t steps = s->options->repeats;
    int status = step(s, 1);
    double start;

    if (status == 0)
        status = settle(s, "first step");
    r->before.size = r->after.size = sizeof r->before;
    if (status == 0 && ofl_stats_get(s->ctx, &r->before) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "adam");
    start = common_seconds();
    for (uint64_t i = 0; i < steps && status == 0; i++) {
        status = step(s, 2 + i);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    if (status == 0)
        status = settle(s, "steps");
    r->seconds = (common_seconds() - start) / (double)steps;
    if (status == 0 && ofl_stats_get(s->ctx, &r->after) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "adam");
    return status;
}

static uint64_t resident_peak(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)u.ru_maxrss * 1024;
}

static void print(const struct adam_options *o, const struct result *r, json_t *report)
{
    double steps = (double)o->repeats,
           read = (double)(r->after.nvme_read_bytes - r->before.nvme_read_bytes) / steps;
    double written = (double)(r->after.nvme_write_bytes - r->before.nvme_write_bytes) / steps;
    double bound = (read + written) / r->mixed_bps;
    uint64_t peak = resident_peak();
    json_t *figures;

    printf("ofl-bench adam %s: %s, %llu parameters in %llu tensors, weights %s, %llu threads, host %s; %llu "
           "steps behind "
           "a first one\n",
           ofl_version(), common_method_name((int)o->method), (ull)o->elems, (ull)o->tensors,
           ofl_dtype_name(o->dtype), (ull)o->threads, common_bytes(o->host_bytes).text, (ull)o->repeats);
    printf("a step     %.3f s, %.3f 10^9 parameters/s\n", r->seconds, (double)o->elems / r->seconds * 1e-9);
    printf("moves      reads %s, writes %s: %.2f and %.2f bytes for each parameter; %.2f GB/s\n",
           common_bytes((uint64_t)read).text, common_bytes((uint64_t)written).text, read / (double)o->elems,
           written / (double)o->elems, (read + written) / r->seconds * 1e-9);
    printf("drive      %.2f GB/s of reads and writes at once, measured before the steps: %.3f s for these "
           "bytes; the step "
           "takes %.3f times that\n",
           r->mixed_bps * 1e-9, bound, r->seconds / bound);
    printf("memory     peak %s, %.2f bytes for each parameter; of that the budgets are %s\n",
           common_bytes(peak).text, (double)peak / (double)o->elems,
           common_bytes(r->after.budget_bytes[OFL_HOST] + r->after.budget_bytes[OFL_DEVICE]).text);
    figures =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "step_s", r->seconds, "read_bytes", read,
                  "write_bytes", written, "drive_mixed_bps", r->mixed_bps, "of_bound", r->seconds / bound,
                  "peak_bytes", (json_int_t)peak, "host_bytes", (json_int_t)o->host_bytes);
    json_object_update(report, figures);
    json_decref(figures);
}

static int run(struct state *s, const struct ofl_config *config, struct result *r)
{
    int err = ofl_open(config, &s->ctx), status;

    if (err < 0)
        return common_fail_ofl(common_status(err), "adam");
    status = create(s);
    if (status == 0)
        status = run_steps(s, r);
    return common_close(s->ctx, status);
}

int adam_store(const struct adam_options *o, json_t *report)
{
    struct state s = {.options = o, .each = o->elems / o->tensors};
    struct result r = {0};
    struct ofl_config config = {.size = sizeof config,
                                .device = "host",
                                .host_bytes = o->host_bytes,
                                .nvme = &o->nvme,
                                .nvme_count = 1,
                                .workers = (uint32_t)o->threads,
                                .log = common_log};
    int status;

    common_signals();
    if (!s.each)
        return common_fail(EXIT_OPTION, "--tensors %llu: more than --elems %llu", (ull)o->tensors,
                           (ull)o->elems);
    config.device_bytes = 2 * ofl_device_footprint(s.each * sizeof(float));
    config.leased_bytes = config.device_bytes;
    config.expected_bytes =
        o->tensors * (ofl_optimizer_bytes(o->method, o->dtype, s.each) +
                      (s.each * (sizeof(float) + ofl_dtype_bytes(o->dtype)) + 8191) / 4096 * 4096);
    s.weights = calloc(o->tensors, sizeof *s.weights);
    s.grads = calloc(o->tensors, sizeof *s.grads);
    status = s.weights && s.grads ? mixed_rate(o->nvme.dir, &r.mixed_bps)
                                  : common_fail(EXIT_FULL, "adam: out of memory");
    if (status == 0)
        status = run(&s, &config, &r);
    if (status == 0)
        print(o, &r, report);
    free(s.weights);
    free(s.grads);
    return status;
}
