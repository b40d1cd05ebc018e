/* Adapters of a generator. See adapters.h. */
#include "examples/model/adapters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/frozen.h"
#include "examples/model/lora_file.h"

/* Of a layer's module, where its memory lies: A [rank, in], B [out, rank], and with DoRA the gains [out]. Elements. */
struct place {
    struct llama_lora_module module;
    uint64_t a, b, gain;
    uint32_t rank; /* of all adapters that have it */
    bool dora;
};

static struct llama_lora all_targets(const struct llama_adapters *s)
{
    struct llama_lora all = {.rank = 1};

    for (size_t i = 0; i < s->count; i++)
        all.targets |= s->list[i].lora.targets;
    return all;
}

static bool has(const struct llama_lora *l, const struct llama_lora_module *m)
{
    return l->targets >> m->first & 1;
}

/* Returns the elements of a layer. */
static uint64_t lay_out(const struct llama_shape *shape, const struct llama_adapters *s,
                        struct place out[LLAMA_MATRICES], uint32_t *count)
{
    const struct llama_lora all = all_targets(s);
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint64_t used = 0;

    *count = llama_lora_modules(shape, &all, modules);
    for (uint32_t m = 0; m < *count; m++) {
        struct place *p = &out[m];

        *p = (struct place){.module = modules[m]};
        for (size_t i = 0; i < s->count; i++) {
            p->rank += has(&s->list[i].lora, &modules[m]) ? s->list[i].lora.rank : 0;
            p->dora |= s->list[i].lora.dora;
        }
        p->a = used;
        p->b = p->a + p->rank * modules[m].in;
        p->gain = p->b + p->rank * modules[m].out;
        used = p->gain + (p->dora ? modules[m].out : 0);
    }
    return used;
}

int llama_adapters_check(const struct llama_adapters *s, char *error, size_t error_bytes)
{
    for (size_t i = 0; i < s->count && s->count > 1; i++)
        if (s->list[i].lora.dora)
            return llama_fail(-EINVAL, error, error_bytes,
                              "--adapter %s: it is one of DoRA, which does not add up with others: give it "
                              "alone",
                              s->list[i].dir);
    return 0;
}

uint64_t llama_adapters_bytes(const struct llama_shape *shape, const struct llama_adapters *s)
{
    struct place places[LLAMA_MATRICES];
    uint32_t count;

    return s->count ? shape->layers * lay_out(shape, s, places, &count) * sizeof(float) : 0;
}

size_t llama_adapters_workspace(const struct llama_shape *shape, const struct llama_adapters *s, size_t rows)
{
    struct place places[LLAMA_MATRICES];
    uint32_t count = 0;
    size_t most = 0;

    if (s->count)
        lay_out(shape, s, places, &count);
    for (uint32_t m = 0; m < count; m++) {
        size_t bytes = llama_adapter_workspace(rows, places[m].module.in, places[m].module.out,
                                               places[m].rank, places[m].dora, false);

        most = bytes > most ? bytes : most;
    }
    return most;
}

/* ---- filling ------------------------------------------------------------- */

struct filling {
    const struct llama_adapters *s;
    const struct llama_adapters_one *one;
    const struct llama_slices *model;
    struct place places[LLAMA_MATRICES];
    uint32_t count;
    uint64_t each; /* elements of a layer */
    float *memory;
};

/* Where that module is among all, and how many ranks of earlier adapters are in front. */
static const struct place *place_of(const struct filling *f, const struct llama_lora_tensor *t,
                                    uint32_t *rank)
{
    struct llama_lora_module modules[LLAMA_MATRICES];
    const struct place *p = f->places;

    llama_lora_modules(&f->model->shape, &f->one->lora, modules);
    while (p->module.first != modules[t->module].first)
        p++;
    *rank = 0;
    for (const struct llama_adapters_one *o = f->s->list; o < f->one; o++)
        *rank += has(&o->lora, &p->module) ? o->lora.rank : 0;
    return p;
}

static int put(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
               size_t error_bytes)
{
    const struct filling *f = arg;
    uint32_t before, rank = f->one->lora.rank;
    const struct place *p = place_of(f, t, &before);
    float *layer = f->memory + t->layer * f->each;
    float scale = (float)(llama_lora_scale(&f->one->lora) * f->one->weight);

    (void)index;
    (void)error;
    (void)error_bytes;
    if (t->part == LLAMA_LORA_A)
        memcpy(layer + p->a + before * p->module.in, values, t->elems * sizeof *values);
    else if (t->part == LLAMA_LORA_MAGNITUDE)
        memcpy(layer + p->gain, values, t->elems * sizeof *values);
    for (uint64_t j = 0; t->part == LLAMA_LORA_B && j < p->module.out; j++)
        for (uint32_t k = 0; k < rank; k++)
            layer[p->b + j * p->rank + before + k] = scale * values[j * rank + k];
    return 0;
}

static int read_slice(const struct llama_slices *m, uint32_t tensor, uint32_t slice,
                      const struct llama_cut *cut, uint64_t in, struct llama_rows *out)
{
    struct ofl_tensor *parts[LLAMA_PARTS] = {m->slices[slice]};
    struct llama_packed place = {.columns = in};

    if (llama_is_packed(m->dtypes[tensor])) {
        for (size_t i = 1; i < LLAMA_PARTS; i++)
            parts[i] = m->parts[(size_t)slice * LLAMA_PARTS + i];
        place.packing = m->shape.packings[m->dtypes[tensor] - LLAMA_PACKED];
        llama_slices_place(m, tensor, cut->rows, &place);
    }
    return llama_rows_read(parts, m->dtypes[tensor], &place, 0, cut->rows, out);
}

/* The gains of a matrix' rows from on: magnitudes by the norms of the adapted rows, a slice at a time. */
static int gains_of(const struct filling *f, uint32_t tensor, const struct llama_adapter *ad, float *gain,
                    uint64_t in, float *row)
{
    const struct llama_slices *m = f->model;
    uint64_t from = 0;
    int err = 0;

    for (uint32_t i = m->first[tensor]; i < m->first[tensor + 1] && err == 0; i++) {
        struct llama_cut cut = {0};
        struct llama_adapter part = *ad;
        struct llama_rows rows;
        float *norms;

        llama_cut_at(&m->shape, m->dtypes, m->limit, tensor, from, &cut);
        norms = malloc(cut.rows * sizeof *norms);
        part.b += from * ad->rank;
        err = read_slice(m, tensor, i, &cut, in, &rows);
        if (err == 0 && !norms)
            err = -ENOMEM;
        if (err == 0)
            llama_adapter_norms(norms, &part, rows.weight, in, cut.rows, row);
        for (uint64_t j = 0; j < cut.rows && err == 0; j++)
            gain[from + j] /= norms[j];
        from += cut.rows;
        free(rows.memory);
        free(norms);
    }
    return err;
}

static int gains(const struct filling *f)
{
    const struct llama_shape *shape = &f->model->shape;
    int err = 0;

    for (uint32_t layer = 0; layer < shape->layers && err == 0; layer++)
        for (int i = 0; i < LLAMA_MATRICES && err == 0; i++) {
            enum llama_matrix matrix = (enum llama_matrix)i;
            struct llama_tensor_desc d;
            struct llama_adapter ad;
            uint32_t tensor = llama_tensor_index(shape, llama_matrix_role(matrix), layer);
            float *row;

            if (!llama_adapters_of(shape, f->s, f->memory, layer, matrix, &ad) || !ad.gain)
                continue;
            llama_tensor_at(shape, tensor, &d);
            row = malloc(llama_wide_bytes(d.shape[1], LLAMA_PACKED));
            err =
                row ? gains_of(f, tensor, &ad, f->memory + (ad.gain - f->memory), d.shape[1], row) : -ENOMEM;
            free(row);
        }
    return err;
}

int llama_adapters_fill(struct ofl_ctx *ctx, const struct llama_adapters *s, const struct llama_slices *model,
                        float *memory, char *error, size_t error_bytes)
{
    struct filling f = {.s = s, .model = model, .memory = memory};
    int err = 0;

    f.each = lay_out(&model->shape, s, f.places, &f.count);
    for (size_t i = 0; i < s->count && err == 0; i++) {
        f.one = &s->list[i];
        err = llama_lora_read(ctx, f.one->dir, &model->shape, &f.one->lora, put, &f, error, error_bytes);
    }
    if (err < 0)
        return err;
    err = gains(&f);
    return err < 0 ? llama_fail(err, error, error_bytes, "%s",
                                err == -ENOMEM ? "read adapters: out of memory" : ofl_error())
                   : 0;
}

/* ---- using --------------------------------------------------------------- */

bool llama_adapters_of(const struct llama_shape *shape, const struct llama_adapters *s, const float *memory,
                       uint32_t layer, enum llama_matrix matrix, struct llama_adapter *out)
{
    struct place places[LLAMA_MATRICES];
    uint32_t count = 0;
    uint64_t each = s->count ? lay_out(shape, s, places, &count) : 0;

    for (uint32_t m = 0; m < count; m++) {
        const struct place *p = &places[m];
        uint64_t row = 0;

        if (matrix < p->module.first || matrix >= p->module.first + p->module.count)
            continue;
        for (enum llama_matrix k = p->module.first; k < matrix; k++)
            row += llama_matrix_rows(shape, k);
        memory += layer * each;
        *out = (struct llama_adapter){
            .a = memory + p->a, .b = memory + p->b + row * p->rank, .rank = p->rank, .scale = 1};
        if (p->dora)
            out->gain = memory + p->gain + row;
        return true;
    }
    return false;
}
