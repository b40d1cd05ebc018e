/*
 * matrix: unpacking of matrices whose scales, zeros and order stand in tensors of their own. Plain C, some rows and
 * columns at a time: first their numbers as bytes, then as floats, then what these are scaled by.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "base/error.h"
#include "base/sized.h"
#include "liboffload/landing/landing.h"
#include "liboffload/landing/number.h"

#define PIECE  1024u /* columns at a time; a multiple of 32 */
#define ACROSS 256u  /* of those that lie across */
#define TILE   64u   /* rows of those */

/*
 * Loops worth wider registers than the baseline's. The variants give the same bits: nothing here is a sum, and there is
 * no contraction. The run-time choice is made before a sanitizer's run-time is up, so not under those.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

/* ---- numbers ------------------------------------------------------------------- */

/* A float of a byte: sign, exponent, mantissa; what does not follow from these. */
struct small {
    unsigned mantissa;
    int bias;
    enum { IEEE, NAN_ONLY, NAN_AT_MINUS_ZERO } kind;
};

static const struct small *small_of(enum ofl_dtype dtype)
{
    static const struct small e4m3 = {3, 7, NAN_ONLY}, e5m2 = {2, 15, IEEE};
    static const struct small e4m3fnuz = {3, 8, NAN_AT_MINUS_ZERO}, e5m2fnuz = {2, 16, NAN_AT_MINUS_ZERO};

    switch (dtype) {
    case OFL_F8_E4M3:
        return &e4m3;
    case OFL_F8_E5M2:
        return &e5m2;
    case OFL_F8_E4M3FNUZ:
        return &e4m3fnuz;
    case OFL_F8_E5M2FNUZ:
        return &e5m2fnuz;
    default:
        return NULL;
    }
}

/* Exponent and mantissa put into an f32 stand for 2^(bias - 127) of the value, subnormal or not. */
static WIDE void small_floats(const struct small *s, const uint8_t *restrict q, uint64_t n,
                              float *restrict out)
{
    const float scale = number_of_bits((uint32_t)(254 - s->bias) << 23);
    const unsigned shift = 23 - s->mantissa, infinity = s->kind == IEEE ? 0x7c : 0x80;
    const unsigned nan = s->kind == NAN_ONLY ? 0x7f : 0x80,
                   nan_at = s->kind == NAN_AT_MINUS_ZERO ? 0x80 : 0x100;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t size = (uint32_t)(q[i] & 0x7f) << shift;
        uint32_t bits = number_bits(number_of_bits(size) * scale);

        bits = (q[i] & 0x7fu) >= infinity ? 0x7f800000u | (q[i] & 3u) << 21 : bits;
        bits = (unsigned)((q[i] & 0x7fu) == nan) | (unsigned)(q[i] == nan_at) ? 0x7fc00000u : bits;
        out[i] = number_of_bits(bits | (q[i] & 0x80u) << 24);
    }
}

/* E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and these with a sign. */
static WIDE void fp4_floats(const uint8_t *restrict q, uint64_t n, float *restrict out)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t e = q[i] >> 1 & 3u, m = q[i] & 1u;
        uint32_t bits = e ? (e + 126) << 23 | m << 22 : m * 0x3f000000u;

        out[i] = number_of_bits(bits | (q[i] & 8u) << 28);
    }
}

static WIDE void whole_floats(const uint8_t *restrict q, uint64_t n, bool with_sign, float *restrict out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = (float)(with_sign ? (int8_t)q[i] : q[i]);
}

/* ---- one matrix ------------------------------------------------------------------ */

struct unpacking {
    struct ofl_landing_matrix m;
    const struct small *small; /* SCALED: of F8 */
    bool nibbles;              /* numbers are of 4 bits */
    uint64_t groups;           /* in a row */
    landing_run_fn *run;       /* NULL: by plain loops alone */
    enum landing_number number;
    float scales[256]; /* of a byte as a scale */
};

/* Numbers as bytes, of so many rows and columns. */
struct tile {
    uint64_t row, rows, column, columns;
    uint8_t q[TILE * ACROSS]; /* [rows], ACROSS from one to the next; or one row */
};

static uint32_t word_at(const void *words, uint64_t index)
{
    return number_u32((const uint8_t *)words + 4 * index);
}

/* Where a row's nibble is in a word of AWQ. */
static unsigned awq_shift(uint64_t row)
{
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};

    return 4u * place[row % 8];
}

static WIDE void split(const uint8_t *restrict p, uint64_t n, uint8_t *restrict q)
{
    for (uint64_t i = 0; i < n / 2; i++) {
        q[2 * i] = p[i] & 15;
        q[2 * i + 1] = p[i] >> 4;
    }
}

/* Eight nibbles as eight bytes. */
static uint64_t spread(uint32_t word)
{
    uint64_t even = word & 0x0f0f0f0fu, odd = word >> 4 & 0x0f0f0f0fu;

    even = (even | even << 16) & 0x0000ffff0000ffffu;
    odd = (odd | odd << 16) & 0x0000ffff0000ffffu;
    even = (even | even << 8) & 0x00ff00ff00ff00ffu;
    odd = (odd | odd << 8) & 0x00ff00ff00ff00ffu;
    return even | odd << 8;
}

/* Row by row as they are used, but for those that lie across: these are read as they lie. */
static void expand(const struct unpacking *u, struct tile *t)
{
    const struct ofl_landing_matrix *m = &u->m;
    const uint8_t *p = m->packed;

    if (m->packing < OFL_PACKING_GPTQ) {
        uint64_t at = t->row * m->columns + t->column;

        if (u->nibbles)
            split(p + at / 2, t->columns, t->q);
        else
            memcpy(t->q, p + at, t->columns);
        return;
    }
    for (uint64_t c = 0; m->packing == OFL_PACKING_AWQ && c < t->columns; c++)
        for (uint64_t r = 0; r < t->rows; r++) {
            uint64_t row = t->row + r;

            t->q[r * ACROSS + c] = word_at(p, ((t->column + c) * m->rows + row) / 8) >> awq_shift(row) & 15;
        }
    for (uint64_t c = 0; m->packing != OFL_PACKING_AWQ && c < t->columns; c += 8)
        for (uint64_t r = 0; r < t->rows; r++) {
            uint64_t eight = spread(word_at(p, (t->column + c) / 8 * m->rows + t->row + r));

            memcpy(&t->q[r * ACROSS + c], &eight, sizeof eight);
        }
}

static void to_floats(const struct unpacking *u, const uint8_t *q, uint64_t n, float *out)
{
    if (u->small)
        small_floats(u->small, q, n, out);
    else if (u->m.packing == OFL_PACKING_FP4 || (u->m.packing == OFL_PACKING_SCALED && u->nibbles))
        fp4_floats(q, n, out);
    else
        whole_floats(q, n, u->m.packing == OFL_PACKING_SCALED && u->m.dtype == OFL_I8, out);
}

/* That of a row's first group, and from one group to the next. */
static uint64_t scales_of(const struct unpacking *u, uint64_t row, uint64_t *step)
{
    bool across = u->m.packing >= OFL_PACKING_GPTQ;

    *step = across ? u->m.rows : 1;
    return across ? row : row / u->m.group_rows * u->groups;
}

static float scale_at(const struct unpacking *u, uint64_t index)
{
    const uint8_t *p = u->m.scales;
    float scale;

    switch (u->m.scale_dtype) {
    case OFL_F32:
        scale = number_of_bits(word_at(p, index));
        break;
    case OFL_F16:
        scale = number_f16(number_u16(p + 2 * index));
        break;
    case OFL_BF16:
        scale = number_bf16(number_u16(p + 2 * index));
        break;
    default:
        scale = u->scales[p[index]];
    }
    return u->m.global ? scale / *u->m.global : scale;
}

/* 0 where there are none: that changes no number, of either sign. */
static float zero_at(const struct unpacking *u, uint64_t row, uint64_t group)
{
    const struct ofl_landing_matrix *m = &u->m;
    uint64_t across = (group * m->rows + row) / 8;

    switch (m->packing) {
    case OFL_PACKING_INT4:
        return m->zeros ? (float)(word_at(m->zeros, row / 8 * u->groups + group) >> row % 8 * 4 & 15) : 8;
    case OFL_PACKING_GPTQ:
        return (float)((word_at(m->zeros, across) + 0x11111111u) >> row % 8 * 4 & 15);
    case OFL_PACKING_GPTQ_V2:
        return (float)(word_at(m->zeros, across) >> row % 8 * 4 & 15);
    case OFL_PACKING_AWQ:
        return (float)(word_at(m->zeros, across) >> awq_shift(row) & 15);
    default:
        return 0;
    }
}

static WIDE void scale_run(float *values, uint64_t n, float zero, float scale)
{
    for (uint64_t i = 0; i < n; i++)
        values[i] = (values[i] - zero) * scale;
}

/* Columns behind each other that are of one group, from that one on. *group: -1 if it is not there. */
static uint64_t run_of(const struct unpacking *u, uint64_t column, uint64_t end, int64_t *group)
{
    uint64_t upto = column;

    if (u->m.order) {
        uint32_t of = word_at(u->m.order, column);

        while (upto < end && word_at(u->m.order, upto) == of)
            upto++;
        *group = of < u->groups ? (int64_t)of : -1;
        return upto - column;
    }
    *group = (int64_t)(column / u->m.group_columns);
    upto = ((uint64_t)*group + 1) * u->m.group_columns;
    return (upto < end ? upto : end) - column;
}

/* False: a column's group is not there. */
static bool scale_row(const struct unpacking *u, const struct tile *t, uint64_t row, float *values)
{
    uint64_t end = t->column + t->columns, n, step, first = scales_of(u, row, &step);
    bool whole = true;

    for (uint64_t c = t->column; c < end; c += n) {
        float *run = values + (c - t->column);
        int64_t group;

        n = run_of(u, c, end, &group);
        if (group >= 0) {
            scale_run(run, n, zero_at(u, row, (uint64_t)group), scale_at(u, first + (uint64_t)group * step));
            continue;
        }
        whole = false;
        for (uint64_t i = 0; i < n; i++)
            run[i] = NAN;
    }
    return whole;
}

static WIDE void narrow(const float *restrict values, uint64_t n, bool half, uint16_t *restrict out)
{
    if (half)
        for (uint64_t i = 0; i < n; i++)
            out[i] = number_to_f16(values[i]);
    else
        for (uint64_t i = 0; i < n; i++)
            out[i] = number_to_bf16(values[i]);
}

static void *out_at(const struct ofl_landing_matrix *m, const struct tile *t, uint64_t row)
{
    uint64_t at = (row - m->first_row) * m->columns + t->column;

    return m->to == OFL_F32 ? (void *)((float *)m->out + at) : (uint16_t *)m->out + at;
}

/* By plain loops. */
static bool unpack_row(const struct unpacking *u, const struct tile *t, uint64_t row)
{
    void *out = out_at(&u->m, t, row);
    float values[PIECE], *to = u->m.to == OFL_F32 ? out : values;
    bool whole;

    to_floats(u, t->q + (row - t->row) * ACROSS, t->columns, to);
    whole = scale_row(u, t, row, to);
    if (u->m.to != OFL_F32)
        narrow(values, t->columns, u->m.to == OFL_F16, out);
    return whole;
}

/* ---- by runs, where the machine has them ------------------------------------------- */

/* What to BF16 may not go wrong with any number: see landing.h. */
static bool is_plain_scale(float scale)
{
    return scale == 0 || (fabsf(scale) > 0x1p-60f && fabsf(scale) < 0x1p60f);
}

/* Of each sixteen columns. False: not to be done by a run. */
static bool fill_scales(const struct unpacking *u, const struct tile *t, uint64_t row, float *scales,
                        int8_t *zeros)
{
    uint64_t group = t->column / u->m.group_columns, step, first = scales_of(u, row, &step);
    uint64_t next = (group + 1) * u->m.group_columns - t->column, n = t->columns / 16;
    bool plain = true;

    for (uint64_t i = 0; i < n; group++, next += u->m.group_columns) {
        float scale = scale_at(u, first + group * step);
        int8_t zero = u->number == LANDING_WHOLE ? (int8_t)zero_at(u, row, group) : 0;

        plain &= is_plain_scale(scale);
        for (; i < n && 16 * i < next; i++) {
            scales[i] = scale;
            zeros[i] = zero;
        }
    }
    return plain || u->m.to != OFL_BF16;
}

static bool run_row(const struct unpacking *u, const struct tile *t, uint64_t row)
{
    uint64_t at = row * u->m.columns + t->column;
    bool across = u->m.packing >= OFL_PACKING_GPTQ;
    float scales[PIECE / 16];
    int8_t zeros[PIECE / 16];
    struct landing_run r = {.number = u->number,
                            .nibbles = u->nibbles && !across,
                            .q = across ? t->q + (row - t->row) * ACROSS
                                        : (const uint8_t *)u->m.packed + (u->nibbles ? at / 2 : at),
                            .n = t->columns,
                            .scales = scales,
                            .zeros = zeros,
                            .out = out_at(&u->m, t, row)};

    if (!fill_scales(u, t, row, scales, zeros))
        return false;
    u->run(&r);
    return true;
}

/* The function that does it, and for which numbers. */
static void choose_run(struct unpacking *u)
{
    const struct ofl_landing_matrix *m = &u->m;
    const struct landing_runs *runs = landing_find_runs(m->form);
    bool sixteens = u->groups == 1 || m->group_columns % 16 == 0;

    if (!runs || m->order || !sixteens)
        return;
    if (m->packing == OFL_PACKING_FP4 || (m->packing == OFL_PACKING_SCALED && u->nibbles))
        u->number = LANDING_FP4;
    else if (m->packing == OFL_PACKING_SCALED && m->dtype == OFL_F8_E4M3)
        u->number = LANDING_E4M3;
    else if (m->packing == OFL_PACKING_SCALED && m->dtype == OFL_F8_E5M2)
        u->number = LANDING_E5M2;
    else if (m->packing == OFL_PACKING_SCALED && m->dtype != OFL_I8)
        return;
    if ((u->number == LANDING_E4M3 || u->number == LANDING_E5M2) && m->to == OFL_BF16 && !runs->takes_nan)
        return;
    u->run = runs->to[m->to == OFL_F32 ? LANDING_F32 : m->to == OFL_F16 ? LANDING_F16 : LANDING_BF16];
}

static bool unpack_tile(const struct unpacking *u, struct tile *t)
{
    bool runs = u->run && t->columns % 32 == 0, whole = true;
    bool expanded = !runs || u->m.packing >= OFL_PACKING_GPTQ;

    if (expanded)
        expand(u, t);
    for (uint64_t row = t->row; row < t->row + t->rows; row++) {
        if (runs && run_row(u, t, row))
            continue;
        if (!expanded)
            expand(u, t);
        expanded = true;
        whole &= unpack_row(u, t, row);
    }
    return whole;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* False: a column's group is not there. */
static bool unpack_all(const struct unpacking *u)
{
    const struct ofl_landing_matrix *m = &u->m;
    uint64_t end = m->first_row + m->row_count;
    bool whole = true, across = m->packing >= OFL_PACKING_GPTQ;
    struct tile t;

    for (t.row = m->first_row; t.row < end; t.row += t.rows) {
        t.rows = across ? least(end - t.row, TILE) : 1; /* as they lie */
        for (t.column = 0; t.column < m->columns; t.column += t.columns) {
            t.columns = least(m->columns - t.column, across ? ACROSS : PIECE);
            whole &= unpack_tile(u, &t);
        }
    }
    return whole;
}

/* ---- checks ------------------------------------------------------------------------ */

static const char *const names[OFL_PACKINGS] = {
    [OFL_PACKING_SCALED] = "scaled", [OFL_PACKING_FP4] = "fp4",         [OFL_PACKING_INT4] = "int4",
    [OFL_PACKING_GPTQ] = "gptq",     [OFL_PACKING_GPTQ_V2] = "gptq v2", [OFL_PACKING_AWQ] = "awq",
};

static int check_types(const struct ofl_landing_matrix *m)
{
    bool scale = m->scale_dtype == OFL_F32 || m->scale_dtype == OFL_F16 || m->scale_dtype == OFL_BF16 ||
                 m->scale_dtype == OFL_F8_E4M3 || m->scale_dtype == OFL_F8_E8M0 || m->scale_dtype == OFL_U8;
    const char *scale_name = ofl_dtype_name(m->scale_dtype), *to = ofl_dtype_name(m->to);

    if ((unsigned)m->packing >= OFL_PACKINGS)
        return base_fail(-EINVAL, "unpack a matrix of packing %d: there are %d", (int)m->packing,
                         (int)OFL_PACKINGS);
    if (m->packing == OFL_PACKING_SCALED && !small_of(m->dtype) && m->dtype != OFL_F4 && m->dtype != OFL_I8 &&
        m->dtype != OFL_U8)
        return base_fail(-ENOTSUP, "unpack a scaled matrix of %s: there is no landing transform for it",
                         ofl_dtype_name(m->dtype) ? ofl_dtype_name(m->dtype) : "an unknown dtype");
    if (!scale)
        return base_fail(-EINVAL, "unpack a matrix (%s): scales of %s", names[m->packing],
                         scale_name ? scale_name : "an unknown dtype");
    if ((unsigned)m->form >= OFL_LANDING_FORMS)
        return base_fail(-EINVAL, "unpack a matrix (%s) by form %d: there are %d", names[m->packing],
                         (int)m->form, (int)OFL_LANDING_FORMS);
    if (m->form > OFL_LANDING_PLAIN && !landing_find_runs(m->form))
        return base_fail(-ENOTSUP, "unpack a matrix (%s): form %d is not on this machine", names[m->packing],
                         (int)m->form);
    if (m->to != OFL_F32 && m->to != OFL_F16 && m->to != OFL_BF16)
        return base_fail(-EINVAL, "unpack a matrix (%s) to %s: only to f32, f16 and bf16", names[m->packing],
                         to ? to : "an unknown dtype");
    return 0;
}

/* Numbers and zeros are whole words or bytes. */
static int check_sizes(const struct ofl_landing_matrix *m)
{
    const uint64_t in_columns[OFL_PACKINGS] = {
        [OFL_PACKING_SCALED] = m->packing == OFL_PACKING_SCALED ? base_dtype(m->dtype)->block_elems : 1,
        [OFL_PACKING_FP4] = 2,
        [OFL_PACKING_INT4] = 8,
        [OFL_PACKING_GPTQ] = 8,
        [OFL_PACKING_GPTQ_V2] = 8,
        [OFL_PACKING_AWQ] = 1};
    uint64_t in_rows = m->packing >= OFL_PACKING_GPTQ ? 8 : 1, elems;

    if (m->rows == 0 || m->columns == 0 || m->columns % in_columns[m->packing] || m->rows % in_rows)
        return base_fail(-EINVAL,
                         "unpack a matrix (%s) of %" PRIu64 " rows, %" PRIu64
                         " columns: not multiples of %" PRIu64 " and %" PRIu64,
                         names[m->packing], m->rows, m->columns, in_rows, in_columns[m->packing]);
    if (__builtin_mul_overflow(m->rows, m->columns, &elems) || elems > INT64_MAX / 8)
        return base_fail(-EINVAL, "unpack a matrix (%s) of %" PRIu64 " rows, %" PRIu64 " columns: too many",
                         names[m->packing], m->rows, m->columns);
    if (m->first_row > m->rows || m->row_count > m->rows - m->first_row)
        return base_fail(-EINVAL,
                         "unpack a matrix (%s) of %" PRIu64 " rows: %" PRIu64 " rows from %" PRIu64 " on",
                         names[m->packing], m->rows, m->row_count, m->first_row);
    if (m->group_rows && m->packing >= OFL_PACKING_INT4 && m->group_rows != 1)
        return base_fail(-EINVAL, "unpack a matrix (%s): groups of %" PRIu64 " rows: each row has its own",
                         names[m->packing], m->group_rows);
    if (!m->packed || !m->scales || !m->out || (m->packing >= OFL_PACKING_GPTQ && !m->zeros))
        return base_fail(-EINVAL, "unpack a matrix (%s): no memory is named for its %s", names[m->packing],
                         !m->packed   ? "numbers"
                         : !m->scales ? "scales"
                         : !m->out    ? "results"
                                      : "zeros");
    if (m->order && m->packing != OFL_PACKING_GPTQ && m->packing != OFL_PACKING_GPTQ_V2)
        return base_fail(-EINVAL, "unpack a matrix (%s): only gptq has an order", names[m->packing]);
    return 0;
}

static void make_scales(struct unpacking *u)
{
    uint8_t bytes[256];

    for (unsigned i = 0; i < 256; i++) {
        bytes[i] = (uint8_t)i;
        u->scales[i] = ldexpf(1, (int)i - 127);
    }
    if (u->m.scale_dtype == OFL_F8_E4M3)
        small_floats(small_of(OFL_F8_E4M3), bytes, 256, u->scales);
    if (u->m.scale_dtype == OFL_F8_E8M0)
        u->scales[255] = NAN;
}

static int prepare(const struct ofl_landing_matrix *from, struct unpacking *u)
{
    struct ofl_landing_matrix *m = &u->m;
    int err;

    *u = (struct unpacking){.number = LANDING_WHOLE};
    err = base_sized_read(m, sizeof *m, sizeof *m, from, "unpack: matrix");

    if (err == 0)
        err = check_types(m);
    if (err == 0)
        err = check_sizes(m);
    if (err < 0)
        return err;
    m->row_count = m->row_count ? m->row_count : m->rows - m->first_row;
    m->group_columns = m->group_columns ? m->group_columns : m->columns;
    if (m->packing >= OFL_PACKING_INT4)
        m->group_rows = 1;
    m->group_rows = m->group_rows ? m->group_rows : m->rows;
    u->groups = (m->columns + m->group_columns - 1) / m->group_columns;
    u->small = m->packing == OFL_PACKING_SCALED ? small_of(m->dtype) : NULL;
    u->nibbles = m->packing != OFL_PACKING_SCALED || m->dtype == OFL_F4;
    make_scales(u);
    choose_run(u);
    return 0;
}

int ofl_landing_matrix_run(const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    int err = prepare(m, &u);

    if (err < 0 || unpack_all(&u))
        return err;
    for (uint64_t c = 0; c < u.m.columns; c++)
        if (word_at(u.m.order, c) >= u.groups)
            return base_fail(
                -EINVAL, "unpack a matrix (%s): column %" PRIu64 " is of group %" PRIu32 ": it has %" PRIu64,
                names[u.m.packing], c, word_at(u.m.order, c), u.groups);
    return err;
}

/* Checked. */
static void run(void *arg)
{
    struct unpacking u;

    if (prepare(arg, &u) == 0)
        (void)unpack_all(&u);
}

int ofl_landing_matrix_launch(struct ofl_stream *s, const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    int err = prepare(m, &u);

    return err < 0 ? err : ofl_stream_launch(s, run, (void *)(uintptr_t)m);
}
