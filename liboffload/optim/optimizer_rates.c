/*
 * optimizer_rates: what the settings of a step may be, and what differs between weights: decay and groups. See
 * optimizer.h.
 */
#include <errno.h>
#include <math.h>

#include "base/sized.h"
#include "liboffload/optim/adamw.h"
#include "liboffload/optim/optimizer.h"

int optim_check_rates(const struct ofl_adamw *s, const char *what)
{
    if (s->step && s->beta1 >= 0 && s->beta1 < 1 && s->beta2 >= 0 && s->beta2 < 1 && s->eps >= 0 &&
        s->clip >= 0 && s->lr >= 0 && isfinite(s->lr) && s->weight_decay >= 0 && isfinite(s->weight_decay))
        return 0;
    return base_fail(
        -EINVAL,
        "%s %llu: lr %g, beta1 %g, beta2 %g, eps %g, weight decay %g, clip %g: "
        "steps count from 1, betas lie in [0, 1), the others are not negative, lr and weight decay are "
        "finite",
        what, (unsigned long long)s->step, s->lr, s->beta1, s->beta2, s->eps, s->weight_decay, s->clip);
}

struct optim_coef optim_coef_of(const struct optim_binding *b)
{
    const struct ofl_optimizer *o = b->optimizer;
    struct ofl_adamw s = b->own_rates ? b->rates : o->settings;
    struct optim_coef coef = o->coef;

    s.step = o->settings.step;
    if (b->own_rates)
        coef = optim_coef_make(&s);
    if (b->decay != 1)
        coef.decay = (float)(1.0 - s.lr * (s.weight_decay * b->decay));
    return coef;
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

int ofl_optimizer_rates(struct ofl_optimizer *o, struct ofl_tensor *weight, const struct ofl_adamw *rates)
{
    struct ofl_adamw own = {0};
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
        err = optim_check_rates(&own, "optimizer rates of a weight, step");
    if (err < 0)
        return err;
    b->rates = own;
    b->own_rates = rates != NULL;
    return 0;
}
