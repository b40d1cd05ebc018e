/* Matrices whose numbers are packed: see packing.h. */
#include "examples/model/packing.h"

#include <math.h>

#include "examples/model/kernels.h"

bool llama_packing_equal(const struct llama_packing *a, const struct llama_packing *b)
{
    bool same =
        a->packing == b->packing && a->group_rows == b->group_rows && a->group_columns == b->group_columns;

    for (int i = 0; i < LLAMA_PARTS; i++)
        same = same && a->there[i] == b->there[i] && (!a->there[i] || a->dtypes[i] == b->dtypes[i]);
    return same;
}

uint64_t llama_packing_step(const struct llama_packing *p)
{
    if (p->packing >= OFL_PACKING_GPTQ)
        return 0;
    if (p->packing == OFL_PACKING_INT4 && p->there[LLAMA_PART_ZEROS])
        return 8; /* rows in a word of zeros */
    return p->group_rows ? p->group_rows : 1;
}

static uint64_t part_of(uint64_t n, uint64_t each)
{
    return (n + each - 1) / each;
}

/* Elements of a row of numbers; of GPTQ and AWQ that many for each row on average. */
static uint64_t row_elems(const struct llama_packing *p, uint64_t columns)
{
    return p->packing == OFL_PACKING_SCALED ? columns
           : p->packing == OFL_PACKING_FP4  ? columns / 2
                                            : columns / 8;
}

static struct llama_range lines(uint64_t from, uint64_t count, uint64_t each, uint64_t width)
{
    uint64_t first = from / each;

    return (struct llama_range){.first = first * width,
                                .elems = (part_of(from + count, each) - first) * width};
}

struct llama_range llama_packing_range(const struct llama_packing *p, enum llama_part_kind part,
                                       uint64_t rows, uint64_t columns, uint64_t from, uint64_t count)
{
    uint64_t groups = p->group_columns ? part_of(columns, p->group_columns) : 1,
             group_rows = p->packing >= OFL_PACKING_INT4 ? 1 : p->group_rows;
    struct llama_range r = {0};

    if (!p->there[part])
        return r;
    if (llama_packing_step(p) == 0) {
        from = 0;
        count = rows;
    }
    if (part == LLAMA_PART_NUMBERS)
        r = lines(from, count, 1, row_elems(p, columns));
    else if (part == LLAMA_PART_SCALES)
        r = group_rows ? lines(from, count, group_rows, groups) : lines(0, 1, 1, groups);
    else if (part == LLAMA_PART_ZEROS)
        r = lines(from, count, 8, groups);
    else
        r.elems = part == LLAMA_PART_ORDER ? columns : 1;
    r.bytes = llama_dtype_bytes(p->dtypes[part], r.elems);
    return r;
}

uint64_t llama_packing_bytes(const struct llama_packing *p, uint64_t rows, uint64_t columns)
{
    uint64_t bytes = 0;

    for (int i = 0; i < LLAMA_PARTS; i++)
        bytes += llama_packing_range(p, (enum llama_part_kind)i, rows, columns, 0, rows).bytes;
    return bytes;
}

/* That of the scales, in which the formats' references compute; of NVFP4's it is BF16, as compressed-tensors has it; else
 * F32. */
static enum ofl_dtype dtype_of(const struct llama_packing *p)
{
    enum ofl_dtype scales = p->dtypes[LLAMA_PART_SCALES];

    if (scales == OFL_F8_E4M3)
        return OFL_BF16;
    return scales == OFL_F16 || scales == OFL_BF16 ? scales : OFL_F32;
}

void llama_unpack(float *dst, const struct llama_packed *p, uint64_t row, uint64_t count)
{
    enum ofl_dtype to = dtype_of(&p->packing);
    uint64_t n = count * p->columns;
    void *narrow = dst + n;
    struct ofl_landing_matrix m = {.size = sizeof m,
                                   .packing = p->packing.packing,
                                   .dtype = p->packing.dtypes[LLAMA_PART_NUMBERS],
                                   .scale_dtype = p->packing.dtypes[LLAMA_PART_SCALES],
                                   .to = to,
                                   .rows = p->rows,
                                   .columns = p->columns,
                                   .group_rows = p->packing.group_rows,
                                   .group_columns = p->packing.group_columns,
                                   .first_row = p->first + row,
                                   .row_count = count,
                                   .packed = p->parts[LLAMA_PART_NUMBERS],
                                   .scales = p->parts[LLAMA_PART_SCALES],
                                   .zeros = p->parts[LLAMA_PART_ZEROS],
                                   .order = p->parts[LLAMA_PART_ORDER],
                                   .global = p->parts[LLAMA_PART_GLOBAL],
                                   .out = to == OFL_F32 ? dst : narrow};

    if (ofl_landing_matrix_run(&m) < 0)
        for (uint64_t i = 0; i < n; i++)
            dst[i] = NAN;
    else if (to != OFL_F32)
        llama_widen(dst, narrow, to, n);
}
