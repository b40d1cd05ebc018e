/* Weights of a checkpoint that are never changed, a tensor at a time: see frozen.h. */
#include "examples/model/frozen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/model.h"

static int bind(const struct llama_checkpoint *ck, struct llama_frozen *f, uint32_t index)
{
    struct ofl_tensor **parts = &f->parts[(size_t)index * LLAMA_PARTS];
    const struct llama_packing *p;
    struct llama_tensor_desc d;
    struct llama_stored s;
    int err = 0;

    llama_tensor_at(&f->shape, index, &d);
    if (!llama_is_packed(f->dtypes[index]))
        return llama_checkpoint_bind(ck, index, 0, d.elems, parts);
    p = &f->shape.packings[f->dtypes[index] - LLAMA_PACKED];
    llama_stored_at(&f->shape, index, &s);
    for (int i = 0; err == 0 && i < LLAMA_PARTS; i++) {
        struct llama_range r = llama_packing_range(p, (enum llama_part_kind)i, s.shape[0], s.shape[1],
                                                   llama_stored_row(&f->shape, index), d.shape[0]);

        if (r.bytes)
            err = llama_checkpoint_bind_part(ck, index, (enum llama_part_kind)i, &r, &parts[i]);
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

struct llama_weight llama_frozen_weight(const struct llama_frozen *f, uint32_t index,
                                        const struct ofl_lease *leases, struct llama_packed *packed)
{
    enum ofl_dtype dtype = f->dtypes[index];
    struct llama_tensor_desc d;
    struct llama_stored s;

    llama_tensor_at(&f->shape, index, &d);
    if (!llama_is_packed(dtype))
        return llama_weight_of(&f->shape, d.role, leases[0].ptr, dtype);
    llama_stored_at(&f->shape, index, &s);
    *packed = (struct llama_packed){
        .packing = f->shape.packings[dtype - LLAMA_PACKED], .rows = d.shape[0], .columns = s.shape[1]};
    for (int i = 0; i < LLAMA_PARTS; i++)
        packed->parts[i] = packed->packing.there[i] ? (leases++)->ptr : NULL;
    if (llama_packing_step(&packed->packing) == 0) {
        packed->rows = s.shape[0];
        packed->first = llama_stored_row(&f->shape, index);
    }
    return (struct llama_weight){.dtype = dtype, .packed = packed};
}
