/*
 * core and kept stores, in running contexts: what was committed comes back by name, in other budgets and in tiles of
 * another size too; what was written after the last commit does not, and does not change it. What can't be is refused
 * with the reason. Training that is killed: tests/test_core_keep_train.c. The order of all this in random programs:
 * tests/test_sim.c; the store itself: tests/test_kept.c.
 *
 * Negative controls: a byte of the data file that is changed, a store written in place that was not closed in time.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/store/kept_impl.h"
#include "tests/core_fixture.h"
#include "tests/keep_fixture.h"

/* ---- what comes back ---------------------------------------------------- */

#define BYTES (3 * MIB + 20 * KIB)

static void what_was_committed_comes_back(void **state)
{
    struct ofl_resumed was = {.size = sizeof was};
    struct ofl_ctx *ctx;
    struct ofl_tensor *t;

    keep_set_dir(state, "life");
    ctx = keep_open(&keep_usual);
    assert_int_equal(ofl_resume(ctx, &was), -ENOENT);
    for (uint32_t i = 0; i < 4; i++) {
        char name[16];

        snprintf(name, sizeof name, "t%u", i);
        t = keep_make(ctx, name, OFL_F32, BYTES / 4);
        assert_int_equal(ofl_tensor_resumed(t), 0);
        if (i != 2)
            keep_write(t, i + 1, BYTES);
        if (i == 3)
            assert_int_equal(ofl_commit(ctx, "words", 5), 0);
    }
    keep_write(t, 77, BYTES); /* after the commit */
    assert_int_equal(ofl_commit_wait(ctx, NULL), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);

    ctx = keep_open(&keep_usual);
    assert_int_equal(ofl_resume(ctx, &was), 0);
    assert_int_equal(was.generation, 1);
    assert_int_equal(was.tensors, 4);
    assert_int_equal(was.bytes, 3 * BYTES);
    assert_int_equal(was.note_bytes, 5);
    assert_memory_equal(was.note, "words", 5);
    for (uint32_t i = 0; i < 4; i++) {
        char name[16];

        snprintf(name, sizeof name, "t%u", i);
        t = keep_make(ctx, name, OFL_F32, BYTES / 4);
        assert_int_equal(ofl_tensor_resumed(t), 1);
        keep_check(t, i == 2 ? 0 : i + 1, BYTES);
    }
    t = keep_make(ctx, "new", OFL_F32, 1000);
    assert_int_equal(ofl_tensor_resumed(t), 0);
    keep_check(t, 0, 4000);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* Each commit takes the slots that the one before it does not have; what did not change is not written again. */
static void unchanged_tiles_are_not_written_again(void **state)
{
    struct ofl_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    struct ofl_tensor *a, *b;
    struct ofl_ctx *ctx;

    keep_set_dir(state, "unchanged");
    ctx = keep_open(&keep_usual);
    a = keep_make(ctx, "a", OFL_F32, BYTES / 4);
    b = keep_make(ctx, "b", OFL_F32, BYTES / 4);
    keep_write(a, 1, BYTES);
    keep_write(b, 2, BYTES);
    keep_commit(ctx, 1);
    ofl_stats_get(ctx, &before);
    for (uint32_t i = 2; i <= 5; i++) {
        keep_write(b, i + 1, BYTES);
        keep_commit(ctx, i);
    }
    ofl_stats_get(ctx, &after);
    assert_in_range(after.nvme_write_bytes - before.nvme_write_bytes, 4 * BYTES, 4 * (BYTES + MIB));
    assert_int_equal(after.commits, 5);
    assert_int_equal(fixture_ctx_close(ctx), 0);

    ctx = keep_open(&keep_usual);
    keep_resume(ctx, 5, 2);
    keep_check(keep_make(ctx, "a", OFL_F32, BYTES / 4), 1, BYTES);
    keep_check(keep_make(ctx, "b", OFL_F32, BYTES / 4), 6, BYTES);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* Smaller tiles than the store was made with, and budgets that would have larger ones. */
static void tiles_of_another_size(void **state)
{
    static const struct keep_budgets all[] = {{4 * MIB, 64 * MIB, MIB / 2, 0, 0, 0},
                                              {4 * MIB, 8 * MIB, 0, 0, 0, 0},
                                              {4 * MIB, 2 * MIB, 64 * KIB, 0, 0, 0},
                                              {4 * MIB, 64 * MIB, MIB, 0, 0, 0}};
    static const uint64_t tiles[] = {512 * KIB, 64 * KIB, 64 * KIB, 64 * KIB};
    struct ofl_stats stats = {.size = sizeof stats};

    keep_set_dir(state, "tiles");
    for (uint32_t i = 0; i < 4; i++) {
        struct ofl_ctx *ctx = keep_open(&all[i]);
        struct ofl_tensor *t, *u;

        if (i)
            keep_resume(ctx, i, 2);
        t = keep_make(ctx, "t", OFL_F32, BYTES / 4);
        u = keep_make(ctx, "u", OFL_BF16, BYTES / 2);
        ofl_stats_get(ctx, &stats);
        assert_int_equal(stats.tile_bytes, tiles[i]);
        keep_check(t, i, BYTES);
        keep_check(u, i ? 100 : 0, BYTES);
        if (i == 0)
            keep_write(u, 100, BYTES);
        keep_write(t, i + 1, BYTES);
        keep_commit(ctx, i + 1);
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
}

/* ---- what is written meanwhile ------------------------------------------ */

struct kernel {
    uint32_t *at, seed;
    uint64_t words;
};

static void overwrite(void *arg)
{
    struct kernel *k = arg;

    for (uint64_t i = 0; i < k->words; i++)
        k->at[i] = k->seed * 2654435761u + (uint32_t)i;
}

/* By a kernel, which leaves the newest bytes on the device. */
static void write_on_device(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t, uint32_t seed)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = t, .mode = OFL_OVERWRITE};
    struct kernel k = {.seed = seed, .words = MIB / 4};

    assert_int_equal(ofl_acquire(ctx, &l, 1, s), 0);
    k.at = l.ptr;
    assert_int_equal(ofl_stream_launch(s, overwrite, &k), 0);
    assert_int_equal(ofl_release(ctx, &l, 1, s), 0);
    assert_int_equal(ofl_stream_sync(s), 0); /* k goes */
}

/* Commits follow each other while kernels write: each has the bytes of its moment, whichever comes back. */
static void commits_have_the_bytes_of_their_moment(void **state)
{
    struct ofl_stream *s;
    struct ofl_tensor *t[6];
    struct ofl_ctx *ctx;
    char name[16];

    for (uint32_t last = 1; last <= 4; last++) {
        snprintf(name, sizeof name, "moment%u", last);
        keep_set_dir(state, name);
        ctx = keep_open(&keep_usual);
        assert_int_equal(ofl_stream_create(ctx, &s), 0);
        for (uint32_t i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "t%u", i);
            t[i] = keep_make(ctx, name, OFL_F32, MIB / 4);
        }
        for (uint32_t n = 1; n <= last; n++) {
            for (uint32_t i = 0; i < 6; i++)
                write_on_device(ctx, s, t[i], 10 * n + i);
            assert_int_equal(ofl_commit(ctx, &n, sizeof n), 0);
        }
        for (uint32_t i = 0; i < 6; i++)
            write_on_device(ctx, s, t[i], 1000 + i);
        assert_int_equal(ofl_commit_wait(ctx, NULL), 0);
        for (uint32_t i = 0; i < 6; i++)
            keep_check(t[i], 1000 + i, MIB);
        assert_int_equal(fixture_ctx_close(ctx), 0);

        ctx = keep_open(&keep_usual);
        keep_resume(ctx, last, 6);
        for (uint32_t i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "t%u", i);
            keep_check(keep_make(ctx, name, OFL_F32, MIB / 4), 10 * last + i, MIB);
        }
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
}

/* ---- who waits ---------------------------------------------------------- */

static sem_t flush_begun, flush_may;
static int (*real_sync)(struct io_file *f);

static int held_sync(struct io_file *f)
{
    sem_post(&flush_begun);
    while (sem_wait(&flush_may) < 0)
        ;
    return real_sync(f);
}

static void nothing(void *arg)
{
    (void)arg;
}

struct trained {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *w[6];
    uint32_t count, steps;
};

/* Weights of a MiB each that are kept, with their gradients and an optimizer. */
static void train_open(struct trained *t, uint32_t count)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .kind = OFL_KIND_GRADIENT, .dtype = OFL_F32, .elems = MIB / 4};

    *t = (struct trained){.ctx = keep_open(&keep_usual), .count = count};
    assert_int_equal(ofl_stream_create(t->ctx, &t->stream), 0);
    assert_int_equal(ofl_optimizer_create(t->ctx, &t->optimizer), 0);
    for (uint32_t i = 0; i < count; i++) {
        struct ofl_tensor *g;
        char name[16];

        snprintf(name, sizeof name, "w%u", i);
        t->w[i] = keep_make(t->ctx, name, OFL_F32, MIB / 4);
        keep_write(t->w[i], i + 1, MIB);
        snprintf(name, sizeof name, "g%u", i);
        d.name = name;
        assert_int_equal(ofl_tensor_create(t->ctx, &d, &g), 0);
        assert_int_equal(ofl_optimizer_bind(t->optimizer, t->w[i], g), 0);
    }
}

static void train_step(struct trained *t)
{
    struct ofl_update_settings settings = {
        .size = sizeof settings, .lr = 1e-3, .eps = 1e-8, .weight_decay = 0.5, .step = ++t->steps};

    assert_int_equal(ofl_optimizer_begin(t->optimizer, &settings), 0);
    for (uint32_t i = 0; i < t->count; i++)
        assert_int_equal(ofl_optimizer_apply(t->optimizer, t->w[i]), 0);
    assert_int_equal(ofl_optimizer_end(t->optimizer), 0);
}

static void train_close(struct trained *t)
{
    assert_int_equal(ofl_optimizer_destroy(t->optimizer), 0);
    assert_int_equal(fixture_ctx_close(t->ctx), 0);
}

static bool is_written(struct ofl_tensor *t, uint32_t seed)
{
    uint32_t word;

    assert_int_equal(ofl_tensor_read(t, 0, &word, sizeof word), 0);
    return word == seed * 2654435761u;
}

/* Reads go on while a commit is being made durable, and so do updates of what it has: what they write waits in host
 * memory for that. */
static void updates_go_on_while_a_commit_is_made_durable(void **state)
{
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_ctx *ctx;
    struct trained t;

    keep_set_dir(state, "beside");
    train_open(&t, 2);
    sem_init(&flush_begun, 0, 0);
    sem_init(&flush_may, 0, 0);
    real_sync = kept_calls.sync_data;
    kept_calls.sync_data = held_sync;
    assert_int_equal(ofl_commit(t.ctx, NULL, 0), 0);
    while (sem_wait(&flush_begun) < 0)
        ;
    assert_true(is_written(t.w[0], 1));
    train_step(&t);
    for (uint32_t i = 0; i < t.count; i++)
        assert_false(is_written(t.w[i], i + 1)); /* which waits for the update */
    ofl_stats_get(t.ctx, &stats);
    assert_true(stats.commits == 0 && stats.updates == 2);
    sem_post(&flush_may);
    assert_int_equal(ofl_commit_wait(t.ctx, NULL), 0);
    kept_calls.sync_data = real_sync;
    train_close(&t);

    ctx = keep_open(&keep_usual);
    keep_resume(ctx, 1, 6);
    keep_check(keep_make(ctx, "w0", OFL_F32, MIB / 4), 1, MIB);
    keep_check(keep_make(ctx, "w1", OFL_F32, MIB / 4), 2, MIB);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static sem_t kernel_may;

static void wait_on_stream(void *arg)
{
    (void)arg;
    while (sem_wait(&kernel_may) < 0)
        ;
}

/* What a commit is to have is still on its way: an update that came later would dirty host memory until there is none
 * for it. So it waits, and who waits for the update is told what for. */
static void who_waits_for_a_commit_is_told_so(void **state)
{
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_stall stall = {.size = sizeof stall};
    struct ofl_lease x = {.size = sizeof x, .mode = OFL_UPDATE}, l = {.size = sizeof l, .mode = OFL_READ};
    struct ofl_stream *slow;
    struct trained t;
    uint64_t updates;
    bool seen = false;

    keep_set_dir(state, "waits");
    train_open(&t, 6);
    x.tensor = keep_make(t.ctx, "x", OFL_F32, MIB / 4);
    keep_write(x.tensor, 9, MIB);
    assert_int_equal(ofl_stream_create(t.ctx, &slow), 0);
    sem_init(&kernel_may, 0, 0);
    train_step(&t);
    keep_commit(t.ctx, 1);
    for (unsigned tries = 0; tries < 12 && !seen; tries++) {
        assert_int_equal(ofl_stall_clear(t.ctx), 0);
        assert_int_equal(ofl_acquire(t.ctx, &x, 1, slow), 0);
        assert_int_equal(ofl_stream_launch(slow, wait_on_stream, NULL), 0);
        assert_int_equal(ofl_release(t.ctx, &x, 1, slow), 0);
        assert_int_equal(ofl_commit(t.ctx, NULL, 0), 0);
        ofl_stats_get(t.ctx, &stats);
        updates = stats.updates;
        train_step(&t);
        l.tensor = t.w[0]; /* of the update that is first in the queue */
        assert_int_equal(ofl_acquire(t.ctx, &l, 1, t.stream), 0);
        assert_int_equal(ofl_stream_launch(t.stream, nothing, NULL), 0);
        assert_int_equal(ofl_release(t.ctx, &l, 1, t.stream), 0);
        usleep(2000u << (tries > 6 ? 6 : tries)); /* until the stream stands at its gate */
        ofl_stats_get(t.ctx, &stats);
        assert_true(stats.updates == updates);
        sem_post(&kernel_may);
        assert_int_equal(ofl_stream_sync(slow), 0);
        assert_int_equal(ofl_stream_sync(t.stream), 0);
        assert_int_equal(ofl_commit_wait(t.ctx, NULL), 0);
        for (uint32_t i = 0; ofl_stall_get(t.ctx, i, &stall) == 0; i++)
            seen |= strcmp(stall.tensor, "w0") == 0 && stall.reason == OFL_STALL_COMMIT &&
                    strcmp(stall.text, "commit") == 0;
    }
    assert_true(seen);
    train_close(&t);
}

/* ---- what is refused, and what is found ---------------------------------- */

#define refused(call, code, words)                                                                           \
    do {                                                                                                     \
        assert_int_equal((call), (code));                                                                    \
        if (!strstr(ofl_error(), (words)))                                                                   \
            fail_msg("\"%s\" does not say \"%s\"", ofl_error(), (words));                                    \
    } while (0)

static int try_make(struct ofl_ctx *ctx, const char *name, enum ofl_dtype dtype, uint64_t elems,
                    uint32_t flags)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .name = name, .dtype = dtype, .elems = elems, .flags = flags};
    struct ofl_tensor *t;

    return ofl_tensor_create(ctx, &d, &t);
}

static void what_cannot_be_is_refused(void **state)
{
    struct ofl_resumed was = {.size = sizeof was};
    struct ofl_update_settings settings = {.size = sizeof settings, .lr = 1, .step = 1};
    struct ofl_config plain = {.size = sizeof plain, .device_bytes = MIB, .host_bytes = 4 * MIB};
    struct ofl_lease l = {.size = sizeof l, .mode = OFL_READ};
    struct ofl_optimizer *o;
    struct ofl_stream *s;
    struct ofl_ctx *ctx, *other;

    keep_set_dir(state, "refused");
    assert_int_equal(ofl_open(&plain, &other), 0);
    refused(try_make(other, "x", OFL_F32, 4, OFL_TENSOR_KEPT), -OFL_ESTATE, "keep_dir");
    refused(ofl_commit(other, NULL, 0), -OFL_ESTATE, "keep_dir");
    refused(ofl_commit_wait(other, NULL), -OFL_ESTATE, "keep_dir");
    refused(ofl_resume(other, &was), -OFL_ESTATE, "keep_dir");
    assert_int_equal(ofl_close(other), 0);

    ctx = keep_open(&keep_usual);
    refused(keep_try_open(&keep_usual, &other), -EBUSY, keep_dir);
    refused(try_make(ctx, "x", OFL_F32, 4, OFL_TENSOR_KEPT | OFL_TENSOR_TRANSIENT), -EINVAL, "x");
    refused(try_make(ctx, "a\nb", OFL_F32, 4, OFL_TENSOR_KEPT), -EINVAL, "a?b");
    refused(try_make(ctx, "", OFL_F32, 4, OFL_TENSOR_KEPT), -EINVAL, "name");
    l.tensor = keep_make(ctx, "x", OFL_F32, MIB / 4);
    refused(try_make(ctx, "x", OFL_F32, 4, OFL_TENSOR_KEPT), -EEXIST, "x");
    refused(ofl_resume(ctx, &was), -ENOENT, keep_dir);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    assert_int_equal(ofl_acquire(ctx, &l, 1, s), 0);
    refused(ofl_commit(ctx, NULL, 0), -OFL_ESTATE, "x is leased");
    assert_int_equal(ofl_release(ctx, &l, 1, s), 0);
    refused(ofl_commit(ctx, NULL, 1), -EINVAL, "note");
    refused(ofl_commit(ctx, "", OFL_NOTE_MAX + 1ull), -EINVAL, "note");
    assert_int_equal(ofl_optimizer_create(ctx, &o), 0);
    assert_int_equal(ofl_optimizer_begin(o, &settings), 0);
    refused(ofl_commit(ctx, NULL, 0), -OFL_ESTATE, "optimizer step");
    assert_int_equal(ofl_optimizer_end(o), 0);
    keep_commit(ctx, 1);
    assert_int_equal(fixture_ctx_close(ctx), 0);

    ctx = keep_open(&keep_usual);
    refused(try_make(ctx, "x", OFL_F32, MIB / 4, OFL_TENSOR_KEPT), -EEXIST, "commit 1");
    keep_resume(ctx, 1, 1);
    refused(try_make(ctx, "x", OFL_BF16, MIB / 4, OFL_TENSOR_KEPT), -EINVAL, "bf16");
    refused(try_make(ctx, "x", OFL_F32, MIB / 4 + 1, OFL_TENSOR_KEPT), -EINVAL, "262144");
    keep_make(ctx, "x", OFL_F32, MIB / 4);
    refused(ofl_resume(ctx, &was), -OFL_ESTATE, "already");
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* A tensor that is destroyed is not in the commits that come after. */
static void destroyed_tensors_are_gone(void **state)
{
    struct ofl_ctx *ctx;
    struct ofl_tensor *a, *b;

    keep_set_dir(state, "destroyed");
    ctx = keep_open(&keep_usual);
    a = keep_make(ctx, "a", OFL_F32, MIB / 4);
    b = keep_make(ctx, "b", OFL_F32, MIB / 4);
    keep_write(a, 1, MIB);
    keep_write(b, 2, MIB);
    keep_commit(ctx, 1);
    assert_int_equal(ofl_tensor_destroy(a), 0);
    a = keep_make(ctx, "c", OFL_F32, MIB / 4); /* not over what commit 1 has of a */
    keep_write(a, 3, MIB);
    assert_int_equal(ofl_close(ctx), 0);
    ctx = keep_open(&keep_usual);
    keep_resume(ctx, 1, 2);
    keep_check(a = keep_make(ctx, "a", OFL_F32, MIB / 4), 1, MIB);
    assert_int_equal(ofl_tensor_destroy(a), 0);
    keep_check(keep_make(ctx, "b", OFL_F32, MIB / 4), 2, MIB);
    keep_commit(ctx, 2);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    ctx = keep_open(&keep_usual);
    keep_resume(ctx, 2, 1);
    assert_int_equal(ofl_tensor_resumed(keep_make(ctx, "a", OFL_F32, MIB / 4)), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void flip(const char *file, off_t at)
{
    char path[400];
    uint8_t byte;
    int fd;

    snprintf(path, sizeof path, "%s/%s", keep_dir, file);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void changed_bytes_are_found(void **state)
{
    static const struct keep_budgets small = {4 * MIB, 2 * MIB, 64 * KIB, 0, 0, 0};
    static const struct keep_budgets large = {4 * MIB, 64 * MIB, MIB, 0, 0, 0};
    struct ofl_tensor *t;
    struct ofl_ctx *ctx;
    uint32_t word;

    keep_set_dir(state, "changed");
    ctx = keep_open(&large);
    keep_write(keep_make(ctx, "t", OFL_F32, MIB / 2), 1, 2 * MIB);
    keep_commit(ctx, 1);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    flip("data.ofl", MIB + 12345);
    ctx = keep_open(&large);
    keep_resume(ctx, 1, 1);
    t = keep_make(ctx, "t", OFL_F32, MIB / 2);
    assert_int_equal(ofl_tensor_read(t, 0, &word, 4), 0);
    refused(ofl_tensor_read(t, MIB, &word, 4), -OFL_ECHECKSUM, "tile 1");
    ofl_close(ctx);
    ctx = keep_open(&small); /* all of it is read when it is created */
    keep_resume(ctx, 1, 1);
    refused(try_make(ctx, "t", OFL_F32, MIB / 2, OFL_TENSOR_KEPT), -OFL_ECHECKSUM, "tile 1");
    ofl_close(ctx);
}

static void in_place_is_whole_if_it_was_closed_in_time(void **state)
{
    static const struct keep_budgets b = {4 * MIB, 8 * MIB, 0, OFL_KEEP_IN_PLACE, 0, 0};
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_tensor *t;
    struct ofl_ctx *ctx;
    uint32_t word;

    keep_set_dir(state, "in_place");
    ctx = keep_open(&b);
    t = keep_make(ctx, "t", OFL_F32, 8 * MIB / 4);
    keep_write(t, 1, 8 * MIB);
    keep_commit(ctx, 1);
    keep_write(t, 2, 8 * MIB);
    keep_commit(ctx, 2);
    ofl_stats_get(ctx, &stats);
    assert_true(stats.kept_bytes == 8 * MIB && stats.kept_reserved_bytes < 16 * MIB + 64 * MIB);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    flip("data.ofl", 12345); /* closed in time: it is believed at once, and found when it is read */
    ctx = keep_open(&b);
    keep_resume(ctx, 2, 1);
    refused(ofl_tensor_read(keep_make(ctx, "t", OFL_F32, 8 * MIB / 4), 0, &word, 4), -OFL_ECHECKSUM,
            "tile 0");
    ofl_close(ctx);
    flip("data.ofl", 12345);
    ctx = keep_open(&b);
    keep_resume(ctx, 2, 1);
    keep_check(t = keep_make(ctx, "t", OFL_F32, 8 * MIB / 4), 2, 8 * MIB);
    keep_write(t, 3, 8 * MIB); /* more than host memory holds: some of it is written over the commit's */
    assert_int_equal(fixture_ctx_close(ctx), 0);
    refused(keep_try_open(&b, &ctx), -OFL_ETORN, keep_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_committed_comes_back),
        cmocka_unit_test(unchanged_tiles_are_not_written_again),
        cmocka_unit_test(tiles_of_another_size),
        cmocka_unit_test(commits_have_the_bytes_of_their_moment),
        cmocka_unit_test(updates_go_on_while_a_commit_is_made_durable),
        cmocka_unit_test(updates_go_on_while_a_commit_is_made_durable),
        cmocka_unit_test(who_waits_for_a_commit_is_told_so),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(destroyed_tensors_are_gone),
        cmocka_unit_test(changed_bytes_are_found),
        cmocka_unit_test(in_place_is_whole_if_it_was_closed_in_time),
    };

    return cmocka_run_group_tests_name("core and kept stores", tests, scratch_setup, keep_teardown);
}
