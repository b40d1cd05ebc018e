/*
 * ofl-bench plan: whether a model's step fits a machine, what it moves, how long it takes and what binds, before
 * anything runs. The arithmetic is the library's; this file asks, plan_report.c tells.
 */
#include "bench/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/machine.h"
#include "bench/model.h"
#include "bench/plan_report.h"
#include "bench/plan_simulate.h"
#include "examples/common_budget.h"
#include "examples/common_predict.h"

struct options {
    const char *model, *machine, *device, *json;
    uint64_t seq, batch, accum, positions;
    uint64_t device_bytes, host_bytes, nvme_bytes;
    double clip;
    enum ofl_dtype dtype;
    enum ofl_method method;
    bool decode, source, quick, simulate;
    struct common_texts dirs;
};

static const struct common_word dtype_words[] = {{"f32", OFL_F32}, {"bf16", OFL_BF16}, {NULL, 0}};
#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option plan_options[] = {
    {COMMON_GROUP, .text = "What:", .least = 1},
    {COMMON_TEXT, "model", "NAME|DIR", "One of the shapes listed below, or that of DIR/config.json", FIELD(model)},
    {COMMON_COUNT, "seq", "N", "Tokens per sequence", FIELD(seq), "1024", 1, 1u << 24},
    {COMMON_COUNT, "batch", "N", "Sequences per micro-batch", FIELD(batch), "1", 1, 1u << 16},
    {COMMON_COUNT, "accum", "N", "Micro-batches per step", FIELD(accum), "1", 1, 1u << 16},
    {COMMON_WORD, "dtype", "f32|bf16", "Of weights", FIELD(dtype), "bf16", .words = dtype_words},
    {COMMON_WORD, "optimizer", COMMON_METHODS, "Of training", FIELD(method), "adamw", .words = common_methods},
    {COMMON_NUMBER, "clip", "X", "Exact global norm to clip gradients to; 0: off", FIELD(clip), "1", .low = 0,
     .high = 1e30},
    {COMMON_FLAG, "decode", NULL, "Generation, a token at a time, instead of training", FIELD(decode)},
    {COMMON_COUNT, "positions", "N", "Tokens that the cache of keys and values holds, with --decode", FIELD(positions),
     "1024", 1, 1u << 24},
    {COMMON_FLAG, "source", NULL, "Weights are read in place from a checkpoint, with --decode", FIELD(source)},
    {COMMON_GROUP, .text = "With what (SIZE: bytes, or 512M, 1.5G, ...):", .least = 2},
    {COMMON_TEXT, "machine", "NAME|FILE", "One of the machines listed below, a JSON file, or this: measured now",
     FIELD(machine), "this"},
    {COMMON_BYTES, "device-mem", "SIZE", "Budget of the device's memory (default: the machine's, less 1/16)",
     FIELD(device_bytes)},
    {COMMON_BYTES, "host-mem", "SIZE", "Budget of pinned host memory (default: the machine's, less 1/8)",
     FIELD(host_bytes)},
    {COMMON_BYTES, "nvme-mem", "SIZE", "Budget on all drives (default: theirs, used where memory is too small)",
     FIELD(nvme_bytes)},
    {COMMON_TEXT, "device", "NAME", "Of the machine \"this\": cuda:N or host (default: the first GPU, else host)",
     FIELD(device)},
    {COMMON_TEXTS, "nvme", "DIR", "Of the machine \"this\": a directory on a drive; may be repeated", FIELD(dirs),
     .most = OFL_NVME_MAX},
    {COMMON_GROUP, .least = 5},
    {COMMON_FLAG, "quick", NULL, "Leave out what other budgets and machines would do", FIELD(quick)},
    {COMMON_FLAG, "simulate", NULL, "Put beside it what the library's own pager does in virtual time", FIELD(simulate)},
    {COMMON_TEXT, "json", "FILE", "Write everything in JSON", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static const char doc[] =
    "Says what a step of a model takes of a machine, before it runs: whether it fits, where its "
    "bytes rest, what moves, how long it takes and what binds.";

static const char more[] =
    "Training is that of ofl-finetune: all parameters, layers computed anew in backward. A FILE has the "
    "members "
    "of struct ofl_machine (offload_estimate.h), and \"like\" with the name of a machine to start from.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench plan --model 8b --machine rtx-4090 --batch 32\n"
    "  ofl-bench plan --model 175b --machine rtx-4090 --batch 8 --accum 8 \\\n"
    "      --json plan.json\n"
    "  ofl-bench plan --model 70b --machine mine.json --decode --source\n"
    "  ofl-bench plan --model 20m --nvme /mnt/nvme --device-mem 64M \\\n"
    "      --host-mem 32M --nvme-mem 400M\n"
    "\n" COMMON_EXITS ". The model does not fit: 4.";

/* more behind the list of machines; to be freed. NULL: no memory. */
static char *with_machines(void)
{
    struct ofl_machine m = {.size = sizeof m};
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);

    if (!f)
        return NULL;
    fputs("Machines, with the figures of data sheets:\n", f);
    for (size_t i = 0; ofl_machine_at(i, &m) == 0; i++)
        fprintf(f, "  %-9s %s, RAM %s, %u drives of %s\n", m.name, common_bytes(m.device_bytes).text,
                common_bytes(m.host_bytes).text, m.drives, common_bytes(m.drive_bytes).text);
    fprintf(f, "\n%s", more);
    return fclose(f) == 0 ? text : NULL;
}

static int load_model(const char *name, struct llama_config *config)
{
    if (!name)
        return common_fail(EXIT_INPUT, "--model NAME|DIR is needed; --help lists the names");
    if (llama_preset(name, config) == 0)
        return 0;
    if (!strchr(name, '/') && !strchr(name, '.') && access(name, F_OK) < 0)
        return common_fail(EXIT_INPUT,
                           "--model %s: neither a directory nor one of the names that --help lists", name);
    return bench_model_load(NULL, name, config);
}

static struct llama_compute_config compute_of(const struct options *o, const struct llama_config *config,
                                              bool cuda)
{
    struct llama_compute_config c = {.shape = config->shape, .dtype = o->dtype, .cuda = cuda};

    if (o->decode) {
        c.piece = c.rows = 1;
        c.positions = o->positions;
    } else {
        c.batch = o->batch;
        c.seq = o->seq;
        c.accum = o->accum;
    }
    return c;
}

/* The device and the drives of this machine, as the other commands know them. */
static int choose_this(const struct options *o, struct common_budget *b)
{
    *b = (struct common_budget){.device = o->device};
    for (size_t i = 0; i < o->dirs.count; i++)
        b->nvme[b->nvme_count++].dir = o->dirs.texts[i];
    return common_device_choose(b);
}

static int find_machine(const struct options *o, const struct llama_config *config, struct bench_plan *plan)
{
    struct llama_compute_config compute = compute_of(o, config, true);
    struct common_budget b;
    int status = 0;

    if (strcmp(o->machine, "this") == 0) {
        status = choose_this(o, &b);
        if (status)
            return status;
        compute.cuda = b.chosen.gpu;
        common_signals();
        common_blas_threads();
        status = bench_machine_this(&b, &compute, &plan->machine);
    } else {
        status = bench_machine_known(o->machine, &plan->machine);
    }
    plan->workload = common_workload(&compute, o->clip > 0, o->decode && o->source);
    plan->workload.method = o->method;
    return status;
}

static int ask(const struct options *o, struct bench_plan *plan)
{
    plan->budgets = (struct ofl_budgets){.size = sizeof plan->budgets,
                                         .device_bytes = o->device_bytes,
                                         .host_bytes = o->host_bytes,
                                         .nvme_bytes = o->nvme_bytes};
    plan->estimate.size = sizeof plan->estimate;
    plan->ways.size = sizeof plan->ways;
    if (ofl_estimate_get(&plan->machine, &plan->workload, &plan->budgets, &plan->estimate) < 0)
        return common_fail_ofl(EXIT_INPUT, "plan");
    plan->has_ways = !o->quick && plan->estimate.fits;
    if (plan->has_ways &&
        ofl_estimate_ways_get(&plan->machine, &plan->workload, &plan->budgets, &plan->ways) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "plan");
    return o->simulate && plan->estimate.fits ? bench_plan_simulate(plan) : 0;
}

int bench_plan_main(int argc, char **argv)
{
    struct common_command command = {.title = "ofl-bench plan", .before = doc, .tables = {{plan_options, 0}}};
    struct options o = {0};
    struct bench_plan plan = {0};
    struct llama_config config;
    char *after = with_machines();
    int status = bench_model_options(&command, after ? after : more, argc, argv, &o);

    free(after);
    if (status == 0)
        status = load_model(o.model, &config);
    if (status == 0)
        status = find_machine(&o, &config, &plan);
    if (status == 0) {
        plan.model = o.model;
        plan.shape = config.shape;
        status = ask(&o, &plan);
    }
    if (status == 0) {
        bench_plan_print(&plan);
        status = o.json ? bench_plan_write(&plan, o.json) : 0;
    }
    if (status == 0 && !plan.estimate.fits)
        status = BENCH_PLAN_NO;
    common_options_free(&command, &o);
    return status;
}
