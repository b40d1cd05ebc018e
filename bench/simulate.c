/*
 * ofl-bench simulate: a step of a model on a machine that need not be there: the library's pager and scheduler in
 * virtual time.
 */
#include "bench/simulate.h"

#include <errno.h>
#include <string.h>

#include "examples/common_options.h"
#include "liboffload/plan/check.h"
#include "liboffload/plan/simulate.h"

struct options {
    uint64_t layers, hidden, ffn, vocab, batch, seq, accum, steps, seed, workers, latency_us, run_ahead;
    uint64_t device_bytes, host_bytes, store_bytes, tile_bytes;
    uint64_t read_bps, write_bps, mixed_bps, link_bps, memory_bps, ram_bps;
    double tflops, jitter;
    const char *log;
    bool train, check;
};

/* Who hears of every event. */
struct listeners {
    FILE *log;
    struct plan_check *check;
};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_GROUP, .text = "Model:", .least = 1},
    {COMMON_COUNT, "layers", "N", "Layers", FIELD(layers), "14", 1, 1u << 16},
    {COMMON_COUNT, "hidden", "N", "Width", FIELD(hidden), "2048", 64, 1u << 20},
    {COMMON_COUNT, "ffn", "N", "Width of the feed-forward part", FIELD(ffn), "3968", 1, 1u << 22},
    {COMMON_COUNT, "vocab", "N", "Vocabulary", FIELD(vocab), "16384", 1, 1u << 24},
    {COMMON_FLAG, "train", NULL, "Training steps instead of generated tokens", FIELD(train)},
    {COMMON_COUNT, "batch", "N", "Sequences per micro-batch", FIELD(batch), "1", 1, 1u << 16},
    {COMMON_COUNT, "seq", "N", "Tokens per sequence", FIELD(seq), "128", 1, 1u << 24},
    {COMMON_COUNT, "accum", "N", "Micro-batches per step", FIELD(accum), "1", 1, 1u << 16},
    {COMMON_GROUP, .text = "Budgets:", .least = 2},
    {COMMON_BYTES, "device-mem", "BYTES", "Device", FIELD(device_bytes), "300M", 1, INT64_MAX},
    {COMMON_BYTES, "host-mem", "BYTES", "Host", FIELD(host_bytes), "310M", 1, INT64_MAX},
    {COMMON_BYTES, "nvme", "BYTES", "Store (default: none; weights of generation are read in place)",
     FIELD(store_bytes), .least = 1, .most = INT64_MAX},
    {COMMON_BYTES, "tile", "BYTES", "Tile (default: the library's choice)", FIELD(tile_bytes), .least = 1, .most = 1u << 25},
    {COMMON_GROUP, .text = "Machine, bytes per second:", .least = 3},
    {COMMON_BYTES, "read", "BYTES", "Drive, reading", FIELD(read_bps), "400M", 1, INT64_MAX},
    {COMMON_BYTES, "write", "BYTES", "Drive, writing", FIELD(write_bps), "400M", 1, INT64_MAX},
    {COMMON_BYTES, "mixed", "BYTES", "Drive, as much of both (default: one after the other)", FIELD(mixed_bps), .least = 1,
     .most = INT64_MAX},
    {COMMON_COUNT, "latency-us", "N", "Of the drive", FIELD(latency_us), "100", 0, 1u << 20},
    {COMMON_BYTES, "link", "BYTES", "Link, each way", FIELD(link_bps), "8G", 1, INT64_MAX},
    {COMMON_BYTES, "memory", "BYTES", "Device memory", FIELD(memory_bps), "16G", 1, INT64_MAX},
    {COMMON_BYTES, "ram", "BYTES", "Updates and seals", FIELD(ram_bps), "20G", 1, INT64_MAX},
    {COMMON_NUMBER, "tflops", "N", "Compute, in 10^12 per second", FIELD(tflops), "1", .low = 0.001, .high = 100000},
    {COMMON_COUNT, "workers", "N", "Host workers", FIELD(workers), "2", 1, 1024},
    {COMMON_COUNT, "run-ahead", "N", "Leases and releases that a stream may be behind; 0: any number", FIELD(run_ahead),
     "0", 0, 1u << 20},
    {COMMON_GROUP, .text = "Run:", .least = 4},
    {COMMON_COUNT, "steps", "N", "Tokens, or steps", FIELD(steps), "8", 1, PLAN_STEPS},
    {COMMON_COUNT, "seed", "N", "Of the jitter", FIELD(seed), "1", 0, INT64_MAX},
    {COMMON_NUMBER, "jitter", "N", "Each service takes up to so much of its time more", FIELD(jitter), "0", .low = 0,
     .high = 10},
    {COMMON_FLAG, "check", NULL, "Check every move of the run", FIELD(check)},
    {COMMON_TEXT, "log", "FILE", "Write every event", FIELD(log)},
    {.kind = COMMON_END}};
/* clang-format on */

static const struct common_command command = {
    .title = "ofl-bench simulate",
    .before = "Simulates steps of a model with the library's own pager and scheduler in virtual time.",
    .after = "A step's bound is what the busiest part had to do, as fast as it can.\n\nExamples:\n  "
             "ofl-bench simulate --device-mem 450M --host-mem 160M --check\n  ofl-bench simulate --train "
             "--layers 4 --hidden 512 --ffn 1024 --nvme 1G\n\n" COMMON_EXITS ".",
    .tables = {{option_list, 0}}};

static struct ofl_workload workload_of(const struct options *o)
{
    return (struct ofl_workload){.size = sizeof(struct ofl_workload),
                                 .work = o->train ? OFL_TRAIN : OFL_DECODE,
                                 .layers = (uint32_t)o->layers,
                                 .hidden = (uint32_t)o->hidden,
                                 .heads = (uint32_t)o->hidden / 64,
                                 .kv_heads = (uint32_t)o->hidden / 64,
                                 .vocab = (uint32_t)o->vocab,
                                 .intermediate = (uint32_t)o->ffn,
                                 .dtype = OFL_BF16,
                                 .batch = o->batch,
                                 .seq = o->train ? o->seq : 1,
                                 .accum = o->accum,
                                 .positions = o->seq,
                                 .source = o->store_bytes == 0 && !o->train,
                                 .workspace_bytes = 4u << 20};
}

/* ---- running --------------------------------------------------------------- */

static void hear(void *arg, const struct plan_record *r)
{
    const struct listeners *l = arg;

    if (l->check)
        plan_check_record(l->check, r);
    if (l->log)
        fprintf(l->log, "%llu %s stream %u tensor %u tile %u from %llu to %llu bytes %llu value %llu\n",
                (ull)r->time_ns, plan_record_name(r->type), r->stream, r->tensor, r->tile, (ull)r->from,
                (ull)r->to, (ull)r->bytes, (ull)r->value);
}

static int finish_check(struct plan_check *check)
{
    struct plan_checked found;

    if (plan_check_close(check, &found) < 0)
        return common_fail(EXIT_RUNTIME, "%s", ofl_error());
    if (found.fault)
        return common_fail(EXIT_RUNTIME, "--check: %llu faults, the first: %s", (ull)found.faults,
                           found.text);
    printf(
        "checked   %llu records, %llu tiles used, %llu moves: no fault; %llu tiles left that were to rest\n",
        (ull)found.records, (ull)found.uses, (ull)found.moves, (ull)found.given_up);
    return 0;
}

static void print(const struct plan_program *p, const struct plan_simulated *s)
{
    double model = (double)p->weight_bytes;

    printf("model     %.0f MiB in %u tensors; tiles of %llu KiB\n", model / 1048576, p->tensors_count,
           (ull)s->tile_bytes >> 10);
    printf("step      time ms  stall ms  over bound  read/model  in/model  late/in  hit  miss  prefetch  "
           "bound\n");
    for (uint32_t i = 0; i < s->count; i++) {
        const struct plan_step *t = &s->steps[i];

        printf("%4u %12.2f %9.2f %12.3f %11.3f %9.3f %8.3f %4llu %5llu %9llu  %s, %.2f ms: %.1f %% of it "
               "reached\n",
               i, (double)t->ns * 1e-6, (double)t->stall_ns * 1e-6, (double)t->ns / (double)t->bound_ns - 1,
               (double)t->read_bytes / model, (double)t->in_bytes / model,
               (double)t->late_bytes / (double)(t->in_bytes ? t->in_bytes : 1), (ull)t->hits, (ull)t->misses,
               (ull)t->prefetches, plan_resource_name(t->bound), (double)t->bound_ns * 1e-6,
               100 * (double)t->bound_ns / (double)t->ns);
    }
    printf("plan      read/model %.3f, in/model %.3f, out/model %.3f, write/model %.3f\n",
           (double)s->planned_read_bytes / model, (double)s->planned_in_bytes / model,
           (double)s->planned_out_bytes / model, (double)s->planned_write_bytes / model);
    printf("events    %llu, hash %016llx; peak: device %.1f MiB, host %.1f MiB\n", (ull)s->events,
           (ull)s->hash, (double)s->device_peak_bytes / 1048576, (double)s->host_peak_bytes / 1048576);
}

static int run(const struct options *o, const struct plan_program *p, struct listeners *listeners)
{
    struct plan_simulation s = {.program = p,
                                .rates = {.device_flops_s = o->tflops * 1e12,
                                          .device_bytes_s = (double)o->memory_bps,
                                          .link_in_bytes_s = (double)o->link_bps,
                                          .link_out_bytes_s = (double)o->link_bps,
                                          .link_latency_ns = 10000,
                                          .drives = {{.read_bytes_s = (double)o->read_bps,
                                                      .write_bytes_s = (double)o->write_bps,
                                                      .mixed_bytes_s = (double)o->mixed_bps,
                                                      .latency_ns = o->latency_us * 1000}},
                                          .drives_count = 1,
                                          .workers = (uint32_t)o->workers,
                                          .update_bytes_s = (double)o->ram_bps,
                                          .seal_bytes_s = (double)o->ram_bps,
                                          .run_ahead = (uint32_t)o->run_ahead},
                                .budgets = {.device_bytes = o->device_bytes,
                                            .host_bytes = o->host_bytes,
                                            .store_bytes = o->store_bytes,
                                            .tile_bytes = o->tile_bytes},
                                .steps = (uint32_t)o->steps,
                                .sync = true,
                                .jitter = o->jitter,
                                .seed = o->seed,
                                .record = listeners->log || listeners->check ? hear : NULL,
                                .arg = listeners};
    struct plan_simulated out;
    int err = plan_simulate(&s, &out);

    if (out.count)
        print(p, &out);
    return err < 0 ? common_fail(err == -OFL_EBUDGET ? EXIT_INPUT : EXIT_RUNTIME, "%s", ofl_error()) : 0;
}

/* Given on the command line, event by event if wanted. */
static int run_given(const struct options *o)
{
    struct ofl_workload workload = workload_of(o);
    struct plan_program p = {0};
    struct listeners l = {.log = NULL};
    int status = 0;

    if (plan_program_make(&workload, &p) < 0)
        return common_fail(EXIT_INPUT, "%s", ofl_error());
    if (o->log && !(l.log = fopen(o->log, "w")))
        status = common_fail(EXIT_INPUT, "--log %s: %s", o->log, strerror(errno));
    if (status == 0 && o->check && plan_check_open(false, &l.check) < 0)
        status = common_fail(EXIT_RUNTIME, "%s", ofl_error());
    if (status == 0)
        status = run(o, &p, &l);
    if (l.check) {
        int found = finish_check(l.check);

        status = status ? status : found;
    }
    if (l.log && fclose(l.log) != 0 && status == 0)
        status = common_fail(EXIT_RUNTIME, "--log %s: %s", o->log, strerror(errno));
    plan_program_free(&p);
    return status;
}

int bench_simulate_main(int argc, char **argv)
{
    struct options o = {.layers = 0};
    int status = common_options_parse(&command, argc, argv, &o);

    if (status == 0)
        status = run_given(&o);
    common_options_free(&command, &o);
    return status;
}
