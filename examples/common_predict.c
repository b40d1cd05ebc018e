/* common: predictions. See common_predict.h. */
#include "examples/common_predict.h"

#include <stdio.h>

#include "examples/common_memory.h"
#include "examples/model/timing.h"

#define LAYER_S    0.3 /* a layer is timed for so long */
#define LINK_BYTES (16ull << 20)
#define SWAPS      6

const char *common_resource(enum ofl_resource r)
{
    static const char *const names[OFL_RESOURCES] = {"compute", "the link", "the drive", "host work"};

    return (unsigned)r < OFL_RESOURCES ? names[r] : "nothing";
}

uint32_t common_vectors(const struct llama_shape *s)
{
    return (s->qkv_bias ? OFL_VECTORS_QKV_BIAS : 0u) | (s->o_bias ? OFL_VECTORS_O_BIAS : 0u) |
           (s->mlp_bias ? OFL_VECTORS_MLP_BIAS : 0u) |
           (s->qk_norm == LLAMA_QK_NORM_HEAD ? OFL_VECTORS_QK_NORM_HEAD : 0u) |
           (s->qk_norm == LLAMA_QK_NORM_ALL ? OFL_VECTORS_QK_NORM_ALL : 0u) |
           (s->post_norms ? OFL_VECTORS_POST_NORMS : 0u) | (s->no_pre_norms ? OFL_VECTORS_NO_PRE_NORMS : 0u);
}

struct ofl_workload common_workload(const struct llama_compute_config *c, bool clip, bool source)
{
    bool train = c->batch > 0;

    return (struct ofl_workload){.size = sizeof(struct ofl_workload),
                                 .work = train ? OFL_TRAIN : OFL_DECODE,
                                 .layers = c->shape.layers,
                                 .hidden = c->shape.hidden,
                                 .heads = c->shape.heads,
                                 .kv_heads = c->shape.kv_heads,
                                 .head_dim = c->shape.head_dim,
                                 .intermediate = c->shape.ffn,
                                 .vocab = c->shape.vocab,
                                 .tied = c->shape.tied,
                                 .dtype = c->dtype,
                                 .batch = train ? c->batch : 1,
                                 .seq = train ? c->seq : c->piece,
                                 .accum = train ? c->accum : 1,
                                 .positions = train ? 0 : c->positions,
                                 .clip = clip,
                                 .source = source,
                                 .cache_elem_bytes = (uint32_t)llama_compute_cache_elem(c),
                                 .inner_elem_bytes = c->cuda ? 0 : sizeof(float),
                                 .workspace_bytes = llama_compute_workspace(c),
                                 .vectors = common_vectors(&c->shape)};
}

struct ofl_workload common_plan_workload(const struct common_plan *plan)
{
    struct ofl_workload w = common_workload(plan->compute, plan->clip, plan->source != NULL);

    w.method = plan->method;
    return w;
}

/* ---- rates -------------------------------------------------------------------- */

int common_machine_fit(const struct common_budget *b, const struct llama_compute_config *compute,
                       uint64_t memory_bytes, double enough_s, struct ofl_machine *m, char *error,
                       size_t error_bytes)
{
    struct ofl_workload w = common_workload(compute, false, false);
    struct llama_compute_config one = *compute;
    struct llama_timing t;

    one.accum = 1;
    if (llama_timing_measure(b->chosen.device, &one, memory_bytes, enough_s, &t, error, error_bytes) < 0)
        return -1;
    m->shared = b->chosen.gpu ? 0 : t.cores;
    if (ofl_machine_fit(m, &w, t.forward_s + t.backward_s + t.extend_s) == 0)
        return 0;
    snprintf(error, error_bytes, "%s", ofl_error());
    return -1;
}

/* Two tensors that live in host memory take the one place on the device in turns. */
static int swap(struct ofl_ctx *ctx, struct ofl_stream *s, uint64_t bytes)
{
    struct ofl_lease leases[2];
    int err = 0;

    for (int i = 0; i < 2 && err == 0; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d, .name = "link", .dtype = OFL_U8, .elems = bytes};

        leases[i] = (struct ofl_lease){.size = sizeof leases[i], .mode = OFL_UPDATE};
        err = ofl_tensor_create(ctx, &d, &leases[i].tensor);
    }
    for (int i = 0; i < SWAPS && err == 0; i++) {
        err = ofl_acquire(ctx, &leases[i % 2], 1, s);
        if (err == 0)
            err = ofl_release(ctx, &leases[i % 2], 1, s);
    }
    return err < 0 ? err : ofl_stream_sync(s);
}

int common_link_rates(const char *device, uint64_t most_bytes, double *in_bps, double *out_bps, char *error,
                      size_t error_bytes)
{
    uint64_t bytes = most_bytes < LINK_BYTES ? most_bytes / 4096 * 4096 : LINK_BYTES;
    struct ofl_config open = {.size = sizeof open,
                              .device = device,
                              .device_bytes = ofl_device_footprint(bytes),
                              .leased_bytes = ofl_device_footprint(bytes),
                              .host_bytes = 3 * bytes + 2 * OFL_HOST_MIN_BYTES,
                              .expected_bytes = 2 * bytes,
                              .workers = 1};
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_stream *s = NULL;
    struct ofl_ctx *ctx = NULL;
    int err = ofl_open(&open, &ctx);

    if (err == 0)
        err = ofl_stream_create(ctx, &s);
    if (err == 0)
        err = swap(ctx, s, bytes);
    if (err == 0)
        err = ofl_stats_get(ctx, &stats);
    if (err < 0)
        snprintf(error, error_bytes, "%s", ofl_error());
    *in_bps =
        stats.device_in_busy_ns ? (double)stats.device_in_bytes * 1e9 / (double)stats.device_in_busy_ns : 0;
    *out_bps = stats.device_out_busy_ns
                   ? (double)stats.device_out_bytes * 1e9 / (double)stats.device_out_busy_ns
                   : 0;
    ofl_close(ctx);
    if (err < 0)
        return -1;
    *out_bps = *out_bps > 0 ? *out_bps : *in_bps;
    *in_bps = *in_bps > 0 ? *in_bps : *out_bps;
    return 0;
}

/* Adds one directory's drive; false: its rates are not known. */
static bool add_drive(struct ofl_machine *m, const char *dir, bool measure, double *age_s)
{
    struct ofl_place_rates r = {.size = sizeof r};

    if (ofl_place_rates_get(dir, measure, &r) < 0 || r.read_bps <= 0 || r.write_bps <= 0)
        return false;
    m->drives = 1;
    m->drive_bytes = UINT64_C(1) << 50; /* budgets say how much there is */
    m->drive_read_bps += r.read_bps;
    m->drive_write_bps += r.write_bps;
    *age_s = (double)r.age_s > *age_s ? (double)r.age_s : *age_s;
    return true;
}

/* The drives of all directories as one. */
static bool add_drives(const struct common_plan *plan, struct ofl_machine *m, double *age_s)
{
    bool known = true;

    for (uint32_t i = 0; i < plan->open->nvme_count; i++)
        known &= add_drive(m, plan->open->nvme[i].dir, !plan->open->max_written_bytes, age_s);
    if (plan->source) /* not ours to write in */
        known &= add_drive(m, plan->source, false, age_s);
    return known;
}

static int this_machine(const struct common_plan *plan, struct ofl_machine *m, char *error,
                        size_t error_bytes)
{
    uint64_t most = (plan->open->device_bytes + plan->open->host_bytes) / 8;

    most = most < OFL_HOST_MIN_BYTES ? OFL_HOST_MIN_BYTES : most;
    *m = (struct ofl_machine){.size = sizeof *m,
                              .name = "this",
                              .bf16_flops = 1, /* raised to what the layer shows */
                              .f32_flops = 1,
                              .device_bps = 1,
                              .device_bytes = plan->open->device_bytes,
                              .host_bytes = plan->open->host_bytes + 1};
    if (common_copy_rate(most, &m->host_bps)) {
        snprintf(error, error_bytes, "memory could not be measured");
        return -1;
    }
    if (common_link_rates(plan->budget->chosen.device, most, &m->link_in_bps, &m->link_out_bps, error,
                          error_bytes) < 0)
        return -1;
    /* A host device's memory is of the same kind as what is the host's budget; neither is taken yet. */
    return common_machine_fit(plan->budget, plan->compute,
                              plan->open->device_bytes +
                                  (plan->budget->chosen.gpu ? 0 : plan->open->host_bytes),
                              LAYER_S, m, error, error_bytes);
}

/* ---- the prediction ----------------------------------------------------------------- */

struct ofl_budgets common_budgets_of(const struct ofl_config *open)
{
    struct ofl_budgets b = {.size = sizeof b,
                            .device_bytes = open->device_bytes,
                            .host_bytes = open->host_bytes ? open->host_bytes : 1};

    for (uint32_t i = 0; i < open->nvme_count; i++)
        b.nvme_bytes += open->nvme[i].bytes ? open->nvme[i].bytes : UINT64_C(1) << 50;
    return b;
}

void common_predict(const struct common_plan *plan, struct common_prediction *out)
{
    struct ofl_workload w = common_plan_workload(plan);
    struct ofl_budgets budgets = common_budgets_of(plan->open);
    struct ofl_estimate *e = &out->estimate;
    char error[COMMON_ERROR_BYTES], drive[96] = "";
    struct ofl_machine m;
    double age_s = 0;
    bool drives;

    *out = (struct common_prediction){.estimate.size = sizeof out->estimate};
    if (plan->scratch_bytes)
        w.workspace_bytes = plan->scratch_bytes;
    if (plan->compute->shape.experts) {
        common_line("no prediction: of a mixture of experts it is not known which ones will be used");
        return;
    }
    common_progress("predicting");
    if (this_machine(plan, &m, error, sizeof error) < 0) {
        common_line("no prediction: %s", error);
        return;
    }
    drives = add_drives(plan, &m, &age_s);
    common_progress_clear();
    if (ofl_estimate_get(&m, &w, &budgets, e) < 0 || !e->fits) {
        common_line("no prediction: %s", e->missing[0] ? e->missing : ofl_error());
        return;
    }
    out->known = true;
    if (!drives && e->drive_read_bytes)
        snprintf(drive, sizeof drive, "; at least: the drive's rate is not known");
    else if (age_s > 0 && e->drive_read_bytes)
        snprintf(drive, sizeof drive, "; the drive's rate is %.1f days old", age_s / 86400);
    common_line("predicted: %.3g s a %s, %.4g tokens/s, %s binds; moves in %s, out %s, reads %s, writes %s%s",
                e->step_s, plan->what, e->tokens_per_s, common_resource(e->binds),
                common_bytes(e->device_in_bytes).text, common_bytes(e->device_out_bytes).text,
                common_bytes(e->drive_read_bytes).text, common_bytes(e->drive_write_bytes).text, drive);
}

void common_predict_end(const struct common_prediction *p, const char *what, double step_s)
{
    if (p->known && step_s > 0)
        common_line("predicted %.3g s a %s, measured %.3g s: %+.1f %%", p->estimate.step_s, what, step_s,
                    100 * (step_s / p->estimate.step_s - 1));
}
