/* What a model's shape comes to in elements, bytes and operations. See shape.h. */
#include "liboffload/plan/shape.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "base/sized.h"

/* Of weights when generating: as examples/model/slices.h. */
#define SLICE_SHARE       256u
#define SLICE_LEAST       (1ull << 20)
#define SLICE_MOST        (8ull << 20)
#define SLICE_SHARE_LEAST 1024u
#define SLICE_ROWS        16u
#define SIDE_MAX          (1u << 24) /* of anything in a shape: products of three stay far below 2^64 */
#define ROWS_MAX          (1ull << 28)
#define LOGITS_BYTES      (256ull << 20) /* of a slice of the rows, at most */
#define PRODUCT_BYTES     (32ull << 20)  /* scratch of the library of products */

/* What a layer may have, in the order of its weights. */
enum role {
    NORM,
    Q,
    K,
    V,
    Q_BIAS,
    K_BIAS,
    V_BIAS,
    Q_NORM,
    K_NORM,
    O,
    O_BIAS,
    ATTN_POST_NORM,
    MLP_NORM,
    GATE,
    UP,
    GATE_BIAS,
    UP_BIAS,
    DOWN,
    DOWN_BIAS,
    MLP_POST_NORM,
    ROLES
};

static const struct {
    const char *name;
    uint32_t vectors; /* that it is one of; 0: it is always there */
} roles[ROLES] = {
    [NORM] = {"attn_norm", OFL_VECTORS_NO_PRE_NORMS},
    [Q] = {"q", 0},
    [K] = {"k", 0},
    [V] = {"v", 0},
    [Q_BIAS] = {"q_bias", OFL_VECTORS_QKV_BIAS},
    [K_BIAS] = {"k_bias", OFL_VECTORS_QKV_BIAS},
    [V_BIAS] = {"v_bias", OFL_VECTORS_QKV_BIAS},
    [Q_NORM] = {"q_norm", OFL_VECTORS_QK_NORM_HEAD | OFL_VECTORS_QK_NORM_ALL},
    [K_NORM] = {"k_norm", OFL_VECTORS_QK_NORM_HEAD | OFL_VECTORS_QK_NORM_ALL},
    [O] = {"o", 0},
    [O_BIAS] = {"o_bias", OFL_VECTORS_O_BIAS},
    [ATTN_POST_NORM] = {"attn_post_norm", OFL_VECTORS_POST_NORMS},
    [MLP_NORM] = {"mlp_norm", OFL_VECTORS_NO_PRE_NORMS},
    [GATE] = {"gate", 0},
    [UP] = {"up", 0},
    [GATE_BIAS] = {"gate_bias", OFL_VECTORS_MLP_BIAS},
    [UP_BIAS] = {"up_bias", OFL_VECTORS_MLP_BIAS},
    [DOWN] = {"down", 0},
    [DOWN_BIAS] = {"down_bias", OFL_VECTORS_MLP_BIAS},
    [MLP_POST_NORM] = {"mlp_post_norm", OFL_VECTORS_POST_NORMS},
};

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
    if (w->vectors >= 2 * OFL_VECTORS_NO_PRE_NORMS)
        return refuse("vectors", w->vectors, "has unknown ones");
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

static void list_roles(struct plan_shape *s)
{
    for (int r = 0; r < ROLES; r++) {
        bool pre = roles[r].vectors == OFL_VECTORS_NO_PRE_NORMS, named = (s->vectors & roles[r].vectors) != 0;

        if (pre ? !named : named || roles[r].vectors == 0)
            s->roles[s->layer_tensors++] = (unsigned char)r;
    }
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
                                 .head_dim = w->head_dim,
                                 .tied = w->tied != 0,
                                 .vectors = w->vectors};
    list_roles(shape);
    shape->layer_elems = shape->hidden * (2 * shape->q_dim + 2 * shape->kv_dim + 3 * shape->ffn);
    w->workspace_bytes = w->workspace_bytes ? w->workspace_bytes : guess_workspace(w, shape);
    return 0;
}

/* ---- weights ------------------------------------------------------------------- */

uint32_t plan_norm(const struct plan_shape *s)
{
    return 1 + (uint32_t)s->layers * s->layer_tensors;
}

uint32_t plan_head(const struct plan_shape *s)
{
    return s->tied ? 0 : plan_norm(s) + 1;
}

uint32_t plan_weights(const struct plan_shape *s)
{
    return plan_norm(s) + (s->tied ? 1 : 2);
}

/* ROLES: outside the layers. */
static enum role role_of(const struct plan_shape *s, uint32_t index)
{
    return index == 0 || index >= plan_norm(s) ? ROLES : (enum role)s->roles[(index - 1) % s->layer_tensors];
}

static uint64_t matrix_elems(const struct plan_shape *s, enum role role)
{
    return s->hidden * (role == Q || role == O ? s->q_dim : role == K || role == V ? s->kv_dim : s->ffn);
}

uint64_t plan_weight_elems(const struct plan_shape *s, uint32_t index)
{
    bool each = s->vectors & OFL_VECTORS_QK_NORM_HEAD;

    if (index == 0 || index > plan_norm(s))
        return s->vocab * s->hidden;
    switch (role_of(s, index)) {
    case Q:
    case O:
    case K:
    case V:
    case GATE:
    case UP:
    case DOWN:
        return matrix_elems(s, role_of(s, index));
    case Q_BIAS:
        return s->q_dim;
    case K_BIAS:
    case V_BIAS:
        return s->kv_dim;
    case Q_NORM:
        return each ? s->head_dim : s->q_dim;
    case K_NORM:
        return each ? s->head_dim : s->kv_dim;
    case GATE_BIAS:
    case UP_BIAS:
        return s->ffn;
    default:
        return s->hidden;
    }
}

bool plan_is_vector(const struct plan_shape *s, uint32_t index)
{
    enum role role = role_of(s, index);

    return index == plan_norm(s) || (role != ROLES && role != Q && role != K && role != V && role != O &&
                                     role != GATE && role != UP && role != DOWN);
}

uint64_t plan_weight_rows(const struct plan_shape *s, uint32_t index)
{
    enum role role = role_of(s, index);
    uint64_t columns = role == O ? s->q_dim : role == DOWN ? s->ffn : s->hidden;

    return plan_is_vector(s, index) ? 1 : plan_weight_elems(s, index) / columns;
}

/* The index of a role in the layer of that index; -1: it has none. */
static int64_t in_layer(const struct plan_shape *s, uint32_t index, enum role role)
{
    uint32_t first = 1 + (index - 1) / s->layer_tensors * s->layer_tensors;

    for (uint32_t i = 0; i < s->layer_tensors; i++)
        if (s->roles[i] == role)
            return first + i;
    return -1;
}

void plan_matrix_vectors(const struct plan_shape *s, uint32_t index, int64_t vectors[PLAN_MATRIX_VECTORS])
{
    static const enum role of[ROLES][PLAN_MATRIX_VECTORS] = {
        [Q] = {NORM, Q_BIAS, Q_NORM},
        [K] = {ROLES, K_BIAS, K_NORM},
        [V] = {ROLES, V_BIAS, ROLES},
        [O] = {ROLES, O_BIAS, ATTN_POST_NORM},
        [GATE] = {MLP_NORM, GATE_BIAS, ROLES},
        [UP] = {ROLES, UP_BIAS, ROLES},
        [DOWN] = {ROLES, DOWN_BIAS, MLP_POST_NORM},
    };
    enum role role = role_of(s, index);

    for (int i = 0; i < PLAN_MATRIX_VECTORS; i++) {
        if (index == plan_head(s))
            vectors[i] = i == 0 ? (int64_t)plan_norm(s) : -1;
        else
            vectors[i] = role == ROLES ? -1 : in_layer(s, index, of[role][i]);
    }
}

uint64_t plan_slice_rows(const struct plan_shape *s, uint32_t index, uint64_t elem)
{
    uint64_t rows = plan_weight_rows(s, index), bytes = plan_weight_elems(s, index) * elem, all = 0, limit,
             count;

    for (uint32_t i = 0; i < plan_weights(s); i++)
        all += plan_weight_elems(s, i) * elem;
    limit = all / SLICE_SHARE;
    limit = limit < SLICE_LEAST ? SLICE_LEAST : limit > SLICE_MOST ? SLICE_MOST : limit;
    limit = all / SLICE_SHARE_LEAST > limit ? all / SLICE_SHARE_LEAST : limit;
    count = (bytes + limit - 1) / limit;
    if (plan_is_vector(s, index) || count <= 1)
        return rows;
    rows = (rows + count - 1) / count;
    return (rows + SLICE_ROWS - 1) / SLICE_ROWS * SLICE_ROWS;
}

void plan_weight_name(const struct plan_shape *s, uint32_t index, char *name)
{
    if (index == 0)
        snprintf(name, 64, "embed");
    else if (index >= plan_norm(s))
        snprintf(name, 64, "%s", index == plan_norm(s) ? "norm" : "head");
    else
        snprintf(name, 64, "layers.%u.%s", (index - 1) / s->layer_tensors, roles[role_of(s, index)].name);
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
