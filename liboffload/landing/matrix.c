/* The public calls on matrices whose scales, zeros and order stand in tensors of their own, and their checks. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>

#include "base/dtype.h"
#include "base/error.h"
#include "base/sized.h"
#include "liboffload/core/core.h"
#include "liboffload/landing/matrix.h"

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
    if (m->packing == OFL_PACKING_SCALED && !matrix_takes(m->dtype))
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
    matrix_prepare(u);
    return 0;
}

int ofl_landing_matrix_run(const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    int err = prepare(m, &u);

    if (err < 0 || matrix_unpack(&u))
        return err;
    for (uint64_t c = 0; c < u.m.columns; c++)
        if (matrix_word(u.m.order, c) >= u.groups)
            return base_fail(
                -EINVAL, "unpack a matrix (%s): column %" PRIu64 " is of group %" PRIu32 ": it has %" PRIu64,
                names[u.m.packing], c, matrix_word(u.m.order, c), u.groups);
    return err;
}

/* Checked. */
static void run(void *arg)
{
    struct unpacking u;

    if (prepare(arg, &u) == 0)
        (void)matrix_unpack(&u);
}

int ofl_landing_matrix_launch(struct ofl_stream *s, const struct ofl_landing_matrix *m)
{
    struct unpacking u;
    int err;

    if (core_refused(core_stream_ctx(s), s, m))
        return -EINVAL;
    err = prepare(m, &u);
    return err < 0 ? err : ofl_stream_launch(s, run, (void *)(uintptr_t)m);
}
