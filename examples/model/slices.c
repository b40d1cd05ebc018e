/* A Llama's tensors cut by rows. See slices.h. */
#include "examples/model/slices.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/kernels.h"

/* ---- where to cut -------------------------------------------------------- */

static uint64_t columns(const struct llama_tensor_desc *d)
{
    return d->dims == 1 ? 1 : d->shape[1];
}

uint64_t llama_slice_limit(const struct llama_shape *shape, const enum ofl_dtype *dtypes)
{
    uint64_t bytes = 0, limit;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_tensor_desc d;

        llama_tensor_at(shape, i, &d);
        bytes += llama_dtype_bytes(dtypes[i], d.elems);
    }
    limit = bytes / LLAMA_SLICE_SHARE;
    limit = limit < LLAMA_SLICE_LEAST  ? LLAMA_SLICE_LEAST
            : limit > LLAMA_SLICE_MOST ? LLAMA_SLICE_MOST
                                       : limit;
    bytes /= LLAMA_SLICE_SHARE_LEAST;
    return bytes > limit ? bytes : limit;
}

/* As few as the limit allows, and as equal as may be: room is kept for the largest. */
uint64_t llama_slice_rows(const struct llama_tensor_desc *d, enum ofl_dtype dtype, uint64_t limit)
{
    uint64_t bytes = llama_dtype_bytes(dtype, d->elems), count = (bytes + limit - 1) / limit;
    uint64_t rows = d->shape[0];

    if (d->dims == 1 || count <= 1)
        return rows;
    rows = (rows + count - 1) / count;
    return (rows + LLAMA_SLICE_ROWS - 1) / LLAMA_SLICE_ROWS * LLAMA_SLICE_ROWS;
}

void llama_cut_at(const struct llama_shape *shape, const enum ofl_dtype *dtypes, uint64_t limit,
                  uint32_t tensor, uint64_t from, struct llama_cut *out)
{
    struct llama_tensor_desc *d = &out->desc;
    uint64_t rows;

    llama_tensor_at(shape, tensor, d);
    rows = llama_slice_rows(d, dtypes[tensor], limit);
    out->from = from / rows * rows;
    out->rows = d->shape[0] - out->from < rows ? d->shape[0] - out->from : rows;
    out->first = out->from * columns(d);
    out->elems = out->rows * columns(d);
    out->bytes = llama_dtype_bytes(dtypes[tensor], out->elems);
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
        rows = llama_slice_rows(&d, s->dtypes[i], s->limit);
        s->count += (uint32_t)((d.shape[0] + rows - 1) / rows);
        s->first[i + 1] = s->count;
    }
    s->slices = calloc(s->count, sizeof *s->slices);
    return s->slices ? 0 : out_of_memory(s, error, error_bytes);
}

static int create(struct ofl_ctx *ctx, const struct llama_cut *c, enum ofl_dtype dtype,
                  struct ofl_tensor **out)
{
    struct ofl_tensor_desc t = {
        .size = sizeof t, .name = c->name, .kind = OFL_KIND_WEIGHT, .dtype = dtype, .elems = c->elems};

    return ofl_tensor_create(ctx, &t, out);
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
            err = ck ? llama_checkpoint_bind(ck, i, c.first, c.elems, &s->slices[k])
                     : create(ctx, &c, s->dtypes[i], &s->slices[k]);
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

    for (uint32_t i = 0; err == 0 && i < out->tensors; i++) {
        struct ofl_source *source;
        const char *name;

        llama_checkpoint_find(ck, i, &source, &name, &out->dtypes[i]);
    }
    return err < 0 ? err : make_all(NULL, ck, out, error, error_bytes);
}

void llama_slices_destroy(struct llama_slices *s)
{
    for (uint32_t i = 0; s->slices && i < s->count; i++)
        ofl_tensor_destroy(s->slices[i]);
    free(s->slices);
    free(s->first);
    free(s->dtypes);
    *s = (struct llama_slices){0};
}
