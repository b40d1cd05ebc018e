/*
 * ways: what other budgets and machines would do for a step: the formula of estimate.c, asked again and again.
 */
#include <errno.h>
#include <stddef.h>

#include "base/entry.h"
#include "base/sized.h"
#include "liboffload/plan/estimate.h"

#define HIDDEN    1.02 /* a step with no more than that of the one in memory hides its traffic */
#define SEARCHES  12   /* halvings: to 1/4096 of the machine's memory */
#define RAM_MORE  64000000000ull
#define UNLIMITED (1ull << 60)

static int tokens_per_s(struct plan_estimate *e, double *out)
{
    struct ofl_estimate got;
    int err = plan_estimate_run(e, &got);

    *out = err == 0 && got.fits ? got.tokens_per_s : 0;
    return err;
}

/* Everything in device memory if that is how it would be, else as if RAM had no end: nothing passes a drive. */
static int resident(struct plan_estimate *e, double *step_s)
{
    uint64_t kept[OFL_TIERS] = {e->budgets[OFL_DEVICE], e->budgets[OFL_HOST], e->budgets[OFL_NVME]};
    bool must = e->must_store;
    struct ofl_estimate got;
    int err;

    e->budgets[OFL_DEVICE] = UNLIMITED;
    e->must_store = false;
    err = plan_estimate_run(e, &got);
    *step_s = got.step_s;
    for (int t = 0; t < OFL_TIERS; t++)
        e->budgets[t] = kept[t];
    e->must_store = must;
    return err;
}

/* The smallest budget of a tier that does: the formula grows no better with less, as far as the solver is fair. */
static int search(struct plan_estimate *e, enum ofl_tier tier, double step_s, uint64_t most, uint64_t *out)
{
    uint64_t kept = e->budgets[tier], low = 0, high = most;
    int err = 0;

    *out = 0;
    for (int i = 0; i <= SEARCHES && err == 0; i++) {
        uint64_t at = i == 0 ? high : low + (high - low) / 2;
        struct ofl_estimate got;

        e->budgets[tier] = at;
        err = plan_estimate_run(e, &got);
        if (err == 0 && got.fits && got.step_s <= HIDDEN * step_s)
            *out = high = at;
        else if (i == 0)
            break; /* not even with all of it */
        else
            low = at;
    }
    e->budgets[tier] = kept;
    return err;
}

static int more_drives(struct plan_estimate *e, double *out)
{
    int err;

    if (e->machine.drives == 0)
        return 0;
    e->machine.drives++;
    err = tokens_per_s(e, out);
    e->machine.drives--;
    return err;
}

static int more_ram(struct plan_estimate *e, double *out)
{
    int err;

    e->budgets[OFL_HOST] += RAM_MORE;
    err = tokens_per_s(e, out);
    e->budgets[OFL_HOST] -= RAM_MORE;
    return err;
}

/* Twice the sequences of a micro-batch: scratch grows with it, so a known size can't be kept. */
static int more_batch(struct plan_estimate *e, const struct ofl_workload *w, double *out)
{
    struct ofl_workload twice = *w;
    struct plan_program kept = e->program;
    int err;

    if (w->work != OFL_TRAIN)
        return 0;
    twice.batch = 2 * (w->batch ? w->batch : 1);
    twice.workspace_bytes *= 2;
    err = plan_program_make(&twice, &e->program);
    if (err == 0)
        err = tokens_per_s(e, out);
    plan_program_free(&e->program);
    e->program = kept;
    return err == -EINVAL ? 0 : err; /* more tokens than a step can have */
}

int ofl_estimate_ways_get(const struct ofl_machine *machine, const struct ofl_workload *workload,
                          const struct ofl_budgets *budgets, struct ofl_estimate_ways *out)
{
    struct ofl_estimate_ways ways = {.size = sizeof ways};
    struct plan_estimate e;
    int err = base_need(machine, workload, out);

    if (err < 0)
        return err;
    err = plan_estimate_open(machine, workload, budgets, &e);
    if (err == 0)
        err = resident(&e, &ways.resident_step_s);
    if (err == 0)
        err = search(&e, OFL_HOST, ways.resident_step_s, e.machine.host_bytes, &ways.hides_host_bytes);
    if (err == 0)
        err = search(&e, OFL_DEVICE, ways.resident_step_s, e.machine.device_bytes, &ways.hides_device_bytes);
    if (err == 0)
        err = more_drives(&e, &ways.drive_tokens_per_s);
    if (err == 0)
        err = more_ram(&e, &ways.ram_tokens_per_s);
    if (err == 0)
        err = more_batch(&e, workload, &ways.batch_tokens_per_s);
    plan_estimate_close(&e);
    return err < 0 ? err : base_sized_write(out, &ways, sizeof ways, "estimate: ways");
}
