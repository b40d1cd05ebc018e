/*
 * optim: gradients of several processes. Two threads with a context each stand for two processes: their halves of a batch,
 * summed by ofl_optimizer_reduce, give the weights and states of one context that accumulates both, bit for bit; clipped
 * and not, in F32 and BF16, wherever the tensors rest, and when the two have other budgets and tiles. What reduce is called
 * with, and in which order. A call that fails leaves every weight and state as it was, and the next step works.
 *
 * Negative controls: a rank whose reduce does nothing ends elsewhere; so does one that leaves one piece out.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define WEIGHTS 5u
#define STEPS   4u
#define LARGEST 600001u
#define CALLS   (STEPS * 16u)

/* Around a piece (262144 elements), and one of three pieces. */
static const uint64_t sizes[WEIGHTS] = {1, 262144, LARGEST, 262145, 1000};

/* Device, host and drive; 0 of host: everything lives on the device. */
static const struct place {
    uint64_t device, host, nvme, tile;
} places[] = {{32 * MIB, 0, 0, 0},
              {8 * MIB, 32 * MIB, 0, 0},
              {8 * MIB, 4 * MIB, 48 * MIB, 64 * KIB},
              {8 * MIB, 20 * MIB, 48 * MIB, 512 * KIB}};
#define PLACES (sizeof places / sizeof places[0])

/* What two ranks meet in: each puts its bytes there, then both take the sum. */
struct meeting {
    pthread_barrier_t both;
    float bytes[2][OFL_REDUCE_BYTES / sizeof(float)];
};

struct rank {
    const struct place *place;
    const char *dir;
    struct meeting *meeting; /* NULL: one process, which accumulates both halves */
    unsigned number;
    bool low;
    double clip;
    unsigned left_out; /* calls from this one on leave the bytes as they are; 0: none */
    unsigned fails;    /* this call, from 1, fails; 0: none */

    unsigned calls;
    uint64_t lengths[CALLS];
    double norms[STEPS];
    void *end[WEIGHTS][4]; /* weight, moments, master */
};

/* ---- a rank -------------------------------------------------------------- */

static int add_up(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg)
{
    struct rank *r = arg;
    struct meeting *m = r->meeting;
    float *x = buf;

    assert_int_equal(dtype, OFL_F32);
    assert_int_equal((uintptr_t)buf % 64, 0);
    r->lengths[r->calls++ % CALLS] = bytes;
    if (r->fails == r->calls)
        return 7;
    memcpy(m->bytes[r->number], buf, bytes);
    pthread_barrier_wait(&m->both);
    for (uint64_t i = 0; i < bytes / sizeof *x && !(r->left_out && r->calls >= r->left_out); i++)
        x[i] = m->bytes[0][i] + m->bytes[1][i];
    pthread_barrier_wait(&m->both);
    return 0;
}

/* Of a half of the batch: any numbers, other ones in each step. */
static float number(unsigned w, uint64_t i, unsigned step, unsigned half)
{
    struct random r = {((uint64_t)w << 40 | i) + step * 977u + half * 31337u};

    return (float)((int64_t)random_below(&r, 1u << 20) - (1 << 19)) / (float)(1 << 22);
}

struct model {
    struct ofl_ctx *ctx;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weight[WEIGHTS], *grad[WEIGHTS];
    float *room;
};

static void ok(int err)
{
    if (err < 0)
        fail_msg("%d: %s", err, ofl_error());
}

static void write_weight(struct model *m, unsigned w, bool low)
{
    struct ofl_tensor *master;
    uint16_t *half = (uint16_t *)m->room + 2 * sizes[w];

    for (uint64_t i = 0; i < sizes[w]; i++) {
        m->room[i] = (float)((w + i) % 97) / 64.0f; /* BF16 has these as they are */
        memcpy(&half[i], (char *)&m->room[i] + 2, 2);
    }
    ok(ofl_tensor_write(m->weight[w], 0, low ? (void *)half : (void *)m->room, sizes[w] * (low ? 2 : 4)));
    ok(ofl_optimizer_state(m->optimizer, m->weight[w], OFL_STATE_MASTER, &master));
    if (low)
        ok(ofl_tensor_write(master, 0, m->room, sizes[w] * 4));
}

static struct model model_open(const struct rank *r)
{
    struct ofl_nvme nvme = {.dir = r->dir, .bytes = r->place->nvme};
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = r->place->device,
                                .host_bytes = r->place->host,
                                .tile_bytes = r->place->tile,
                                .nvme = &nvme,
                                .nvme_count = r->place->nvme > 0,
                                .log = fixture_log};
    struct ofl_tensor_desc d = {.size = sizeof d, .name = "w"};
    struct model m = {.room = malloc(2 * LARGEST * sizeof(float))};

    assert_non_null(m.room);
    ok(ofl_open(&config, &m.ctx));
    ok(ofl_optimizer_create(m.ctx, &m.optimizer));
    for (unsigned w = 0; w < WEIGHTS; w++) {
        char name[8] = {(char)('a' + w)};

        d.name = name;
        d.elems = sizes[w];
        d.dtype = r->low ? OFL_BF16 : OFL_F32;
        ok(ofl_tensor_create(m.ctx, &d, &m.weight[w]));
        name[1] = 'g';
        d.dtype = OFL_F32;
        ok(ofl_tensor_create(m.ctx, &d, &m.grad[w]));
        ok(ofl_optimizer_bind(m.optimizer, m.weight[w], m.grad[w]));
        write_weight(&m, w, r->low);
    }
    return m;
}

/* The gradient of one weight: of this rank's half, or of both, the first one first. */
static void make_gradient(struct model *m, const struct rank *r, unsigned w, unsigned step)
{
    for (uint64_t i = 0; i < sizes[w]; i++)
        m->room[i] =
            r->meeting ? number(w, i, step, r->number) : number(w, i, step, 0) + number(w, i, step, 1);
    ok(ofl_tensor_write(m->grad[w], 0, m->room, sizes[w] * sizeof(float)));
}

static int run_step(struct model *m, const struct rank *r, unsigned step)
{
    struct ofl_update_settings s = {.size = sizeof s,
                                    .lr = 0.01,
                                    .beta1 = 0.9,
                                    .beta2 = 0.99,
                                    .eps = 1e-8,
                                    .weight_decay = 0.1,
                                    .clip = r->clip,
                                    .step = step + 1};

    for (unsigned w = 0; w < WEIGHTS; w++)
        make_gradient(m, r, w, step);
    ok(ofl_optimizer_begin(m->optimizer, &s));
    for (unsigned w = WEIGHTS; w-- > 0;)
        if ((w + step) % 4) /* not all of them have one in each step */
            ok(ofl_optimizer_apply(m->optimizer, m->weight[w]));
    return ofl_optimizer_end(m->optimizer);
}

static void take(struct model *m, struct rank *r)
{
    for (unsigned w = 0; w < WEIGHTS; w++) {
        struct ofl_tensor *t[4] = {m->weight[w]};

        ok(ofl_optimizer_state(m->optimizer, m->weight[w], OFL_STATE_EXP_AVG, &t[1]));
        ok(ofl_optimizer_state(m->optimizer, m->weight[w], OFL_STATE_EXP_AVG_SQ, &t[2]));
        ok(ofl_optimizer_state(m->optimizer, m->weight[w], OFL_STATE_MASTER, &t[3]));
        for (unsigned i = 0; i < 4; i++) {
            struct ofl_tensor_info info = {.size = sizeof info};

            ok(ofl_tensor_info_get(t[i], &info));
            free(r->end[w][i]);
            r->end[w][i] = malloc(info.bytes);
            assert_non_null(r->end[w][i]);
            ok(ofl_tensor_read(t[i], 0, r->end[w][i], info.bytes));
        }
    }
}

static void *run_rank(void *arg)
{
    struct rank *r = arg;
    struct model m = model_open(r);

    if (r->meeting)
        ok(ofl_optimizer_reduce(m.optimizer, add_up, r));
    for (unsigned step = 0; step < STEPS; step++) {
        ok(run_step(&m, r, step));
        ok(ofl_optimizer_norm(m.optimizer, &r->norms[step]));
    }
    take(&m, r);
    ok(fixture_ctx_close(m.ctx));
    free(m.room);
    return NULL;
}

static void forget(struct rank *r)
{
    for (unsigned w = 0; w < WEIGHTS; w++)
        for (unsigned i = 0; i < 4; i++)
            free(r->end[w][i]);
}

static bool same(const struct rank *a, const struct rank *b)
{
    for (unsigned w = 0; w < WEIGHTS; w++)
        for (unsigned i = 0; i < 4; i++)
            if (memcmp(a->end[w][i], b->end[w][i], sizes[w] * (i == 0 && a->low ? 2 : 4)))
                return false;
    return memcmp(a->norms, b->norms, sizeof a->norms) == 0;
}

/* ---- what must hold --------------------------------------------------------- */

/* Both ranks at once, in threads of their own. */
static void run_both(struct rank r[2])
{
    struct meeting *m = malloc(sizeof *m);
    pthread_t threads[2];

    assert_non_null(m);
    assert_int_equal(pthread_barrier_init(&m->both, NULL, 2), 0);
    for (unsigned i = 0; i < 2; i++) {
        r[i].number = i;
        r[i].meeting = m;
        assert_int_equal(pthread_create(&threads[i], NULL, run_rank, &r[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&m->both);
    free(m);
}

static struct rank *ranks_make(void)
{
    struct rank *r = calloc(3, sizeof *r);

    assert_non_null(r);
    return r;
}

static void ranks_free(struct rank *r)
{
    for (unsigned i = 0; i < 3; i++)
        forget(&r[i]);
    free(r);
}

static void halves_are_a_whole(void **state)
{
    for (unsigned k = 0; k < PLACES * 4; k++) {
        struct rank *r = ranks_make();

        for (unsigned i = 0; i < 3; i++) {
            /* the ranks differ in their budgets; the third one is the whole */
            r[i].place = i == 2 ? &places[1] : &places[(k + (k >= PLACES && i)) % PLACES];
            r[i].dir = *state;
            r[i].low = k / 2 % 2;
            r[i].clip = k % 2 ? 0.05 : 0;
        }
        run_both(r);
        run_rank(&r[2]);
        if (!same(&r[0], &r[2]) || !same(&r[1], &r[2]))
            fail_msg("case %u: two halves are not the whole", k);
        assert_true(r[2].norms[0] > 0.05); /* so that clipping does something */
        ranks_free(r);
    }
}

/* In the order of apply, from byte to byte, and the same in both: budgets don't change it. */
static void pieces_come_in_order(void **state)
{
    struct rank *r = ranks_make();
    unsigned n = 0;

    r[0].place = &places[2];
    r[1].place = &places[3];
    r[0].dir = r[1].dir = *state;
    run_both(r);
    assert_int_equal(r[0].calls, r[1].calls);
    for (unsigned step = 0; step < STEPS; step++)
        for (unsigned w = WEIGHTS; w-- > 0;)
            for (uint64_t at = 0; (w + step) % 4 && at < 4 * sizes[w]; at += OFL_REDUCE_BYTES) {
                uint64_t bytes = 4 * sizes[w] - at < OFL_REDUCE_BYTES ? 4 * sizes[w] - at : OFL_REDUCE_BYTES;

                assert_int_equal(r[0].lengths[n], bytes);
                assert_int_equal(r[1].lengths[n], bytes);
                n++;
            }
    assert_int_equal(r[0].calls, n);
    ranks_free(r);
}

static void what_is_left_out_is_seen(void **state)
{
    const unsigned first[] = {1, 20};

    for (unsigned k = 0; k < 2; k++) {
        struct rank *r = ranks_make();

        for (unsigned i = 0; i < 3; i++) {
            r[i].place = &places[1];
            r[i].dir = *state;
            r[i].left_out = i == 1 ? first[k] : 0;
        }
        run_both(r);
        run_rank(&r[2]);
        assert_true(same(&r[0], &r[2]));
        assert_false(same(&r[1], &r[2]));
        ranks_free(r);
    }
}

/* ---- failures ------------------------------------------------------------------ */

static int no_change(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg)
{
    struct rank *r = arg;

    (void)dtype;
    memset(buf, r->fails == r->calls + 1 ? 0xff : 0, r->fails == r->calls + 1 ? bytes : 0);
    return r->fails == ++r->calls ? (int)r->number : 0;
}

/* The step fails at its k-th call, after others were reduced; nothing has changed, and the same step then works. */
static void a_failure_changes_nothing(void **state)
{
    const unsigned fails[] = {1, 3, 6};

    for (unsigned k = 0; k < PLACES * 3; k++) {
        struct rank *r = ranks_make();
        struct model m;
        double norm;

        for (unsigned i = 0; i < 3; i++) {
            r[i].place = &places[k % PLACES];
            r[i].dir = *state;
            r[i].low = k % 2;
            r[i].clip = k / 2 % 2 ? 0.05 : 0;
        }
        m = model_open(&r[0]);
        ok(ofl_optimizer_reduce(m.optimizer, no_change, &r[0]));
        ok(run_step(&m, &r[0], 0));
        ok(ofl_optimizer_norm(m.optimizer, &norm));
        take(&m, &r[0]);
        r[0].calls = 0;
        r[0].fails = fails[k / PLACES];
        r[0].number = k % 2 ? 7 : (unsigned)-5;
        assert_int_equal(run_step(&m, &r[0], 1), -ECANCELED);
        assert_non_null(strstr(ofl_error(), k % 2 ? "returned 7: nothing" : "returned -5: nothing"));
        assert_int_equal(r[0].calls, r[0].fails); /* and not again */
        take(&m, &r[1]);
        assert_true(same(&r[0], &r[1]));
        ok(ofl_optimizer_norm(m.optimizer, &r[1].norms[0])); /* of the last step that has ended */
        assert_true(r[1].norms[0] == norm);
        r[0].fails = 0;
        r[0].number = 0;
        ok(run_step(&m, &r[0], 1));
        take(&m, &r[0]);
        assert_false(same(&r[0], &r[1]));
        ok(fixture_ctx_close(m.ctx));
        free(m.room);
        m = model_open(&r[2]);
        for (unsigned step = 0; step < 2; step++)
            ok(run_step(&m, &r[2], step));
        take(&m, &r[2]);
        memcpy(r[2].norms, r[0].norms, sizeof r[0].norms);
        assert_true(same(&r[0], &r[2]));
        ok(fixture_ctx_close(m.ctx));
        free(m.room);
        ranks_free(r);
    }
}

static void refusals(void **state)
{
    struct ofl_update_settings s = {.size = sizeof s, .step = 1};
    struct rank r = {.place = &places[1], .dir = *state};
    struct model m = model_open(&r);

    ok(ofl_optimizer_begin(m.optimizer, &s));
    assert_int_equal(ofl_optimizer_reduce(m.optimizer, no_change, &r), -OFL_ESTATE);
    ok(ofl_optimizer_end(m.optimizer));
    ok(ofl_optimizer_reduce(m.optimizer, no_change, &r));
    ok(run_step(&m, &r, 0));
    assert_true(r.calls > 0);
    r.calls = 0;
    ok(ofl_optimizer_reduce(m.optimizer, NULL, NULL)); /* no longer */
    ok(run_step(&m, &r, 1));
    assert_int_equal(r.calls, 0);
    ok(fixture_ctx_close(m.ctx));
    free(m.room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_are_a_whole),
        cmocka_unit_test(pieces_come_in_order),
        cmocka_unit_test(what_is_left_out_is_seen),
        cmocka_unit_test(a_failure_changes_nothing),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests_name("reduce", tests, scratch_setup, scratch_teardown);
}
