/*
 * update: the optimizer's arithmetic on plain memory. No tensors, no threads. Results do not depend on where the
 * arrays lie, how a tensor is cut into calls, or which form computes them.
 *
 * The loops are written once (update_loops.h) and compiled in several forms, for the instructions that a processor
 * may have. Every element's operations are rounded one by one in the order of update_math.h, in every form.
 */
#ifndef OFL_OPTIM_UPDATE_H
#define OFL_OPTIM_UPDATE_H

#include <stdint.h>

#include "include/offload_update.h"
#include "liboffload/optim/update_math.h"

/* Where one call works; n elements each. */
struct optim_arrays {
    float *p, *m;
    float *v;       /* NULL for methods with one state */
    const float *g; /* NULL: zeros */
    uint16_t *w16;  /* gets p rounded to BF16; NULL: none */
};

struct optim_form {
    /* n may be anything. One pass over memory. scale multiplies the gradient. */
    void (*update[OFL_METHODS])(const struct optim_coef *c, float scale, struct optim_arrays a, uint64_t n);
    /* In OPTIM_LANES lanes. */
    double (*sum_part)(const float *x, uint64_t n);
    void (*round)(uint16_t *to, const float *from, uint64_t n);
};

/* Empty where the compiler has no such instructions. */
extern const struct optim_form optim_form_plain, optim_form_avx2, optim_form_avx512;

/* NULL: not on this machine. Best: always one. */
const struct optim_form *optim_form_find(enum ofl_update_form form);

/* -EINVAL where they can't be. doing: what the sentence begins with. */
int optim_settings_check(const struct ofl_update_settings *s, const char *doing);
/* Copies and checks; doing: what the sentence begins with. */
int optim_settings_read(struct ofl_update_settings *out, const struct ofl_update_settings *from,
                        const char *doing);

/* decay: of the settings' weight_decay, for this weight. */
struct optim_coef optim_coef_make(enum ofl_method method, const struct ofl_update_settings *settings,
                                  double decay);

/* By the best form. */
void optim_update(enum ofl_method method, const struct optim_coef *c, float scale, struct optim_arrays a,
                  uint64_t n);

/* p rounded to BF16. */
void optim_round(uint16_t *w16, const float *p, uint64_t n);

/* Sum of squares in double, in the order of update_math.h, which depends on n alone. */
double optim_sum_squares(const float *x, uint64_t n);

/* optim_sum_squares() by one form. */
double optim_form_sum(const struct optim_form *form, const float *x, uint64_t n);

/* Whether the method keeps a second moment. */
static inline int optim_squares(enum ofl_method method)
{
    return method == OFL_ADAMW || method == OFL_ADAM;
}

#endif
