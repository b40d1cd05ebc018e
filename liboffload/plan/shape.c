/* What a Llama's shape comes to in elements, bytes and operations. See shape.h. */
#include "liboffload/plan/shape.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "base/sized.h"

#define SLICE_BYTES   (8ull << 20) /* of weights when generating: as examples/model/slices.h */
#define SLICE_SHARE   1024u
#define SLICE_ROWS    16u
#define SIDE_MAX      (1u << 24) /* of anything in a shape: products of three stay far below 2^64 */
#define ROWS_MAX      (1ull << 28)
#define LOGITS_BYTES  (256ull << 20) /* of a slice of the rows, at most */
#define PRODUCT_BYTES (32ull << 20)  /* scratch of the library of products */

enum { Q = 1, K, V, O, POST_NORM, GATE, UP, DOWN };

/* ---- reading ------------------------------------------------------------------ */

static int refuse(const char *name, uint64_t value, const char *why)
{
    return base_fail(-EINVAL, "estimate: %s of %" PRIu64 ": %s", name, value, why);
}

static int check_shape(const struct ofl_workload *w)
{
    const struct {
        const char *name;
        uint32_t value;
    } sides[] = {{"layers", w->layers},    {"hidden", w->hidden},     {"heads", w->heads},
                 {"vocab", w->vocab},      {"kv_heads", w->kv_heads}, {"intermediate", w->intermediate},
                 {"head_dim", w->head_dim}};

    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
        if (sides[i].value == 0 || sides[i].value > SIDE_MAX)
            return refuse(sides[i].name, sides[i].value, "not from 1 to 2^24");
    if (w->heads % w->kv_heads)
        return refuse("heads", w->heads, "not a multiple of kv_heads");
    if (w->dtype != OFL_F32 && w->dtype != OFL_BF16)
        return refuse("dtype", w->dtype, "neither f32 nor bf16");
    return 0;
}

static int check_rows(const struct ofl_workload *w)
{
    if (w->work != OFL_TRAIN && w->work != OFL_DECODE)
        return refuse("work", w->work, "neither training nor decode");
    if (w->seq > ROWS_MAX || w->batch > ROWS_MAX || w->accum > ROWS_MAX || w->seq * w->batch > ROWS_MAX ||
        w->seq * w->batch * w->accum > ROWS_MAX)
        return refuse("seq", w->seq, "a step has 2^28 tokens at most, batch and accum counted");
    if (w->work == OFL_DECODE && (w->batch != 1 || w->accum != 1))
        return refuse("batch", w->batch, "one text is generated at a time");
    if (w->positions > ROWS_MAX || (w->work == OFL_DECODE && w->positions < w->seq))
        return refuse("positions", w->positions, "less than the new tokens, or more than 2^28");
    return 0;
}

/* What the kernels of the programs come to, about: the true figure is in workspace_bytes where it is known. */
static uint64_t guess_workspace(const struct ofl_workload *w, const struct plan_shape *s)
{
    uint64_t rows = w->work == OFL_TRAIN ? w->batch * w->seq : w->seq, elem = w->inner_elem_bytes;
    uint64_t logits = (w->work == OFL_TRAIN ? rows : 1) * s->vocab * sizeof(float);
    uint64_t layer = rows * (2 * s->hidden + 2 * s->q_dim + 2 * s->kv_dim + 2 * s->ffn) * elem;

    if (w->work == OFL_TRAIN)
        layer += rows * (s->hidden + s->ffn + 2 * s->kv_dim) * elem;
    return layer + (logits < LOGITS_BYTES ? logits : LOGITS_BYTES) + PRODUCT_BYTES;
}

int plan_workload_read(const struct ofl_workload *from, struct ofl_workload *w, struct plan_shape *shape)
{
    int err = base_sized_read(w, sizeof *w, sizeof *w, from, "estimate: workload");

    if (err < 0)
        return err;
    w->batch = w->batch ? w->batch : 1;
    w->seq = w->seq ? w->seq : 1;
    w->accum = w->accum ? w->accum : 1;
    w->positions = w->positions ? w->positions : w->seq;
    w->head_dim = w->head_dim ? w->head_dim : w->heads ? w->hidden / w->heads : 0;
    err = check_shape(w);
    if (err == 0)
        err = check_rows(w);
    if (err < 0)
        return err;
    w->cache_elem_bytes = w->cache_elem_bytes ? w->cache_elem_bytes : (uint32_t)ofl_dtype_bytes(w->dtype);
    w->inner_elem_bytes = w->inner_elem_bytes ? w->inner_elem_bytes : (uint32_t)ofl_dtype_bytes(w->dtype);
    *shape = (struct plan_shape){.layers = w->layers,
                                 .hidden = w->hidden,
                                 .q_dim = (uint64_t)w->heads * w->head_dim,
                                 .kv_dim = (uint64_t)w->kv_heads * w->head_dim,
                                 .ffn = w->intermediate,
                                 .vocab = w->vocab,
                                 .tied = w->tied != 0};
    shape->layer_elems = shape->hidden * (2 * shape->q_dim + 2 * shape->kv_dim + 3 * shape->ffn);
    w->workspace_bytes = w->workspace_bytes ? w->workspace_bytes : guess_workspace(w, shape);
    return 0;
}

/* ---- weights ------------------------------------------------------------------- */

uint32_t plan_norm(const struct plan_shape *s)
{
    return 1 + (uint32_t)s->layers * PLAN_LAYER_TENSORS;
}

uint32_t plan_head(const struct plan_shape *s)
{
    return s->tied ? 0 : plan_norm(s) + 1;
}

uint32_t plan_weights(const struct plan_shape *s)
{
    return plan_norm(s) + (s->tied ? 1 : 2);
}

uint64_t plan_weight_elems(const struct plan_shape *s, uint32_t index)
{
    if (index == 0 || index > plan_norm(s))
        return s->vocab * s->hidden;
    if (index == plan_norm(s))
        return s->hidden;
    switch ((index - 1) % PLAN_LAYER_TENSORS) {
    case Q:
    case O:
        return s->q_dim * s->hidden;
    case K:
    case V:
        return s->kv_dim * s->hidden;
    case GATE:
    case UP:
    case DOWN:
        return s->ffn * s->hidden;
    default:
        return s->hidden;
    }
}

static uint32_t place_of(const struct plan_shape *s, uint32_t index)
{
    return index == 0 || index >= plan_norm(s) ? PLAN_LAYER_TENSORS : (index - 1) % PLAN_LAYER_TENSORS;
}

bool plan_is_norm(const struct plan_shape *s, uint32_t index)
{
    return index == plan_norm(s) || place_of(s, index) == 0 || place_of(s, index) == POST_NORM;
}

uint64_t plan_weight_rows(const struct plan_shape *s, uint32_t index)
{
    uint64_t columns = place_of(s, index) == O ? s->q_dim : place_of(s, index) == DOWN ? s->ffn : s->hidden;

    return plan_is_norm(s, index) ? 1 : plan_weight_elems(s, index) / columns;
}

int64_t plan_weight_norm(const struct plan_shape *s, uint32_t index)
{
    if (index == plan_head(s))
        return plan_norm(s);
    return place_of(s, index) == Q || place_of(s, index) == GATE ? (int64_t)index - 1 : -1;
}

uint64_t plan_slice_rows(const struct plan_shape *s, uint32_t index, uint64_t elem)
{
    uint64_t rows = plan_weight_rows(s, index), bytes = plan_weight_elems(s, index) * elem, all = 0, limit,
             count;

    for (uint32_t i = 0; i < plan_weights(s); i++)
        all += plan_weight_elems(s, i) * elem;
    limit = all / SLICE_SHARE > SLICE_BYTES ? all / SLICE_SHARE : SLICE_BYTES;
    count = (bytes + limit - 1) / limit;
    if (plan_is_norm(s, index) || count <= 1)
        return rows;
    rows = (rows + count - 1) / count;
    return (rows + SLICE_ROWS - 1) / SLICE_ROWS * SLICE_ROWS;
}

void plan_weight_name(const struct plan_shape *s, uint32_t index, char *name)
{
    static const char *const of_layer[PLAN_LAYER_TENSORS] = {
        "attn_norm",     [Q] = "q",   [K] = "k",      [V] = "v", [O] = "o", [POST_NORM] = "mlp_norm",
        [GATE] = "gate", [UP] = "up", [DOWN] = "down"};

    if (index == 0)
        snprintf(name, 64, "embed");
    else if (index >= plan_norm(s))
        snprintf(name, 64, "%s", index == plan_norm(s) ? "norm" : "head");
    else
        snprintf(name, 64, "layers.%u.%s", (index - 1) / PLAN_LAYER_TENSORS,
                 of_layer[(index - 1) % PLAN_LAYER_TENSORS]);
}

uint64_t plan_cache_bytes(const struct plan_shape *s, const struct ofl_workload *w)
{
    return 2 * s->layers * w->positions * s->kv_dim * w->cache_elem_bytes;
}

/* ---- costs ----------------------------------------------------------------------- */

static double rows_of(const struct ofl_workload *w)
{
    return (double)(w->work == OFL_TRAIN ? w->batch * w->seq : w->seq);
}

/* Pairs of a query and a key that it sees. */
static double pairs_of(const struct ofl_workload *w)
{
    double seq = (double)w->seq;

    return w->work == OFL_TRAIN ? (double)w->batch * seq * (seq + 1) / 2 : seq * (double)w->positions;
}

static double weight_bytes(const struct ofl_workload *w, double elems)
{
    return elems * (double)ofl_dtype_bytes(w->dtype);
}

/* What a layer writes inside and reads again, and the rows that pass from layer to layer, in F32. */
static double inner_bytes(const struct plan_shape *s, const struct ofl_workload *w)
{
    double inner =
        2.0 * (double)(2 * s->hidden + 2 * s->q_dim + 2 * s->kv_dim + 3 * s->ffn) * w->inner_elem_bytes;

    return rows_of(w) * (inner + 5.0 * (double)s->hidden * sizeof(float));
}

struct plan_cost plan_cost_rows(const struct plan_shape *s, const struct ofl_workload *w)
{
    return (struct plan_cost){0, 2 * rows_of(w) * (double)s->hidden * sizeof(float)};
}

struct plan_cost plan_cost_forward(const struct plan_shape *s, const struct ofl_workload *w)
{
    double elems = (double)s->layer_elems;

    return (struct plan_cost){2 * elems * rows_of(w) + 4 * (double)s->q_dim * pairs_of(w),
                              weight_bytes(w, elems) + inner_bytes(s, w)};
}

/* Computed anew up to the last product, then two products for each one. Of attention two products are computed
 * anew, and backward takes seven: scores twice, so that no sum depends on the order of blocks. */
struct plan_cost plan_cost_backward(const struct plan_shape *s, const struct ofl_workload *w, bool first)
{
    double elems = (double)s->layer_elems, again = elems - (double)(s->ffn * s->hidden);

    return (struct plan_cost){(2 * again + 4 * elems) * rows_of(w) + 18 * (double)s->q_dim * pairs_of(w),
                              2 * weight_bytes(w, elems) + (first ? 1 : 2) * elems * sizeof(float) +
                                  3 * inner_bytes(s, w)};
}

struct plan_cost plan_cost_head(const struct plan_shape *s, const struct ofl_workload *w, bool first)
{
    double elems = (double)(s->vocab * s->hidden), logits = rows_of(w) * (double)s->vocab * sizeof(float);

    return (struct plan_cost){6 * elems * rows_of(w), 2 * weight_bytes(w, elems) +
                                                          (first ? 1 : 2) * elems * sizeof(float) +
                                                          4 * logits};
}

struct plan_cost plan_cost_extend(const struct plan_shape *s, const struct ofl_workload *w)
{
    struct plan_cost cost = plan_cost_forward(s, w);

    cost.bytes += 2.0 * (double)(w->positions * s->kv_dim * w->cache_elem_bytes);
    return cost;
}

/* Of the last row alone. */
struct plan_cost plan_cost_logits(const struct plan_shape *s, const struct ofl_workload *w)
{
    double elems = (double)(s->vocab * s->hidden);

    return (struct plan_cost){2 * elems, weight_bytes(w, elems)};
}

double plan_model_flops(const struct plan_shape *s, const struct ofl_workload *w)
{
    double layers = (double)(s->layers * s->layer_elems), head = (double)(s->vocab * s->hidden);

    if (w->work == OFL_TRAIN)
        return 6 * (layers + head) * rows_of(w) * (double)w->accum;
    return 2 * (layers * rows_of(w) + head);
}
