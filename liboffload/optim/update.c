/* update: see update.h. The scalars of a step, the choice of a form, and the public calls on plain memory. */
#include "liboffload/optim/update.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/entry.h"
#include "base/error.h"
#include "base/sized.h"

int optim_settings_check(const struct ofl_update_settings *s, const char *doing)
{
    if (s->step && s->beta1 >= 0 && s->beta1 < 1 && s->beta2 >= 0 && s->beta2 < 1 && s->eps >= 0 &&
        s->clip >= 0 && s->lr >= 0 && isfinite(s->lr) && s->weight_decay >= 0 && isfinite(s->weight_decay))
        return 0;
    return base_fail(-EINVAL,
                     "%s: step %llu, lr %g, beta1 %g, beta2 %g, eps %g, weight decay %g, clip %g: "
                     "steps count from 1, betas lie in [0, 1), the others are not negative, lr and weight "
                     "decay are finite",
                     doing, (unsigned long long)s->step, s->lr, s->beta1, s->beta2, s->eps, s->weight_decay,
                     s->clip);
}

int optim_settings_read(struct ofl_update_settings *out, const struct ofl_update_settings *from,
                        const char *doing)
{
    int err = base_sized_read(out, sizeof *out, sizeof *out, from, doing);

    return err < 0 ? err : optim_settings_check(out, doing);
}

struct optim_coef optim_coef_make(enum ofl_method method, const struct ofl_update_settings *s, double decay)
{
    double t = (double)s->step, weight_decay = s->weight_decay * decay;
    bool coupled = method == OFL_ADAM || method == OFL_SGD, squares = optim_squares(method);

    return (struct optim_coef){
        .decay = coupled ? 1.0f : (float)(1.0 - s->lr * weight_decay),
        .coupled = coupled ? (float)weight_decay : 0.0f,
        .beta1 = (float)s->beta1,
        .rest1 = (float)(1.0 - s->beta1),
        .beta2 = (float)s->beta2,
        .rest2 = (float)(1.0 - s->beta2),
        .rate = (float)(squares ? s->lr / (1.0 - pow(s->beta1, t)) : s->lr),
        .root = (float)(1.0 / sqrt(1.0 - pow(s->beta2, t))),
        .eps = (float)s->eps,
    };
}

/* ---- forms -------------------------------------------------------------- */

static const char *const form_names[OFL_UPDATE_FORMS] = {"any", "plain", "avx2", "avx512"};

static bool machine_has(enum ofl_update_form form)
{
#if defined(__x86_64__)
    if (form == OFL_UPDATE_AVX2)
        return __builtin_cpu_supports("avx2");
    if (form == OFL_UPDATE_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return form == OFL_UPDATE_PLAIN;
}

const struct optim_form *optim_form_find(enum ofl_update_form form)
{
    static const struct optim_form *const forms[OFL_UPDATE_FORMS] = {
        [OFL_UPDATE_PLAIN] = &optim_form_plain,
        [OFL_UPDATE_AVX2] = &optim_form_avx2,
        [OFL_UPDATE_AVX512] = &optim_form_avx512,
    };

    for (int f = OFL_UPDATE_FORMS - 1; f > OFL_UPDATE_BEST; f--)
        if ((form == OFL_UPDATE_BEST || form == (enum ofl_update_form)f) && forms[f]->sum_part &&
            machine_has((enum ofl_update_form)f))
            return forms[f];
    return NULL;
}

static const struct optim_form *best(void)
{
    static const struct optim_form *_Atomic known;
    const struct optim_form *form = atomic_load_explicit(&known, memory_order_relaxed);

    if (!form) {
        form = optim_form_find(OFL_UPDATE_BEST);
        atomic_store_explicit(&known, form, memory_order_relaxed);
    }
    return form;
}

void optim_update(enum ofl_method method, const struct optim_coef *c, float scale, struct optim_arrays a,
                  uint64_t n)
{
    best()->update[method](c, scale, a, n);
}

void optim_round(uint16_t *w16, const float *p, uint64_t n)
{
    best()->round(w16, p, n);
}

double optim_form_sum(const struct optim_form *form, const float *x, uint64_t n)
{
    uint64_t each = optim_part_elems(n), part = 0;
    double lane[OPTIM_SUM_LANES] = {0};

    for (uint64_t i = 0; i < n; i += each)
        lane[part++ % OPTIM_SUM_LANES] += form->sum_part(x + i, n - i < each ? n - i : each);
    return optim_fold(lane, OPTIM_SUM_LANES);
}

double optim_sum_squares(const float *x, uint64_t n)
{
    return optim_form_sum(best(), x, n);
}

/* ---- the public calls --------------------------------------------------- */

int ofl_update_find(enum ofl_update_form form)
{
    if ((unsigned)form >= OFL_UPDATE_FORMS)
        return base_fail(-EINVAL, "find an update of form %d: there are %d forms", (int)form,
                         (int)OFL_UPDATE_FORMS);
    if (optim_form_find(form))
        return 0;
    return base_fail(-ENOTSUP, "find an update of form %s: not on this machine", form_names[form]);
}

static int check_arrays(const struct ofl_update *u)
{
    if ((unsigned)u->method >= OFL_METHODS)
        return base_fail(-EINVAL, "update by method %d: there are %d methods", (int)u->method,
                         (int)OFL_METHODS);
    if (u->elems && (!u->grad || !u->weight || !u->mean || (optim_squares(u->method) && !u->square)))
        return base_fail(-EINVAL, "update %llu elements: %s is NULL", (unsigned long long)u->elems,
                         !u->grad     ? "grad"
                         : !u->weight ? "weight"
                         : !u->mean   ? "mean"
                                      : "square");
    return 0;
}

int ofl_update_run(const struct ofl_update_settings *settings, const struct ofl_update *from)
{
    struct ofl_update_settings s;
    struct ofl_update u;
    struct optim_coef c;
    int err;

    if (base_need(settings, from) < 0)
        return -EINVAL;
    err = optim_settings_read(&s, settings, "update");
    if (err == 0)
        err = base_sized_read(&u, sizeof u, sizeof u, from, "update: arrays");
    if (err == 0)
        err = ofl_update_find(u.form);
    if (err == 0)
        err = check_arrays(&u);
    if (err < 0)
        return err;
    c = optim_coef_make(u.method, &s, 1);
    optim_form_find(u.form)->update[u.method](
        &c, u.grad_scale, (struct optim_arrays){u.weight, u.mean, u.square, u.grad, u.bf16}, u.elems);
    return 0;
}

int ofl_update_sum_squares(enum ofl_update_form form, const float *x, uint64_t n, double *out)
{
    int err;

    if (base_need(out) < 0)
        return -EINVAL;
    *out = 0;
    if (n && base_need(x) < 0)
        return -EINVAL;
    err = ofl_update_find(form);
    if (err == 0)
        *out = optim_form_sum(optim_form_find(form), x, n);
    return err;
}
