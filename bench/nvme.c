/*
 * `ofl-bench nvme`: how fast the engine moves bytes to and from directories. This file decides
 * what is run in which order; the rest is done below it, see nvme.h.
 */
#include "bench/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench/nvme_json.h"
#include "bench/nvme_progress.h"
#include "bench/nvme_report.h"
#include "bench/nvme_sustained.h"
#include "bench/nvme_verify_pass.h"
#include "bench/plot.h"

#define WARM_UP_S 0.1

/* ---- progress -------------------------------------------------------------------- */

static void show(const struct nvme_case *c, const char *who, unsigned run, unsigned runs)
{
    static char text[128];
    int used = snprintf(text, sizeof text, "%s %s at depth %u%s", nvme_rw_name(c->rw),
                        common_bytes(c->block_bytes).text, c->depth, who);

    if (runs)
        snprintf(text + used, sizeof text - (size_t)used, ", run %u of %u", run, runs);
    nvme_progress.what = text;
    nvme_progress.drawn = 0;
    nvme_tick(common_seconds());
}

/* ---- what is to be run --------------------------------------------------------------- */

static const uint64_t sweep_blocks[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};
static const uint32_t sweep_depths[] = {1, 2, 4, 8, 16, 32};

#define CASES_MOST (RW_COUNT + (ARRAY_COUNT(sweep_blocks) + 1) * ARRAY_COUNT(sweep_depths))

static unsigned plan_sweep(enum nvme_rw rw, struct nvme_case *cases)
{
    unsigned n = 0;

    for (size_t b = 0; b < ARRAY_COUNT(sweep_blocks); b++)
        for (size_t d = 0; d < ARRAY_COUNT(sweep_depths); d++)
            cases[n++] = (struct nvme_case){rw, sweep_blocks[b], sweep_depths[d]};
    for (size_t d = 0; rw == RW_READ && d < ARRAY_COUNT(sweep_depths); d++)
        cases[n++] = (struct nvme_case){RW_RANDREAD, 4096, sweep_depths[d]};
    return n;
}

static unsigned plan(const struct nvme_options *o, struct nvme_case *cases)
{
    unsigned n = 0;

    for (enum nvme_rw rw = 0; rw < RW_COUNT; rw++) {
        bool random = nvme_rw_random(rw);

        if (!o->rw[rw])
            continue;
        if (o->sweep)
            return plan_sweep(rw, cases);
        cases[n++] = (struct nvme_case){.rw = rw,
                                        .block_bytes = o->block_bytes ? o->block_bytes
                                                       : random       ? 4096
                                                                      : MIB,
                                        .depth = o->depth ? (uint32_t)o->depth
                                                 : random ? 64
                                                          : 32};
    }
    return n;
}

static void free_results(struct nvme_results *r)
{
    for (unsigned i = 0; r->cases && i < r->count; i++) {
        free(r->cases[i].samples);
        free(r->cases[i].fio);
    }
    free(r->cases);
    r->cases = NULL;
}

static int make_results(const struct nvme_options *o, const struct nvme_case *cases, unsigned count,
                        struct nvme_results *r)
{
    bool room = true;

    *r = (struct nvme_results){.count = count, .time_s = o->time_s, .repeat = (unsigned)o->repeat};
    r->cases = calloc(count + 1, sizeof *r->cases);
    for (unsigned i = 0; r->cases && i < count; i++) {
        struct nvme_result *c = &r->cases[i];

        c->c = cases[i];
        c->calls.per_gb = c->fio_calls.per_gb = -1;
        snprintf(c->calls.note, sizeof c->calls.note, "not counted: --syscalls was not given");
        c->fio_calls = c->calls;
        c->samples = calloc(o->repeat, sizeof *c->samples);
        c->fio = o->fio ? calloc(o->repeat, sizeof *c->fio) : NULL;
        room = room && c->samples && (c->fio || !o->fio);
    }
    return room && r->cases ? 0 : common_fail(EXIT_FULL, "results: out of memory");
}

/* ---- running ------------------------------------------------------------------------------ */

/* The drive rests while fio starts, and many a drive is faster after that: it rests before our run
 * as well. */
static void rest(double seconds)
{
    const struct timespec pause = {.tv_nsec = 10000000};

    for (double end = common_seconds() + seconds; common_seconds() < end && !common_stopping();)
        nanosleep(&pause, NULL);
}

static int run_ours(struct nvme_target *t, struct nvme_results *all, struct nvme_result *r, unsigned turn)
{
    int status;

    show(&r->c, "", turn + 1, all->repeat);
    nvme_progress.step++;
    status = nvme_target_renew_buffers(t);
    if (status)
        return status;
    rest(all->fio_start_s);
    return nvme_run_case(t, &r->c, all->time_s, nvme_once(t, r->c.rw) ? t->bytes : UINT64_MAX, turn + 2,
                         &r->samples[turn], r->latency);
}

static int run_fio(struct nvme_target *t, struct nvme_results *all, struct nvme_result *r, unsigned turn)
{
    int status;

    show(&r->c, ", fio", turn + 1, all->repeat);
    nvme_progress.step++;
    status = nvme_fio_run(t, &r->c, all->time_s, &r->fio[turn]);
    all->fio_start_s = r->fio[turn].start_s;
    return status;
}

/* Ours and fio's in turns, each first every other time: what drifts falls on both. */
static int run_turn(struct nvme_target *t, struct nvme_results *all, struct nvme_result *r, unsigned turn)
{
    bool fio_first = turn % 2 == 1;
    int status = 0;

    if (r->fio && fio_first)
        status = run_fio(t, all, r, turn);
    if (status == 0)
        status = run_ours(t, all, r, turn);
    if (status == 0 && r->fio && !fio_first)
        status = run_fio(t, all, r, turn);
    r->count += status == 0;
    return status;
}

static int warm_up(struct nvme_target *t, struct nvme_results *all, struct nvme_result *r)
{
    struct nvme_fio_sample fio;
    struct nvme_sample ignored;
    int status;

    show(&r->c, ", warming up", 0, 0);
    status = nvme_run_case(t, &r->c, WARM_UP_S, NVME_WARM_UP_BYTES, 1, &ignored, NULL);
    if (status == 0 && r->fio) {
        status = nvme_fio_run(t, &r->c, WARM_UP_S, &fio);
        all->fio_start_s = fio.start_s;
    }
    return status;
}

static int run_cases(struct nvme_target *t, struct nvme_results *all)
{
    int status = 0;

    for (unsigned i = 0; i < all->count && status == 0; i++)
        status = warm_up(t, all, &all->cases[i]);
    for (unsigned turn = 0; turn < all->repeat && status == 0; turn++)
        for (unsigned i = 0; i < all->count && status == 0; i++)
            status = run_turn(t, all, &all->cases[i], turn);
    return status;
}

static int count_calls(struct nvme_target *t, struct nvme_results *all)
{
    for (unsigned i = 0; i < all->count && t->options->syscalls; i++) {
        struct nvme_result *r = &all->cases[i];

        show(&r->c, ", counting system calls", 0, 0);
        nvme_count_calls(t, &r->c, &r->calls);
        if (r->fio && !common_stopping())
            nvme_count_fio_calls(t, &r->c, &r->fio_calls);
        if (common_stopping())
            return common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    }
    return 0;
}

static int measure(struct nvme_target *t, struct nvme_results *r)
{
    unsigned pairs = r->repeat * 2;
    int status;

    nvme_progress.steps =
        r->count * (t->options->fio ? pairs : r->repeat) + (r->tensors ? pairs : 0) + (r->demand ? 10 : 0);
    status = run_cases(t, r);
    if (status == 0 && t->sustained)
        status = nvme_sustained_measure(t, t->sustained);
    if (status == 0 && r->tensors)
        status = nvme_tensors_measure(t, r->tensors);
    if (status == 0 && r->demand)
        status = nvme_demand_measure(t, r->demand);
    if (status == 0 && r->gather)
        status = nvme_gather_measure(t, r->gather);
    if (status == 0)
        status = count_calls(t, r);
    if (status == 0 && t->verify)
        status = nvme_verify_pass(t);
    r->elapsed_s = common_seconds() - t->started;
    for (unsigned i = 0; i < t->options->dir_count; i++)
        nvme_health_get(&t->drives[i], &t->after[i]);
    common_progress_clear();
    return status;
}

/* ---- results -------------------------------------------------------------------------------- */

static int hand_over(const struct nvme_target *t, const struct nvme_results *r)
{
    const struct nvme_options *o = t->options;
    json_t *report;
    int status = 0, found = 0;

    nvme_print_results(t, r);
    if (t->verify)
        found = nvme_verify_tell(t);
    if (fflush(stdout) == EOF)
        status = common_fail(common_status_late(-errno), "write the results: %m");
    if (!o->json && !o->plot)
        return status ? status : found;
    report = nvme_report(t, r);
    if (!report)
        return common_fail(EXIT_FULL, "make the report: out of memory");
    if (status == 0 && o->json)
        status = common_report_write(o->json, report);
    if (status == 0 && o->plot)
        status = bench_plot(report, o->plot);
    json_decref(report);
    return status ? status : found;
}

static int run_on(struct nvme_target *t, struct nvme_results *r)
{
    int status;

    common_progress_clear();
    nvme_print_facts(t, r);
    fflush(stdout);
    status = measure(t, r);
    t->stays = status == 0;
    return status == 0 ? hand_over(t, r) : status;
}

/* Everything that can be refused is, before a byte is written. */
static int prepare(const struct nvme_options *o, struct nvme_results *r, struct nvme_tensors *tensors,
                   struct nvme_demand *demand)
{
    int status = 0;

    if (o->plot)
        status = bench_plot_check(o->plot);
    if (status == 0 && o->fio)
        status = nvme_fio_check(r->fio_version, sizeof r->fio_version);
    if (status == 0 && o->tensors) {
        status = nvme_tensors_load(o->tensors, tensors);
        r->tensors = tensors;
    }
    if (o->demand)
        r->demand = demand;
    return status;
}

int bench_nvme_main(int argc, char **argv)
{
    struct nvme_case cases[CASES_MOST];
    struct nvme_tensors tensors = {0};
    struct nvme_demand demand = {0};
    struct nvme_target target = {0};
    struct nvme_verify verify = {0};
    struct nvme_sustained sustained = {0};
    struct nvme_gather gather = {0};
    struct nvme_results results;
    struct nvme_options options;
    int status = nvme_options_parse(argc, argv, &options);

    if (status)
        return status;
    common_signals();
    if (options.verify_file)
        return nvme_verify_file(&options);
    target.verify = options.verify ? &verify : NULL;
    target.sustained = options.sustained ? &sustained : NULL;
    status = make_results(&options, cases, plan(&options, cases), &results);
    if (options.rw[RW_GATHER])
        results.gather = &gather;
    if (status == 0)
        status = prepare(&options, &results, &tensors, &demand);
    if (status == 0)
        status = nvme_target_open(&target, &options, cases, results.count);
    if (status == 0)
        status = run_on(&target, &results);
    nvme_target_close(&target);
    nvme_sustained_free(&sustained);
    nvme_tensors_free(&tensors);
    nvme_demand_free(&demand);
    free_results(&results);
    return status;
}
