/*
 * matrix: unpacking of matrices whose scales, zeros and order stand in tensors of their own. Plain C, a row at a time;
 * of each row first the numbers, then what they are scaled by.
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

#define PIECE 256u /* columns at a time */

/* ---- small floats -------------------------------------------------------------- */

/* Sign, exponent, mantissa; what the largest exponent stands for. */
struct small {
    unsigned exponent, mantissa;
    int bias;
    enum { ALL_FINITE, IEEE, NAN_ONLY, NAN_AT_MINUS_ZERO } kind;
};

static float small_float(const struct small *s, unsigned bits)
{
    unsigned sign = bits >> (s->exponent + s->mantissa) & 1, m = bits & ((1u << s->mantissa) - 1);
    unsigned e = bits >> s->mantissa & ((1u << s->exponent) - 1), most = (1u << s->exponent) - 1;
    float value;

    if (s->kind == NAN_AT_MINUS_ZERO && sign && e == 0 && m == 0)
        return NAN;
    if (s->kind == NAN_ONLY && e == most && m == (1u << s->mantissa) - 1)
        return NAN;
    if (s->kind == IEEE && e == most)
        value = m ? NAN : INFINITY;
    else
        value = ldexpf((float)(e ? m | 1u << s->mantissa : m), (int)(e ? e : 1) - s->bias - (int)s->mantissa);
    return sign ? -value : value;
}

static const struct small *small_of(enum ofl_dtype dtype)
{
    static const struct small e4m3 = {4, 3, 7, NAN_ONLY}, e5m2 = {5, 2, 15, IEEE};
    static const struct small e4m3fnuz = {4, 3, 8, NAN_AT_MINUS_ZERO},
                              e5m2fnuz = {5, 2, 16, NAN_AT_MINUS_ZERO};
    static const struct small e2m1 = {2, 1, 1, ALL_FINITE};

    switch (dtype) {
    case OFL_F8_E4M3:
        return &e4m3;
    case OFL_F8_E5M2:
        return &e5m2;
    case OFL_F8_E4M3FNUZ:
        return &e4m3fnuz;
    case OFL_F8_E5M2FNUZ:
        return &e5m2fnuz;
    case OFL_F4:
        return &e2m1;
    default:
        return NULL;
    }
}

/* ---- one matrix ------------------------------------------------------------------ */

struct unpacking {
    struct ofl_landing_matrix m;
    uint64_t groups;   /* in a row */
    unsigned bits;     /* SCALED: of a number, 8 or 4 */
    float values[256]; /* SCALED: of all numbers of so many bits */
    float scales[256]; /* of a byte as a scale */
};

static uint32_t word_at(const void *words, uint64_t index)
{
    return number_u32((const uint8_t *)words + 4 * index);
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

/* Which group a column is in; -1: one that is not there. */
static int64_t group_of(const struct unpacking *u, uint64_t column)
{
    uint32_t group;

    if (!u->m.order)
        return (int64_t)(column / u->m.group_columns);
    group = word_at(u->m.order, column);
    return group < u->groups ? (int64_t)group : -1;
}

/* Where a row's nibble is in a word of AWQ. */
static unsigned awq_shift(uint64_t row)
{
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};

    return 4u * place[row % 8];
}

static float number_at(const struct unpacking *u, uint64_t row, uint64_t column)
{
    static const float fp4[16] = {0,     0.5f,  1,     1.5f,  2,     3,     4,     6,
                                  -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    const struct ofl_landing_matrix *m = &u->m;
    const uint8_t *p = m->packed;
    uint64_t at = row * m->columns + column;

    switch (m->packing) {
    case OFL_PACKING_FP4:
        return fp4[p[at / 2] >> at % 2 * 4 & 15];
    case OFL_PACKING_INT4:
        return (float)(word_at(p, at / 8) >> at % 8 * 4 & 15);
    case OFL_PACKING_GPTQ:
    case OFL_PACKING_GPTQ_V2:
        return (float)(word_at(p, column / 8 * m->rows + row) >> column % 8 * 4 & 15);
    case OFL_PACKING_AWQ:
        return (float)(word_at(p, (column * m->rows + row) / 8) >> awq_shift(row) & 15);
    default:
        break;
    }
    return u->values[u->bits == 8 ? p[at] : p[at / 2] >> at % 2 * 4 & 15];
}

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

static uint64_t scale_index(const struct unpacking *u, uint64_t row, uint64_t group)
{
    if (u->m.packing >= OFL_PACKING_GPTQ)
        return group * u->m.rows + row;
    return row / u->m.group_rows * u->groups + group;
}

/* Some columns of a row. False: a group that is not there. */
static bool unpack_piece(const struct unpacking *u, uint64_t row, uint64_t column, uint64_t n, float *out)
{
    int64_t last = -1;
    float scale = 0, zero = 0;
    bool whole = true, zeros = u->m.packing >= OFL_PACKING_INT4;

    for (uint64_t i = 0; i < n; i++) {
        int64_t group = group_of(u, column + i);
        float number = number_at(u, row, column + i);

        if (group < 0) {
            out[i] = NAN;
            whole = false;
            continue;
        }
        if (group != last) {
            scale = scale_at(u, scale_index(u, row, (uint64_t)group));
            zero = zeros ? zero_at(u, row, (uint64_t)group) : 0;
            last = group;
        }
        out[i] = (zeros ? number - zero : number) * scale;
    }
    return whole;
}

static void narrow(const float *values, uint64_t n, enum ofl_dtype to, void *out, uint64_t at)
{
    if (to == OFL_F32)
        memcpy((float *)out + at, values, n * sizeof *values);
    for (uint64_t i = 0; to != OFL_F32 && i < n; i++)
        ((uint16_t *)out)[at + i] = to == OFL_F16 ? number_to_f16(values[i]) : number_to_bf16(values[i]);
}

/* The first row and column whose group is not there; false: all are. */
static bool unpack_all(const struct unpacking *u, uint64_t *wrong_column)
{
    const struct ofl_landing_matrix *m = &u->m;
    bool wrong = false;

    for (uint64_t r = 0; r < m->row_count; r++)
        for (uint64_t c = 0; c < m->columns; c += PIECE) {
            uint64_t n = m->columns - c < PIECE ? m->columns - c : PIECE;
            float values[PIECE];

            if (!unpack_piece(u, m->first_row + r, c, n, values) && !wrong) {
                wrong = true;
                for (*wrong_column = c; group_of(u, *wrong_column) >= 0;)
                    ++*wrong_column;
            }
            narrow(values, n, m->to, m->out, r * m->columns + c);
        }
    return wrong;
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
    if (m->packing == OFL_PACKING_SCALED && !small_of(m->dtype) && m->dtype != OFL_I8 && m->dtype != OFL_U8)
        return base_fail(-ENOTSUP, "unpack a scaled matrix of %s: there is no landing transform for it",
                         ofl_dtype_name(m->dtype) ? ofl_dtype_name(m->dtype) : "an unknown dtype");
    if (!scale)
        return base_fail(-EINVAL, "unpack a matrix (%s): scales of %s", names[m->packing],
                         scale_name ? scale_name : "an unknown dtype");
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

static void make_tables(struct unpacking *u)
{
    const struct small *small = small_of(u->m.dtype), *scale = small_of(OFL_F8_E4M3);
    const struct base_dtype *d = base_dtype(u->m.dtype);

    u->bits = u->m.packing == OFL_PACKING_SCALED ? 8 * d->block_bytes / d->block_elems : 8;
    for (unsigned i = 0; i < 256; i++) {
        if (u->m.packing == OFL_PACKING_SCALED)
            u->values[i] = small                  ? small_float(small, i & ((1u << u->bits) - 1))
                           : u->m.dtype == OFL_I8 ? (float)(int8_t)i
                                                  : (float)i;
        u->scales[i] = u->m.scale_dtype == OFL_F8_E4M3 ? small_float(scale, i) : ldexpf(1, (int)i - 127);
    }
    if (u->m.scale_dtype == OFL_F8_E8M0)
        u->scales[255] = NAN;
}

static int prepare(const struct ofl_landing_matrix *from, struct unpacking *u)
{
    struct ofl_landing_matrix *m = &u->m;
    int err = base_sized_read(m, sizeof *m, sizeof *m, from, "unpack: matrix");

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
    make_tables(u);
    return 0;
}

int ofl_landing_matrix_run(const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    uint64_t column = 0;
    int err = prepare(m, &u);

    if (err == 0 && unpack_all(&u, &column))
        err = base_fail(-EINVAL,
                        "unpack a matrix (%s): column %" PRIu64 " is of group %" PRIu32 ": it has %" PRIu64,
                        names[u.m.packing], column, word_at(u.m.order, column), u.groups);
    return err;
}

/* Checked. */
static void run(void *arg)
{
    struct unpacking u;
    uint64_t column;

    if (prepare(arg, &u) == 0)
        unpack_all(&u, &column);
}

int ofl_landing_matrix_launch(struct ofl_stream *s, const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    int err = prepare(m, &u);

    return err < 0 ? err : ofl_stream_launch(s, run, (void *)(uintptr_t)m);
}
