/* simulate_input: what of a simulation's input makes no sense. See simulate_impl.h. */
#include <errno.h>

#include "liboffload/plan/simulate_impl.h"

static bool positive(double rate)
{
    return rate > 0 && rate < 1e18;
}

static bool good_program(const struct plan_program *p)
{
    for (uint32_t i = 0; i < p->ops_count; i++)
        if (p->ops[i].stream >= WORLD_STREAMS || p->ops[i].first + p->ops[i].count > p->leases_count ||
            (p->ops[i].type == PLAN_UPDATE && (!p->ops[i].count || p->ops[i].count > CORE_UPDATE_TENSORS)))
            return false;
    for (uint32_t i = 0; i < p->leases_count; i++)
        if (p->leases[i].tensor >= p->tensors_count)
            return false;
    for (uint32_t i = 0; i < p->tensors_count; i++)
        if (!p->tensors[i].bytes || !ofl_dtype_bytes(p->tensors[i].dtype))
            return false;
    return p->ops_count;
}

static bool good_rates(const struct plan_rates *r)
{
    for (uint32_t i = 0; i < r->drives_count && i < PLAN_DRIVES; i++)
        if (!positive(r->drives[i].read_bytes_s) || !positive(r->drives[i].write_bytes_s))
            return false;
    return r->drives_count <= PLAN_DRIVES && r->workers && positive(r->device_flops_s) &&
           positive(r->device_bytes_s) && positive(r->link_in_bytes_s) && positive(r->link_out_bytes_s) &&
           positive(r->update_bytes_s) && positive(r->seal_bytes_s);
}

int run_check(const struct plan_simulation *s)
{
    bool drive = s->budgets.store_bytes > 0;

    for (uint32_t i = 0; i < s->program->tensors_count; i++)
        drive |= s->program->tensors[i].source;
    if (s->steps >= 1 && s->steps <= PLAN_STEPS && s->budgets.device_bytes && s->jitter >= 0 &&
        good_program(s->program) && (!s->other || good_program(s->other)) && good_rates(&s->rates) &&
        (!drive || s->rates.drives_count))
        return 0;
    return base_fail(-EINVAL, "simulate: a rate, a number or an index makes no sense");
}
