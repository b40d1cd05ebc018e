/* The simulator's figures for a plan. See plan_simulate.h. */
#include "bench/plan_simulate.h"

#include "liboffload/plan/simulate.h"

#define STEPS     5u /* the last one counts: the first is recorded, the second departs from what lay there */
#define DRIVE_NS  100000u /* until a drive's first byte */
#define LINK_NS   10000u
#define LAUNCH_NS 5000u
#define RUN_AHEAD 16u /* as offload_cuda.h has it */
#define WORKERS   8u
/* No more tiles than that, where larger ones do: what a run costs goes with their number. */
#define TILES_MOST      65536u
#define TILE_MOST_BYTES (32ull << 20)

/* Rates of sources are those of all drives as one: a checkpoint is taken to lie on a file system over all. */
static void set_drives(const struct bench_plan *p, struct plan_rates *r)
{
    const struct ofl_machine *m = &p->machine;
    bool as_one = p->workload.source || m->drives > PLAN_DRIVES;
    double times = as_one ? m->drives : 1;

    r->drives_count = m->drives == 0 ? 0 : as_one ? 1 : m->drives;
    for (uint32_t i = 0; i < r->drives_count; i++)
        r->drives[i] = (struct plan_drive){.read_bytes_s = times * m->drive_read_bps,
                                           .write_bytes_s = times * m->drive_write_bps,
                                           .mixed_bytes_s = times * m->drive_mixed_bps,
                                           .latency_ns = DRIVE_NS};
}

static struct plan_rates rates_of(const struct bench_plan *p)
{
    const struct ofl_machine *m = &p->machine;
    double peak = p->workload.dtype == OFL_F32 ? m->f32_flops : m->bf16_flops;
    struct plan_rates r = {.device_flops_s = peak * (m->products_share > 0 ? m->products_share : 1),
                           .device_bytes_s = m->device_bps,
                           .launch_ns = m->part_s > 0 ? (uint64_t)(m->part_s * 1e9) : LAUNCH_NS,
                           .link_in_bytes_s = m->link_in_bps,
                           .link_out_bytes_s = m->link_out_bps,
                           .link_latency_ns = LINK_NS,
                           .workers = WORKERS,
                           .update_bytes_s = m->host_bps,
                           .seal_bytes_s = m->host_bps,
                           .run_ahead = RUN_AHEAD};

    set_drives(p, &r);
    return r;
}

/* 0: as the library chooses. */
static uint64_t tile_bytes(const struct bench_plan *p)
{
    uint64_t bytes = p->estimate.tensor_bytes, tile = 1ull << 20;

    if (bytes / tile <= TILES_MOST)
        return 0;
    while (tile < TILE_MOST_BYTES && bytes / tile > TILES_MOST &&
           64 * tile <= p->estimate.budget_bytes[OFL_HOST])
        tile *= 2;
    return tile;
}

int bench_plan_simulate(struct bench_plan *p)
{
    const struct ofl_estimate *e = &p->estimate;
    struct plan_program program;
    struct plan_simulation s = {.program = &program, .rates = rates_of(p), .steps = STEPS, .sync = true};
    struct plan_simulated out;
    const struct plan_step *last;
    int err = plan_program_make(&p->workload, &program);

    if (err < 0)
        return common_fail_ofl(EXIT_RUNTIME, "simulate");
    s.budgets = (struct plan_budgets){
        .device_bytes = e->budget_bytes[OFL_DEVICE],
        .host_bytes = e->budget_bytes[OFL_HOST],
        .store_bytes = e->home == OFL_NVME && !p->workload.source ? e->budget_bytes[OFL_NVME] : 0};
    common_progress("simulating %u steps", STEPS);
    err = plan_simulate(&s, &out);
    common_progress_clear();
    plan_program_free(&program);
    if (err < 0)
        return common_fail_ofl(EXIT_RUNTIME, "simulate");
    last = &out.steps[out.count - 1];
    p->simulated = (struct bench_simulated){.step_s = (double)last->ns * 1e-9,
                                            .bound_s = (double)last->bound_ns * 1e-9,
                                            .stall_s = (double)last->stall_ns * 1e-9,
                                            .binds = plan_resource_name(last->bound),
                                            .device_in_bytes = last->in_bytes,
                                            .device_out_bytes = last->out_bytes,
                                            .drive_read_bytes = last->read_bytes,
                                            .drive_write_bytes = last->write_bytes,
                                            .events = out.events};
    return 0;
}
