/* Weights of a checkpoint that are never changed, a tensor at a time: see frozen.h. */
#include "examples/model/frozen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/model.h"

struct llama_range llama_frozen_part(const struct llama_shape *shape, enum ofl_dtype dtype, uint32_t index,
                                     enum llama_part_kind part)
{
    struct llama_tensor_desc d;
    struct llama_stored s;

    llama_tensor_at(shape, index, &d);
    if (!llama_is_packed(dtype))
        return part == LLAMA_PART_NUMBERS
                   ? (struct llama_range){.elems = d.elems, .bytes = llama_dtype_bytes(dtype, d.elems)}
                   : (struct llama_range){0};
    llama_stored_at(shape, index, &s);
    return llama_packing_range(&shape->packings[dtype - LLAMA_PACKED], part, s.shape[0], s.shape[1],
                               llama_stored_row(shape, index), d.shape[0]);
}

static int bind(const struct llama_checkpoint *ck, struct llama_frozen *f, uint32_t index)
{
    struct ofl_tensor **parts = &f->parts[(size_t)index * LLAMA_PARTS];
    int err = 0;

    for (int i = 0; err == 0 && i < LLAMA_PARTS; i++) {
        enum llama_part_kind part = (enum llama_part_kind)i;
        struct llama_range r = llama_frozen_part(&f->shape, f->dtypes[index], index, part);

        if (r.bytes)
            err = llama_is_packed(f->dtypes[index])
                      ? llama_checkpoint_bind_part(ck, index, part, &r, &parts[i])
                      : llama_checkpoint_bind(ck, index, 0, r.elems, &parts[i]);
    }
    return err;
}

int llama_frozen_bind(const struct llama_checkpoint *ck, const struct llama_shape *shape,
                      struct llama_frozen *out, char *error, size_t error_bytes)
{
    int err = 0;

    *out = (struct llama_frozen){.shape = *shape, .count = llama_tensor_count(shape)};
    llama_checkpoint_packings(ck, &out->shape);
    out->dtypes = calloc(out->count, sizeof *out->dtypes);
    out->parts = calloc((size_t)out->count * LLAMA_PARTS, sizeof *out->parts);
    if (!out->dtypes || !out->parts) {
        snprintf(error, error_bytes, "bind a model of %u layers: out of memory", shape->layers);
        llama_frozen_destroy(out);
        return -ENOMEM;
    }
    for (uint32_t i = 0; err == 0 && i < out->count; i++) {
        struct ofl_source *source;
        const char *name;

        llama_checkpoint_find(ck, i, &source, &name, &out->dtypes[i]);
        err = bind(ck, out, i);
    }
    if (err < 0) {
        snprintf(error, error_bytes, "%s", ofl_error());
        llama_frozen_destroy(out);
    }
    return err;
}

void llama_frozen_destroy(struct llama_frozen *f)
{
    for (size_t i = 0; f->parts && i < (size_t)f->count * LLAMA_PARTS; i++)
        ofl_tensor_destroy(f->parts[i]);
    free(f->parts);
    free(f->dtypes);
    *f = (struct llama_frozen){0};
}

size_t llama_frozen_leases(const struct llama_frozen *f, uint32_t index, struct ofl_lease leases[LLAMA_PARTS])
{
    size_t n = 0;

    for (size_t i = 0; i < LLAMA_PARTS; i++)
        if (f->parts[(size_t)index * LLAMA_PARTS + i])
            leases[n++] = (struct ofl_lease){.size = sizeof *leases,
                                             .tensor = f->parts[(size_t)index * LLAMA_PARTS + i],
                                             .mode = OFL_READ};
    return n;
}

/* How a packed tensor lies in what is leased of it. */
static struct llama_packed place_of(const struct llama_frozen *f, uint32_t index)
{
    struct llama_packed p = {.packing = f->shape.packings[f->dtypes[index] - LLAMA_PACKED]};
    struct llama_tensor_desc d;
    struct llama_stored s;

    llama_tensor_at(&f->shape, index, &d);
    llama_stored_at(&f->shape, index, &s);
    p.rows = d.shape[0];
    p.columns = s.shape[1];
    if (llama_packing_step(&p.packing) == 0) {
        p.rows = s.shape[0];
        p.first = llama_stored_row(&f->shape, index);
    }
    return p;
}

struct llama_weight llama_frozen_weight(const struct llama_frozen *f, uint32_t index,
                                        const struct ofl_lease *leases, struct llama_packed *packed)
{
    enum ofl_dtype dtype = f->dtypes[index];
    struct llama_tensor_desc d;

    llama_tensor_at(&f->shape, index, &d);
    if (!llama_is_packed(dtype))
        return llama_weight_of(&f->shape, d.role, leases[0].ptr, dtype);
    *packed = place_of(f, index);
    for (int i = 0; i < LLAMA_PARTS; i++)
        packed->parts[i] = packed->packing.there[i] ? (leases++)->ptr : NULL;
    return (struct llama_weight){.dtype = dtype, .packed = packed};
}

/* ---- rows --------------------------------------------------------------- */

/* Where each part's bytes begin in memory, behind one another and aligned. */
static uint64_t lay_out(const struct llama_range ranges[LLAMA_PARTS], uint64_t at[LLAMA_PARTS])
{
    uint64_t bytes = 0;

    for (int i = 0; i < LLAMA_PARTS; i++) {
        at[i] = bytes;
        bytes += (ranges[i].bytes + LLAMA_ALIGN - 1) / LLAMA_ALIGN * LLAMA_ALIGN;
    }
    return bytes;
}

int llama_rows_read(struct ofl_tensor *const parts[LLAMA_PARTS], enum ofl_dtype dtype,
                    const struct llama_packed *place, uint64_t from, uint64_t count, struct llama_rows *out)
{
    struct llama_range ranges[LLAMA_PARTS] = {{.bytes = llama_dtype_bytes(dtype, count * place->columns)}};
    bool packed = llama_is_packed(dtype), whole = packed && llama_packing_step(&place->packing) == 0;
    uint64_t at[LLAMA_PARTS], firsts[LLAMA_PARTS] = {llama_dtype_bytes(dtype, from * place->columns)};
    int err = 0;

    *out = (struct llama_rows){.packed = *place, .count = count};
    for (int i = 0; packed && i < LLAMA_PARTS; i++) {
        ranges[i] = llama_packing_range(&place->packing, (enum llama_part_kind)i, place->rows, place->columns,
                                        from, count);
        firsts[i] = llama_dtype_bytes(place->packing.dtypes[i], ranges[i].first);
    }
    out->memory = malloc(lay_out(ranges, at));
    if (!out->memory)
        return -ENOMEM;
    for (int i = 0; i < LLAMA_PARTS && err == 0; i++) {
        if (ranges[i].bytes == 0)
            continue;
        out->packed.parts[i] = (char *)out->memory + at[i];
        err = ofl_tensor_read(parts[i], firsts[i], (char *)out->memory + at[i], ranges[i].bytes);
    }
    if (whole)
        out->packed.first += from;
    else
        out->packed.rows = count;
    out->weight = packed ? (struct llama_weight){.dtype = dtype, .packed = &out->packed}
                         : (struct llama_weight){.dtype = dtype, .data = out->memory};
    return err;
}

int llama_frozen_read(const struct llama_frozen *f, uint32_t index, uint64_t from, uint64_t bytes,
                      struct llama_rows *out)
{
    enum ofl_dtype dtype = f->dtypes[index];
    struct llama_packed place = {0};
    struct llama_tensor_desc d;
    uint64_t step = 1, all = 0, count;

    llama_tensor_at(&f->shape, index, &d);
    place.columns = d.dims == 1 ? 1 : d.shape[1];
    if (llama_is_packed(dtype)) {
        place = place_of(f, index);
        step = llama_packing_step(&place.packing);
    }
    for (int i = 0; i < LLAMA_PARTS; i++)
        all += llama_frozen_part(&f->shape, dtype, index, (enum llama_part_kind)i).bytes;
    count = step ? bytes / (all / d.shape[0] + 1) / step * step : d.shape[0];
    count = count < step ? step : count;
    if (count > d.shape[0] - from)
        count = d.shape[0] - from;
    return llama_rows_read(&f->parts[(size_t)index * LLAMA_PARTS], dtype, &place, from, count, out);
}
