/*
 * matrix_rows: the numbers of matrices with scales of their own. By rows as they lie, or by tiles where rows lie across;
 * first the numbers as bytes, then as floats, then what these are scaled by; or all at once by the machine's runs.
 */
#include <math.h>

#include "liboffload/landing/matrix.h"

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

/* Numbers as bytes, of so many rows and columns. */
struct tile {
    uint64_t row, rows, column, columns;
    uint8_t q[TILE * ACROSS]; /* [rows], ACROSS from one to the next; or one row */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
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

/* Eight columns of so many rows. */
static WIDE void spread_words(const uint8_t *restrict words, uint64_t rows, uint8_t *restrict q)
{
    uint64_t eights[TILE];

    for (uint64_t r = 0; r < rows; r++)
        eights[r] = spread(matrix_word(words, r));
    for (uint64_t r = 0; r < rows; r++)
        memcpy(q + r * ACROSS, &eights[r], sizeof eights[r]);
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
    for (uint64_t c = 0; m->packing == OFL_PACKING_AWQ && c < t->columns; c++) {
        uint64_t first = (t->column + c) * m->rows;

        for (uint64_t r = 0, n; r < t->rows; r += n) {
            uint32_t word = matrix_word(p, (first + t->row + r) / 8);

            n = least(8 - (t->row + r) % 8, t->rows - r);
            for (uint64_t i = r; i < r + n; i++)
                t->q[i * ACROSS + c] = word >> awq_shift(t->row + i) & 15;
        }
    }
    for (uint64_t c = 0; m->packing != OFL_PACKING_AWQ && c < t->columns; c += 8)
        spread_words(p + 4 * ((t->column + c) / 8 * m->rows + t->row), t->rows, t->q + c);
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

/* Of two bytes or four. */
static float wide_scale_at(const struct unpacking *u, uint64_t index)
{
    const uint8_t *p = u->m.scales;

    if (u->m.scale_dtype == OFL_F32)
        return number_of_bits(matrix_word(p, index));
    return u->m.scale_dtype == OFL_F16 ? number_f16(number_u16(p + 2 * index))
                                       : number_bf16(number_u16(p + 2 * index));
}

/* n scales from that one on, each step behind the other. */
static void read_scales(const struct unpacking *u, uint64_t first, uint64_t step, uint64_t n, float *out)
{
    const uint8_t *bytes = u->m.scales;

    if (u->m.scale_dtype == OFL_U8 || u->m.scale_dtype == OFL_F8_E8M0 || u->m.scale_dtype == OFL_F8_E4M3)
        for (uint64_t i = 0; i < n; i++)
            out[i] = u->scales[bytes[first + i * step]];
    else
        for (uint64_t i = 0; i < n; i++)
            out[i] = wide_scale_at(u, first + i * step);
    for (uint64_t i = 0; u->m.global && i < n; i++)
        out[i] /= *u->m.global;
}

/* 0 where there are none: that changes no number, of either sign. */
static float zero_at(const struct unpacking *u, uint64_t row, uint64_t group)
{
    const struct ofl_landing_matrix *m = &u->m;
    uint64_t across = (group * m->rows + row) / 8;

    switch (m->packing) {
    case OFL_PACKING_INT4:
        return m->zeros ? (float)(matrix_word(m->zeros, row / 8 * u->groups + group) >> row % 8 * 4 & 15) : 8;
    case OFL_PACKING_GPTQ:
        return (float)((matrix_word(m->zeros, across) + 0x11111111u) >> row % 8 * 4 & 15);
    case OFL_PACKING_GPTQ_V2:
        return (float)(matrix_word(m->zeros, across) >> row % 8 * 4 & 15);
    case OFL_PACKING_AWQ:
        return (float)(matrix_word(m->zeros, across) >> awq_shift(row) & 15);
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
        uint32_t of = matrix_word(u->m.order, column);

        while (upto < end && matrix_word(u->m.order, upto) == of)
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
            float scale;

            read_scales(u, first + (uint64_t)group * step, step, 1, &scale);
            scale_run(run, n, zero_at(u, row, (uint64_t)group), scale);
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
    uint64_t group = t->column / u->m.group_columns, step, first = scales_of(u, row, &step),
             n = t->columns / 16;
    uint64_t last = (t->column + t->columns - 1) / u->m.group_columns, count = last - group + 1, i = 0;
    uint64_t next = (group + 1) * u->m.group_columns - t->column;
    float of_groups[PIECE / 16 + 1];
    bool plain = true;

    read_scales(u, first + group * step, step, count, of_groups);
    for (uint64_t g = 0; g < count && u->m.to == OFL_BF16; g++)
        plain &= is_plain_scale(of_groups[g]);
    for (uint64_t g = 0; g < count; g++, next += u->m.group_columns) {
        int8_t zero = u->number == LANDING_WHOLE ? (int8_t)zero_at(u, row, group + g) : 0;

        for (; i < n && 16 * i < next; i++) {
            scales[i] = of_groups[g];
            zeros[i] = zero;
        }
    }
    return plain;
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

bool matrix_unpack(const struct unpacking *u)
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

bool matrix_takes(enum ofl_dtype dtype)
{
    return small_of(dtype) || dtype == OFL_F4 || dtype == OFL_I8 || dtype == OFL_U8;
}

void matrix_prepare(struct unpacking *u)
{
    u->groups = (u->m.columns + u->m.group_columns - 1) / u->m.group_columns;
    u->small = u->m.packing == OFL_PACKING_SCALED ? small_of(u->m.dtype) : NULL;
    u->nibbles = u->m.packing != OFL_PACKING_SCALED || u->m.dtype == OFL_F4;
    make_scales(u);
    choose_run(u);
}
