/* simulate_machine: see simulate_machine.h. */
#include "liboffload/plan/simulate_machine.h"

#include "base/error.h"
#include "liboffload/plan/estimate.h"

/* Of a host that is known by its memory alone. */
#define WORKERS 16u
/* A driver's queue; see offload_cuda.h. */
#define RUN_AHEAD 16u
/* What data sheets do not tell: of a copy, and of a drive's transfer. */
#define LINK_LATENCY_NS  10000u
#define DRIVE_LATENCY_NS 100000u

void plan_rates_of(const struct ofl_machine *m, enum ofl_dtype dtype, struct plan_rates *rates)
{
    double peak = dtype == OFL_F32 ? m->f32_flops : m->bf16_flops;

    *rates = (struct plan_rates){.device_flops_s = peak * m->products_share,
                                 .device_bytes_s = m->device_bps,
                                 .launch_ns = (uint64_t)(m->part_s * 1e9),
                                 .link_in_bytes_s = m->link_in_bps,
                                 .link_out_bytes_s = m->link_out_bps,
                                 .link_both_bytes_s = m->link_both_bps,
                                 .link_latency_ns = LINK_LATENCY_NS,
                                 .workers = WORKERS,
                                 .update_bytes_s = m->host_bps,
                                 .seal_bytes_s = m->host_bps,
                                 .run_ahead = m->shared > 0 ? 0 : RUN_AHEAD};
    rates->drives_count = m->drives < PLAN_DRIVES ? m->drives : PLAN_DRIVES;
    for (uint32_t i = 0; i < rates->drives_count; i++) {
        double each = (double)m->drives / rates->drives_count;

        rates->drives[i] = (struct plan_drive){.read_bytes_s = each * m->drive_read_bps,
                                               .write_bytes_s = each * m->drive_write_bps,
                                               .mixed_bytes_s = each * m->drive_mixed_bps,
                                               .latency_ns = DRIVE_LATENCY_NS};
    }
}

/* The budgets, and the store only where it is used. */
static int settle(struct plan_estimate *e, struct plan_budgets *b)
{
    struct plan_missing missing;
    int err = plan_place_make(&e->program, e->budgets, e->must_store, &e->place, &missing);

    if (err < 0)
        return err;
    b->device_bytes = e->place.budget_bytes[OFL_DEVICE];
    b->host_bytes = e->place.budget_bytes[OFL_HOST];
    b->store_bytes = e->place.home == OFL_NVME && e->place.tensor_bytes ? e->place.budget_bytes[OFL_NVME] : 0;
    plan_place_free(&e->place);
    return missing.text[0] ? base_fail(-OFL_EBUDGET, "simulate: %s", missing.text) : 0;
}

int plan_simulate_machine(const struct ofl_machine *machine, const struct ofl_workload *workload,
                          const struct ofl_budgets *budgets, uint32_t steps, uint64_t tile_bytes,
                          struct plan_simulated *out)
{
    struct plan_simulation s = {.steps = steps, .sync = true, .budgets.tile_bytes = tile_bytes};
    struct plan_estimate e;
    int err = plan_estimate_open(machine, workload, budgets, &e);

    *out = (struct plan_simulated){.count = 0};
    if (err == 0)
        err = settle(&e, &s.budgets);
    if (err == 0) {
        s.program = &e.program;
        s.hold = workload->work == OFL_TRAIN && workload->clip;
        plan_rates_of(&e.machine, workload->dtype, &s.rates);
        err = plan_simulate(&s, out);
    }
    plan_estimate_close(&e);
    return err;
}
