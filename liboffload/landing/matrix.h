/* matrix: what the files of matrices with scales of their own share. Only they include this. */
#ifndef OFL_LANDING_MATRIX_H
#define OFL_LANDING_MATRIX_H

#include "liboffload/landing/landing.h"
#include "liboffload/landing/number.h"

struct unpacking {
    struct ofl_landing_matrix m;
    const struct small *small; /* SCALED: of F8 */
    bool nibbles;              /* numbers are of 4 bits */
    uint64_t groups;           /* in a row */
    landing_run_fn *run;       /* NULL: by plain loops alone */
    enum landing_number number;
    float scales[256]; /* of a byte as a scale */
};

static inline uint32_t matrix_word(const void *words, uint64_t index)
{
    return number_u32((const uint8_t *)words + 4 * index);
}

/* Whether there are numbers of that dtype with scales. */
bool matrix_takes(enum ofl_dtype dtype);
/* What follows from u->m, which is checked and has no zeros that stand for all. */
void matrix_prepare(struct unpacking *u);
/* False: a column's group is not there; NaNs are in its place. */
bool matrix_unpack(const struct unpacking *u);

#endif
