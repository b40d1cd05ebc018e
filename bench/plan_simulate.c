/* The simulator's figures for a plan. See plan_simulate.h. */
#include "bench/plan_simulate.h"

#include "liboffload/plan/simulate_machine.h"

#define STEPS 5u /* the last one counts: the first is recorded, the second departs from what lay there */
/* No more tiles than that, where larger ones do: what a run costs goes with their number. */
#define TILES_MOST      65536u
#define TILE_MOST_BYTES (32ull << 20)

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
    struct plan_simulated out;
    const struct plan_step *last;
    int err;

    common_progress("simulating %u steps", STEPS);
    err = plan_simulate_machine(&p->machine, &p->workload, &p->budgets, STEPS, tile_bytes(p), &out);
    common_progress_clear();
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
