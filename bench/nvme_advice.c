/* See nvme_advice.h. */
#include "bench/nvme_advice.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench/nvme_setting.h"
#include "bench/text.h"

struct advice {
    struct nvme_setting *settings; /* of one kind of run */
    unsigned count;
    struct nvme_choice choice;
};

static struct nvme_setting setting_of(const struct nvme_result *r)
{
    struct io_histogram all = r->latency[IO_READ];
    struct nvme_latency l;

    io_histogram_merge(&all, &r->latency[IO_WRITE]);
    nvme_latency_of(&all, &l);
    return (struct nvme_setting){.block_bytes = r->c.block_bytes,
                                 .depth = r->c.depth,
                                 .rate = nvme_result_rate(r).median,
                                 .p99_ns = (double)l.p99};
}

/* a.settings is to be freed. False: nothing to choose. */
static bool advise(const struct nvme_results *r, enum nvme_rw rw, struct advice *a)
{
    *a = (struct advice){.settings = calloc(r->count + 1, sizeof *a->settings)};
    for (unsigned i = 0; a->settings && i < r->count; i++)
        if (r->cases[i].c.rw == rw)
            a->settings[a->count++] = setting_of(&r->cases[i]);
    return a->settings && nvme_setting_choose(a->settings, a->count, &a->choice);
}

static void print(const char *name, const struct advice *a)
{
    const struct nvme_setting *s = &a->settings[a->choice.chosen], *best = &a->settings[a->choice.best];
    struct common_text block = bench_block_text(s->block_bytes);

    printf("setting   %s: blocks of %s at depth %u: %.3f GB/s with the fewest bytes in flight (%s) that "
           "reach %.2f of "
           "the best rate, p99 %s",
           name, block.text, s->depth, s->rate, common_bytes(s->block_bytes * s->depth).text,
           NVME_SETTING_SHARE, bench_time_text(s->p99_ns).text);
    if (s == best)
        printf("; it is the best one\n");
    else
        printf("; the best, %s at %u, has %.3f GB/s with %s, p99 %s\n",
               bench_block_text(best->block_bytes).text, best->depth, best->rate,
               common_bytes(best->block_bytes * best->depth).text, bench_time_text(best->p99_ns).text);
}

void nvme_print_advice(const struct nvme_results *r)
{
    bool first = true;

    for (enum nvme_rw rw = 0; rw < RW_COUNT; rw++) {
        struct advice a;

        if (advise(r, rw, &a)) {
            if (first)
                putchar('\n');
            print(nvme_rw_name(rw), &a);
            first = false;
        }
        free(a.settings);
    }
}

json_t *nvme_advice_json(const struct nvme_results *r)
{
    json_t *all = json_array();

    for (enum nvme_rw rw = 0; rw < RW_COUNT; rw++) {
        struct advice a;

        if (advise(r, rw, &a)) {
            const struct nvme_setting *s = &a.settings[a.choice.chosen], *best = &a.settings[a.choice.best];

            json_array_append_new(
                all, json_pack("{s:s, s:I, s:i, s:f, s:f, s:I, s:f, s:f, s:I, s:i}", "mode", nvme_rw_name(rw),
                               "block_bytes", (json_int_t)s->block_bytes, "depth", (int)s->depth, "gb_per_s",
                               s->rate, "share_of_best", a.choice.share, "inflight_bytes",
                               (json_int_t)(s->block_bytes * s->depth), "p99_ns", s->p99_ns, "least_share",
                               NVME_SETTING_SHARE, "best_block_bytes", (json_int_t)best->block_bytes,
                               "best_depth", (int)best->depth));
        }
        free(a.settings);
    }
    return all;
}
