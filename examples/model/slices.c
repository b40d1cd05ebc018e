/* A Llama's tensors cut by rows. See slices.h. */
#include "examples/model/slices.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/kernels.h"

/* ---- where to cut -------------------------------------------------------- */

static uint64_t columns(const struct llama_tensor_desc *d)
{
    return d->dims == 1 ? 1 : d->shape[1];
}

static const struct llama_packing *packing_of(const struct llama_shape *shape, enum ofl_dtype dtype)
{
    return llama_is_packed(dtype) ? &shape->packings[dtype - LLAMA_PACKED] : NULL;
}

uint64_t llama_tensor_bytes(const struct llama_shape *shape, uint32_t tensor, enum ofl_dtype dtype)
{
    const struct llama_packing *p = packing_of(shape, dtype);
    struct llama_tensor_desc d;

    llama_tensor_at(shape, tensor, &d);
    return p ? llama_packing_bytes(p, d.shape[0], d.shape[1]) : llama_dtype_bytes(dtype, d.elems);
}

uint64_t llama_slice_limit(const struct llama_shape *shape, const enum ofl_dtype *dtypes)
{
    uint64_t bytes = 0, limit;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++)
        bytes += llama_tensor_bytes(shape, i, dtypes[i]);
    limit = bytes / LLAMA_SLICE_SHARE;
    limit = limit < LLAMA_SLICE_LEAST  ? LLAMA_SLICE_LEAST
            : limit > LLAMA_SLICE_MOST ? LLAMA_SLICE_MOST
                                       : limit;
    bytes /= LLAMA_SLICE_SHARE_LEAST;
    return bytes > limit ? bytes : limit;
}

/* As few as the limit allows, and as equal as may be: room is kept for the largest. */
static uint64_t cut_rows(uint64_t rows, uint64_t bytes, uint64_t limit, uint64_t step)
{
    uint64_t count = (bytes + limit - 1) / limit;

    if (count <= 1)
        return rows;
    rows = (rows + count - 1) / count;
    return (rows + step - 1) / step * step;
}

uint64_t llama_slice_rows(const struct llama_tensor_desc *d, enum ofl_dtype dtype, uint64_t limit)
{
    uint64_t rows = d->shape[0];

    return d->dims == 1 ? rows : cut_rows(rows, llama_dtype_bytes(dtype, d->elems), limit, LLAMA_SLICE_ROWS);
}

/* A multiple of both that suits products. */
static uint64_t step_of(uint64_t packed)
{
    return packed % LLAMA_SLICE_ROWS == 0 ? packed : packed * LLAMA_SLICE_ROWS;
}

static uint64_t rows_of(const struct llama_shape *shape, const struct llama_tensor_desc *d,
                        enum ofl_dtype dtype, uint64_t limit)
{
    const struct llama_packing *p = packing_of(shape, dtype);
    uint64_t rows = d->shape[0];

    if (!p)
        return llama_slice_rows(d, dtype, limit);
    if (llama_packing_step(p) == 0)
        return rows;
    return cut_rows(rows, llama_packing_bytes(p, rows, d->shape[1]), limit, step_of(llama_packing_step(p)));
}

/* What each part has of the rows, where the file may store more than this matrix as one. */
static void cut_parts(const struct llama_shape *shape, const struct llama_packing *p, uint32_t tensor,
                      struct llama_cut *c)
{
    uint64_t row = llama_stored_row(shape, tensor);
    struct llama_stored s;

    llama_stored_at(shape, tensor, &s);
    c->bytes = 0;
    for (int i = 0; i < LLAMA_PARTS; i++) {
        c->parts[i] =
            llama_packing_range(p, (enum llama_part_kind)i, s.shape[0], s.shape[1], row + c->from, c->rows);
        c->bytes += c->parts[i].bytes;
    }
}

void llama_cut_at(const struct llama_shape *shape, const enum ofl_dtype *dtypes, uint64_t limit,
                  uint32_t tensor, uint64_t from, struct llama_cut *out)
{
    struct llama_tensor_desc *d = &out->desc;
    uint64_t rows;

    llama_tensor_at(shape, tensor, d);
    rows = rows_of(shape, d, dtypes[tensor], limit);
    out->from = from / rows * rows;
    out->rows = d->shape[0] - out->from < rows ? d->shape[0] - out->from : rows;
    out->first = out->from * columns(d);
    out->elems = out->rows * columns(d);
    memset(out->parts, 0, sizeof out->parts);
    if (llama_is_packed(dtypes[tensor])) {
        cut_parts(shape, packing_of(shape, dtypes[tensor]), tensor, out);
    } else {
        out->bytes = llama_dtype_bytes(dtypes[tensor], out->elems);
        out->parts[0] = (struct llama_range){out->first, out->elems, out->bytes};
    }
    if (out->rows == d->shape[0])
        snprintf(out->name, sizeof out->name, "%s", d->name);
    else
        snprintf(out->name, sizeof out->name, "%s[%" PRIu64 ":%" PRIu64 "]", d->name, out->first,
                 out->first + out->elems);
}

/* ---- tensors ------------------------------------------------------------- */

static int out_of_memory(struct llama_slices *s, char *error, size_t error_bytes)
{
    snprintf(error, error_bytes, "make a model of %" PRIu32 " layers: out of memory", s->shape.layers);
    llama_slices_destroy(s);
    return -ENOMEM;
}

static int make_arrays(const struct llama_shape *shape, struct llama_slices *s, char *error,
                       size_t error_bytes)
{
    *s = (struct llama_slices){.shape = *shape, .tensors = llama_tensor_count(shape)};
    s->first = calloc(s->tensors + 1, sizeof *s->first);
    s->dtypes = calloc(s->tensors, sizeof *s->dtypes);
    return s->first && s->dtypes ? 0 : out_of_memory(s, error, error_bytes);
}

/* The dtypes are known. */
static int cut(struct llama_slices *s, char *error, size_t error_bytes)
{
    s->limit = llama_slice_limit(&s->shape, s->dtypes);
    for (uint32_t i = 0; i < s->tensors; i++) {
        struct llama_tensor_desc d;
        uint64_t rows;

        llama_tensor_at(&s->shape, i, &d);
        rows = rows_of(&s->shape, &d, s->dtypes[i], s->limit);
        s->count += (uint32_t)((d.shape[0] + rows - 1) / rows);
        s->first[i + 1] = s->count;
    }
    s->slices = calloc(s->count, sizeof *s->slices);
    if (s->shape.packing_count)
        s->parts = calloc((size_t)s->count * LLAMA_PARTS, sizeof *s->parts);
    return s->slices && (s->parts || !s->shape.packing_count) ? 0 : out_of_memory(s, error, error_bytes);
}

static int create(struct ofl_ctx *ctx, const struct llama_cut *c, enum ofl_dtype dtype,
                  struct ofl_tensor **out)
{
    struct ofl_tensor_desc t = {
        .size = sizeof t, .name = c->name, .kind = OFL_KIND_WEIGHT, .dtype = dtype, .elems = c->elems};

    return ofl_tensor_create(ctx, &t, out);
}

/* From the checkpoint. */
static int bind(const struct llama_checkpoint *ck, const struct llama_slices *s, uint32_t tensor,
                uint32_t slice, const struct llama_cut *c)
{
    int err = 0;

    if (!llama_is_packed(s->dtypes[tensor]))
        return llama_checkpoint_bind(ck, tensor, c->first, c->elems, &s->slices[slice]);
    for (int i = 0; err == 0 && i < LLAMA_PARTS; i++)
        if (c->parts[i].bytes)
            err = llama_checkpoint_bind_part(ck, tensor, (enum llama_part_kind)i, &c->parts[i],
                                             i ? &s->parts[(size_t)slice * LLAMA_PARTS + (size_t)i]
                                               : &s->slices[slice]);
    return err;
}

/* ck: or created. */
static int make_all(struct ofl_ctx *ctx, const struct llama_checkpoint *ck, struct llama_slices *s,
                    char *error, size_t error_bytes)
{
    int err = cut(s, error, error_bytes);

    for (uint32_t i = 0; err == 0 && i < s->tensors; i++) {
        struct llama_cut c = {0};
        uint64_t from = 0;

        for (uint32_t k = s->first[i]; err == 0 && k < s->first[i + 1]; k++, from = c.from + c.rows) {
            llama_cut_at(&s->shape, s->dtypes, s->limit, i, from, &c);
            err = ck ? bind(ck, s, i, k, &c) : create(ctx, &c, s->dtypes[i], &s->slices[k]);
            if (err < 0) {
                snprintf(error, error_bytes, "%s", ofl_error());
                llama_slices_destroy(s);
            }
        }
    }
    return err;
}

int llama_slices_create(struct ofl_ctx *ctx, const struct llama_shape *shape, enum ofl_dtype dtype,
                        struct llama_slices *out, char *error, size_t error_bytes)
{
    int err = make_arrays(shape, out, error, error_bytes);

    if (err < 0)
        return err;
    for (uint32_t i = 0; i < out->tensors; i++)
        out->dtypes[i] = dtype;
    return make_all(ctx, NULL, out, error, error_bytes);
}

int llama_slices_bind(const struct llama_checkpoint *ck, const struct llama_shape *shape,
                      struct llama_slices *out, char *error, size_t error_bytes)
{
    int err = make_arrays(shape, out, error, error_bytes);

    llama_checkpoint_packings(ck, &out->shape);
    for (uint32_t i = 0; err == 0 && i < out->tensors; i++) {
        struct ofl_source *source;
        const char *name;

        llama_checkpoint_find(ck, i, &source, &name, &out->dtypes[i]);
    }
    return err < 0 ? err : make_all(NULL, ck, out, error, error_bytes);
}

void llama_slices_place(const struct llama_slices *s, uint32_t tensor, uint64_t rows,
                        struct llama_packed *out)
{
    struct llama_stored stored;

    llama_stored_at(&s->shape, tensor, &stored);
    out->columns = stored.shape[1];
    out->rows = rows;
    out->first = 0;
    if (llama_packing_step(&out->packing) == 0) {
        out->rows = stored.shape[0];
        out->first = llama_stored_row(&s->shape, tensor);
    }
}

void llama_slices_destroy(struct llama_slices *s)
{
    for (uint32_t i = 0; s->slices && i < s->count; i++)
        ofl_tensor_destroy(s->slices[i]);
    for (size_t i = 0; s->parts && i < (size_t)s->count * LLAMA_PARTS; i++)
        ofl_tensor_destroy(s->parts[i]);
    free(s->slices);
    free(s->parts);
    free(s->first);
    free(s->dtypes);
    *s = (struct llama_slices){0};
}
