/*
 * optimizer_rates: what differs between weights: decay and groups. See optimizer.h.
 */
#include <errno.h>
#include <math.h>

#include "base/sized.h"
#include "liboffload/optim/optimizer.h"

struct optim_coef optim_coef_of(const struct optim_binding *b)
{
    const struct ofl_optimizer *o = b->optimizer;
    struct ofl_update_settings s = b->own_rates ? b->rates : o->settings;

    s.step = o->settings.step;
    return optim_coef_make(o->method, &s, b->decay);
}

int ofl_optimizer_decay(struct ofl_optimizer *o, struct ofl_tensor *weight, double factor)
{
    struct optim_binding *b;

    if (core_refused(o->ctx, o, weight))
        return -EINVAL;
    b = optim_find(o, weight);
    if (!b)
        return base_fail(-ENOENT, "weight decay of %s: not bound", optim_name_of(weight));
    if (!isfinite(factor) || factor < 0)
        return base_fail(-EINVAL, "weight decay of %s: factor %g: not a finite number from 0 on", b->name,
                         factor);
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "weight decay of %s: an optimizer step is open", b->name);
    b->decay = factor;
    return 0;
}

int ofl_optimizer_rates(struct ofl_optimizer *o, struct ofl_tensor *weight,
                        const struct ofl_update_settings *rates)
{
    struct ofl_update_settings own = {0};
    struct optim_binding *b;
    int err = 0;

    if (core_refused(o->ctx, o, weight))
        return -EINVAL;
    b = optim_find(o, weight);
    if (!b)
        return base_fail(-ENOENT, "rates of %s: not bound", optim_name_of(weight));
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "rates of %s: an optimizer step is open", b->name);
    if (rates)
        err = base_sized_read(&own, sizeof own, sizeof own, rates, "optimizer rates");
    own.step = 1; /* and clip: begin's */
    own.clip = 0;
    if (rates && err == 0)
        err = optim_settings_check(&own, "optimizer rates of a weight");
    if (err < 0)
        return err;
    b->rates = own;
    b->own_rates = rates != NULL;
    return 0;
}
