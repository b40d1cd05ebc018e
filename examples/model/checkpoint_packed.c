/* The packed matrices of a checkpoint: see checkpoint_packed.h. Names and layouts are those that the packers write. */
#include "examples/model/checkpoint_packed.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "examples/model/files.h"

/* What ends a name, in place of "weight". */
struct ending {
    enum llama_packer packer;
    const char *end;
    enum llama_part_kind part;
};

static const struct ending endings[] = {
    {LLAMA_PACKER_FP8, "weight_scale_inv", LLAMA_PART_SCALES},
    {LLAMA_PACKER_FP8, "weight", LLAMA_PART_NUMBERS},
    {LLAMA_PACKER_COMPRESSED, "weight", LLAMA_PART_NUMBERS},
    {LLAMA_PACKER_COMPRESSED, "weight_packed", LLAMA_PART_NUMBERS},
    {LLAMA_PACKER_COMPRESSED, "weight_scale", LLAMA_PART_SCALES},
    {LLAMA_PACKER_COMPRESSED, "weight_zero_point", LLAMA_PART_ZEROS},
    {LLAMA_PACKER_COMPRESSED, "weight_g_idx", LLAMA_PART_ORDER},
    {LLAMA_PACKER_COMPRESSED, "weight_global_scale", LLAMA_PART_GLOBAL},
    {LLAMA_PACKER_GPTQ, "qweight", LLAMA_PART_NUMBERS},
    {LLAMA_PACKER_GPTQ, "scales", LLAMA_PART_SCALES},
    {LLAMA_PACKER_GPTQ, "qzeros", LLAMA_PART_ZEROS},
    {LLAMA_PACKER_GPTQ, "g_idx", LLAMA_PART_ORDER},
    {LLAMA_PACKER_AWQ, "qweight", LLAMA_PART_NUMBERS},
    {LLAMA_PACKER_AWQ, "scales", LLAMA_PART_SCALES},
    {LLAMA_PACKER_AWQ, "qzeros", LLAMA_PART_ZEROS},
};

/* Of what goes into products, not of weights: those are computed as they are. */
static const char *const passed_over[] = {"weight_shape",     "input_scale",  "input_global_scale",
                                          "input_zero_point", "output_scale", "activation_scale",
                                          "k_scale",          "v_scale",      "q_scale"};

#define REFUSE(...) llama_fail(-OFL_EFORMAT, error, error_bytes, __VA_ARGS__)

static bool is_small(enum ofl_dtype dtype)
{
    return (dtype >= OFL_F8_E4M3 && dtype <= OFL_F8_E5M2FNUZ) || dtype == OFL_I8;
}

static const struct ending *ending_of(enum llama_packer packer, const struct ofl_source_entry *e,
                                      const char *last)
{
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (endings[i].packer == packer && strcmp(endings[i].end, last) == 0)
            return strcmp(last, "weight") == 0 && !is_small(e->dtype) ? NULL : &endings[i];
    return NULL;
}

static bool is_passed_over(const char *last)
{
    for (size_t i = 0; i < sizeof passed_over / sizeof passed_over[0]; i++)
        if (strcmp(passed_over[i], last) == 0)
            return true;
    return false;
}

/* Rows and columns as of a matrix: they are the part's shape. */
static int keep(struct packed_matrix *m, enum llama_part_kind kind, const char *path,
                struct ofl_source *source, const struct ofl_source_entry *e, uint64_t rows, uint64_t columns,
                char *error, size_t error_bytes)
{
    struct packed_part *part = &m->parts[kind];

    if (part->source)
        return REFUSE("open %s: tensor %s: it is there as %s too", path, e->name, part->name);
    *part = (struct packed_part){source, e->name, e->dtype, e->dims < 2 ? e->dims : 2, {rows, columns}};
    m->path = path;
    return 1;
}

/* Of gpt_oss: all experts of a layer as one, NAME_blocks [experts, outputs, groups, 16] and NAME_scales [experts, outputs,
 * groups], as transformers' Mxfp4HfQuantizer reads them. */
static int put_experts(const struct llama_shape *shape, struct packed_matrix *matrices, const char *path,
                       struct ofl_source *source, const struct ofl_source_entry *e, char *error,
                       size_t error_bytes)
{
    static const char *const ends[] = {"_blocks", "_scales"};
    size_t n = strlen(e->name), i = 0;
    struct llama_stored s;
    char name[256];

    while (i < 2 && (n < 7 || strcmp(e->name + n - 7, ends[i]) != 0))
        i++;
    if (i == 2)
        return 0;
    snprintf(name, sizeof name, "%.*s", (int)(n - 7), e->name);
    if (!llama_stored_find(shape, name, &s) || s.count != shape->experts || s.shape[0] == s.count)
        return 0;
    if (e->dims != 4 - i || e->shape[0] != s.count || e->shape[1] != s.shape[0] / s.count ||
        e->shape[2] != s.shape[1] / 32 || s.shape[1] % 32 || (i == 0 && e->shape[3] != 16) ||
        e->dtype != OFL_U8)
        return REFUSE("open %s: tensor %s: not u8 of %" PRIu32 " experts of %" PRIu64 " rows of %" PRIu64
                      " groups of 32",
                      path, e->name, s.count, s.shape[0] / s.count, s.shape[1] / 32);
    return keep(&matrices[s.first], i == 0 ? LLAMA_PART_NUMBERS : LLAMA_PART_SCALES, path, source, e,
                s.shape[0], e->shape[2] * (i == 0 ? 16 : 1), error, error_bytes);
}

int packed_put(const struct llama_shape *shape, struct packed_matrix *matrices, const char *path,
               struct ofl_source *source, const struct ofl_source_entry *e, char *error, size_t error_bytes)
{
    const char *dot = strrchr(e->name, '.'), *last = dot ? dot + 1 : e->name;
    const struct ending *ending = dot ? ending_of(shape->scheme.packer, e, last) : NULL;
    struct llama_stored s;
    char name[256];

    if (shape->scheme.packer == LLAMA_PACKER_NONE)
        return 0;
    if (shape->scheme.packer == LLAMA_PACKER_MXFP4)
        return put_experts(shape, matrices, path, source, e, error, error_bytes);
    if (!ending)
        return is_passed_over(last);
    snprintf(name, sizeof name, "%.*s.weight", (int)(dot - e->name), e->name);
    if (!llama_stored_find(shape, name, &s) || s.dims != 2)
        return 0;
    if (e->dims > 2)
        return REFUSE("open %s: tensor %s: %" PRIu32 " dimensions, at most 2 are expected", path, e->name,
                      e->dims);
    return keep(&matrices[s.first], ending->part, path, source, e, e->dims > 0 ? e->shape[0] : 1,
                e->dims > 1 ? e->shape[1] : 1, error, error_bytes);
}

/* ---- the format ------------------------------------------------------------- */

/* What is looked at to find it. */
struct looking {
    const struct llama_shape *shape;
    const struct packed_matrix *m;
    const struct llama_stored *stored;
    struct llama_packing *p;
    char *error;
    size_t error_bytes;
};

#define WRONG(l, ...) llama_fail(-OFL_EFORMAT, (l)->error, (l)->error_bytes, __VA_ARGS__)

static int find_packing(const struct looking *l)
{
    enum ofl_dtype numbers = l->m->parts[LLAMA_PART_NUMBERS].dtype;
    enum llama_packer packer = l->shape->scheme.packer;

    if (packer == LLAMA_PACKER_GPTQ)
        l->p->packing = l->shape->scheme.gptq_v2 ? OFL_PACKING_GPTQ_V2 : OFL_PACKING_GPTQ;
    else if (packer == LLAMA_PACKER_AWQ)
        l->p->packing = OFL_PACKING_AWQ;
    else if (numbers == OFL_I32)
        l->p->packing = OFL_PACKING_INT4;
    else if (numbers == OFL_U8)
        l->p->packing = OFL_PACKING_FP4;
    else if (is_small(numbers))
        l->p->packing = OFL_PACKING_SCALED;
    else
        return WRONG(l, "open %s: tensor %s: numbers of %s are not packed in a way that is known", l->m->path,
                     l->m->parts[LLAMA_PART_NUMBERS].name, ofl_dtype_name(numbers));
    return 0;
}

static bool scale_is_known(const struct looking *l)
{
    enum ofl_dtype dtype = l->m->parts[LLAMA_PART_SCALES].dtype;

    return dtype == OFL_F32 || dtype == OFL_F16 || dtype == OFL_BF16 || dtype == OFL_F8_E8M0 ||
           (l->p->packing == OFL_PACKING_FP4 && (dtype == OFL_F8_E4M3 || dtype == OFL_U8));
}

/* Which parts must be there, and are not: NULL, or what it is called. */
static int check_parts(const struct looking *l)
{
    static const char *const called[LLAMA_PARTS] = {"numbers", "scales", "zeros", "order of groups",
                                                    "global scale"};
    bool across = l->p->packing >= OFL_PACKING_GPTQ, fp4 = l->p->packing == OFL_PACKING_FP4,
         e4m3 = fp4 && l->m->parts[LLAMA_PART_SCALES].dtype == OFL_F8_E4M3;
    const struct llama_scheme *scheme = &l->shape->scheme;
    const bool needs[LLAMA_PARTS] = {
        true, true, across || (scheme->zeros && l->p->packing == OFL_PACKING_INT4), scheme->order, e4m3};
    const bool may[LLAMA_PARTS] = {true, true, across || l->p->packing == OFL_PACKING_INT4,
                                   across && l->p->packing != OFL_PACKING_AWQ, fp4};

    for (int i = 0; i < LLAMA_PARTS; i++) {
        const struct packed_part *part = &l->m->parts[i];

        if (needs[i] && !part->source)
            return WRONG(l, "open %s: matrix %s: its %s are missing", l->m->path, l->stored->name, called[i]);
        if (!may[i] && part->source)
            return WRONG(l, "open %s: tensor %s: %s beside numbers of this packing are not supported",
                         l->m->path, part->name, called[i]);
        l->p->there[i] = part->source != NULL;
        l->p->dtypes[i] = part->dtype;
    }
    if (!scale_is_known(l))
        return WRONG(l, "open %s: tensor %s: scales of %s are not supported", l->m->path,
                     l->m->parts[LLAMA_PART_SCALES].name,
                     ofl_dtype_name(l->m->parts[LLAMA_PART_SCALES].dtype));
    if ((l->p->there[LLAMA_PART_ZEROS] && l->p->dtypes[LLAMA_PART_ZEROS] != OFL_I32) ||
        (l->p->there[LLAMA_PART_ORDER] && l->p->dtypes[LLAMA_PART_ORDER] != OFL_I32) ||
        (l->p->there[LLAMA_PART_GLOBAL] && l->p->dtypes[LLAMA_PART_GLOBAL] != OFL_F32) ||
        (across && l->p->dtypes[LLAMA_PART_NUMBERS] != OFL_I32))
        return WRONG(l, "open %s: matrix %s: numbers, zeros and orders are to be i32, global scales f32",
                     l->m->path, l->stored->name);
    return 0;
}

/* By the shape of the scales, and the blocks of the configuration. */
static void find_groups(const struct looking *l)
{
    const struct packed_part *scales = &l->m->parts[LLAMA_PART_SCALES];
    const struct llama_scheme *scheme = &l->shape->scheme;
    uint64_t rows = l->stored->shape[0], columns = l->stored->shape[1],
             across = l->p->packing >= OFL_PACKING_GPTQ, groups = scales->shape[across ? 0 : 1];
    bool blocks = l->p->packing == OFL_PACKING_SCALED && scheme->block_rows && scales->dims == 2 &&
                  scales->shape[0] != rows;

    l->p->group_rows = scales->shape[0] * scales->shape[1] == 1 ? 0 : 1;
    l->p->group_columns = groups > 1 ? (columns + groups - 1) / groups : 0;
    if (blocks && l->p->group_rows) {
        l->p->group_rows = scheme->block_rows;
        l->p->group_columns = scheme->block_columns < columns ? scheme->block_columns : 0;
    }
    if (across || l->p->packing == OFL_PACKING_INT4)
        l->p->group_rows = 1;
}

/* As packers write a part: whole words hold eight numbers, of a column (GPTQ) or a row. */
static void shape_of(const struct looking *l, enum llama_part_kind part, uint64_t shape[2])
{
    uint64_t rows = l->stored->shape[0], columns = l->stored->shape[1], each = l->p->group_columns,
             groups = each ? (columns + each - 1) / each : 1, words = (rows + 7) / 8,
             tall = l->p->group_rows ? (rows + l->p->group_rows - 1) / l->p->group_rows : 1;
    bool across = l->p->packing >= OFL_PACKING_GPTQ;

    shape[0] = shape[1] = 1;
    if (part == LLAMA_PART_NUMBERS) {
        shape[0] = l->p->packing == OFL_PACKING_AWQ ? columns : across ? columns / 8 : rows;
        shape[1] = l->p->packing == OFL_PACKING_AWQ      ? words
                   : across                              ? rows
                   : l->p->packing == OFL_PACKING_SCALED ? columns
                   : l->p->packing == OFL_PACKING_FP4    ? columns / 2
                                                         : columns / 8;
    } else if (part == LLAMA_PART_SCALES || part == LLAMA_PART_ZEROS) {
        uint64_t lines = part == LLAMA_PART_ZEROS ? words : tall;

        shape[0] = across ? groups : lines;
        shape[1] = across ? lines : groups;
    } else if (part == LLAMA_PART_ORDER) {
        shape[0] = columns;
    }
}

/* Scales are of groups of equal size; of FP4's the dtype of the scales says which. */
static int check_groups(const struct looking *l)
{
    const struct packed_part *scales = &l->m->parts[LLAMA_PART_SCALES];
    uint64_t columns = l->stored->shape[1], each = l->p->group_columns,
             fp4 = scales->dtype == OFL_F8_E4M3 ? 16 : 32;

    if (l->p->packing == OFL_PACKING_FP4 && (each ? each : columns) != fp4)
        return WRONG(l,
                     "open %s: tensor %s: shape [%" PRIu64 ", %" PRIu64
                     "], but scales of %s are each of %" PRIu64 " numbers of a row of %" PRIu64,
                     l->m->path, scales->name, scales->shape[0], scales->shape[1],
                     ofl_dtype_name(scales->dtype), fp4, columns);
    if (l->p->packing != OFL_PACKING_SCALED && !l->p->there[LLAMA_PART_ORDER] && each && columns % each)
        return WRONG(l,
                     "open %s: tensor %s: shape [%" PRIu64 ", %" PRIu64 "], but %" PRIu64
                     " columns are not as many groups of one size",
                     l->m->path, scales->name, scales->shape[0], scales->shape[1], columns);
    return 0;
}

/* Each part has the shape that its packer writes: the count alone would pass what is turned. */
static int check_shapes(const struct looking *l)
{
    uint64_t rows = l->stored->shape[0], columns = l->stored->shape[1], is[2];

    if (l->p->packing != OFL_PACKING_SCALED && (columns % 8 || (llama_packing_step(l->p) == 0 && rows % 8)))
        return WRONG(l, "open %s: matrix %s: [%" PRIu64 ", %" PRIu64 "] is not whole words of eight numbers",
                     l->m->path, l->stored->name, rows, columns);
    for (int i = 0; i < LLAMA_PARTS; i++) {
        const struct packed_part *part = &l->m->parts[i];

        shape_of(l, (enum llama_part_kind)i, is);
        if (part->source && (part->shape[0] != is[0] || part->shape[1] != is[1]))
            return WRONG(l,
                         "open %s: tensor %s: shape [%" PRIu64 ", %" PRIu64 "], but a matrix [%" PRIu64
                         ", %" PRIu64 "] needs [%" PRIu64 ", %" PRIu64 "]",
                         l->m->path, part->name, part->shape[0], part->shape[1], rows, columns, is[0], is[1]);
    }
    return check_groups(l);
}

/* Where several matrices are stored as one, each begins with a group of its own. */
static int check_cuts(const struct looking *l)
{
    uint64_t step = llama_packing_step(l->p);

    for (uint32_t i = l->stored->first; step && i < l->stored->first + l->stored->count; i++)
        if (llama_stored_row(l->shape, i) % step)
            return WRONG(l,
                         "open %s: matrix %s: row %" PRIu64
                         ", at which another one begins, is inside a group of %" PRIu64,
                         l->m->path, l->stored->name, llama_stored_row(l->shape, i), step);
    return 0;
}

static int add_packing(struct llama_shape *shape, const struct llama_packing *p, const char *path,
                       enum ofl_dtype *out, char *error, size_t error_bytes)
{
    uint32_t i = 0;

    while (i < shape->packing_count && !llama_packing_equal(&shape->packings[i], p))
        i++;
    if (i == LLAMA_PACKINGS_MAX)
        return REFUSE("open %s: more than %u ways to pack matrices in one model", path, LLAMA_PACKINGS_MAX);
    if (i == shape->packing_count)
        shape->packings[shape->packing_count++] = *p;
    *out = (enum ofl_dtype)(LLAMA_PACKED + i);
    return 0;
}

int packed_dtype(struct llama_shape *shape, const struct packed_matrix *m, uint32_t tensor,
                 enum ofl_dtype *out, char *error, size_t error_bytes)
{
    struct llama_packing p = {0};
    struct llama_stored s;
    struct looking l = {shape, m, &s, &p, error, error_bytes};
    int rc;

    llama_stored_at(shape, tensor, &s);
    if (tensor == 0)
        return REFUSE("open %s: tensor %s is packed: that is not supported of an embedding", m->path, s.name);
    rc = find_packing(&l);
    if (rc == 0)
        rc = check_parts(&l);
    if (rc < 0)
        return rc;
    find_groups(&l);
    rc = check_shapes(&l);
    if (rc == 0)
        rc = check_cuts(&l);
    return rc == 0 ? add_packing(shape, &p, m->path, out, error, error_bytes) : rc;
}
