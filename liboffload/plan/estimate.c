/* estimate: a step's bytes over a machine's rates. The formula stands in offload_estimate.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/entry.h"
#include "base/error.h"
#include "base/sized.h"
#include "liboffload/plan/estimate.h"
#include "liboffload/plan/traffic.h"

#define DAY_S 86400.0

/* Work of a phase beside what moves. */
struct work {
    double compute_s, update_bytes; /* update_bytes: of RAM, by the host */
};

static double seconds(double amount, double rate)
{
    return rate > 0 ? amount / rate : 0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- work ---------------------------------------------------------------------- */

static double peak_of(const struct ofl_machine *m, enum ofl_dtype dtype)
{
    return dtype == OFL_F32 ? m->f32_flops : m->bf16_flops;
}

static void count_work(const struct plan_estimate *e, struct work work[PLAN_PHASES])
{
    const struct ofl_machine *m = &e->machine;
    double flops = peak_of(m, e->workload.dtype) * m->products_share;

    for (uint32_t i = 0; i < e->program.ops_count; i++) {
        const struct plan_op *op = &e->program.ops[i];
        struct work *w = &work[op->phase];

        if (op->type == PLAN_COMPUTE)
            w->compute_s +=
                larger(op->flops / flops, op->bytes / m->device_bps) + (op->stream ? 0 : m->part_s);
        else if (op->type == PLAN_UPDATE && e->place.home == OFL_DEVICE)
            w->compute_s += op->bytes / m->device_bps;
        else if (op->type == PLAN_UPDATE)
            w->update_bytes += op->bytes;
    }
}

/* ---- what is moved ---------------------------------------------------------------- */

static double link_s(const struct ofl_machine *m, const struct sched_moved *moved)
{
    double in = (double)moved->device_in, out = (double)moved->device_out;

    return larger(larger(seconds(in, m->link_in_bps), seconds(out, m->link_out_bps)),
                  seconds(in + out, m->link_both_bps));
}

static double drive_s(const struct ofl_machine *m, const struct sched_moved *moved)
{
    double n = m->drives ? m->drives : 1, read = (double)moved->drive_read,
           written = (double)moved->drive_write;
    double read_s = seconds(read, n * m->drive_read_bps),
           written_s = seconds(written, n * m->drive_write_bps);

    if (m->drive_mixed_bps <= 0)
        return read_s + written_s;
    if (read <= 0 || written <= 0)
        return read_s + written_s;
    return larger(larger(read_s, written_s), seconds(read + written, n * m->drive_mixed_bps));
}

/* Bytes of RAM: copied over the link, moved by the drive and sealed, updated. */
static double host_bytes(const struct ofl_machine *m, const struct sched_moved *moved,
                         const struct work *work)
{
    double copied = (double)(moved->device_in + moved->device_out);

    return (m->shared > 0 ? 2 : 1) * copied + 2 * (double)(moved->drive_read + moved->drive_write) +
           work->update_bytes;
}

/* ---- phases --------------------------------------------------------------------------- */

static void busy_of(const struct ofl_machine *m, const struct sched_moved *moved, const struct work *work,
                    double busy[OFL_RESOURCES])
{
    busy[OFL_COMPUTE] = work->compute_s;
    busy[OFL_LINK] = link_s(m, moved);
    busy[OFL_DRIVE] = drive_s(m, moved);
    busy[OFL_HOST_WORK] = host_bytes(m, moved, work) / m->host_bps;
}

/* What lasts longest. Cores that compute, copy and update do one after the other. */
static double longest(const struct ofl_machine *m, const double busy[OFL_RESOURCES], enum ofl_resource *which)
{
    double most = 0, cores = m->shared * busy[OFL_COMPUTE] + busy[OFL_HOST_WORK];

    *which = OFL_COMPUTE;
    for (int i = 0; i < OFL_RESOURCES; i++)
        if (busy[i] > most) {
            most = busy[i];
            *which = (enum ofl_resource)i;
        }
    if (m->shared <= 0 || cores <= most)
        return most;
    *which = m->shared * busy[OFL_COMPUTE] >= busy[OFL_HOST_WORK] ? OFL_COMPUTE : OFL_HOST_WORK;
    return cores;
}

/* The embedding's update: last, or the first once the norm is known; its weight is what the next step begins with. */
static double exposed_s(const struct plan_estimate *e)
{
    const struct ofl_machine *m = &e->machine;
    const struct plan_program *p = &e->program;
    struct work work = {0};
    struct sched_moved moved = {0};

    for (uint32_t i = 0; i < p->ops_count && e->place.home != OFL_DEVICE; i++) {
        const struct plan_op *op = &p->ops[i];

        if (op->type != PLAN_UPDATE || p->leases[op->first].tensor != 0)
            continue;
        work.update_bytes = op->bytes;
        moved.device_in = p->tensors[0].bytes;
    }
    return host_bytes(m, &moved, &work) / m->host_bps + link_s(m, &moved);
}

static void fill_times(const struct plan_estimate *e, const struct plan_traffic *t, struct ofl_estimate *out)
{
    struct work work[PLAN_PHASES] = {{0}};
    double most = 0;

    count_work(e, work);
    for (int phase = 0; phase < PLAN_PHASES; phase++) {
        double busy[OFL_RESOURCES], lasts;
        enum ofl_resource which;

        busy_of(&e->machine, &t->moved[phase], &work[phase], busy);
        lasts = longest(&e->machine, busy, &which);
        out->step_s += lasts;
        if (lasts > most) {
            most = lasts;
            out->binds = which;
        }
        for (int i = 0; i < OFL_RESOURCES; i++)
            out->busy_s[i] += busy[i];
    }
    out->exposed_s = exposed_s(e);
    out->step_s += out->exposed_s;
    out->tokens_per_s = seconds((double)e->program.tokens, 1) / out->step_s;
    out->flops_per_s = e->program.model_flops / out->step_s;
    out->peak_share = out->flops_per_s / peak_of(&e->machine, e->workload.dtype);
}

static void fill_wear(const struct plan_estimate *e, struct ofl_estimate *out)
{
    double drives = e->machine.drives ? e->machine.drives : 1;

    out->wear_bytes_per_day = (double)out->drive_write_bytes / drives / out->step_s * DAY_S;
    if (out->wear_bytes_per_day > 0)
        out->life_days = e->machine.drive_endurance_bytes / out->wear_bytes_per_day;
}

static void fill_bytes(const struct plan_estimate *e, const struct plan_traffic *t, struct ofl_estimate *out)
{
    for (int i = 0; i < PLAN_PHASES; i++) {
        out->device_in_bytes += t->moved[i].device_in;
        out->device_out_bytes += t->moved[i].device_out;
        out->drive_read_bytes += t->moved[i].drive_read;
        out->drive_write_bytes += t->moved[i].drive_write;
    }
    memcpy(out->placed_bytes, t->placed_bytes, sizeof out->placed_bytes);
    out->parameters = e->program.parameters;
    out->tokens = e->program.tokens;
    out->tensor_bytes = e->place.tensor_bytes ? e->place.tensor_bytes : e->program.weight_bytes;
    out->held_bytes = e->program.held_bytes;
}

/* ---- the whole ---------------------------------------------------------------------------- */

static void choose_budgets(struct plan_estimate *e, const struct ofl_budgets *b)
{
    const struct ofl_machine *m = &e->machine;

    e->budgets[OFL_DEVICE] = b->device_bytes ? b->device_bytes : m->device_bytes - m->device_bytes / 16;
    e->budgets[OFL_HOST] = b->host_bytes ? b->host_bytes : m->host_bytes - m->host_bytes / 8;
    e->budgets[OFL_NVME] = b->nvme_bytes ? b->nvme_bytes : m->drives * m->drive_bytes;
    e->must_store = b->nvme_bytes != 0;
}

int plan_estimate_open(const struct ofl_machine *machine, const struct ofl_workload *workload,
                       const struct ofl_budgets *budgets, struct plan_estimate *e)
{
    struct ofl_budgets b = {.size = sizeof b};
    int err = plan_machine_read(machine, &e->machine);

    e->program = (struct plan_program){0};
    if (err == 0 && budgets)
        err = base_sized_read(&b, sizeof b, sizeof b, budgets, "estimate: budgets");
    if (err == 0)
        err = plan_program_make(workload, &e->program);
    if (err < 0)
        return err;
    e->workload = *workload;
    choose_budgets(e, &b);
    return 0;
}

void plan_estimate_close(struct plan_estimate *e)
{
    plan_program_free(&e->program);
}

int plan_estimate_run(struct plan_estimate *e, struct ofl_estimate *out)
{
    struct plan_missing missing;
    struct plan_traffic traffic;
    int err = plan_place_make(&e->program, e->budgets, e->must_store, &e->place, &missing);

    *out = (struct ofl_estimate){.size = sizeof *out};
    if (err < 0)
        return err;
    out->home = e->place.home;
    memcpy(out->budget_bytes, e->place.budget_bytes, sizeof out->budget_bytes);
    memcpy(out->least_bytes, missing.least_bytes, sizeof out->least_bytes);
    snprintf(out->missing, sizeof out->missing, "%s", missing.text);
    out->fits = missing.text[0] == 0;
    if (out->fits) {
        err = plan_traffic_make(&e->program, &e->place, &traffic);
        if (err == 0) {
            fill_bytes(e, &traffic, out);
            fill_times(e, &traffic, out);
            fill_wear(e, out);
        }
    }
    plan_place_free(&e->place);
    return err;
}

int ofl_estimate_get(const struct ofl_machine *machine, const struct ofl_workload *workload,
                     const struct ofl_budgets *budgets, struct ofl_estimate *out)
{
    struct plan_estimate e;
    struct ofl_estimate whole;
    int err = base_need(machine, workload, out);

    if (err < 0)
        return err;
    err = plan_estimate_open(machine, workload, budgets, &e);
    if (err == 0)
        err = plan_estimate_run(&e, &whole);
    plan_estimate_close(&e);
    return err < 0 ? err : base_sized_write(out, &whole, sizeof whole, "estimate");
}
