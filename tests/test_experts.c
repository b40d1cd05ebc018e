/*
 * Generation with a mixture of experts inside budgets of a quarter of them. Proves that
 *  - tokens and logits are those of everything in memory, for budgets between;
 *  - what is read per token stays within 1.1 of the experts that a least-recently-used order, with the room that the
 *    budget leaves beside all else, would not have had: experts are read when they are chosen, kept, and nothing else
 *    is read;
 *  - files that have a layer's experts as one, under the newer names, give the same;
 *  - in training the gradients of an expert that no row uses are zeros, whatever was there, and of the others are not;
 *  - a GPU refuses them by name.
 * Leased as others are, without OFL_LEASE_UNPLANNED, experts are read twice as often, and the bound does not hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/compute.h"
#include "examples/model/experts.h"
#include "examples/model/generator.h"
#include "tests/llama_reference.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

#define ERROR_BYTES 1024
#define BOUND       1.1

enum { LAYERS = 4, EXPERTS = 16, USED = 2, HIDDEN = 128, FFN = 256, VOCAB = 64, PROMPT = 70, TOKENS = 40 };

static char root[256], *dir, *fused;
static struct llama_config model;

/* ---- a checkpoint ---------------------------------------------------------- */

/* How the file has the tensors from that index on. Its data are those of one by one, in the same order. */
static void stored_at(uint32_t index, bool as_one, struct llama_stored *out)
{
    struct llama_tensor_desc d;
    char *at;

    llama_tensor_at(&model.shape, index, &d);
    llama_stored_at(&model.shape, index, out);
    if (!as_one)
        return;
    if (d.role >= LLAMA_ROLES)
        llama_expert_all(&model.shape, &d, out);
    at = strstr(out->name, "block_sparse_moe.");
    if (at) {
        char rest[sizeof out->name];

        snprintf(rest, sizeof rest, "%s", at + strlen("block_sparse_moe."));
        snprintf(at, sizeof rest - (size_t)(at - out->name), "mlp.%s", rest);
    }
}

static void put_values(const char *path)
{
    const struct llama_shape *shape = &model.shape;
    FILE *f = fopen(path, "r+b");
    struct llama_stored s;
    uint64_t header;

    assert_non_null(f);
    assert_int_equal(fread(&header, sizeof header, 1, f), 1);
    assert_int_equal(fseek(f, (long)(8 + header), SEEK_SET), 0);
    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count) {
        float *v;

        llama_stored_at(shape, i, &s);
        v = ref_random(s.elems, i, strstr(s.name, "embed_tokens") ? 1 : 0.125f, s.dims == 1 ? 1 : 0);
        assert_int_equal(fwrite(v, sizeof *v, s.elems, f), s.elems);
        free(v);
    }
    assert_int_equal(fclose(f), 0);
}

static char *make_one(bool as_one)
{
    char error[ERROR_BYTES] = "", *made = files_dir(root, "model"),
         *path = files_path(made, "model.safetensors");
    json_t *config, *tensors = json_object();
    struct llama_stored s;

    config = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "mixtral",
                       "num_hidden_layers", LAYERS, "hidden_size", HIDDEN, "intermediate_size", FFN,
                       "num_attention_heads", 2, "num_key_value_heads", 1, "num_local_experts", EXPERTS,
                       "num_experts_per_tok", USED, "vocab_size", VOCAB, "max_position_embeddings", 256);
    files_put_json(made, "config.json", config);
    if (llama_config_load(made, &model, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (uint32_t i = 0; i < llama_tensor_count(&model.shape); i += s.count) {
        stored_at(i, as_one, &s);
        json_object_set_new(tensors, s.name, files_tensor("F32", s.dims, s.shape));
    }
    files_put_safetensors(made, "model.safetensors", tensors);
    json_decref(tensors);
    put_values(path);
    free(path);
    return made;
}

static int make(void **state)
{
    (void)state;
    if (temporary_dir("experts", root, sizeof root) < 0)
        return -1;
    dir = make_one(false);
    fused = make_one(true);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    files_remove(dir);
    files_remove(fused);
    files_remove(strdup(root));
    return 0;
}

/* ---- least recently used --------------------------------------------------- */

#define EXPERT_BYTES (3ull * HIDDEN * FFN * sizeof(float))

/* Whole experts, the one used last in front. */
struct lru {
    uint32_t list[LAYERS * EXPERTS], count, room;
    uint64_t misses, uses;
};

static void use(struct lru *l, uint32_t id)
{
    uint32_t at = 0;

    while (at < l->count && l->list[at] != id)
        at++;
    l->uses++;
    l->misses += at == l->count;
    if (at == l->count && l->count < l->room)
        l->count++;
    if (at == l->count)
        at--;
    memmove(l->list + 1, l->list, at * sizeof *l->list);
    l->list[0] = id;
}

static void chosen(void *arg, uint32_t layer, const bool *used)
{
    for (uint32_t e = 0; e < EXPERTS; e++)
        if (used[e])
            use(arg, layer * EXPERTS + e);
}

/* ---- a run ------------------------------------------------------------------ */

struct run {
    float logits[VOCAB];
    int32_t tokens[TOKENS];
    uint64_t read_bytes; /* of all tokens but the first two, which the plan is learned from */
    uint64_t misses, uses;
};

static int32_t likeliest(const float *logits)
{
    int32_t best = 0;

    for (int32_t i = 1; i < VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

static uint64_t read_so_far(struct ofl_ctx *ctx)
{
    struct ofl_stats s = {.size = sizeof s};

    assert_int_equal(ofl_stats_get(ctx, &s), 0);
    return s.source_read_bytes;
}

static void decode(struct ofl_ctx *ctx, struct llama_generator *g, struct lru *lru, struct run *out)
{
    uint64_t read = 0, misses = 0, uses = 0;
    char error[ERROR_BYTES] = "";

    for (int i = 0; i < TOKENS; i++) {
        if (i == 2) {
            read = read_so_far(ctx);
            misses = lru->misses;
            uses = lru->uses;
        }
        out->tokens[i] = likeliest(out->logits);
        if (llama_generator_feed(g, "decode", &out->tokens[i], 1, out->logits, error, sizeof error) < 0)
            fail_msg("%s", error);
    }
    out->read_bytes = read_so_far(ctx) - read;
    out->misses = lru->misses - misses;
    out->uses = lru->uses - uses;
}

/* With room for so many experts on the device, beside all else, and in host memory, of which some count. room 0: for
 * everything. */
static void run(const char *from, uint32_t room, uint32_t host, uint32_t counted, struct run *out)
{
    struct lru lru = {.room = counted};
    struct llama_generator_config config = {.shape = model.shape,
                                            .positions = PROMPT + TOKENS,
                                            .piece = PROMPT,
                                            .experts = chosen,
                                            .experts_arg = &lru};
    struct ofl_config open = {
        .size = sizeof open, .host_bytes = OFL_HOST_MIN_BYTES + host * EXPERT_BYTES, .workers = 1};
    enum ofl_dtype *dtypes = calloc(llama_tensor_count(&model.shape), sizeof *dtypes);
    struct llama_generator_need need;
    struct llama_checkpoint *ck;
    struct llama_generator *g;
    char error[ERROR_BYTES] = "";
    int32_t prompt[PROMPT];
    struct ofl_ctx *ctx;

    for (uint32_t i = 0; i < llama_tensor_count(&model.shape); i++)
        dtypes[i] = OFL_F32;
    llama_generator_need(&config, dtypes, &need);
    open.device_bytes = need.device_all_bytes;
    if (room)
        open.device_bytes -= (uint64_t)(LAYERS * EXPERTS - room) * EXPERT_BYTES;
    if (ofl_open(&open, &ctx) < 0)
        fail_msg("%s", ofl_error());
    assert_int_equal(llama_checkpoint_open(ctx, from, &model.shape, &ck, error, sizeof error), 0);
    if (llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (size_t i = 0; i < PROMPT; i++)
        prompt[i] = (int32_t)(ref_hash(3, i) % VOCAB);
    if (llama_generator_feed(g, NULL, prompt, PROMPT, out->logits, error, sizeof error) < 0)
        fail_msg("%s", error);
    decode(ctx, g, &lru, out);
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(ofl_close(ctx), 0);
    free(dtypes);
}

/* ---- tests ------------------------------------------------------------------ */

static double over(const struct run *r)
{
    return (double)r->read_bytes / ((double)r->misses * (double)EXPERT_BYTES);
}

static void print(const char *what, const struct run *r)
{
    fprintf(stderr, "%-8s %5.2f MiB read per token; used %.2f, not resident by use %.2f: %.3f\n", what,
            (double)r->read_bytes / (TOKENS - 2) / (1 << 20),
            (double)r->uses * (double)EXPERT_BYTES / (TOKENS - 2) / (1 << 20),
            (double)r->misses * (double)EXPERT_BYTES / (TOKENS - 2) / (1 << 20), over(r));
}

static void a_quarter_of_the_experts_is_enough(void **state)
{
    /* In host memory a matrix takes three tiles, in whose middle it begins: half as much again as it has bytes. */
    static const uint32_t rooms[][3] = {{8, 0, 8}, {16, 0, 16}, {2, 24, 16}, {32, 0, 32}};
    struct run all, some;

    (void)state;
    run(dir, 0, 0, LAYERS * EXPERTS, &all);
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i += getenv("OFL_TEST_LIGHT") ? 2 : 1) {
        char what[32];

        run(dir, rooms[i][0], rooms[i][1], rooms[i][2], &some);
        snprintf(what, sizeof what, "%u+%u of %d", rooms[i][0], rooms[i][1], LAYERS * EXPERTS);
        print(what, &some);
        assert_memory_equal(all.tokens, some.tokens, sizeof all.tokens);
        assert_memory_equal(all.logits, some.logits, sizeof all.logits);
        assert_true(some.misses > 0 && some.misses < some.uses);
        if (over(&some) > BOUND)
            fail_msg("room for %s experts: read %.3f of what is not resident", what, over(&some));
    }
}

static void all_as_one_is_the_same(void **state)
{
    struct run one, all;

    (void)state;
    run(dir, 16, 0, 16, &one);
    run(fused, 16, 0, 16, &all);
    assert_memory_equal(one.tokens, all.tokens, sizeof one.tokens);
    assert_memory_equal(one.logits, all.logits, sizeof one.logits);
    assert_int_equal(one.misses, all.misses);
    assert_true(over(&all) <= BOUND);
}

/* ---- training --------------------------------------------------------------- */

enum { FEW = 2, SMALL = 32, WIDE = 48 };

static struct llama_weight made(size_t n, uint64_t stream)
{
    return (struct llama_weight){.data = ref_random(n, stream, 0.25f, 0), .dtype = OFL_F32};
}

static double size_of(const float *a, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i]);
    return sum;
}

static void experts_without_rows_have_zero_gradients(void **test)
{
    const struct llama_shape s = {.layers = 1,
                                  .hidden = SMALL,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 16,
                                  .rms_eps = 1e-5f,
                                  .rope_theta = 1e4f,
                                  .experts = EXPERTS,
                                  .experts_used = USED,
                                  .expert_ffn = WIDE};
    const struct llama_block_weights w = {.attn_norm = made(SMALL, 1),
                                          .q = made(SMALL * SMALL, 2),
                                          .k = made(SMALL * 16, 3),
                                          .v = made(SMALL * 16, 4),
                                          .o = made(SMALL * SMALL, 5),
                                          .mlp_norm = made(SMALL, 6),
                                          .router = made(EXPERTS * SMALL, 7)};
    struct llama_expert one = {
        .gate = made(WIDE * SMALL, 8), .up = made(WIDE * SMALL, 9), .down = made(SMALL * WIDE, 10)};
    const struct llama_weight all[] = {w.attn_norm, w.q,      w.k,      w.v,    w.o,
                                       w.mlp_norm,  w.router, one.gate, one.up, one.down};
    float *x = ref_random(FEW * SMALL, 11, 1, 0), *dx = ref_random(FEW * SMALL, 12, 1, 0);
    void *state = ref_alloc(llama_experts_state_bytes(&s, FEW)),
         *ws = ref_alloc(llama_experts_workspace(&s, 1, FEW, OFL_F32));
    uint32_t unused = 0;

    (void)test;
    llama_block_enter(&s, 1, FEW, &w, x, NULL, state, ws);
    for (one.expert = 0; one.expert < EXPERTS; one.expert++) {
        /* NaN before */
        struct llama_expert_grads g = {ref_floats(WIDE * SMALL), ref_floats(WIDE * SMALL),
                                       ref_floats(SMALL * WIDE)};
        float *y = ref_random(FEW * SMALL, 13, 1, 0), *same = ref_random(FEW * SMALL, 13, 1, 0);
        double size;

        llama_expert_forward(&s, FEW, &one, y, state, ws);
        llama_expert_backward(&s, FEW, &one, &g, true, dx, state, ws);
        size = size_of(g.gate, WIDE * SMALL) + size_of(g.up, WIDE * SMALL) + size_of(g.down, SMALL * WIDE);
        if (memcmp(y, same, FEW * SMALL * sizeof *y) == 0) {
            assert_true(size == 0);
            unused++;
        } else {
            assert_true(size > 0);
        }
        free(g.gate);
        free(g.up);
        free(g.down);
        free(y);
        free(same);
    }
    assert_in_range(unused, EXPERTS - FEW * USED, EXPERTS - USED);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free((void *)(uintptr_t)all[i].data);
    free(x);
    free(dx);
    free(state);
    free(ws);
}

static void a_gpu_refuses_them(void **state)
{
    struct llama_compute_config config = {.shape = model.shape, .cuda = true, .piece = 1, .rows = 1};
    char error[ERROR_BYTES] = "";
    struct llama_compute *c;

    (void)state;
    assert_int_equal(llama_compute_open(NULL, NULL, &config, NULL, &c, error, sizeof error), -ENOTSUP);
    assert_non_null(strstr(error, "experts"));
    assert_non_null(strstr(error, "--device host"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quarter_of_the_experts_is_enough),
        cmocka_unit_test(all_as_one_is_the_same),
        cmocka_unit_test(experts_without_rows_have_zero_gradients),
        cmocka_unit_test(a_gpu_refuses_them),
    };

    return cmocka_run_group_tests(tests, make, unmake);
}
