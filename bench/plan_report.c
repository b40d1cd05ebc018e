/* The report of `ofl-bench plan`. See plan_report.h. */
#include "bench/plan_report.h"

#include <stdio.h>
#include <string.h>

#include "bench/model.h"

static const char *const tiers[OFL_TIERS] = {"device", "host", "drives"};
static const char *const kinds[OFL_KINDS] = {"other",       "weights",   "gradients", "optimizer",
                                             "activations", "workspace", "cache"};
static const char *const resources[OFL_RESOURCES] = {"compute", "link", "drive", "host work"};

/* ---- text ---------------------------------------------------------------------- */

static void print_head(const struct bench_plan *p)
{
    const struct ofl_machine *m = &p->machine;
    const struct ofl_workload *w = &p->workload;

    printf("machine   %s: products %.1f TFLOP/s (%.0f %% of a peak of %.1f); device %s at %.0f GB/s; link in "
           "%.1f, "
           "out %.1f GB/s; RAM %s at %.0f GB/s",
           m->name, (w->dtype == OFL_F32 ? m->f32_flops : m->bf16_flops) * m->products_share * 1e-12,
           100 * m->products_share, (w->dtype == OFL_F32 ? m->f32_flops : m->bf16_flops) * 1e-12,
           common_bytes(m->device_bytes).text, m->device_bps * 1e-9, m->link_in_bps * 1e-9,
           m->link_out_bps * 1e-9, common_bytes(m->host_bytes).text, m->host_bps * 1e-9);
    if (m->drives)
        printf("; %u drive%s of %s, read %.2f, write %.2f GB/s each", m->drives, m->drives > 1 ? "s" : "",
               common_bytes(m->drive_bytes).text, m->drive_read_bps * 1e-9, m->drive_write_bps * 1e-9);
    printf("\nmodel     %s: %.3f B parameters in %s; ", p->model, (double)llama_param_count(&p->shape) * 1e-9,
           ofl_dtype_name(w->dtype));
    if (w->work == OFL_DECODE)
        printf("a token at a time behind %llu%s\n", (ull)w->positions - 1,
               w->source ? ", from a checkpoint" : "");
    else
        printf("%llu sequences of %llu tokens in %llu micro-batches%s; %s\n", (ull)(w->batch * w->accum),
               (ull)w->seq, (ull)w->accum, w->clip ? ", clipped" : "", common_method_name((int)w->method));
}

static void print_places(const struct ofl_estimate *e)
{
    for (int t = 0; t < OFL_TIERS; t++) {
        uint64_t all = 0;
        const char *before = "";

        for (int k = 0; k < OFL_KINDS; k++)
            all += e->placed_bytes[t][k];
        printf("%-9s %s of %s:", tiers[t], common_bytes(all).text, common_bytes(e->budget_bytes[t]).text);
        for (int k = 0; k < OFL_KINDS; k++)
            if (e->placed_bytes[t][k]) {
                printf("%s %s %s", before, kinds[k], common_bytes(e->placed_bytes[t][k]).text);
                before = ",";
            }
        puts(before[0] ? "" : " nothing rests there");
    }
}

static void print_times(const struct ofl_estimate *e)
{
    printf("moves     a step: in %s, out %s over the link; drives read %s, write %s\n",
           common_bytes(e->device_in_bytes).text, common_bytes(e->device_out_bytes).text,
           common_bytes(e->drive_read_bytes).text, common_bytes(e->drive_write_bytes).text);
    printf("busy     ");
    for (int i = 0; i < OFL_RESOURCES; i++)
        printf(" %s %.4g s,", resources[i], e->busy_s[i]);
    printf(" and %.4g s that nothing hides\n", e->exposed_s);
    printf("step      %.4g s, %.4g tokens/s, %.4g TFLOP/s: %.1f %% of the peak; %s binds\n", e->step_s,
           e->tokens_per_s, e->flops_per_s * 1e-12, 100 * e->peak_share, resources[e->binds]);
    if (e->wear_bytes_per_day > 0)
        printf("wear      %.3g TB written a day to each drive", e->wear_bytes_per_day * 1e-12);
    if (e->life_days > 0)
        printf(": it lasts %.4g days of this", e->life_days);
    if (e->wear_bytes_per_day > 0)
        putchar('\n');
}

static void print_simulated(const struct bench_plan *p)
{
    const struct bench_simulated *s = &p->simulated;

    if (!s->binds)
        return;
    printf("simulated %.4g s a step (%+.1f %% of the formula's), %.4g tokens/s; bound %.4g s by %s, %.1f %% "
           "above it; "
           "stalled %.4g s; %llu events\n",
           s->step_s, 100 * (s->step_s / p->estimate.step_s - 1), (double)p->estimate.tokens / s->step_s,
           s->bound_s, s->binds, 100 * (s->step_s / s->bound_s - 1), s->stall_s, (ull)s->events);
    printf("          in %s, out %s over the link; drives read %s, write %s\n",
           common_bytes(s->device_in_bytes).text, common_bytes(s->device_out_bytes).text,
           common_bytes(s->drive_read_bytes).text, common_bytes(s->drive_write_bytes).text);
}

static void print_hides(const char *option, uint64_t bytes)
{
    if (bytes)
        printf(" %s %s", option, common_bytes(bytes).text);
    else
        printf(" no %s of this machine", option);
}

static void print_more(const char *what, double tokens_per_s, double now)
{
    if (tokens_per_s > 0)
        printf(" %s %+.1f %%;", what, 100 * (tokens_per_s / now - 1));
    else
        printf(" %s: does not fit;", what);
}

static void print_ways(const struct bench_plan *p)
{
    const struct ofl_estimate_ways *w = &p->ways;

    printf("hides     all traffic (%.4g s a step in memory), with the rest as it is:", w->resident_step_s);
    print_hides("--host-mem", w->hides_host_bytes);
    putchar(',');
    print_hides("--device-mem", w->hides_device_bytes);
    printf("\nmore     ");
    if (p->machine.drives)
        print_more("one more drive", w->drive_tokens_per_s, p->estimate.tokens_per_s);
    print_more("64 GB more RAM", w->ram_tokens_per_s, p->estimate.tokens_per_s);
    if (p->workload.work == OFL_TRAIN)
        print_more("twice the batch", w->batch_tokens_per_s, p->estimate.tokens_per_s);
    puts(" in tokens/s");
}

void bench_plan_print(const struct bench_plan *p)
{
    const struct ofl_estimate *e = &p->estimate;

    print_head(p);
    if (!e->fits) {
        printf("fits      no: %s\n", e->missing);
        for (int t = 0; t < OFL_TIERS; t++)
            if (e->least_bytes[t] > e->budget_bytes[t])
                printf("%-9s %s (%llu bytes) would do, %s given\n", tiers[t],
                       common_bytes(e->least_bytes[t]).text, (ull)e->least_bytes[t],
                       common_bytes(e->budget_bytes[t]).text);
        return;
    }
    printf("fits      yes: %s\n",
           p->workload.source      ? "weights stay in their files"
           : e->home == OFL_DEVICE ? "all has room of its own on the device"
           : e->home == OFL_HOST   ? "all has room of its own in host memory"
                                   : "all has room of its own on the drives, and in memory where they end");
    print_places(e);
    print_times(e);
    print_simulated(p);
    if (p->has_ways)
        print_ways(p);
}

/* ---- JSON ------------------------------------------------------------------------ */

static json_t *by_kind(const uint64_t bytes[OFL_KINDS])
{
    json_t *j = json_object();

    for (int k = 0; k < OFL_KINDS; k++)
        json_object_set_new(j, kinds[k], json_integer((json_int_t)bytes[k]));
    return j;
}

static json_t *machine_json(const struct ofl_machine *m)
{
    return json_pack(
        "{s:s, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}",
        "name", m->name, "bf16_flops", m->bf16_flops, "f32_flops", m->f32_flops, "products_share",
        m->products_share, "device_bytes", (json_int_t)m->device_bytes, "device_bps", m->device_bps,
        "link_in_bps", m->link_in_bps, "link_out_bps", m->link_out_bps, "link_both_bps", m->link_both_bps,
        "host_bytes", (json_int_t)m->host_bytes, "host_bps", m->host_bps, "drives", (json_int_t)m->drives,
        "drive_bytes", (json_int_t)m->drive_bytes, "drive_read_bps", m->drive_read_bps, "drive_write_bps",
        m->drive_write_bps, "drive_mixed_bps", m->drive_mixed_bps, "drive_endurance_bytes",
        m->drive_endurance_bytes, "shared", m->shared, "part_s", m->part_s);
}

static json_t *workload_json(const struct ofl_workload *w)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:I}", "work",
                     w->work == OFL_DECODE ? "decode" : "train", "optimizer",
                     common_method_name((int)w->method), "dtype", ofl_dtype_name(w->dtype), "batch",
                     (json_int_t)w->batch, "seq", (json_int_t)w->seq, "accum", (json_int_t)w->accum,
                     "positions", (json_int_t)w->positions, "clip", (int)w->clip, "source", (int)w->source,
                     "workspace_bytes", (json_int_t)w->workspace_bytes);
}

static json_t *estimate_json(const struct ofl_estimate *e)
{
    json_t *placed = json_object(), *busy = json_object(), *budgets = json_object(), *least = json_object();

    for (int t = 0; t < OFL_TIERS; t++) {
        json_object_set_new(placed, tiers[t], by_kind(e->placed_bytes[t]));
        json_object_set_new(budgets, tiers[t], json_integer((json_int_t)e->budget_bytes[t]));
        json_object_set_new(least, tiers[t], json_integer((json_int_t)e->least_bytes[t]));
    }
    for (int i = 0; i < OFL_RESOURCES; i++)
        json_object_set_new(busy, resources[i], bench_real_json(e->busy_s[i]));
    return json_pack("{s:b, s:s, s:o, s:o, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:s, s:f, "
                     "s:f, s:f, s:f, "
                     "s:f}",
                     "fits", (int)e->fits, "missing", e->missing, "budget_bytes", budgets, "least_bytes",
                     least, "home", tiers[e->home], "placed_bytes", placed, "held_bytes",
                     (json_int_t)e->held_bytes, "tokens", (json_int_t)e->tokens, "device_in_bytes",
                     (json_int_t)e->device_in_bytes, "device_out_bytes", (json_int_t)e->device_out_bytes,
                     "drive_read_bytes", (json_int_t)e->drive_read_bytes, "drive_write_bytes",
                     (json_int_t)e->drive_write_bytes, "busy_s", busy, "exposed_s", e->exposed_s, "step_s",
                     e->step_s, "binds", resources[e->binds], "tokens_per_s", e->tokens_per_s, "flops_per_s",
                     e->flops_per_s, "peak_share", e->peak_share, "wear_bytes_per_day", e->wear_bytes_per_day,
                     "life_days", e->life_days);
}

static json_t *ways_json(const struct ofl_estimate_ways *w)
{
    return json_pack("{s:f, s:I, s:I, s:f, s:f, s:f}", "resident_step_s", w->resident_step_s,
                     "hides_host_bytes", (json_int_t)w->hides_host_bytes, "hides_device_bytes",
                     (json_int_t)w->hides_device_bytes, "drive_tokens_per_s", w->drive_tokens_per_s,
                     "ram_tokens_per_s", w->ram_tokens_per_s, "batch_tokens_per_s", w->batch_tokens_per_s);
}

static json_t *simulated_json(const struct bench_simulated *s)
{
    if (!s->binds)
        return json_null();
    return json_pack("{s:f, s:f, s:f, s:s, s:I, s:I, s:I, s:I, s:I}", "step_s", s->step_s, "bound_s",
                     s->bound_s, "stall_s", s->stall_s, "binds", s->binds, "device_in_bytes",
                     (json_int_t)s->device_in_bytes, "device_out_bytes", (json_int_t)s->device_out_bytes,
                     "drive_read_bytes", (json_int_t)s->drive_read_bytes, "drive_write_bytes",
                     (json_int_t)s->drive_write_bytes, "events", (json_int_t)s->events);
}

int bench_plan_write(const struct bench_plan *p, const char *path)
{
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "program", "ofl-bench plan",
                          "version", ofl_version(), "date", bench_date().text, "model_name", p->model,
                          "model", bench_model_json(&p->shape), "machine", machine_json(&p->machine),
                          "workload", workload_json(&p->workload), "estimate", estimate_json(&p->estimate),
                          "ways", p->has_ways ? ways_json(&p->ways) : json_null(), "simulated",
                          simulated_json(&p->simulated));
    int status = j ? common_report_write(path, j) : common_fail(EXIT_FULL, "make the report: out of memory");

    json_decref(j);
    return status;
}
