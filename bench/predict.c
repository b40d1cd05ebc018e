/* Predictions of runs. See predict.h. */
#include "bench/predict.h"

#include <stdio.h>

#include "examples/common_predict.h"

int bench_predict(const struct common_budget *b, const struct llama_compute_config *compute, bool clip,
                  uint64_t scratch_bytes, const struct ofl_config *open, const struct bench_rates *rates,
                  struct ofl_estimate *out)
{
    struct ofl_workload w = common_workload(compute, clip, false);
    struct ofl_budgets budgets = {
        .size = sizeof budgets, .device_bytes = open->device_bytes, .host_bytes = open->host_bytes};
    struct ofl_machine m;
    int status = bench_machine_measured(b, compute, rates, &m);

    if (status)
        return status;
    if (scratch_bytes)
        w.workspace_bytes = scratch_bytes;
    for (uint32_t i = 0; i < open->nvme_count; i++)
        budgets.nvme_bytes += open->nvme[i].bytes;
    if (open->nvme_count && budgets.nvme_bytes == 0)
        budgets.nvme_bytes = m.drives * m.drive_bytes;
    *out = (struct ofl_estimate){.size = sizeof *out};
    if (ofl_estimate_get(&m, &w, &budgets, out) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "predict");
    if (out->fits)
        printf("predicted %.3g s a step, %.4g tokens/s; %s binds; moves in %s, out %s, reads %s, writes %s\n",
               out->step_s, out->tokens_per_s, common_resource(out->binds),
               common_bytes(out->device_in_bytes).text, common_bytes(out->device_out_bytes).text,
               common_bytes(out->drive_read_bytes).text, common_bytes(out->drive_write_bytes).text);
    else
        printf("predicted that it does not fit: %s\n", out->missing);
    return 0;
}

void bench_predict_end(const struct ofl_estimate *e, double step_s)
{
    if (e->fits)
        printf("          predicted %.3g s: the step took %+.1f %%\n", e->step_s,
               100 * (step_s / e->step_s - 1));
}

json_t *bench_predict_json(const struct ofl_estimate *e, double step_s)
{
    if (!e->fits)
        return json_null();
    return json_pack("{s:f, s:s, s:f, s:I, s:I, s:I, s:I}", "step_s", e->step_s, "binds",
                     common_resource(e->binds), "deviation", step_s / e->step_s - 1, "device_in_bytes",
                     (json_int_t)e->device_in_bytes, "device_out_bytes", (json_int_t)e->device_out_bytes,
                     "drive_read_bytes", (json_int_t)e->drive_read_bytes, "drive_write_bytes",
                     (json_int_t)e->drive_write_bytes);
}
