/* The program of a step, from a model's shape. See program.h. */
#include "liboffload/plan/program.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "liboffload/plan/shape.h"

#define OPERATIONS_MAX  (1u << 24)
#define ACTIVATION_ELEM sizeof(float) /* between layers, and of gradients */

enum { MEAN, SQUARE, MASTER, STATES };

/* While it is made. A failed allocation is kept in err, so that calls need not be checked one by one. */
struct maker {
    struct plan_program *p;
    struct ofl_workload w;
    struct plan_shape shape;
    uint32_t tensors_room, leases_room, ops_room;
    uint32_t weights, grads, states, x, dx; /* first tensors of each kind */
    uint32_t *slices;                       /* [weights + 1], generating: the first slice of each weight */
    enum plan_phase phase;
    uint64_t rows;       /* of a micro-batch, or new ones */
    uint64_t elem;       /* bytes of a weight's element */
    uint64_t open_bytes; /* device memory of the leases of the part that is being made */
    int err;
};

/* ---- growing --------------------------------------------------------------- */

static void *grown(struct maker *m, void *at, uint32_t count, uint32_t *room, size_t each)
{
    uint32_t more = *room ? 2 * *room : 256;
    void *to;

    if (count < *room || m->err < 0)
        return at;
    if (count >= OPERATIONS_MAX) {
        m->err = base_fail(
            -EINVAL, "estimate: %" PRIu64 " micro-batches of %" PRIu32 " layers: more than %u operations",
            m->w.accum, m->w.layers, OPERATIONS_MAX);
        return at;
    }
    to = realloc(at, more * each);
    if (!to) {
        m->err = base_fail(-ENOMEM, "estimate: a step of %u operations: out of memory", count);
        return at;
    }
    *room = more;
    return to;
}

static uint32_t add_tensor(struct maker *m, const char *name, const char *suffix, enum ofl_kind kind,
                           uint64_t bytes)
{
    struct plan_program *p = m->p;
    struct plan_tensor *t;

    p->tensors = grown(m, p->tensors, p->tensors_count, &m->tensors_room, sizeof *p->tensors);
    if (m->err < 0)
        return 0;
    t = &p->tensors[p->tensors_count];
    *t = (struct plan_tensor){.kind = kind, .dtype = OFL_F32, .bytes = bytes};
    snprintf(t->name, sizeof t->name, "%s%s", name, suffix);
    return p->tensors_count++;
}

static void add_lease(struct maker *m, uint32_t tensor, enum ofl_mode mode, bool drop)
{
    struct plan_program *p = m->p;

    p->leases = grown(m, p->leases, p->leases_count, &m->leases_room, sizeof *p->leases);
    if (m->err == 0)
        p->leases[p->leases_count++] = (struct plan_lease){.tensor = tensor, .mode = mode, .drop = drop};
}

static struct plan_op *add_op(struct maker *m, enum plan_op_type type, uint32_t first, uint32_t count)
{
    static struct plan_op nowhere; /* after a failure */
    struct plan_program *p = m->p;

    p->ops = grown(m, p->ops, p->ops_count, &m->ops_room, sizeof *p->ops);
    if (m->err < 0)
        return &nowhere;
    p->ops[p->ops_count] = (struct plan_op){.type = type, .phase = m->phase, .first = first, .count = count};
    return &p->ops[p->ops_count++];
}

/* ---- tensors ---------------------------------------------------------------- */

static void add_weights(struct maker *m, const char *suffix, enum ofl_kind kind, uint64_t elem)
{
    for (uint32_t i = 0; i < plan_weights(&m->shape); i++) {
        char name[PLAN_NAME];
        uint32_t index;

        plan_weight_name(&m->shape, i, name);
        index = add_tensor(m, name, suffix, kind, plan_weight_elems(&m->shape, i) * elem);
        if (m->err == 0)
            m->p->tensors[index].dtype = elem == sizeof(float) ? OFL_F32 : OFL_BF16;
    }
}

static void add_slices(struct maker *m)
{
    uint32_t count = plan_weights(&m->shape);

    m->slices = calloc(count + 1, sizeof *m->slices);
    if (!m->slices)
        m->err = base_fail(-ENOMEM, "estimate: %u weights: out of memory", count);
    for (uint32_t i = 0; i < count && m->err == 0; i++) {
        uint64_t rows = plan_weight_rows(&m->shape, i), each = plan_slice_rows(&m->shape, i, m->elem);
        uint64_t row_bytes = plan_weight_elems(&m->shape, i) / rows * m->elem;
        char name[PLAN_NAME], suffix[32] = "";

        plan_weight_name(&m->shape, i, name);
        m->slices[i] = m->p->tensors_count;
        for (uint64_t from = 0; from < rows && m->err == 0; from += each) {
            uint64_t n = rows - from < each ? rows - from : each;
            uint32_t index;

            if (each < rows)
                snprintf(suffix, sizeof suffix, "[%" PRIu64 ":%" PRIu64 "]", from, from + n);
            index = add_tensor(m, name, suffix, OFL_KIND_WEIGHT, n * row_bytes);
            if (m->err == 0)
                m->p->tensors[index].dtype = m->w.dtype;
        }
        m->slices[i + 1] = m->p->tensors_count;
    }
}

/* An F32 weight is its own master. */
static bool has_state(const struct ofl_workload *w, int state)
{
    return state == MEAN || (state == SQUARE && (w->method == OFL_ADAMW || w->method == OFL_ADAM)) ||
           (state == MASTER && w->dtype != OFL_F32);
}

static uint32_t states_of(const struct ofl_workload *w)
{
    return 1u + has_state(w, SQUARE) + has_state(w, MASTER);
}

static void add_states(struct maker *m)
{
    static const char *const suffixes[STATES] = {".exp_avg", ".exp_avg_sq", ".master"};

    for (uint32_t i = 0; i < plan_weights(&m->shape); i++)
        for (int s = 0; s < STATES; s++) {
            char name[PLAN_NAME];

            if (!has_state(&m->w, s))
                continue;

            plan_weight_name(&m->shape, i, name);
            add_tensor(m, name, suffixes[s], OFL_KIND_OPTIMIZER,
                       plan_weight_elems(&m->shape, i) * sizeof(float));
        }
}

static void add_activations(struct maker *m)
{
    uint64_t bytes = m->rows * m->w.hidden * ACTIVATION_ELEM;
    char name[PLAN_NAME];

    m->x = m->p->tensors_count;
    for (uint32_t layer = 0; layer <= m->w.layers && m->err == 0; layer++)
        for (uint64_t k = 0; k < m->w.accum && m->err == 0; k++) {
            snprintf(name, sizeof name, "x.%" PRIu32 ".%" PRIu64, layer, k);
            add_tensor(m, name, "", OFL_KIND_ACTIVATION, bytes);
        }
    m->dx = m->p->tensors_count;
    for (uint64_t k = 0; k < m->w.accum && m->err == 0; k++) {
        snprintf(name, sizeof name, "dx.0.%" PRIu64, k);
        add_tensor(m, name, "", OFL_KIND_ACTIVATION, bytes);
    }
}

static void add_tensors(struct maker *m)
{
    struct plan_program *p = m->p;

    m->weights = p->tensors_count;
    if (m->w.work == OFL_DECODE)
        add_slices(m);
    else
        add_weights(m, "", OFL_KIND_WEIGHT, m->elem);
    for (uint32_t i = m->weights; i < p->tensors_count; i++) {
        p->tensors[i].source = m->w.source && m->w.work == OFL_DECODE;
        p->weight_bytes += p->tensors[i].bytes;
        p->parameters += p->tensors[i].bytes / m->elem;
    }
    if (m->w.work == OFL_DECODE)
        return;
    m->grads = p->tensors_count;
    add_weights(m, ".grad", OFL_KIND_GRADIENT, sizeof(float));
    m->states = p->tensors_count;
    add_states(m);
    add_activations(m);
}

/* ---- a part of the model, over all micro-batches ------------------------------ */

/* Device memory of these leases together: whether it is the most so far. */
static void note_leased(struct maker *m, uint32_t first, uint32_t count, const char *part)
{
    struct plan_program *p = m->p;
    uint64_t bytes = 0, largest = 0;
    const struct plan_tensor *most = NULL;

    for (uint32_t i = first; i < first + count && m->err == 0; i++) {
        const struct plan_tensor *t = &p->tensors[p->leases[i].tensor];

        bytes += ofl_device_footprint(t->bytes);
        if (t->bytes > largest) {
            largest = t->bytes;
            most = t;
        }
    }
    if (bytes > m->open_bytes && most) {
        m->open_bytes = bytes;
        snprintf(p->least_part, sizeof p->least_part, "%s", part);
        snprintf(p->least_tensor, sizeof p->least_tensor, "%s", most->name);
        p->least_tensor_bytes = largest;
    }
}

static uint32_t leases_so_far(const struct maker *m)
{
    return m->p->leases_count;
}

static void compute(struct maker *m, double flops, double bytes)
{
    struct plan_op *op = add_op(m, PLAN_COMPUTE, 0, 0);

    op->flops = flops;
    op->bytes = bytes;
}

typedef void moving_fn(struct maker *m, uint32_t layer, uint64_t micro);

/* The leases from first on were added for this part: those that are held. As run_part of the trainer. */
static void run_part(struct maker *m, const char *name, uint32_t first, uint32_t layer, moving_fn *moving,
                     struct plan_cost once, struct plan_cost again)
{
    uint32_t held = leases_so_far(m) - first;

    for (uint64_t k = 0; k < m->w.accum && m->err == 0; k++) {
        uint32_t at = leases_so_far(m), count;

        moving(m, layer, k);
        count = leases_so_far(m) - at;
        if (k == 0) {
            note_leased(m, first, held + count, name);
            add_op(m, PLAN_ACQUIRE, first, held + count);
        } else {
            add_op(m, PLAN_ACQUIRE, at, count);
        }
        compute(m, k == 0 ? once.flops : again.flops, k == 0 ? once.bytes : again.bytes);
        add_op(m, PLAN_RELEASE, at, count);
    }
    add_op(m, PLAN_RELEASE, first, held);
}

/* ---- updates ------------------------------------------------------------------ */

static void add_update(struct maker *m, uint32_t weight)
{
    bool f32 = m->w.dtype == OFL_F32;
    uint32_t first = leases_so_far(m), states = states_of(&m->w);
    uint64_t elems = plan_weight_elems(&m->shape, weight);
    struct plan_op *op;

    add_lease(m, m->weights + weight, f32 ? OFL_UPDATE : OFL_OVERWRITE, false);
    add_lease(m, m->grads + weight, OFL_READ, true);
    for (uint32_t s = 0; s < states; s++)
        add_lease(m, m->states + weight * states + s, OFL_UPDATE, false);
    op = add_op(m, PLAN_UPDATE, first, leases_so_far(m) - first);
    /* gradient read; master and moments read and written; a BF16 weight written */
    op->bytes = (double)elems * (4 + 8 * (states + f32) + (f32 ? 0 : 2));
}

/* The gradient is final: its squares are summed, on the optimizer's stream. As ofl_optimizer_apply. */
static void apply(struct maker *m, uint32_t weight)
{
    uint32_t first = leases_so_far(m);
    double bytes = (double)plan_weight_elems(&m->shape, weight) * sizeof(float);

    add_lease(m, m->grads + weight, OFL_READ, false);
    add_op(m, PLAN_ACQUIRE, first, 1)->stream = 1;
    compute(m, 0, bytes);
    if (m->err == 0)
        m->p->ops[m->p->ops_count - 1].stream = 1;
    add_op(m, PLAN_RELEASE, first, 1)->stream = 1;
    if (!m->w.clip)
        add_update(m, weight);
}

/* ---- training: as trainer_step.c ------------------------------------------------ */

static uint32_t x_of(const struct maker *m, uint32_t layer, uint64_t micro)
{
    return m->x + (uint32_t)(layer * m->w.accum + micro);
}

static void embed_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    add_lease(m, x_of(m, layer, micro), OFL_OVERWRITE, false);
}

static void forward_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    add_lease(m, x_of(m, layer, micro), OFL_READ, false);
    add_lease(m, x_of(m, layer + 1, micro), OFL_OVERWRITE, false);
}

static void head_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    add_lease(m, x_of(m, layer, micro), OFL_READ, true);
    add_lease(m, m->dx + (uint32_t)micro, OFL_OVERWRITE, false);
}

static void backward_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    add_lease(m, x_of(m, layer, micro), OFL_READ, true);
    add_lease(m, m->dx + (uint32_t)micro, OFL_UPDATE, false);
}

static void embed_backward_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    (void)layer;
    add_lease(m, m->dx + (uint32_t)micro, OFL_READ, true);
}

static void forward(struct maker *m, uint32_t layer)
{
    struct plan_cost cost = plan_cost_forward(&m->shape, &m->w);
    uint32_t first = leases_so_far(m);

    for (uint32_t i = 0; i < m->shape.layer_tensors; i++)
        add_lease(m, m->weights + 1 + layer * m->shape.layer_tensors + i, OFL_READ, false);
    run_part(m, "a layer", first, layer, forward_moving, cost, cost);
}

/* A BF16 weight is made anew by its update. */
static bool last_use(const struct maker *m)
{
    return m->w.dtype != OFL_F32;
}

static void backward(struct maker *m, uint32_t layer)
{
    uint32_t first = leases_so_far(m), count = m->shape.layer_tensors, weight = 1 + layer * count;

    for (uint32_t i = 0; i < count; i++)
        add_lease(m, m->weights + weight + i, OFL_READ, last_use(m));
    for (uint32_t i = 0; i < count; i++)
        add_lease(m, m->grads + weight + i, OFL_OVERWRITE, false);
    run_part(m, "a layer's backward", first, layer, backward_moving,
             plan_cost_backward(&m->shape, &m->w, true), plan_cost_backward(&m->shape, &m->w, false));
    for (uint32_t i = 0; i < count; i++)
        apply(m, weight + i);
}

static void head(struct maker *m)
{
    uint32_t first = leases_so_far(m), norm = plan_norm(&m->shape), matrix = plan_head(&m->shape);

    add_lease(m, m->weights + norm, OFL_READ, last_use(m));
    add_lease(m, m->weights + matrix, OFL_READ, last_use(m));
    add_lease(m, m->grads + norm, OFL_OVERWRITE, false);
    add_lease(m, m->grads + matrix, OFL_OVERWRITE, false);
    run_part(m, "the head", first, m->w.layers, head_moving, plan_cost_head(&m->shape, &m->w, true),
             plan_cost_head(&m->shape, &m->w, false));
    apply(m, norm);
    if (!m->w.tied)
        apply(m, matrix);
}

static void train(struct maker *m)
{
    struct plan_cost rows = plan_cost_rows(&m->shape, &m->w);
    uint32_t first = leases_so_far(m);

    m->phase = PLAN_FORWARD;
    add_lease(m, m->weights, OFL_READ, false);
    run_part(m, "the embedding", first, 0, embed_moving, rows, rows);
    for (uint32_t layer = 0; layer < m->w.layers && m->err == 0; layer++)
        forward(m, layer);
    m->phase = PLAN_BACKWARD;
    head(m);
    for (uint32_t layer = m->w.layers; layer-- > 0 && m->err == 0;)
        backward(m, layer);
    first = leases_so_far(m);
    add_lease(m, m->grads, m->w.tied ? OFL_UPDATE : OFL_OVERWRITE, false);
    run_part(m, "the embedding's backward", first, 0, embed_backward_moving, rows, rows);
    apply(m, 0);
    /* With the norm known they run in this order, which is that of the next forward, ahead of it and under it. */
    m->phase = PLAN_FORWARD;
    for (uint32_t i = 0; m->w.clip && i < plan_weights(&m->shape) && m->err == 0; i++)
        add_update(m, i);
}

/* ---- generating: as generator.c --------------------------------------------------- */

static void no_moving(struct maker *m, uint32_t layer, uint64_t micro)
{
    (void)m;
    (void)layer;
    (void)micro;
}

/* What is leased at a time: slices, with the first one of a matrix the norm in front of it, with the last one what stands behind it, in batches that are
 * not more than the largest of these. */
struct batch {
    const char *name;
    uint32_t first; /* lease */
    uint64_t bytes, most, part_bytes;
    struct plan_cost cost; /* of the part, shared out by bytes */
};

/* The tensors that come with a slice; returns how many. */
static uint32_t vectors_of(const struct maker *m, uint32_t weight, uint32_t slice,
                           uint32_t out[PLAN_MATRIX_VECTORS])
{
    int64_t vectors[PLAN_MATRIX_VECTORS];
    uint32_t n = 0;

    plan_matrix_vectors(&m->shape, weight, vectors);
    for (int i = 0; i < PLAN_MATRIX_VECTORS; i++)
        if (vectors[i] >= 0 && slice == (i == 0 ? m->slices[weight] : m->slices[weight + 1] - 1))
            out[n++] = m->slices[vectors[i]];
    return n;
}

static uint64_t unit_bytes(const struct maker *m, uint32_t weight, uint32_t slice)
{
    uint32_t vectors[PLAN_MATRIX_VECTORS], n = vectors_of(m, weight, slice, vectors);
    uint64_t bytes = m->p->tensors[slice].bytes;

    for (uint32_t i = 0; i < n; i++)
        bytes += m->p->tensors[vectors[i]].bytes;
    return bytes;
}

static void close_batch(struct maker *m, struct batch *b)
{
    double share = (double)b->bytes / (double)b->part_bytes;
    struct plan_cost cost = {b->cost.flops * share, b->cost.bytes * share};

    run_part(m, b->name, b->first, 0, no_moving, cost, cost);
    b->bytes = 0;
}

static void add_unit(struct maker *m, struct batch *b, uint32_t weight, uint32_t slice)
{
    uint32_t vectors[PLAN_MATRIX_VECTORS], n = vectors_of(m, weight, slice, vectors);
    uint64_t bytes = unit_bytes(m, weight, slice);

    if (b->bytes && b->bytes + bytes > b->most)
        close_batch(m, b);
    if (b->bytes == 0)
        b->first = leases_so_far(m);
    for (uint32_t i = 0; i < n; i++)
        add_lease(m, vectors[i], OFL_READ, false);
    add_lease(m, slice, OFL_READ, false);
    b->bytes += bytes;
}

typedef void unit_fn(struct maker *m, struct batch *b, uint32_t weight, uint32_t slice);

static void note_unit(struct maker *m, struct batch *b, uint32_t weight, uint32_t slice)
{
    uint64_t bytes = unit_bytes(m, weight, slice);

    b->part_bytes += bytes;
    b->most = bytes > b->most ? bytes : b->most;
}

/* Of a layer, or of the head. A matrix is what is no vector. */
static void each_unit(struct maker *m, struct batch *b, uint32_t layer, unit_fn *fn)
{
    bool head = layer == m->w.layers;
    uint32_t first = head ? plan_head(&m->shape) : 1 + layer * m->shape.layer_tensors;

    for (uint32_t i = first; i < first + (head ? 1 : m->shape.layer_tensors); i++)
        for (uint32_t k = m->slices[i]; !plan_is_vector(&m->shape, i) && k < m->slices[i + 1] && m->err == 0;
             k++)
            fn(m, b, i, k);
}

/* Rows of the embedding are read by the host: no lease. */
static void decode(struct maker *m)
{
    struct plan_cost rows = plan_cost_rows(&m->shape, &m->w), logits = plan_cost_logits(&m->shape, &m->w);
    struct batch all = {0};

    m->phase = PLAN_FORWARD;
    for (uint32_t layer = 0; layer <= m->w.layers; layer++)
        each_unit(m, &all, layer, note_unit);
    for (uint32_t layer = 0; layer <= m->w.layers && m->err == 0; layer++) {
        struct batch b = {.name = layer < m->w.layers ? "a layer" : "the head"};

        b.cost = layer < m->w.layers ? plan_cost_extend(&m->shape, &m->w) : logits;
        if (layer == 0)
            b.cost = (struct plan_cost){b.cost.flops + rows.flops, b.cost.bytes + rows.bytes};
        each_unit(m, &b, layer, note_unit);
        b.most = all.most;
        each_unit(m, &b, layer, add_unit);
        close_batch(m, &b);
    }
}

/* ---- the whole ---------------------------------------------------------------------- */

static void add_held(struct maker *m)
{
    struct plan_program *p = m->p;
    uint64_t rows = m->rows * m->w.hidden * sizeof(float);

    p->held_bytes = ofl_device_footprint(m->w.workspace_bytes);
    if (m->w.work == OFL_DECODE) {
        p->cache_bytes = plan_cache_bytes(&m->shape, &m->w);
        p->held_bytes += ofl_device_footprint(rows) + ofl_device_footprint(p->cache_bytes);
    }
}

int plan_program_make(const struct ofl_workload *workload, struct plan_program *out)
{
    struct maker m = {.p = out};
    int err = plan_workload_read(workload, &m.w, &m.shape);

    *out = (struct plan_program){0};
    if (err < 0)
        return err;
    m.rows = m.w.work == OFL_TRAIN ? m.w.batch * m.w.seq : m.w.seq;
    m.elem = ofl_dtype_bytes(m.w.dtype);
    add_held(&m);
    add_tensors(&m);
    if (m.err == 0 && m.w.work == OFL_TRAIN)
        train(&m);
    else if (m.err == 0)
        decode(&m);
    if (m.err < 0) {
        free(m.slices);
        plan_program_free(out);
        return m.err;
    }
    free(m.slices);
    out->least_bytes = out->held_bytes + m.open_bytes;
    out->tokens = m.rows * m.w.accum;
    out->model_flops = plan_model_flops(&m.shape, &m.w);
    return 0;
}

void plan_program_free(struct plan_program *p)
{
    if (!p)
        return;
    free(p->tensors);
    free(p->leases);
    free(p->ops);
    *p = (struct plan_program){0};
}
